"""SimVQ alone against the official PyTorch code, and against `vector-quantize-pytorch` without its rotation trick.

The search is exact here and there subject to rounding of |z|^2 + |c|^2 - 2 z.c, so the two may differ where two
codes are as near as that: a token's choice must be the same where the gap of squared distances is more than 1e-5 of
|z|^2 + |c|^2, and elsewhere no farther than that from the nearest.
"""

from pathlib import Path
from typing import NamedTuple

import detrand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_pictures import checks, quick_jit

from simvq_jax.quantize import Quantized, SimVQ


class Case(NamedTuple):
    """One reference: tokens (N, d), the frozen codes, W and b in our layout, and the weight of z_q in the loss."""

    stored: dict[str, np.ndarray]
    tokens: np.ndarray
    basis: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    pull: np.ndarray

    @property
    def codebook(self) -> np.ndarray:
        """The effective codebook in float64."""
        return self.basis.astype(np.float64) @ self.kernel + self.bias

    def quantizer(self, **fields) -> SimVQ:
        size, dim = self.basis.shape
        return SimVQ(size, dim, **fields)

    def results(self, legacy: bool) -> tuple[Quantized, dict[str, jax.Array]]:
        """What the module gives, and the gradients of quantizer loss + sum(z_q * pull) for z, W and b."""
        module = self.quantizer(legacy=legacy)

        def loss(tokens, kernel, bias):
            transform = {"transform": {"kernel": kernel, "bias": bias}}
            out = module.apply({"params": transform, "codebook": {"basis": jnp.asarray(self.basis)}}, tokens)
            return out.loss + jnp.sum(out.z_q * self.pull), out

        grads, out = quick_jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(self.tokens, self.kernel, self.bias)
        return out, dict(zip(("z", "kernel", "bias"), grads, strict=True))


def read(fixtures: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(fixtures / f"{name}.npz") as stored:
        return dict(stored)


def tokens_of(z: np.ndarray) -> np.ndarray:
    """(b, d, h, w) -> (b h w, d)."""
    return z.transpose(0, 2, 3, 1).reshape(-1, z.shape[1])


def ordinary_case(fixtures: Path, dim: int, size: int) -> Case:
    """4,096 tokens as normal as the codes; the loss also holds mean(z_q * R)."""
    stored, label = read(fixtures, f"C_simvq_e{dim}_n{size}"), f"{dim}.{size}"
    shape = (4, dim, 32, 32)
    basis = detrand.normalish(f"C.codebook.{label}", (size, dim), dim**-0.5)
    pull = detrand.uniform(f"C.R.{label}", shape, -1, 1) / np.float32(np.prod(shape))
    case = Case(stored, tokens_of(stored["z"]), basis, stored["proj_w"].T, stored["proj_b"], tokens_of(pull))
    np.testing.assert_array_equal(case.tokens[:4], stored["z_tokens_first4"])
    np.testing.assert_array_equal(case.basis[:4], stored["codebook_first4"])
    return case


def hard_case(fixtures: Path, dim: int) -> Case:
    """Duplicated codes, midpoints, and tokens of norm 1e4, 1e2, 1e-6 and 0; no term but the quantizer's loss."""
    stored = read(fixtures, f"C_simvq_adversarial_e{dim}")
    tokens = stored["z_tokens"]
    return Case(stored, tokens, stored["codebook"], stored["proj_w"].T, stored["proj_b"], np.zeros_like(tokens))


@pytest.fixture(scope="module", params=["e8_n1024", "e8_n65536", "hard_e8", "hard_e128"])
def case(request: pytest.FixtureRequest, fixtures: Path) -> Case:
    kind, last = request.param.split("_")
    if kind == "hard":
        return hard_case(fixtures, int(last[1:]))
    return ordinary_case(fixtures, int(kind[1:]), int(last[1:]))


@pytest.fixture(scope="module", params=[False, True], ids=["current", "legacy"])
def results(request: pytest.FixtureRequest, case: Case) -> tuple[str, Quantized, dict[str, jax.Array]]:
    """Prefix of the reference's names, result and gradients, with beta on either term."""
    return f"legacy{request.param}.", *case.results(request.param)


def squared_distances(case: Case, indices: np.ndarray) -> np.ndarray:
    return np.sum((case.tokens.astype(np.float64) - case.codebook[indices]) ** 2, axis=-1)


def test_indices_are_the_official_ones(case: Case, results: tuple) -> None:
    """Equal where no rounding can decide, and elsewhere as near as rounding allows."""
    _, out, _ = results
    official = case.stored["indices"]
    scale = np.sum(case.tokens.astype(np.float64) ** 2, -1) + np.sum(case.codebook[official] ** 2, -1)
    clear = case.stored["gap"] > 1e-5 * scale
    assert np.mean(clear) > 0.3
    np.testing.assert_array_equal(out.indices[clear], official[clear])
    # The official choice need not be the nearest one; that of the float64 search is.
    nearest = squared_distances(case, case.stored["indices_f64"])
    assert np.all(squared_distances(case, np.asarray(out.indices)) - nearest <= 1e-5 * scale)


def test_indices_are_those_of_a_float64_search(case: Case, results: tuple) -> None:
    """Nearest to four spacings of |z|^2 + |c|^2 in float32, which at a norm of 1e4 is more than the smallest gap."""
    _, out, _ = results
    nearest = case.stored["indices_f64"]
    scale = np.sum(case.tokens**2, -1) + np.sum(case.codebook[nearest] ** 2, -1).astype(np.float32)
    excess = squared_distances(case, np.asarray(out.indices)) - squared_distances(case, nearest)
    assert np.all(excess <= 4 * np.spacing(scale))


def test_codes_are_the_official_ones(case: Case, results: tuple) -> None:
    """Where the same code was taken. The official z + (q - z) rounds at the size of z, ours is q itself."""
    _, out, _ = results
    stored = case.stored
    expected = stored.get("z_q_tokens", stored.get("z_q_tokens_first64"))
    same = np.asarray(out.indices)[: len(expected)] == stored["indices"][: len(expected)]
    spacing = np.abs(case.tokens[: len(expected)]).max(axis=-1, keepdims=True)
    error = np.abs(out.z_q[: len(expected)] - expected)
    assert np.mean(same) > 0.9
    assert np.all(error[same] <= (3e-7 * (spacing + 1))[same])
    module = case.quantizer()
    variables = {"params": {"transform": {"kernel": case.kernel, "bias": case.bias}}, "codebook": {"basis": case.basis}}
    codebook = module.apply(variables, method="codebook")
    np.testing.assert_allclose(checks(codebook), stored["projected_codebook_checks"], rtol=2e-6, atol=1e-6)


def test_losses_are_the_official_ones(case: Case, results: tuple) -> None:
    """To float32 rounding, with beta on the commitment term and, as legacy has it, on the codebook's."""
    prefix, out, _ = results
    np.testing.assert_allclose(out.loss, case.stored[f"{prefix}commit_loss"], rtol=2e-6)
    if "z" in case.stored:
        total = out.loss + np.sum(np.asarray(out.z_q, np.float64) * case.pull)
        np.testing.assert_allclose(total, case.stored[f"{prefix}loss"], rtol=2e-6)


def official_transform_gradients(case: Case, prefix: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of W and b, moved to `indices` for tokens that took another code: c^T (q - z) and q - z, summed."""

    def share(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        basis = case.basis[chosen].astype(np.float64)
        error = case.codebook[chosen] - case.tokens
        return basis.T @ error, error.sum(axis=0)

    factor = (0.25 if prefix == "legacyTrue." else 1.0) * 2 / case.tokens.size
    official = case.stored[f"{prefix}grad_proj_weight"].T, case.stored[f"{prefix}grad_proj_bias"]
    moved = zip(official, share(indices), share(case.stored["indices"]), strict=True)
    kernel, bias = (value + factor * (ours - theirs) for value, ours, theirs in moved)
    return kernel, bias


def test_gradients_of_the_transform_are_the_official_ones(case: Case, results: tuple) -> None:
    """W and b to 1e-5 of their largest value."""
    prefix, out, grads = results
    expected = official_transform_gradients(case, prefix, np.asarray(out.indices))
    for name, official in zip(("kernel", "bias"), expected, strict=True):
        np.testing.assert_allclose(grads[name], official, rtol=0, atol=1e-5 * np.abs(official).max(), err_msg=name)


def test_gradients_of_the_tokens_are_the_official_ones(case: Case, results: tuple) -> None:
    """Token by token, as their sizes differ by 1e10, and where the same code was taken."""
    prefix, out, grads = results
    expected = case.stored.get(f"{prefix}grad_z_tokens", case.stored.get(f"{prefix}grad_z_tokens_first64"))
    same = np.asarray(out.indices)[: len(expected)] == case.stored["indices"][: len(expected)]
    largest = np.abs(expected).max(axis=-1, keepdims=True)
    # z - q cancels: it rounds at the size of z, whatever is left.
    rounding = 4e-7 * (1 + np.abs(case.tokens[: len(expected)]).max(axis=-1, keepdims=True)) / case.tokens.size
    assert np.all((np.abs(grads["z"][: len(expected)] - expected) <= 1e-5 * largest + rounding)[same])


# vector-quantize-pytorch: no bias, and names of its own for the two weights of the loss.

VARIANTS = {"": ("x", "R", 0.25, 1.0), ".cf": ("x_cf", "R_cf", 0.25, 1.0), ".edge": ("x_edge", "R_edge", 0.25, 1.0)}
VARIANTS[".weights"] = ("x", "R", 0.5, 2.5)  # beta, and the weight of the whole


@pytest.fixture(scope="module")
def lucidrains(fixtures: Path) -> dict[str, np.ndarray]:
    return read(fixtures, "D_vqp_simvq")


def last_axis(value: np.ndarray, variant: str) -> np.ndarray:
    """Channels last, as ours has them."""
    return value.transpose(0, 2, 3, 1) if variant == ".cf" else value


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_rotation_lucidrains_simvq_is_the_same(lucidrains: dict, variant: str) -> None:
    """Indices, codes, loss and gradients; `.edge` holds tokens of norm 1e4 and 1e-6, exact codes and zeros."""
    x, pull, beta, weight = VARIANTS[variant]
    x, pull = (last_axis(lucidrains[name], variant) for name in (x, pull))
    prefix = f"rotFalse{variant}."
    expected = {name.removeprefix(prefix): value for name, value in lucidrains.items() if name.startswith(prefix)}
    module = SimVQ(256, 16, beta=beta, use_bias=False)
    basis = jnp.asarray(lucidrains["codebook"])

    def loss(x, kernel):
        out = module.apply({"params": {"transform": {"kernel": kernel}}, "codebook": {"basis": basis}}, x)
        return weight * out.loss + jnp.sum(out.z_q * pull) / pull.size, out

    step = quick_jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (total, out), (grad_x, grad_kernel) = step(x, lucidrains["weight"].T)
    np.testing.assert_array_equal(out.indices, expected["indices"])
    size = np.abs(x).max(axis=-1, keepdims=True)
    assert np.all(np.abs(out.z_q - last_axis(expected["quantized"], variant)) <= 3e-7 * (size + 1))
    np.testing.assert_allclose(weight * out.loss, expected["commit_loss"], rtol=2e-6)
    np.testing.assert_allclose(total, expected["loss"], rtol=2e-6)
    official = last_axis(expected["grad_x"], variant)
    np.testing.assert_allclose(grad_x, official, rtol=1e-5, atol=1e-8)
    official = expected["grad.code_transform.weight"].T
    np.testing.assert_allclose(grad_kernel, official, rtol=0, atol=1e-5 * np.abs(official).max())


def test_a_wider_basis_is_lucidrains_own(lucidrains: dict) -> None:
    """24 columns under W with a bias. Stored with rotation only, which leaves codes, loss and W's gradient alone."""
    x, prefix = lucidrains["x"], "rotTrue.frozen24."
    module = SimVQ(256, 16, basis_dim=24)
    basis = jnp.asarray(lucidrains["codebook24"])

    def loss(transform):
        out = module.apply({"params": {"transform": transform}, "codebook": {"basis": basis}}, x)
        return out.loss, out

    transform = {"kernel": lucidrains["weight24"].T, "bias": lucidrains["bias24"]}
    (total, out), grads = quick_jit(jax.value_and_grad(loss, has_aux=True))(transform)
    np.testing.assert_array_equal(out.indices, lucidrains[f"{prefix}indices"])
    np.testing.assert_allclose(out.z_q, lucidrains[f"{prefix}quantized"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(total, lucidrains[f"{prefix}commit_loss"], rtol=2e-6)
    for ours, official in (("kernel", "weight"), ("bias", "bias")):
        expected = lucidrains[f"{prefix}grad.code_transform.{official}"].T
        np.testing.assert_allclose(grads[ours], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_lookup_gives_the_codes(lucidrains: dict) -> None:
    """Indices to codes, with W applied."""
    module = SimVQ(256, 16, use_bias=False)
    variables = {
        "params": {"transform": {"kernel": lucidrains["weight"].T}},
        "codebook": {"basis": jnp.asarray(lucidrains["codebook"])},
    }
    codes = module.apply(variables, jnp.arange(10)[None], method="lookup")
    np.testing.assert_allclose(codes, lucidrains["indices_to_codes_0to9"], rtol=0, atol=1e-6)
