"""A trained tokenizer as a user holds it: shapes, types, exactness, and every mistake."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import simvq_jax

F, K, D = 4, 96, 4


@pytest.fixture(scope="module")
def tokenizer(trained_run):
    return simvq_jax.load(trained_run)


def pictures(batch=2, height=8, width=12):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)


def as_floats(x):
    return x.astype(np.float32) / 127.5 - 1


# What is loaded


def test_load_gives_the_newest_weights_and_the_config(trained_run, tokenizer):
    assert isinstance(tokenizer, simvq_jax.Tokenizer)
    assert tokenizer.step == 4 and tokenizer.factor == F
    assert tokenizer.config.quantizer.codebook_size == K and tuple(tokenizer.config.model.multipliers) == (1, 1, 2)
    assert set(tokenizer.variables) == {"params", "codebook", "codebook_stats"}
    assert tokenizer.variables["codebook_stats"]["quantizer"]["basis"].shape == (K, D)
    again = simvq_jax.load(str(trained_run))
    jax.tree.map(np.testing.assert_array_equal, again.variables, tokenizer.variables)


def test_weights_are_the_moving_average_not_the_last_step(trained_run, tokenizer):
    """The EMA of four steps lags behind; a checkpoint read by hand tells which of the two is served."""
    import orbax.checkpoint as ocp

    folder = trained_run / "checkpoints/4/state"
    restore_args = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), ocp.PyTreeCheckpointer().metadata(folder).item_metadata.tree
    )
    stored = ocp.PyTreeCheckpointer().restore(folder, restore_args=restore_args)
    ema, last = stored["ema"], stored["generator"]["params"]
    jax.tree.map(np.testing.assert_array_equal, dict(tokenizer.variables["params"]), ema)
    kernel = tokenizer.variables["params"]["quantizer"]["transform"]["kernel"]
    assert not np.array_equal(kernel, last["quantizer"]["transform"]["kernel"])


def test_loading_changes_nothing_on_disk(trained_run):
    before = sorted(trained_run.rglob("*"))
    simvq_jax.load(trained_run)
    assert sorted(trained_run.rglob("*")) == before


# Shapes, types, exactness


def test_encode_and_latents_give_a_token_for_every_patch(tokenizer):
    x = pictures()
    indices, latents = tokenizer.encode(x), tokenizer.latents(x)
    assert indices.shape == (2, 2, 3) and indices.dtype == jnp.int32
    assert latents.shape == (2, 2, 3, D) and latents.dtype == jnp.float32
    assert 0 <= int(indices.min()) <= int(indices.max()) < K
    assert len(np.unique(indices)) > 1


def test_indices_are_the_codes_nearest_to_the_latents(tokenizer):
    x, codes = pictures(), np.asarray(tokenizer.codebook(), np.float64)
    latents = np.asarray(tokenizer.latents(x), np.float64)
    distance = ((latents[..., None, :] - codes) ** 2).sum(-1)
    np.testing.assert_array_equal(tokenizer.encode(x), distance.argmin(-1))


def test_bytes_and_floats_of_one_picture_agree(tokenizer):
    x = pictures()
    for same in (as_floats(x), as_floats(x).astype(np.float64), jnp.asarray(x), jnp.asarray(as_floats(x))):
        np.testing.assert_array_equal(tokenizer.encode(same), tokenizer.encode(x))
        np.testing.assert_allclose(tokenizer.latents(same), tokenizer.latents(x), atol=1e-5)
        np.testing.assert_allclose(tokenizer.reconstruct(same), tokenizer.reconstruct(x), atol=5e-5)


def test_bfloat16_pictures_are_taken(tokenizer):
    x = jnp.asarray(as_floats(pictures()), jnp.bfloat16)
    np.testing.assert_array_equal(tokenizer.encode(x), tokenizer.encode(x.astype(jnp.float32)))
    assert tokenizer.reconstruct(x[:, :7, :9]).shape == (2, 7, 9, 3)


def test_decoding_indices_gives_the_forward_reconstruction(tokenizer):
    """The official code decodes raw codes, without W."""
    x = pictures(3, 16, 16)
    forward = jax.jit(tokenizer.autoencoder.apply)(tokenizer.variables, as_floats(x)).reconstruction
    decoded = tokenizer.decode(tokenizer.encode(x))
    assert decoded.shape == x.shape and decoded.dtype == jnp.float32
    np.testing.assert_allclose(decoded, forward, atol=1e-5)
    np.testing.assert_allclose(tokenizer.reconstruct(x), decoded, atol=0)


def test_reconstructions_are_the_decoder_s_raw_output(tokenizer):
    """Weights a hundred times too large drive the decoder out of range, and only files and figures clip."""
    params = {**tokenizer.variables["params"]}
    params["decoder"] = {
        **params["decoder"],
        "conv_out": jax.tree.map(lambda a: 100 * a, params["decoder"]["conv_out"]),
    }
    loud = simvq_jax.ImageTokenizer(
        tokenizer.autoencoder, {**tokenizer.variables, "params": params}, tokenizer.config, 0
    )
    out = loud.reconstruct(pictures())
    assert float(out.max()) > 1.0 and float(out.min()) < -1.0


@pytest.mark.parametrize("indices", [np.zeros((1, 2, 3), np.uint8), [[[0, K - 1]]], jnp.full((2, 1, 1), 5)])
def test_decode_takes_any_whole_numbers(tokenizer, indices):
    batch, height, width = np.shape(indices)
    assert tokenizer.decode(indices).shape == (batch, height * F, width * F, 3)


def test_all_of_it_may_be_called_under_jit(tokenizer):
    x = pictures(1, 5, 8)
    np.testing.assert_allclose(jax.jit(tokenizer.reconstruct)(x), tokenizer.reconstruct(x), atol=1e-5)
    with pytest.raises(ValueError, match=r"indices are float32 \(1, 2, 2\) but must be whole numbers"):
        jax.jit(tokenizer.decode)(jnp.zeros((1, 2, 2)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (5, 8), (13, 7)])
def test_reconstruct_takes_any_size(tokenizer, height, width):
    """As if the edge had been repeated up to the next multiple of f."""
    x = pictures(1, height, width)
    out = tokenizer.reconstruct(x)
    assert out.shape == x.shape and out.dtype == jnp.float32
    padded = np.pad(x, ((0, 0), (0, -height % F), (0, -width % F), (0, 0)), mode="edge")
    expected = tokenizer.decode(tokenizer.encode(padded))[:, :height, :width]
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_the_codebook_is_that_of_the_decoder(tokenizer):
    codes = tokenizer.codebook()
    transform = tokenizer.variables["params"]["quantizer"]["transform"]
    basis = np.asarray(tokenizer.variables["codebook_stats"]["quantizer"]["basis"])
    assert codes.shape == (K, D) and codes.dtype == jnp.float32
    expected = basis @ np.asarray(transform["kernel"]) + np.asarray(transform["bias"])
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=1e-6)


# Mistakes


@pytest.mark.parametrize("method", ["encode", "latents"])
def test_sides_that_are_no_multiples_are_refused(tokenizer, method):
    with pytest.raises(ValueError, match="images are 8x10 but this tokenizer needs multiples of 4: pad or crop them"):
        getattr(tokenizer, method)(pictures(1, 8, 10))


@pytest.mark.parametrize("method", ["encode", "latents", "reconstruct"])
@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.zeros((1, 8, 8, 3), np.int32), "images are int32 but must be uint8, or floats"),
        (np.full((1, 8, 8, 3), np.nan, np.float32), "images have values that are not finite"),
        (np.full((1, 8, 8, 3), 255, np.float32), r"images have values up to 255 but floats must lie in \[-1, 1\]"),
        (np.zeros((1, 8, 8, 3), bool), "images are bool but must be uint8, or floats"),
        (np.zeros((8, 8, 3), np.uint8), r"images have shape \(8, 8, 3\) but must be"),
        (np.zeros((1, 8, 8, 4), np.uint8), r"images have shape \(1, 8, 8, 4\) but must be"),
        (np.zeros((1, 0, 8, 3), np.uint8), r"images have shape \(1, 0, 8, 3\) but must be"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"images have shape \(0, 8, 8, 3\) but must be"),
    ],
)
def test_what_are_no_images_is_refused(tokenizer, method, x, sentence):
    with pytest.raises(ValueError, match=sentence):
        getattr(tokenizer, method)(x)


@pytest.mark.parametrize(
    ("indices", "sentence"),
    [
        (np.full((1, 1, 2), K), rf"indices lie in \[{K}, {K}\] but the codebook has {K} codes"),
        (np.array([[[-1, 3]]]), r"indices lie in \[-1, 3\] .* give values in \[0, 95\]"),
        (np.array([[[2**40, 0]]]), "indices lie in"),
        (np.zeros((1, 2, 2)), r"indices are float64 \(1, 2, 2\) but must be whole numbers \(b, h, w\)"),
        (np.zeros((1, 2, 2), bool), "indices are bool"),
        (np.zeros((2, 2), int), r"indices are int64 \(2, 2\) but must be whole numbers"),
    ],
)
def test_indices_that_are_none_are_refused(tokenizer, indices, sentence):
    with pytest.raises(ValueError, match=sentence):
        tokenizer.decode(indices)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist: .* is no run folder"):
        simvq_jax.load(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_run_without_a_checkpoint_is_refused(trained_run, tmp_path):
    shutil.copy(trained_run / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint yet: train until the first is saved"):
        simvq_jax.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_damaged_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": 4,')
    with pytest.raises(ValueError, match=r"config\.json is no readable JSON .*: restore it"):
        simvq_jax.load(tmp_path)
