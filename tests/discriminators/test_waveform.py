"""The discriminators of sound against the official code, at its widths: logits, losses, gradients; and any length."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_pictures import checks
from reference_sounds import official_links, official_trees

from simvq_jax.discriminators.waveform import (
    BandDiscriminator,
    PeriodDiscriminator,
    ResolutionDiscriminator,
    SoundDiscriminator,
    peak_normalized,
)
from simvq_jax.losses.sound import mel_loss, multiscale_mel_loss, sound_discriminator_loss, sound_generator_loss

GROUPS = {"period": "mpd", "resolution": "mrd", "dac": "dac"}


@pytest.fixture(scope="module")
def official(fixtures):
    with np.load(fixtures / "B_audio_losses.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def params(fixtures):
    described = json.loads((fixtures / "B_audio_small_keys.json").read_text())
    return official_trees(described, "B.main", "discriminator").discriminator


@pytest.fixture(scope="module")
def judged(official, params):
    """Judgements of the reference sounds, real and reconstructed."""
    judge = jax.jit(lambda params, x: SoundDiscriminator().apply({"params": params}, x))
    return judge(params, official["x"][:, 0]), judge(params, official["xrec"][:, 0])


@pytest.mark.parametrize("group", GROUPS)
def test_logits_are_the_official_ones(official, judged, group):
    for kind, judgements in zip(("real", "fake"), judged, strict=True):
        assert len(judgements[group]) == {"period": 5, "resolution": 3, "dac": 8}[group]
        for i, judgement in enumerate(judgements[group]):
            expected = official[f"{GROUPS[group]}{i}_logits_{kind}"]
            logits = np.asarray(judgement.logits)
            logits = logits.swapaxes(1, 2) if group == "resolution" else logits  # frequency first there
            limit = 2e-5 * np.abs(expected).max()
            np.testing.assert_allclose(
                logits.reshape(expected.shape), expected, rtol=0, atol=limit, err_msg=f"{kind} {i}"
            )


def test_every_loss_term_is_the_official_one(official, judged):
    theirs = dict(zip(official["log_names"].tolist(), official["log_f64"], strict=True))
    real, fake = judged
    generator, terms = jax.jit(sound_generator_loss)(real, fake, 1.0)
    discriminator, more = jax.jit(sound_discriminator_loss)(real, fake, 1.0)
    mel = mel_loss(official["xrec"][:, 0], official["x"][:, 0], 24_000)
    ours = terms | more | {"mel": mel, "discriminator": discriminator}
    names = {
        "adversarial_period": "gen:multi_period_loss",
        "adversarial_resolution": "gen:multi_res_loss",
        "adversarial_dac": "gen:loss_dac_1",
        "features_period": "gen:feature_matching_mp",
        "features_resolution": "gen:feature_matching_mrd",
        "features_dac": "gen:loss_dac_2",
        "mel": "gen:reconstruct_loss",
        "discriminator_period": "disc:multi_period_loss",
        "discriminator_resolution": "disc:multi_res_loss",
        "discriminator_dac": "disc:dac",
        "discriminator": "disc:total_loss",
    }
    assert ours.keys() == names.keys()
    for name, their_name in names.items():
        np.testing.assert_allclose(ours[name], theirs[their_name], rtol=1e-5, err_msg=name)
    total = generator + 45 * mel + 1000 * official["gen_commit_used"]
    np.testing.assert_allclose(total, theirs["gen:total_loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "name", "group"),
    [
        (ResolutionDiscriminator(512, 128), "resolution512", "resolution"),
        (BandDiscriminator(512), "dac_band512", "dac"),
        (PeriodDiscriminator(11), "period11", "period"),
    ],
)
@pytest.mark.slow
def test_gradients_of_one_of_each_kind_are_the_official_ones(fixtures, official, params, module, name, group):
    """Norms of every tensor's gradient; a mean over a group shares it among its members."""
    sounds = [official[kind][:, 0] for kind in ("x", "xrec")]
    sounds = [peak_normalized(x) for x in sounds] if group == "dac" else sounds

    def loss(own):
        judgements = [{g: [module.apply({"params": own}, x)] for g in GROUPS} for x in sounds]
        return sound_discriminator_loss(*judgements, 1.0)[1][f"discriminator_{group}"]

    grads = jax.jit(jax.grad(loss))(params[name])
    members = {"period": 5, "resolution": 3, "dac": 1}[group]
    expected = dict(zip(official["disc_grad_keys"].tolist(), official["disc_grad_checks"], strict=True))
    found = 0
    for theirs, _, (module_name, layer, leaf), _ in official_links("discriminator"):
        if module_name == name:
            norm = checks(grads[layer][leaf])[2] / members
            np.testing.assert_allclose(norm, expected[theirs.removeprefix("loss.")][2], rtol=1e-3, err_msg=theirs)
            found += 1
    assert found == len(jax.tree.leaves(grads))


@pytest.mark.parametrize("always_pad", [True, False])
@pytest.mark.parametrize("samples", [90, 91, 100])
def test_a_period_discriminator_folds_any_length(always_pad, samples):
    module = PeriodDiscriminator(10, (2, 3), always_pad)
    x = jnp.zeros((2, samples))
    judgement = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], x)
    rows = samples // 10 + 1 if always_pad else -(-samples // 10)
    assert judgement.logits.shape == (2, -(-rows // 3), 10)
    assert [a.shape[-1] for a in judgement.activations] == [2, 3]


def test_the_level_of_a_sound_does_not_reach_dac_s_discriminators():
    x = np.random.default_rng(0).standard_normal((2, 50)).astype(np.float32)
    np.testing.assert_allclose(peak_normalized(3 * x + 7), peak_normalized(x), atol=1e-6)
    np.testing.assert_allclose(np.abs(peak_normalized(x)).max(axis=1), 0.8, rtol=1e-6)
    assert not np.any(peak_normalized(jnp.ones((1, 50))))  # silence stays silent


def test_the_multiscale_mel_loss_is_zero_of_equals_and_counts_decades():
    x = np.random.default_rng(0).standard_normal((1, 5000)).astype(np.float32)
    assert float(multiscale_mel_loss(x, x, 24_000)) == 0
    of_decades = jax.jit(multiscale_mel_loss, static_argnums=2)(10 * x, x, 24_000)
    np.testing.assert_allclose(of_decades, 7, rtol=0.1)  # empty filters count as nothing


def test_the_peak_s_gradient_is_finite_where_samples_tie():
    """That of a maximum divides by how many samples equal it, which rounding can make none."""
    x = jnp.array([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0], [0.1, 0.2, -0.9, 0.3]])
    grad = jax.grad(lambda x: jnp.sum(peak_normalized(x) ** 2))(x)
    assert np.isfinite(grad).all()
    step = 1e-3 * np.eye(4)[2:3]
    slope = (np.sum(peak_normalized(x[2:] + step) ** 2) - np.sum(peak_normalized(x[2:] - step) ** 2)) / 2e-3
    np.testing.assert_allclose(grad[2, 2], slope, rtol=1e-2)
