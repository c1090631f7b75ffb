"""LPIPS and its VGG16 against the official PyTorch code on formula weights, its gradients, and its files."""

import json
from pathlib import Path

import detrand
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.losses.perceptual import BACKBONES, load_lpips, lpips, lpips_linear_params
from simvq_jax.models.pretrained import alexnet
from simvq_jax.models.pretrained.raw import WeightFileError
from simvq_jax.models.pretrained.vgg import VGG16, VGG16Features, vgg16_params

PREFIX = "loss.perceptual_loss."
LPIPS_LINEAR = BACKBONES["vgg"].linear_file


@pytest.fixture(scope="module")
def tensors(fixtures: Path) -> dict[str, np.ndarray]:
    """The tensors of the official LPIPS module, by the formula behind the reference values."""
    described = json.loads((fixtures / "A_image_small_keys.json").read_text())
    return {
        key.removeprefix(PREFIX): detrand.weight_for_key("A.ema", key, shape, described["gains"])
        for key, (shape, _) in described["state_dict"].items()
        if key.startswith((f"{PREFIX}net.", f"{PREFIX}lin"))
    }


@pytest.fixture(scope="module")
def params(tensors: dict[str, np.ndarray]) -> dict:
    return {"vgg": vgg16_params(tensors), "linear": lpips_linear_params(tensors)}


@pytest.fixture(scope="module")
def reference(fixtures: Path) -> dict[str, np.ndarray]:
    names = ("real0", "fake0", "lpips_eval_real0_fake0", "vgg_feat_keys", "vgg_feat_checks")
    with np.load(fixtures / "A_image_small_losses.npz") as stored:
        return {name: stored[name] for name in names}


@pytest.fixture(scope="module")
def images(reference: dict[str, np.ndarray]) -> tuple[jax.Array, jax.Array]:
    real, fake = (jnp.asarray(reference[name].transpose(0, 2, 3, 1)) for name in ("real0", "fake0"))
    return real, fake


def checks(features: jax.Array) -> np.ndarray:
    """[mean, deviation, l2 norm, first 8 values] of NHWC features in PyTorch's NCHW order."""
    values = np.asarray(features, np.float64).transpose(0, 3, 1, 2)
    return np.array([values.mean(), values.std(), np.sqrt(np.sum(values**2)), *values.ravel()[:8]])


def test_distance_is_the_official_one(params: dict, images: tuple, reference: dict) -> None:
    distance = jax.jit(lpips)(params, *images)
    assert distance.dtype == jnp.float32
    np.testing.assert_allclose(distance, reference["lpips_eval_real0_fake0"].reshape(4), rtol=1e-4)


def test_features_are_the_official_ones(params: dict, images: tuple, reference: dict) -> None:
    shift, scale = (np.float32(v).reshape(1, 1, 1, 3) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    features = jax.jit(VGG16Features().apply)({"params": params["vgg"]}, (images[0] - shift) / scale)
    assert list(reference["vgg_feat_keys"]) == ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]
    assert [feature.shape for feature in features] == [
        (4, 64, 64, 64),
        (4, 32, 32, 128),
        (4, 16, 16, 256),
        (4, 8, 8, 512),
        (4, 4, 4, 512),
    ]
    for feature, expected in zip(features, reference["vgg_feat_checks"], strict=True):
        np.testing.assert_allclose(checks(feature), expected, rtol=1e-4, atol=1e-5)


def test_features_keep_the_compute_dtype_and_the_distance_stays_float32(params: dict, images: tuple) -> None:
    small = tuple(image[:1, :16, :16] for image in images)
    features = jax.jit(VGG16Features(dtype=jnp.bfloat16).apply)({"params": params["vgg"]}, small[0])
    assert {feature.dtype for feature in features} == {jnp.dtype(jnp.bfloat16)}
    exact, rounded = lpips(params, *small), lpips(params, *small, dtype=jnp.bfloat16)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, rtol=0.1, atol=1e-3)


def test_distance_is_symmetric_and_zero_at_identity(params: dict, images: tuple) -> None:
    real, fake = images
    np.testing.assert_array_equal(lpips(params, real, real), np.zeros(4))
    np.testing.assert_allclose(lpips(params, real, fake), lpips(params, fake, real), rtol=1e-6)


def test_gradient_is_finite_at_identity_and_on_dead_features(params: dict, images: tuple) -> None:
    dead = jax.tree.map(np.zeros_like, params["vgg"])  # every feature is zero, where a plain root gives NaN
    gradient = jax.jit(jax.grad(lambda y, x, p: jnp.sum(lpips(p, x, y))))
    real, fake = images
    np.testing.assert_allclose(gradient(real, real, params), np.zeros(real.shape), atol=1e-9)
    assert np.all(np.isfinite(gradient(real, fake, {**params, "vgg": dead})))
    usual = gradient(fake, real, params)
    assert np.all(np.isfinite(usual)) and np.any(usual != 0)


@pytest.mark.slow
def test_gradient_is_the_slope(params: dict, images: tuple) -> None:
    x, y = (image[:1, :16, :16] for image in images)
    direction = jnp.asarray(detrand.normalish("lpips.direction", y.shape))
    total = jax.jit(lambda y: jnp.sum(lpips(params, x, y)))
    step = 3e-4  # larger steps cross the kinks of the rectifiers
    slope = (total(y + step * direction) - total(y - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.jit(jax.grad(total))(y), direction), slope, rtol=0.05)


def test_files_under_either_naming_load_alike(
    tmp_path: Path, tensors: dict, params: dict, caplog: pytest.LogCaptureFixture
) -> None:
    # float16 holds the formula's values exactly and halves the file.
    vgg = {key: value.astype(np.float16) for key, value in tensors.items() if key.startswith("net.")}
    renamed = {f"features.{key.split('.', 2)[2]}": value for key, value in vgg.items()}
    np.savez(tmp_path / "vgg16.npz", **renamed, **{"classifier.0.bias": np.zeros(3)})
    np.savez(tmp_path / "linear.npz", **{key: tensors[key] for key in tensors if key.startswith("lin")})
    with caplog.at_level("WARNING", logger="absl"):
        loaded = load_lpips(tmp_path / "vgg16.npz", tmp_path / "linear.npz")
    (tmp_path / "vgg16.npz").unlink()
    first, second = (record.getMessage() for record in caplog.records)
    assert "vgg16.npz" in first and VGG16.sha256 in first and VGG16.url in first
    assert "linear.npz" in second and LPIPS_LINEAR.sha256 in second and LPIPS_LINEAR.url in second
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), loaded, params)


def test_a_missing_file_names_its_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        load_lpips(tmp_path / "vgg16-397923af.pth", tmp_path / "vgg.pth")
    for part in (str(tmp_path / "vgg16-397923af.pth"), VGG16.url, VGG16.sha256):
        assert part in str(missing.value)
    assert "\n" not in str(missing.value)


def test_every_unfit_tensor_is_listed(tensors: dict) -> None:
    unfit = {key: value for key, value in tensors.items() if key != "net.slice1.0.bias"}
    unfit["net.slice5.28.bias"] = np.zeros(3)
    with pytest.raises(WeightFileError) as faults:
        vgg16_params(unfit)
    assert "net.slice1.0.bias (64,) is missing" in str(faults.value)
    assert "net.slice5.28.bias is (3,) instead of (512,)" in str(faults.value)
    with pytest.raises(WeightFileError, match=r"features\.0\.weight \(64, 3, 3, 3\) is missing"):
        vgg16_params({})
    with pytest.raises(WeightFileError, match=r"lin0\.model\.1\.weight .* lin4\.model\.1\.weight"):
        lpips_linear_params({})


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 16, 32, 3), np.float32), "two of"),
        (np.zeros((1, 16, 16, 1), np.float32), np.zeros((1, 16, 16, 1), np.float32), "two of"),
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.float32), "uint8; give floats"),
        (np.zeros((1, 15, 16, 3), np.float32), np.zeros((1, 15, 16, 3), np.float32), "shortest side is 16"),
    ],
)
def test_unfit_images_are_refused(params: dict, x: np.ndarray, y: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        lpips(params, jnp.asarray(x), jnp.asarray(y))


def test_alexnet_s_features_and_distance_are_torch_s(fixtures: Path) -> None:
    """Formula weights; reference values by torch 2.13's convolutions and poolings."""
    shapes, inputs = {}, 3
    for (position, size, *_), width in zip(alexnet._LAYERS, alexnet.WIDTHS, strict=True):
        shapes |= {f"features.{position}.weight": (width, inputs, size, size), f"features.{position}.bias": (width,)}
        inputs = width
    weights = {key: detrand.weight_for_key("T.alexnet", key, shape, {"weight": 1.5}) for key, shape in shapes.items()}
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(-1, 1, (2, 64, 48, 3)).astype(np.float32) for _ in range(2))
    linear = {
        f"lin{i}": np.abs(rng.standard_normal(width)).astype(np.float32) for i, width in enumerate(alexnet.WIDTHS)
    }
    params = {"alex": alexnet.alexnet_params(weights), "linear": linear}
    shift, scale = (np.float32(v).reshape(1, 1, 1, 3) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    maps = jax.jit(alexnet.AlexNetFeatures().apply)({"params": params["alex"]}, (x - shift) / scale)
    with np.load(fixtures / "alexnet_lpips.npz") as reference:
        for found, expected in zip(maps, reference["checks"], strict=True):
            np.testing.assert_allclose(checks(found), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(jax.jit(lpips)(params, x, y), reference["distance"], rtol=1e-4)
    with pytest.raises(ValueError, match="shortest side is 31"):
        alexnet.AlexNetFeatures().init(jax.random.key(0), jnp.zeros((1, 30, 40, 3)))
