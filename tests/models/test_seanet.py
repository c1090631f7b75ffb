"""SEANet: the official encoder's values, any length, causality, and batches of unequal lengths."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_sounds import official_variables

from simvq_jax.dsp import reflect
from simvq_jax.models.conv1d import Conv1d, ConvTranspose1d, clear
from simvq_jax.models.lstm import LSTM
from simvq_jax.models.seanet import SEANetDecoder, SEANetEncoder

SMALL = {"width": 4, "ratios": (3, 2), "lstm_layers": 1}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small_encoder(**fields):
    encoder = SEANetEncoder(latent_channels=5, **{**SMALL, **fields})
    variables = jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((1, 50)))
    return jax.jit(lambda x, lengths=None: encoder.apply(variables, x, lengths))


@pytest.mark.parametrize("samples", [24_000, 23_456, 1000])
@pytest.mark.parametrize(("tag", "suffix"), [("B.main", ""), ("B.ema", "_ema")])
def test_the_official_encoder_is_matched(fixtures, samples, tag, suffix):
    described = json.loads((fixtures / "B_audio_small_keys.json").read_text())
    params = official_variables(described, tag)["params"]["encoder"]
    encoder = SEANetEncoder(width=8, latent_channels=32)
    with np.load(fixtures / f"B_audio_small_eval_T{samples}.npz") as official:
        latents = jax.jit(encoder.apply)({"params": params}, official["x"][:, 0])
        np.testing.assert_allclose(latents, official[f"h{suffix}"].transpose(0, 2, 1), atol=6e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("samples", [1, 2, 5, 6, 7, 12, 61])
def test_any_length_gives_a_token_for_each_hop_begun(causal, samples):
    encoder = SEANetEncoder(latent_channels=5, causal=causal, **SMALL)
    shape = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0], noise(2, samples)).shape
    assert shape == (2, -(-samples // 6), 5)


def test_a_causal_encoder_sees_nothing_of_what_follows():
    encode = small_encoder()
    x = noise(1, 120)
    changed = np.concatenate([x[:, :60], noise(1, 60, seed=1)], axis=1)
    before, after = encode(x), encode(changed)
    np.testing.assert_array_equal(before[:, :10], after[:, :10])
    assert np.abs(before - after)[:, 10].min() > 0


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.slow
def test_a_batch_of_unequal_lengths_gives_what_each_item_gives_alone(causal):
    encode = small_encoder(causal=causal)
    lengths = np.array([61, 60, 37, 13, 4, 1], np.int32)
    x = noise(len(lengths), 61)
    together = encode(x, lengths)  # whatever lies behind an item's end
    for item, length in enumerate(lengths):
        tokens = -(-length // 6)
        alone = encode(x[item : item + 1, :length])[0]
        np.testing.assert_allclose(together[item, :tokens], alone, atol=1e-6, err_msg=str(length))
        assert not np.any(together[item, tokens:])


@pytest.mark.parametrize("right", [0, 2, 5])
@pytest.mark.parametrize("lengths", [None, [7, 7], [7, 3], [2, 1]])
def test_reflection_is_at_each_item_s_own_end(right, lengths):
    counted, left = None if lengths is None else jnp.array(lengths), 4
    x = np.asarray(clear(noise(2, 7, 1), counted))
    padded = reflect(x, left, right, counted)
    assert padded.shape == (2, 11 + right, 1)
    for item, length in enumerate(lengths or [7, 7]):
        longer = np.pad(x[item, :length, 0], (0, max(max(left, right) - length + 1, 0)))
        expected = np.pad(longer, (left, right), mode="reflect")[: left + length + right]
        np.testing.assert_array_equal(padded[item, : left + length + right, 0], expected)
        assert not np.any(padded[item, left + length + right :])


def test_a_weight_normed_kernel_has_the_norm_that_scale_says():
    module = Conv1d(3, 5)
    variables = module.init(jax.random.key(0), noise(1, 9, 2))
    conv = variables["params"]["conv"]
    x = noise(1, 9, 2)
    doubled = {"params": {"conv": {**conv, "kernel": 7 * conv["kernel"], "scale": 2 * conv["scale"]}}}
    np.testing.assert_allclose(module.apply(doubled, x), 2 * module.apply(variables, x), rtol=1e-5, atol=1e-6)
    norms = jnp.sqrt(jnp.sum(conv["kernel"] ** 2, axis=(0, 1)))
    np.testing.assert_allclose(conv["scale"], norms, rtol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("stride", [2, 3])
def test_a_transposed_convolution_spreads_each_sample_over_two_strides(causal, stride):
    module = ConvTranspose1d(2, stride, causal)
    x = noise(1, 4, 3)
    variables = module.init(jax.random.key(1), x)
    kernel = np.asarray(variables["params"]["kernel"])
    whole = np.zeros((stride * 5, 2))
    for i in range(4):
        whole[i * stride : (i + 2) * stride] += np.einsum("c,kcf->kf", x[0, i], kernel)
    left = 0 if causal else stride - stride // 2
    np.testing.assert_allclose(module.apply(variables, x)[0], whole[left : left + 4 * stride], atol=1e-5)


def test_an_lstm_goes_on_from_its_state():
    module, x = LSTM(), noise(2, 9, 4)
    variables = module.init(jax.random.key(0), x)
    whole, end = module.apply(variables, x)
    first, state = module.apply(variables, x[:, :4])
    second, state = module.apply(variables, x[:, 4:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, end)


@pytest.mark.parametrize("causal", [True, False])
def test_a_decoder_gives_hop_samples_a_token(causal):
    decoder = SEANetDecoder(causal=causal, **SMALL)
    z = noise(2, 20, 5)
    variables = jax.jit(decoder.init)(jax.random.key(0), z)
    decode = jax.jit(decoder.apply)
    y = decode(variables, z)
    assert y.shape == (2, 120) and y.dtype == jnp.float32
    changed = decode(variables, np.concatenate([z[:, :10], 1 + z[:, 10:]], axis=1))
    assert np.array_equal(y[:, :60], changed[:, :60]) == causal


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.slow
def test_a_decoder_of_unequal_lengths_gives_what_each_item_gives_alone(causal):
    decoder = SEANetDecoder(causal=causal, **SMALL)
    z, lengths = noise(4, 20, 5), np.array([20, 13, 3, 1], np.int32)
    variables = jax.jit(decoder.init)(jax.random.key(0), z)
    decode = jax.jit(decoder.apply)
    together = decode(variables, z, lengths)
    for item, length in enumerate(lengths):
        alone = decode(variables, z[item : item + 1, :length])[0]
        np.testing.assert_allclose(together[item, : 6 * length], alone, atol=1e-6, err_msg=str(length))
        assert not np.any(together[item, 6 * length :])
