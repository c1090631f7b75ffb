"""What the studies' tables say, in sentences made from the same runs."""

import itertools
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.runs import Run, grouped, method_of, named_size, spread, stages_of

# Three seeds of 600 steps differ by nearly as much in points and decibels, like runs of 200 in perplexity.
POINTS, DECIBELS, TIMES = 0.13, 1.2, 1.6
SEEDS = 3  # runs of a method from which on their own spread is looked at instead
CLEARLY = {  # figure -> what is said of more of it, and from where on
    "eval/codebook_utilization": ("clearly more codes held out", lambda share: share + POINTS),
    "eval/codebook_perplexity": ("a clearly higher perplexity held out", lambda perplexity: perplexity * TIMES),
    "eval/psnr": ("a clearly higher PSNR", lambda psnr: psnr + DECIBELS),
}
NOISE = (
    "A row without brackets is one run. Like runs differ: a hundred runs of 200 steps that were made twice, with other"
    " rounding alone (another machine or number of cores, 2026-11-28), were up to 6 points held out, 1.57 times the"
    " perplexity and 0.6 dB apart, and vit_vq, which collapses, 2.5 dB; seeds of simvq_frozen at 600 steps are up to 12"
    f" points and 1.1 dB apart. Rows closer than {100 * POINTS:.0f} points, {TIMES} times the perplexity or"
    f" {DECIBELS} dB are not told apart; where both have {SEEDS} seeds, one is clearly more than the other if each of"
    " its runs is more than each of the other's. Methods are set as their papers have them where that fits and not"
    " tuned for so few steps."
)
NAMES = {
    "simvq": "this project's recipe, the default of its configs (`configs/recipes.py`)",
    "simvq_frozen": (
        "the same without restarts: rows of C stay as they were drawn, as published, where the recipe replaces those"
        " whose codes are long out of use by such as W maps near tokens; codes may spread .9 times as far as tokens,"
        " not as far; W has a rate of .03, where the recipe's is .01 at 600 and 1,300 steps"
    ),
    "simvq_plain, plain_...": (
        "the quantizer as published, under this project's schedule of the networks; W keeps the peak of their rate"
        " unless the name has another one"
    ),
    "simvq_paper": "the paper's recipe, at the networks' rate of the study (the paper's is 1e-4)",
    "simvq_mlp": "simvq_frozen with one hidden layer in place of the linear map",
    "moment_vq": "W in closed form from the tokens' running moments, an idea of this project",
    "vq, ema_vq": "free codes, by gradient or as running means, from a uniform or normal start",
    "..._kmeans_restart": (
        "the same from k-means of the encoder's first tokens, four a code; codes long out of use are moved to tokens"
    ),
    "factorized_vq": "VQGAN-FC",
    "vqgan_lc": "a trained projector over frozen features, of a tokenizer trained before (`benchmarks/features.py`)",
    "fsq, lfq": "no stored codebook",
    "..._trained, ..._frozen": (
        "the basis C trained or not, neither with restarts; tokens_...: of the encoder's first tokens;"
        " ..._transform_frozen: W frozen"
    ),
    "constant_R, cosine, recipe": "W at the constant rate R, by warm-up and cosine, as the recipe has it",
}


def more_codes(runs: list[Run]) -> str:
    """Says of each method whether PSNR rises with K: beyond the spread of its seeds, or of single runs by more than
    like runs differ."""
    said: dict[tuple[int, int, str], dict[str, list[str]]] = {}
    for (method,), of in sorted(grouped(runs, lambda run: (method_of(run),)).items()):
        by_k: dict[int, list[float]] = {}
        for run in of:
            by_k.setdefault(run["codebook_size"], []).append(run["figures"]["eval/psnr"])
        for (k, before), (more, after) in itertools.pairwise(sorted(by_k.items())):
            seeded = min(len(before), len(after)) > 1
            ground = "beyond the spread of the seeds" if seeded else "by more than like runs differ"
            rises = min(after) > max(before) + (0 if seeded else DECIBELS)
            verbs = said.setdefault((k, more, ground), {"rises": [], "does not rise": []})
            verbs["rises" if rises else "does not rise"].append(method)
    return " ".join(
        f"From K = {k:,} to {more:,}, PSNR {verb} {ground} for {', '.join(methods)}."
        for (k, more, ground), which in sorted(said.items())
        for verb, methods in which.items()
        if methods
    )


def better(runs: list[Run]) -> str:
    """Says which methods of one codebook have more codes in use held out than simvq, a higher perplexity or PSNR, by
    codebook size, by more than like runs differ."""
    sentences = []
    runs = [run for run in runs if stages_of(run) == 1]
    for k in sorted({named_size(run) for run in runs}):
        methods = grouped([run for run in runs if named_size(run) == k], lambda run: (method_of(run),))
        if ("simvq",) not in methods or len(methods) < 3:
            continue
        for figure, (words, bar) in CLEARLY.items():
            values = {name: [run["figures"][figure] for run in of] for (name,), of in methods.items()}
            above = [name for name in values if _clearly_more(values[name], values["simvq"], bar)]
            named = ", ".join(sorted(above, key=lambda name: -statistics.mean(values[name]))) or "none"
            sentences.append(f"At K = {k:,}, {words} than simvq: {named}.")
    return " ".join(sentences)


def _clearly_more(values: list[float], others: list[float], bar: Callable[[float], float]) -> bool:
    """Whether one method's runs give more than another's, by more than like runs differ."""
    if min(len(values), len(others)) >= SEEDS:
        return min(values) > max(others)
    return statistics.mean(values) > bar(statistics.mean(others))


def ranks(runs: list[Run]) -> str:
    """Says the effective rank of simvq's W at the end, by codebook size; "" where there are no two sizes."""
    by_k: dict[int, list[float]] = {}
    for run in runs:
        if method_of(run) == "simvq":
            by_k.setdefault(run["codebook_size"], []).append(run["figures"]["train/transform_effective_rank"])
    if len(by_k) < 2:
        return ""
    listed = ", ".join(f"{spread(values, '{:.1f}'.format)} at K = {k:,}" for k, values in sorted(by_k.items()))
    return f"Effective rank of simvq's W at the end: {listed}. The paper finds it lower for larger K."


def trained_basis(runs: list[Run]) -> str:
    """Says what training C does to the codes in use held out, by recipe; "" unless both were run."""
    shares = {run["run"]: run["figures"]["eval/codebook_utilization"] for run in runs}
    sentences = []
    for prefix, words in (("", "under this project's recipe without restarts"), ("plain_", "in the plain quantizer")):
        pair = [shares.get(f"{prefix}normal_{state}") for state in ("frozen", "trained")]
        if None not in pair:
            sentences.append(
                f"Training C, {words}, takes the codes in use held out from {pair[0]:.1%} to {pair[1]:.1%}."
            )
    ending = "In the paper's toy it brings collapse back; in its full model it costs little."
    return " ".join([*sentences, ending]) if sentences else ""


def toy(found: dict[str, Any]) -> str:
    """Says how many of the toy's codes are in use at its last step."""
    used = {name: made["used"][-1] for name, made in found["methods"].items()}
    codes = len(next(iter(found["methods"].values()))["codes"][0])
    listed = ", ".join(f"{count} with {name}" for name, count in used.items())
    return f"Of its {codes} codes, in use at the end: {listed}."
