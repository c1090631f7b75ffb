"""GAN losses and LeCAM against the official PyTorch code."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_pictures import by_official_name, checks, nhwc, official_discriminator, official_variables, quick_jit

from simvq_jax.losses.adversarial import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES, lecam_penalty, lecam_update
from simvq_jax.official import Trees

LECAM_WEIGHT = 0.05
OFFICIAL = {"hinge": "hinge", "vanilla": "vanilla", "non_saturating": "non_saturate"}


@pytest.fixture(scope="module")
def described(fixtures: Path) -> dict:
    return json.loads((fixtures / "A_image_small_keys.json").read_text())


@pytest.fixture(scope="module")
def reference(fixtures: Path) -> dict[str, np.ndarray]:
    with np.load(fixtures / "A_image_small_losses.npz") as stored:
        return dict(stored)


def logits_of(reference: dict, mode: str) -> tuple[jax.Array, jax.Array]:
    real, fake = (jnp.asarray(nhwc(reference[f"logits_{kind}_{mode}"])) for kind in ("real", "fake"))
    return real, fake


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_generator_loss_is_the_official_one(reference: dict, mode: str) -> None:
    """On the stored logits, so that only the loss itself rounds."""
    _, fake = logits_of(reference, mode)
    np.testing.assert_allclose(GENERATOR_LOSSES["non_saturating"](fake), reference[f"g_loss_nonsat_{mode}"], rtol=5e-7)


@pytest.mark.parametrize(
    ("ours", "official"),
    [
        ("hinge", "d_hinge_train"),
        ("hinge", "d_hinge_eval"),
        ("vanilla", "d_vanilla_train"),
        ("non_saturating", "d_nonsat_train"),
    ],
)
def test_discriminator_loss_is_the_official_one(reference: dict, ours: str, official: str) -> None:
    """On the stored logits, so that only the loss itself rounds."""
    real, fake = logits_of(reference, official.rpartition("_")[2])
    np.testing.assert_allclose(DISCRIMINATOR_LOSSES[ours](real, fake), reference[official], rtol=5e-7)


def test_the_other_generator_losses_on_numbers_worked_by_hand() -> None:
    fake = jnp.array([0.0, 1.0, -3.0]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(GENERATOR_LOSSES["hinge"](fake), 2 / 3, rtol=1e-6)
    expected = (np.log(2) + np.log1p(np.exp(-1)) + 3 + np.log1p(np.exp(-3))) / 3
    np.testing.assert_allclose(GENERATOR_LOSSES["vanilla"](fake), expected, rtol=1e-6)


def test_losses_and_their_gradients_are_finite_at_extreme_logits() -> None:
    """Where exp overflows; the sum of all terms, so that one NaN anywhere shows."""
    extreme = jnp.array([1e4, -1e4, 200.0, -200.0]).reshape(4, 1, 1, 1)

    def total(real, fake):
        adversarial = sum(loss(fake) for loss in GENERATOR_LOSSES.values())
        return adversarial + sum(loss(real, fake) for loss in DISCRIMINATOR_LOSSES.values())

    value, grads = jax.value_and_grad(total, argnums=(0, 1))(extreme, -extreme)
    assert np.isfinite(value) and np.all(np.isfinite(grads))


@pytest.fixture(scope="module")
def lecam_steps(described: dict, reference: dict) -> dict[str, list]:
    """For each discriminator loss: figures and gradients of the three steps, the parameters staying as they are."""
    discriminator = official_discriminator(described)
    params = official_variables(described, "A.main").discriminator

    def loss(params, lecam, real, fake, name):
        real, fake = (discriminator.apply({"params": params}, pictures) for pictures in (real, fake))
        means = jax.lax.stop_gradient(lecam_update(lecam, real, fake))
        penalty, gan = lecam_penalty(means, real, fake), DISCRIMINATOR_LOSSES[name](real, fake)
        figures = [penalty, gan, jnp.mean(real), jnp.mean(fake), means["real"], means["fake"]]
        return LECAM_WEIGHT * penalty + gan, (means, figures)

    def three_steps(name: str) -> list:
        step = quick_jit(jax.value_and_grad(lambda *args: loss(*args, name), has_aux=True))
        lecam, steps = {"real": jnp.zeros(()), "fake": jnp.zeros(())}, []
        for i in range(3):
            (total, (lecam, figures)), grads = step(
                params, lecam, nhwc(reference[f"real{i}"]), nhwc(reference[f"fake{i}"])
            )
            steps.append((np.array([total, *figures]), by_official_name(described, Trees({}, {}, grads))))
        return steps

    return {name: three_steps(name) for name in OFFICIAL}


@pytest.mark.parametrize("name", OFFICIAL)
def test_three_lecam_steps_are_the_official_ones(reference: dict, lecam_steps: dict, name: str) -> None:
    """Losses, mean logits and running means (which move before the penalty is taken), to float32 rounding."""
    assert reference["lecam_columns"].tolist() == [
        "d_loss",
        "lecam_loss",
        "gan_d_loss",
        "logits_real_mean",
        "logits_fake_mean",
        "ema_real_after",
        "ema_fake_after",
    ]
    got = np.stack([figures for figures, _ in lecam_steps[name]])
    np.testing.assert_allclose(got, reference[f"lecam_{OFFICIAL[name]}_f64"], rtol=1e-5)


@pytest.mark.parametrize("name", OFFICIAL)
def test_lecam_gradients_are_the_official_ones(reference: dict, lecam_steps: dict, name: str) -> None:
    """Every tensor's norm and first values, to 1e-4 of its root mean square (observed: 1e-5)."""
    for i, (_, grads) in enumerate(lecam_steps[name]):
        expected = reference[f"lecam_{OFFICIAL[name]}_grad_checks_step{i}_checks"]
        for key, row in zip(reference["disc_grad_keys"].tolist(), expected, strict=True):
            value = grads[f"loss.discriminator.{key}"]
            rms = row[2] / value.size**0.5
            np.testing.assert_allclose(checks(value)[2], row[2], rtol=5e-5, err_msg=key)
            np.testing.assert_allclose(checks(value)[3:], row[3:], rtol=0, atol=1e-4 * rms, err_msg=key)
