"""benchmarks/features.py: features that `basis_file` takes."""

import numpy as np
import pytest

from benchmarks import features
from simvq_jax import load
from simvq_jax.quantize.basis import check_features


@pytest.mark.slow
def test_a_trained_encoder_s_features_are_as_many_as_codes(trained_run, tmp_path):
    features.main(str(trained_run), str(tmp_path / "new/features"), "64,40")
    dim = load(trained_run).config.quantizer.dim
    for count in (64, 40):
        file = str(tmp_path / f"new/features_{count}.npy")
        check_features(file, (count, dim))
        assert len(np.unique(np.load(file), axis=0)) == count


def test_centres_are_means_of_their_tokens():
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(3, 5)) * 10
    tokens = (middles[np.arange(24) % 3] + 0.01 * rng.normal(size=(24, 5))).astype(np.float32)
    found = features.centres(tokens, 3)
    nearest = np.linalg.norm(tokens[:, None] - found[None], axis=-1).argmin(axis=1)
    for code in np.unique(nearest):
        np.testing.assert_allclose(found[code], tokens[nearest == code].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("sizes", ["", "8,", "0", "many"])
def test_sizes_that_are_none_are_told(trained_run, tmp_path, sizes):
    with pytest.raises(ValueError, match=f"--codebook_sizes is '{sizes}' but must be whole numbers from 1 on"):
        features.main(str(trained_run), str(tmp_path / "features"), sizes)
