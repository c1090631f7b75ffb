"""The Vocos decoder: the official values and gradients, masks, types, dropout."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from reference_pictures import checks
from reference_sounds import CODEBOOK, official_links, official_variables

from simvq_jax import dsp
from simvq_jax.models.seanet import SEANetEncoder
from simvq_jax.models.vocos import VocosDecoder
from simvq_jax.quantize import SimVQ


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def described(fixtures):
    return json.loads((fixtures / "B_audio_small_keys.json").read_text())


@pytest.mark.parametrize("samples", [24_000, 23_456, 1000])
def test_the_official_decoder_is_matched(fixtures, described, samples):
    params = official_variables(described, "B.main")["params"]["decoder"]
    with np.load(fixtures / f"B_audio_small_eval_T{samples}.npz") as official:
        z = official["z_q"].transpose(0, 2, 1)
        sound = jax.jit(VocosDecoder(64, 160, 3).apply)({"params": params}, z)
        np.testing.assert_allclose(sound, official["y"][:, 0], atol=1e-6)


@pytest.mark.slow
def test_the_official_gradients_of_mel_and_quantizer_loss_are_matched(fixtures, described):
    """Of 45 mel + 1000 commit, by every parameter: norms and first values of each."""
    variables = official_variables(described, "B.main")
    encoder, decoder = SEANetEncoder(width=8, latent_channels=32), VocosDecoder(64, 160, 3)
    quantizer = SimVQ(256, 32)

    def loss(params, x):
        parts = {name: {"params": params[name]} for name in params}
        latents = encoder.apply(parts["encoder"], x)
        out = quantizer.apply({**parts["quantizer"], "codebook": variables["codebook"]["quantizer"]}, latents)
        sound = decoder.apply(parts["decoder"], out.z_q)
        mel = jnp.mean(jnp.abs(dsp.log_mel(sound, 24_000) - dsp.log_mel(x, 24_000)))
        return 45 * mel + 1000 * out.loss, mel

    with np.load(fixtures / "B_audio_small_eval_T24000.npz") as official:
        (value, mel), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"], official["x"][:, 0])
        np.testing.assert_allclose(mel, official["mel_loss"], rtol=1e-5)
        np.testing.assert_allclose(value, official["loss_45mel_plus_1000commit"], rtol=1e-5)
        expected = dict(zip(official["grad_keys"].tolist(), official["grad_checks"], strict=True))
        full = {key: official[key] for key in official.files if key.startswith("grad.")}
    links, flat = {link.official: link for link in official_links("params")}, flatten_dict(grads)
    assert set(expected) - {CODEBOOK} == set(links)
    for name, link in links.items():
        if name != "backbone.pos_net.2.k.bias":  # 0 but for rounding
            np.testing.assert_allclose(checks(flat[link.path])[2], expected[name][2], rtol=2e-4, err_msg=name)
    for key, gradient in full.items():
        link = links[key.removeprefix("grad.")]
        theirs = link.layout.to_ours(gradient)
        np.testing.assert_allclose(flat[link.path], theirs, rtol=0, atol=1e-4 * np.abs(theirs).max(), err_msg=key)


def small(**fields):
    decoder = VocosDecoder(width=32, hidden=16, depth=1, hop=4, n_fft=16, **fields)
    return decoder, jax.jit(decoder.init)(jax.random.key(0), jnp.zeros((1, 9, 3)))


@pytest.mark.slow
def test_a_batch_of_unequal_lengths_gives_what_each_item_gives_alone():
    decoder, variables = small()
    lengths = np.array([11, 8, 3, 1], np.int32)
    z = noise(4, 11, 3)
    decode = jax.jit(decoder.apply)
    together = decode(variables, z, lengths)
    for item, length in enumerate(lengths):
        alone = decode(variables, z[item : item + 1, :length])[0]
        np.testing.assert_allclose(together[item, : 4 * length], alone, atol=1e-5)
        assert not np.any(together[item, 4 * length :])


def test_training_drops_out_and_inference_does_not():
    decoder, variables = small(dropout=0.5)
    z = noise(2, 9, 3)
    plain = decoder.apply(variables, z)
    first, again, other = (
        decoder.apply(variables, z, train=True, rngs={"dropout": jax.random.key(key)}) for key in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other) and np.any(first != plain)


def test_bfloat16_activations_give_a_float32_sound_that_stays_finite():
    decoder, variables = small(dtype=jnp.bfloat16)
    full, _ = small()
    z = noise(2, 9, 3)
    sound, exact = decoder.apply(variables, z), full.apply(variables, z)
    assert sound.dtype == jnp.float32
    np.testing.assert_allclose(sound, exact, atol=0.1 * np.abs(exact).max())
    huge = {"params": {**variables["params"], "head": {**variables["params"]["head"], "bias": jnp.full(18, 1e4)}}}
    assert np.all(np.isfinite(decoder.apply(huge, z)))
