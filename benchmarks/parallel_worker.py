"""One arrangement of devices takes steps of a run: what `benchmarks.parallel_steps` starts, in one or more processes.

    python -m benchmarks.parallel_worker --run=RUN --steps=5,10,15 --mesh=data=8 --out=FILE.npz

From each checkpoint named one step: its loss, gradients and indices; from some of them six steps in a row.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from simvq_jax import agreement, build, cli, cluster
from simvq_jax.checkpoint import Checkpointer
from simvq_jax.data.sources import SkipLog
from simvq_jax.inputs import build_train_batches, open_data
from simvq_jax.mesh import batch_share, jit_step, make_mesh, place_batch
from simvq_jax.models.tokenizer import as_float
from simvq_jax.start import state_template
from simvq_jax.state import TrainState
from simvq_jax.step import Optimizers

FREE_STEPS, FREE_STARTS = 6, 5


def keep_gradients() -> optax.GradientTransformation:
    """An optimiser whose state is the last gradient, and which moves nothing."""
    zeros = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    return optax.GradientTransformation(zeros, lambda gradient, state, params=None: (zeros(gradient), gradient))


class Arrangement:
    """A run's steps on one mesh."""

    def __init__(self, run: Path, mesh):
        self._run, self._mesh = run, mesh
        self._config = build.read_config(run)
        self._networks, self._optimizers = build.build_networks(self._config), build.build_optimizers(self._config)
        self._template = state_template(self._config, self._networks, self._optimizers, mesh)
        keeping = Optimizers(keep_gradients(), keep_gradients())
        step = build.build_train_step(self._config, self._networks, keeping)
        self._gradient_step = jit_step(step, _without_moments(self._template), mesh)
        step = build.build_train_step(self._config, self._networks, self._optimizers)
        self._step = jit_step(step, self._template, mesh)
        self._encode = jax.jit(
            lambda variables, x: self._networks.autoencoder.apply(variables, as_float(x), method="encode")
        )

    def restored(self, step: int) -> TrainState:
        """The checkpoint of a step, on this mesh."""
        with Checkpointer(self._run, read_only=True) as checkpoints:
            state = checkpoints.restore_step(step, self._template)
        return state

    def batch(self, step: int) -> jax.Array:
        """What the run takes next from there."""
        source = open_data(self._config, "train", SkipLog(None))
        batches = build_train_batches(self._config, source, step, batch_share(self._mesh))
        (batch,) = place_batch(next(batches), self._mesh).values()
        batches.close()
        return batch

    def one_step(self, step: int) -> dict[str, Any]:
        """Loss, gradients, indices, encoder outputs and codes, as numpy arrays by name."""
        state, batch = self.restored(step), self.batch(step)
        variables = {
            "params": state.generator.params,
            "codebook": state.codebook,
            "codebook_stats": state.codebook_stats,
        }
        latents, indices = self._encode(variables, batch)
        codes = self._networks.autoencoder.apply(variables, method="codebook")
        found: dict[str, Any] = {"latents": latents, "indices": indices, "codes": codes}
        found = agreement.whole(found)
        state, metrics = self._gradient_step(_without_moments(state), batch, {})
        gradients = (state.generator.opt_state, state.discriminator.opt_state)
        found["loss"] = np.asarray(metrics["train/loss"])
        found["gradients"] = [np.asarray(leaf) for leaf in jax.tree.leaves(agreement.whole(gradients))]
        return found

    def free_losses(self, step: int) -> np.ndarray:
        """Losses of FREE_STEPS steps in a row: (FREE_STEPS,)."""
        state, losses = self.restored(step), []
        for place in range(step, step + FREE_STEPS):
            state, metrics = self._step(state, self.batch(place), {})
            losses.append(float(metrics["train/loss"]))
        return np.array(losses)


def _without_moments(state: TrainState) -> TrainState:
    """Room for gradients in place of the optimisers' states."""

    def room(leaf):
        return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.zeros_like(leaf)

    def player(old):
        return dataclasses.replace(old, opt_state=jax.tree.map(room, old.params))

    return dataclasses.replace(state, generator=player(state.generator), discriminator=player(state.discriminator))


def flat(results: dict[int, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Of all steps in one mapping: "5/loss", "5/gradients/0", ..."""
    out: dict[str, np.ndarray] = {}
    for step, found in results.items():
        for name, value in found.items():
            parts = {f"/{i}": leaf for i, leaf in enumerate(value)} if isinstance(value, list) else {"": value}
            out |= {f"{step}/{name}{ending}": leaf for ending, leaf in parts.items()}
    return out


def main(run: str, steps: str, mesh: str, out: str, **job) -> None:
    """Writes the arrays of every step to `out`."""
    config = build.read_config(Path(run))
    axes = {name: int(size) for name, size in (pair.split("=") for pair in mesh.split(","))}
    numbers = [int(step) for step in steps.split(",")]
    with cluster.joined(build.build_timeouts(config), job):
        devices = make_mesh(**axes)
        with jax.set_mesh(devices):
            arrangement = Arrangement(Path(run), devices)
            arrays = flat({step: arrangement.one_step(step) for step in numbers})
            starts = numbers[:: -(-len(numbers) // FREE_STARTS)]
            arrays["free_losses"] = np.stack([arrangement.free_losses(step) for step in starts])
        if agreement.is_first():
            np.savez(out, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    cli.run_main(
        main,
        {"run": cli.REQUIRED, "steps": cli.REQUIRED, "mesh": "data=-1", "out": cli.REQUIRED, **cluster.FLAGS},
        {
            "run": "run folder",
            "steps": "of checkpoints, with commas",
            "mesh": "axes, as data=2,fsdp=4",
            "out": ".npz file",
            **cluster.HELP,
        },
    )
