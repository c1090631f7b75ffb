"""`convolve` and its gradients on a CPU, against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from simvq_jax.models import convolution

# x, kernel, features, strides, padding, dilation. Kernels larger than what they are laid over:
LARGE_KERNELS = {
    "large kernel": ((2, 4, 3, 6), (3, 3), 8, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "large kernel, dilated": ((1, 5, 7, 6), (3, 3), 9, (1, 1), ((2, 0), (3, 4)), (1, 2)),
    "large kernel, more padding than reach": ((2, 3, 2, 60), (1, 1), 30, (1, 1), ((1, 0), (0, 2)), (1, 1)),
    "large kernel over one axis": ((2, 7, 6), (4,), 9, (1,), ((2, 1),), (1,)),
}
# Strides that divide and that do not, a kernel shorter than its stride, rows that fill no whole block, more features
# than places.
CASES = {
    "3x3": ((2, 9, 7, 3), (3, 3), 5, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "4x4, stride 2": ((2, 9, 8, 3), (4, 4), 5, (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "5x1, stride 3": ((2, 50, 7, 3), (5, 1), 5, (3, 1), ((2, 2), (0, 0)), (1, 1)),
    "3x9, uneven padding": ((2, 9, 17, 3), (3, 9), 5, (1, 2), ((1, 0), (4, 2)), (1, 1)),
    "dilated": ((2, 19, 17, 3), (3, 3), 5, (1, 1), ((1, 1), (4, 2)), (2, 4)),
    "dilated, stride 2": ((2, 19, 17, 3), (3, 3), 5, (2, 2), ((1, 1), (4, 2)), (2, 3)),
    "1x1, stride 2": ((1, 8, 8, 3), (1, 1), 5, (2, 2), ((0, 0), (0, 0)), (1, 1)),
    "over one axis": ((2, 50, 3), (8,), 5, (4,), ((2, 3),), (1,)),
    "over one axis, shorter than its stride": ((2, 50, 3), (2,), 5, (4,), ((0, 0),), (1,)),
    "several blocks": ((2, 200, 30, 16), (3, 3), 5, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "no picture": ((0, 9, 7, 3), (3, 3), 5, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "cut, not padded": ((2, 9, 7, 3), (3, 3), 5, (1, 1), ((-1, 1), (1, 0)), (1, 1)),
    "many features": ((2, 21, 3, 2), (3, 3), 100, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    **LARGE_KERNELS,
}


def gradients(convolve, case):
    size, taps, features, *how = case
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in (size, (*taps, size[-1], features)))
    loss = lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, *how)))  # noqa: E731
    return jax.jit(jax.grad(loss, (0, 1))).trace(x, kernel), (x, kernel)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_xla(monkeypatch, name):
    monkeypatch.setattr(convolution, "LARGE", 1)
    monkeypatch.setattr(convolution, "WIDE", 1)
    monkeypatch.setattr(convolution, "COLUMNS", 10_000)
    (own, operands), (xlas, _) = (
        gradients(convolve, CASES[name]) for convolve in (convolution.convolve, convolution._convolution)
    )
    assert ("while" in own.lower().as_text()) == (
        len(CASES[name][1]) == 2 and name not in ("no picture", "cut, not padded")
    )
    for got, expected in zip(*(traced.lower().compile()(*operands) for traced in (own, xlas)), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6 * abs(expected).max(initial=0), rtol=0)


@pytest.mark.parametrize("name", LARGE_KERNELS)
def test_large_kernels_are_multiplied_where_they_lie(monkeypatch, name):
    monkeypatch.setattr(convolution, "LONG", 1)
    traced = gradients(convolution.convolve, CASES[name])[0]
    over_one_axis = len(CASES[name][1]) == 1  # where XLA's gradient for the kernel is as fast
    for platform, left in {"cpu": int(over_one_axis), "cuda": 3}.items():
        assert traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution") == left


def test_own_gradients_are_for_large_and_wide_results_or_long_products_on_a_lone_cpu(monkeypatch):
    case = CASES["3x3"]
    assert "while" not in gradients(convolution.convolve, case)[0].lower().as_text()
    with monkeypatch.context() as long:
        long.setattr(convolution, "LONG", 2 * 9 * 7 * 9 * 3 * 5)
        assert "while" in gradients(convolution.convolve, case)[0].lower().as_text()
        long.setattr(convolution, "LONG", 2 * 9 * 7 * 9 * 3 * 5 + 1)
        assert "while" not in gradients(convolution.convolve, case)[0].lower().as_text()
    monkeypatch.setattr(convolution, "LARGE", 63)
    assert "while" not in gradients(convolution.convolve, case)[0].lower().as_text()
    monkeypatch.setattr(convolution, "WIDE", 5)
    traced = gradients(convolution.convolve, case)[0]
    assert "while" in traced.lower().as_text()
    assert "while" not in traced.lower(lowering_platforms=("cuda",)).as_text()
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))):
        assert "while" not in gradients(convolution.convolve, case)[0].lower().as_text()
