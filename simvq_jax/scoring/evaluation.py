"""One pass over the data with a model: figures, how often each code is taken, and a few examples to be looked at."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging

from simvq_jax.agreement import rows_of, whole
from simvq_jax.build import build_scoring_nets, of_sound
from simvq_jax.inputs import EvalData
from simvq_jax.mesh import batch_share, place_batch, place_whole
from simvq_jax.metrics.codebook import effective_rank, perplexity, scale, utilization
from simvq_jax.optim import transforms_of
from simvq_jax.progress import Progress
from simvq_jax.scoring.common import Scored, Scorer
from simvq_jax.scoring.distances import FrechetDistances
from simvq_jax.scoring.pictures import PictureScorer
from simvq_jax.scoring.sounds import SoundScorer

KEPT = 16  # pictures or recordings kept for the report
TOKENS = 4096  # encoder outputs kept for the report
CONSTANT = ("eval/pictures", "eval/recordings", "eval/seconds", "eval/tokens")  # figures of the data alone


class Evaluation(NamedTuple):
    """Result of an evaluation.

    metrics: "eval/..." figures. counts: (K,) int64 tokens assigned to each code. originals, reconstructions: a few,
    spread over the data, each uint8 (h, w, 3) or float32 (samples,). tokens: (m, d) sample of encoder outputs.
    codes: (K, d) codebook Q. singular_values: (d,) of W, falling; empty without a transform. rows: the figures of each
    recording by its name; {} of pictures.
    Of a compound quantizer counts, codes and singular values are those of the first stage, utilization and perplexity
    means over the stages, and each stage's utilization is "eval/codebook_utilization_stage0", and so on.
    provenance: what is needed to repeat it; {} during training.
    """

    metrics: dict[str, float]
    counts: np.ndarray
    originals: Sequence[np.ndarray]
    reconstructions: Sequence[np.ndarray]
    tokens: np.ndarray
    codes: np.ndarray
    singular_values: np.ndarray
    rows: dict[str, dict[str, float]]
    provenance: dict[str, Any]


def make_scorer(config, autoencoder, perceptual, mesh) -> Scorer:
    """What scores the reconstructions of a model of this config. perceptual: LPIPS parameters, {} without."""
    if of_sound(config):
        return SoundScorer(autoencoder, config.data.sample_rate, config.metrics.crepe, config.metrics.utmos)
    nets = build_scoring_nets(config) | ({"lpips": perceptual} if perceptual else {})
    return PictureScorer(autoencoder, place_whole(nets, mesh))


def evaluate(
    scorer: Scorer,
    variables,
    data: EvalData,
    mesh,
    progress: Progress | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """One pass over the data. variables: as `inference_variables`. before_batch: may raise to give up."""
    counts = [np.zeros((size,), np.int64) for size in scorer.autoencoder.quantizer.codebook_sizes]
    figures: list[dict[str, np.ndarray]] = []
    share = batch_share(mesh)
    samples, distances = _Samples(len(data), share.count), FrechetDistances()
    for batch in data.batches(share):
        before_batch()
        scored = scorer.score(variables, place_batch(batch, mesh))
        for total, of_batch in zip(counts, scored.counts, strict=True):
            total += whole(of_batch).astype(np.int64)
        index = {name: batch[name] for name in batch if name == "index"}
        on_host = rows_of(scorer.on_host(batch, scored.reconstruction) | index, share.readers)
        figures.append(whole(scored.figures) | on_host)
        distances.add(whole(scored.features), figures[-1]["mask"])
        samples.look(scorer, batch, scored)
        if progress is not None:
            progress.update(min(samples.seen * share.count, len(data) - 1))
    if progress is not None:
        progress.update(len(data))  # what cannot be read too
    if not any(of_batch["mask"].any() for of_batch in figures):
        raise ValueError(
            f"none of the {len(data)} {data.noun} of {data.source}, split {data.split}, can be read: replace those"
            " files, or choose other data."
        )
    of_all = scorer.of_batches(figures) | distances.values()
    mask = np.concatenate([of_batch["mask"] for of_batch in figures])
    of_items = [name for name in figures[0] if name not in ("mask", *scorer.for_batches)]
    items = {name: np.concatenate([of_batch[name] for of_batch in figures])[mask] for name in of_items}
    names = [data.name_of(i) for i in items.pop("index", np.zeros((0,), int)).tolist()]
    codes, singular_values, of_codebook = _codebook(scorer.autoencoder, variables, counts)
    return Evaluation(
        metrics=_means(items, scorer) | {f"eval/{name}": value for name, value in of_all.items()} | of_codebook,
        counts=counts[0],
        originals=samples.originals,
        reconstructions=samples.reconstructions,
        tokens=samples.all_tokens(codes.shape[1]),
        codes=codes,
        singular_values=singular_values,
        rows=_rows(names, items),
        provenance={},
    )


class _Samples:
    """Some originals, reconstructions and tokens, evenly spread over this process's share of the data."""

    def __init__(self, items: int, shares: int):
        self._items = max(items // shares, 1)
        self.seen = 0
        self.originals: list[np.ndarray] = []
        self.reconstructions: list[np.ndarray] = []
        self.tokens: list[np.ndarray] = []

    def look(self, scorer: Scorer, batch, scored: Scored) -> None:
        real = np.flatnonzero(batch["mask"])
        place = self.seen + np.arange(len(real))
        self.seen += len(real)
        rows = real[place * KEPT // self._items != (place - 1) * KEPT // self._items]
        if not len(rows):  # nothing of this batch leaves the device
            return
        originals, reconstructions = scorer.samples(batch, scored, rows)
        self.originals += list(originals)
        self.reconstructions += list(reconstructions)
        tokens = scorer.tokens(batch, scored)
        wanted = -(-TOKENS * len(rows) // min(KEPT, self._items))
        self.tokens.append(tokens[:: max(len(tokens) // wanted, 1)][:wanted])

    def all_tokens(self, dim: int) -> np.ndarray:
        """(m, dim): of a product, what its first stage sees. m is 0 where this process had filled-up rows alone."""
        none = np.zeros((0, dim), np.float32)
        return np.concatenate([none, *(tokens[:, :dim] for tokens in self.tokens)])


def _means(items: dict[str, np.ndarray], scorer: Scorer) -> dict[str, float]:
    """Means over the items, in float64; of figures that an item may lack, over those that have one."""
    metrics = {f"eval/{scorer.counted}": float(len(items["commitment"]))}
    for name, values in items.items():
        values = values.astype(np.float64)
        lacking = np.isnan(values) if name in scorer.may_lack else np.zeros(values.shape, bool)
        if lacking.any():
            logging.warning(
                "%d of %d %s have no %s; its mean is over the others.", lacking.sum(), len(values), scorer.counted, name
            )
        if lacking.all():
            continue
        metrics[f"eval/{name}"] = float(np.mean(values[~lacking]))
    metrics["eval/token_scale"] = metrics.pop("eval/square_token_scale") ** 0.5
    if "seconds" in items:
        metrics["eval/seconds"] = float(np.sum(items["seconds"], dtype=np.float64))
    return metrics


def _rows(names: list[str], items: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    shown = [name for name in items if name != "square_token_scale"]
    return {key: {name: float(items[name][i]) for name in shown} for i, key in enumerate(names)}


def _codebook(autoencoder, variables, counts) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """The (first) codebook, the singular values of its W, and figures of all stages' use."""
    codes = autoencoder.apply(variables, method="codebook")
    codes = whole(codes[0] if isinstance(codes, tuple) else codes)
    metrics = {
        "eval/codebook_utilization": float(np.mean([utilization(stage > 0) for stage in counts])),
        "eval/codebook_perplexity": float(np.mean([perplexity(jnp.asarray(stage, jnp.float32)) for stage in counts])),
        "eval/code_scale": float(scale(codes)),
        "eval/tokens": float(counts[0].sum()),
    }
    if len(counts) > 1:
        of_stages = {f"eval/codebook_utilization_stage{i}": stage for i, stage in enumerate(counts)}
        metrics |= {name: float(utilization(stage > 0)) for name, stage in of_stages.items()}
    transforms = transforms_of(variables["params"])
    singular_values = np.zeros((0,), np.float32)
    if transforms:
        singular_values = np.linalg.svd(whole(transforms[0]["kernel"]), compute_uv=False)
        metrics["eval/transform_effective_rank"] = float(effective_rank(jnp.asarray(singular_values)))
    return codes, singular_values, metrics
