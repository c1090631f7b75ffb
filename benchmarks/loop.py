"""How much of the bare step's speed the loop keeps, with data, figures, progress and writers around the step.

    python -m benchmarks.loop [--config=configs/quickstart.py] [--rounds=4] [--steps=40]

Loop and bare step take turns in one process; the ratio of medians is what counts.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import jax

from simvq_jax import build, cli, train
from simvq_jax.data.sources import SkipLog
from simvq_jax.drawing.curves import read_metrics
from simvq_jax.inputs import build_train_batches, open_data
from simvq_jax.mesh import jit_step, make_mesh, place_batch


def bare_rate(config, state, step, batch, steps: int) -> float:
    """Examples per second of the compiled step alone, on one batch that already lies on the device."""
    state, figures = jax.block_until_ready(step(state, batch, {}))  # compiles
    began = time.monotonic()
    for _ in range(steps):
        state, figures = step(state, batch, {})
    jax.block_until_ready((state, figures))
    return config.batch_size * steps / (time.monotonic() - began)


def main(config: str, rounds: int, steps: int) -> None:
    """Prints one JSON object."""
    settings = cli.load_config(config)[1]
    settings.update({"steps": 10**6, "log_every": steps, "eval_every": 10**6, "checkpoint_every": 10**6})
    mesh = make_mesh()
    networks, optimizers = build.build_networks(settings), build.build_optimizers(settings)
    step_fn = build.build_train_step(settings, networks, optimizers)
    bare = []
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(mesh):
        run = Path(folder) / "run"
        batches = build_train_batches(settings, open_data(settings, "train", SkipLog(None)), 0)
        (batch,) = place_batch(next(batches), mesh).values()
        batches.close()
        for number in range(1, rounds + 1):
            state = train.train(settings, run, stop_at=2 * number * steps)
            bare.append(bare_rate(settings, state, jit_step(step_fn, state, mesh), batch, steps))
        # Of the two windows of a call, the first pays for compilation.
        rates = read_metrics(run).numbers["train/examples_per_second"]
        loop = [rate for at, rate in rates.items() if at % (2 * steps) == 0]
    result = {
        "config": config,
        "loop_examples_per_second": round(statistics.median(loop), 1),
        "bare_examples_per_second": round(statistics.median(bare), 1),
        "ratio": round(statistics.median(loop) / statistics.median(bare), 3),
        "rounds": [[round(a, 1), round(b, 1)] for a, b in zip(loop, bare, strict=True)],
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    cli.run_main(
        main,
        {"config": "configs/quickstart.py", "rounds": 4, "steps": 40},
        {"config": "experiment", "rounds": "turns of loop and bare step", "steps": "steps a measurement"},
    )
