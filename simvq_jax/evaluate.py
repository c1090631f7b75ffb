"""Evaluation on held-out data: `python -m simvq_jax.evaluate --run=runs/quickstart [--data=folder:PATH]`."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax import cli
from simvq_jax.api import load
from simvq_jax.build import build_perceptual, read_config
from simvq_jax.data.images import to_uint8
from simvq_jax.data.sources import SkipLog
from simvq_jax.files import replace_text
from simvq_jax.inputs import EvalData
from simvq_jax.losses.perceptual import lpips
from simvq_jax.mesh import make_mesh, place_batch, replicated
from simvq_jax.metrics.codebook import effective_rank, perplexity, scale, utilization
from simvq_jax.metrics.image import psnr, ssim
from simvq_jax.optim import transforms_of
from simvq_jax.progress import Progress
from simvq_jax.quantize.base import count_codes
from simvq_jax.step import as_float

PICTURES = 16  # kept for the report
TOKENS = 4096  # encoder outputs kept for the report
SSIM_WINDOW = 11


class Evaluation(NamedTuple):
    """Result of an evaluation.

    metrics: "eval/..." figures. counts: (K,) int64 tokens assigned to each code. originals, reconstructions:
    (n, h, w, 3) uint8, a few pictures spread over the data. tokens: (m, d) sample of encoder outputs. codes: (K, d)
    codebook Q. singular_values: (d,) of W, falling; empty without a transform.
    Of a compound quantizer counts, codes and singular values are those of the first stage, utilization and perplexity
    means over the stages, and each stage's utilization is "eval/codebook_utilization_stage0", and so on.
    """

    metrics: dict[str, float]
    counts: np.ndarray
    originals: np.ndarray
    reconstructions: np.ndarray
    tokens: np.ndarray
    codes: np.ndarray
    singular_values: np.ndarray


def make_eval_step(autoencoder):
    """Builds `(variables, perceptual, images, mask) -> (sums, counts, latents, reconstruction)`, jitted.

    Sums are over the pictures that count; counts are a list of (K,) over their tokens, one a stage; reconstruction is
    clipped to [-1, 1].
    """

    @jax.jit
    def eval_step(variables, perceptual, images, mask):
        x = as_float(images)
        latents_shape = jax.eval_shape(lambda x: autoencoder.apply(variables, x).latents, x).shape
        token_mask = jnp.broadcast_to(mask.reshape(-1, *(1,) * (len(latents_shape) - 2)), latents_shape[:-1])
        out = autoencoder.apply(variables, x, mask=token_mask)
        reconstruction = jnp.clip(out.reconstruction, -1.0, 1.0)
        commitment = jnp.mean((out.latents.astype(jnp.float32) - out.quantized.z_q.astype(jnp.float32)) ** 2, (1, 2, 3))
        figures = {
            "psnr": psnr(x, reconstruction),
            "l1": jnp.mean(jnp.abs(x - reconstruction), axis=(1, 2, 3)),
            "l2": jnp.mean((x - reconstruction) ** 2, axis=(1, 2, 3)),
            "commitment": commitment,
            "square_token_scale": jnp.mean(jnp.sum(out.latents.astype(jnp.float32) ** 2, axis=-1), axis=(1, 2)),
        }
        if min(x.shape[1:3]) >= SSIM_WINDOW:
            figures["ssim"] = ssim(x, reconstruction, window=SSIM_WINDOW)
        if perceptual:
            figures["lpips"] = lpips(perceptual, x, reconstruction)
        sums = {name: jnp.sum(jnp.where(mask, value, 0.0)) for name, value in figures.items()}
        sums["pictures"] = jnp.sum(mask)
        counts = _count_stages(autoencoder.quantizer, out.quantized.indices, token_mask.astype(jnp.float32))
        return sums, counts, out.latents.astype(jnp.float32), reconstruction

    return eval_step


def _count_stages(quantizer, indices, weight) -> list:
    """Tokens of each code, a (K,) a stage. weight: (...), 1 where a token counts."""
    sizes = quantizer.codebook_sizes
    by_stage = indices.reshape(*weight.shape, len(sizes))
    return [count_codes(by_stage[..., i], weight, size) for i, size in enumerate(sizes)]


def evaluate(
    autoencoder, eval_step, variables, perceptual, data: EvalData, mesh, progress: Progress | None = None
) -> Evaluation:
    """One pass over the data; sums are kept in float64 on the host. variables: as `inference_variables`."""
    sums: dict[str, Any] = {}
    counts = [np.zeros((size,), np.int64) for size in autoencoder.quantizer.codebook_sizes]
    kept: list[dict[str, np.ndarray]] = []
    keep_every = -(-data.batch_count // PICTURES)
    for number, batch in enumerate(data.batches()):
        placed = place_batch(batch, mesh)
        batch_sums, batch_counts, latents, reconstruction = eval_step(
            variables, perceptual, placed["image"], placed["mask"]
        )
        for total, of_batch in zip(counts, batch_counts, strict=True):
            total += np.asarray(of_batch).astype(np.int64)
        for name, value in jax.device_get(batch_sums).items():
            sums[name] = sums.get(name, 0.0) + float(value)
        if number % keep_every == 0:
            kept.append(_samples(batch, latents, reconstruction, -(-PICTURES // data.batch_count)))
        if progress is not None:
            progress.update(number + 1)
    if not sums.get("pictures"):
        raise ValueError(
            f"none of the {len(data)} held-out crops of {data.source} can be read: replace those files, or choose other"
            " data."
        )
    samples = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    return _summarise(autoencoder, variables, sums, counts, samples)


def _samples(batch, latents, reconstruction, pictures: int) -> dict[str, np.ndarray]:
    """Some pictures of a batch and some of its tokens, spread over its rows."""
    real = np.flatnonzero(batch["mask"])
    rows = real[:: max(len(real) // pictures, 1)][:pictures]
    tokens = _local(latents)[real].reshape(-1, latents.shape[-1])
    wanted = TOKENS // PICTURES * pictures
    return {
        "originals": batch["image"][rows],
        "reconstructions": to_uint8(_local(reconstruction)[rows]),
        "tokens": tokens[:: max(len(tokens) // wanted, 1)][:wanted],
    }


def _local(array) -> np.ndarray:
    """This process's rows of an array split over its rows, in order."""
    return np.concatenate([np.asarray(shard.data) for shard in _rows(array)])


def _rows(array):
    """This process's shards of an array split over its rows, in order, each once."""
    shards = {shard.index[0].start or 0: shard for shard in array.addressable_shards}
    return [shards[start] for start in sorted(shards)]


def _summarise(autoencoder, variables, sums, counts, samples) -> Evaluation:
    pictures = sums.pop("pictures")
    means = {name: value / pictures for name, value in sums.items()}
    codes = autoencoder.apply(variables, method="codebook")
    codes = codes[0] if isinstance(codes, tuple) else codes
    transforms = transforms_of(variables["params"])
    singular_values = np.zeros((0,), np.float32)
    metrics = {f"eval/{name}": value for name, value in means.items() if name != "square_token_scale"}
    metrics |= {
        "eval/codebook_utilization": float(np.mean([utilization(stage > 0) for stage in counts])),
        "eval/codebook_perplexity": float(np.mean([perplexity(jnp.asarray(stage, jnp.float32)) for stage in counts])),
        "eval/token_scale": means["square_token_scale"] ** 0.5,
        "eval/code_scale": float(scale(codes)),
        "eval/pictures": pictures,
        "eval/tokens": float(counts[0].sum()),
    }
    if len(counts) > 1:
        of_stages = {f"eval/codebook_utilization_stage{i}": stage for i, stage in enumerate(counts)}
        metrics |= {name: float(utilization(stage > 0)) for name, stage in of_stages.items()}
    if transforms:
        singular_values = np.asarray(jnp.linalg.svd(transforms[0]["kernel"], compute_uv=False))
        metrics["eval/transform_effective_rank"] = float(effective_rank(jnp.asarray(singular_values)))
    samples["tokens"] = samples["tokens"][:, : codes.shape[1]]  # what a product's first stage sees of them
    return Evaluation(
        metrics=metrics, counts=counts[0], codes=np.asarray(codes), singular_values=singular_values, **samples
    )


def evaluate_run(run: Path, data: str | None = None, limit: int = 0) -> Evaluation:
    """Evaluates the EMA weights of a run's newest checkpoint on all held-out crops of its data, or of `data`.

    limit: crops, evenly spread; 0 = all.
    """
    tokenizer = load(run)
    config = tokenizer.config
    mesh = make_mesh()
    # A run is evaluated on whatever devices there are.
    config.data.eval_batch_size += -config.data.eval_batch_size % mesh.size
    eval_data = EvalData(config, SkipLog(Path(run) / "skipped_files.txt"), source=data or "", limit=limit)
    with jax.set_mesh(mesh):
        variables = jax.device_put(tokenizer.variables, replicated(mesh))
        perceptual = jax.device_put(build_perceptual(config), replicated(mesh))
        autoencoder = tokenizer.autoencoder
        return evaluate(
            autoencoder,
            make_eval_step(autoencoder),
            variables,
            perceptual,
            eval_data,
            mesh,
            Progress(f"evaluate {Path(run).name}", eval_data.batch_count),
        )


def save_figures(run: Path, data: str, result: Evaluation) -> None:
    """Writes the figures and the data they are of to RUN/evaluation.json."""
    figures = {name: round(value, 6) for name, value in sorted(result.metrics.items())}
    replace_text(Path(run) / "evaluation.json", json.dumps({"data": data, **figures}, indent=2) + "\n")


def main(run: str, data: str, limit: int) -> None:
    """Prints the figures, and writes them to RUN/evaluation.json."""
    result = evaluate_run(Path(run), data or None, limit)
    save_figures(Path(run), data or read_config(Path(run)).data.source, result)
    for name, value in sorted(result.metrics.items()):
        print(f"{name:32} {value:.6g}")


if __name__ == "__main__":
    cli.run_main(
        main,
        {"run": cli.REQUIRED, "data": "", "limit": 0},
        {
            "run": "run folder, as runs/quickstart",
            "data": "photos, folder:PATH or tfds:NAME; by default the run's own",
            "limit": "crops to evaluate, evenly spread over the set; 0 = all",
        },
    )
