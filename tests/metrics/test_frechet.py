"""Inception's features and the Frechet distance against the official code; preprocessing; sets that come in batches."""

import json
from pathlib import Path

import detrand
import numpy as np
import pytest
from reference_pictures import checks, quick_jit

from simvq_jax.metrics.frechet import Moments, frechet_distance, load_inception, preprocessed
from simvq_jax.models.pretrained.inception import INCEPTION, InceptionV3, inception_params
from simvq_jax.models.pretrained.raw import WeightFileError
from simvq_jax.scoring.distances import FrechetDistances


@pytest.fixture(scope="module")
def reference(fixtures: Path) -> dict[str, np.ndarray]:
    with np.load(fixtures / "E_metrics.npz") as stored:
        return {name: stored[name] for name in stored if name.startswith(("incep", "fid"))}


@pytest.fixture(scope="module")
def weights(fixtures: Path) -> dict[str, np.ndarray]:
    """The official tensors, by the formula behind the reference values."""
    described = json.loads((fixtures / "E_inception_keys.json").read_text())
    return {
        key: detrand.weight_for_key(described["tag"], key, tuple(shape), described["gains"])
        for key, (shape, _) in described["state_dict"].items()
    }


def pictures(reference) -> np.ndarray:
    return reference["incep_input_u8_nhwc"].astype(np.float32) / np.float32(127.5) - 1


def test_features_are_the_official_ones(reference, weights):
    """On floats, and after every block."""
    x = preprocessed(pictures(reference)[:2], "rfid_float")
    params = inception_params(weights)
    run = quick_jit(lambda x: InceptionV3().apply({"params": params}, x, capture_intermediates=True))
    features, seen = run(x)
    np.testing.assert_allclose(features, reference["incep_pool3"], rtol=1e-3, atol=1e-4 * np.abs(features).max())
    last = seen["intermediates"]["Mixed_6e"]["__call__"][0].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(checks(last)[:3], reference["incep_block2_checks"][:3], rtol=1e-4)


def test_floats_are_resized_as_torch_does(reference):
    resized = (np.asarray(preprocessed(pictures(reference)[:2], "rfid_float")) + 1) / 2
    expected = reference["incep_resized_checks"]
    np.testing.assert_allclose(checks(resized.transpose(0, 3, 1, 2)), expected, rtol=1e-5, atol=1e-5)


def test_levels_are_resized_as_tensorflow_1_did():
    """An output pixel i lies at i * size / 299 between its two neighbours, the last of which repeats."""
    levels = np.random.default_rng(0).integers(0, 256, (1, 7, 5, 3)).astype(np.float32)
    got = np.asarray(preprocessed(levels / np.float32(127.5) - 1, "rfid"))[0] * 128 + 128
    for i, j in ((0, 0), (298, 298), (100, 250), (42, 60)):
        y, x = i * 7 / 299, j * 5 / 299
        low_y, low_x = int(y), int(x)
        high_y, high_x = min(low_y + 1, 6), min(low_x + 1, 4)
        top = levels[0, low_y, low_x] * (1 - (x - low_x)) + levels[0, low_y, high_x] * (x - low_x)
        bottom = levels[0, high_y, low_x] * (1 - (x - low_x)) + levels[0, high_y, high_x] * (x - low_x)
        np.testing.assert_allclose(got[i, j], top * (1 - (y - low_y)) + bottom * (y - low_y), atol=1e-3)


def test_the_8_bit_variant_rounds_and_the_other_does_not():
    x = np.full((1, 8, 8, 3), 0.001, np.float32)
    np.testing.assert_allclose(preprocessed(x, "rfid"), 0.0)  # level 128
    np.testing.assert_allclose(preprocessed(x, "rfid_float"), 0.001, rtol=1e-5)
    np.testing.assert_allclose(preprocessed(3 + x, "rfid_float"), 1.0)
    with pytest.raises(ValueError, match="variant is 'clean' but must be one of rfid, rfid_float"):
        preprocessed(x, "clean")


def moments(values, *sizes) -> Moments:
    found = Moments(values.shape[1])
    for part in np.split(values, np.cumsum(sizes)):
        found.add(part)
    return found


def test_distances_are_the_official_ones(reference):
    a, b = reference["fid_a_f64"], reference["fid_b_f64"]
    whole = moments(a, 100, 7, 0), moments(b, 1)
    np.testing.assert_allclose(frechet_distance(*whole), reference["fid_regular_f64"], rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(moments(a), moments(a)), 0, atol=1e-9)
    rounded = moments(a.astype(np.float32)), moments(b.astype(np.float32))
    np.testing.assert_allclose(frechet_distance(*rounded), reference["fid_float32_feats_f64"], rtol=1e-6)


def test_singular_covariances_need_no_offset(reference):
    """Twenty pictures of 48 features: the official code adds 1e-6 to the diagonals where its root fails."""
    few = moments(reference["fid_sing_a"].astype(np.float64))
    np.testing.assert_allclose(
        frechet_distance(few, moments(reference["fid_a_f64"][:20])), reference["fid_singular_f64"], rtol=1e-6
    )


@pytest.mark.parametrize("sizes", [(), (1,), (150, 0, 3), (299,)])
def test_moments_do_not_depend_on_the_batches(sizes):
    """To float64 rounding, far from the origin too."""
    values = np.random.default_rng(0).standard_normal((300, 5)) * [1, 2, 3, 4, 5] + 1e4
    found = moments(values, *sizes)
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(values, rowvar=False), rtol=1e-9)
    assert found.count == 300


def test_other_weights_are_refused_with_the_source(tmp_path, weights):
    with pytest.raises(FileNotFoundError, match=INCEPTION.sha256):
        load_inception(tmp_path / "none.pth")
    lacking = {key: value for key, value in weights.items() if key != "Mixed_7c.branch_pool.bn.running_var"}
    with pytest.raises(WeightFileError, match=r"Mixed_7c\.branch_pool\.bn\.running_var \(192,\) is missing"):
        inception_params(lacking)


def test_totals_are_of_the_pictures_that_count():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 6, 2))
    distances, mask = FrechetDistances(), np.array([True, True, False])
    for i in (0, 3):
        distances.add({"rfid": (x[i : i + 3], y[i : i + 3])}, mask)
    kept = np.array([0, 1, 3, 4])
    wanted = frechet_distance(moments(x[kept]), moments(y[kept]))
    np.testing.assert_allclose(distances.values()["rfid"], wanted, rtol=1e-9)
    assert FrechetDistances().values() == {}
