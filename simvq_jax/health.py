"""How a codebook fares in training: figures of its use, and a warning in plain words when it begins to collapse."""

import math

import jax
import jax.numpy as jnp

from simvq_jax.metrics.codebook import effective_rank, perplexity, utilization
from simvq_jax.optim import transforms_of
from simvq_jax.quantize.base import NEVER, USAGE_WINDOW
from simvq_jax.quantize.basis import rows_may_restart

TOKENS_A_CODE = 20  # of the recent window: enough for every code of an even codebook to be chosen
NARROW = 0.01  # perplexity over K (or the window) below which a codebook too large for LOW yet is said to collapse
TOKEN_SPACE = ("simvq", "vq", "ema_vq", "moment_vq")  # kinds whose codes are compared with the tokens themselves
WATCHED = (
    "train/codebook_utilization_recent",
    "train/codebook_perplexity",
    "train/token_scale",
    "train/code_scale",
)
FALLEN, LOW = 0.5, 0.25  # shares of the best utilization so far, and of all codes, below which it is said
RESTLESS = 0.5  # share of codes that move while one waits for it, above which it is said
FAR = 4.0  # ratio of scales of tokens and codes from which on it is said


def stages_of(stats) -> list:
    """The statistics of each codebook: one, or those of a compound quantizer's stages, in order."""
    if "age" in stats:
        return [stats]
    return [stats[name] for name in sorted(stats, key=lambda name: int(name.rpartition("_")[2]))]


def usage_figures(stats) -> dict[str, jax.Array]:
    """Figures of `codebook_stats`, means over a compound quantizer's stages.

    codebook_utilization: share of codes chosen in the last USAGE_WINDOW tokens; ..._recent: in the last TOKENS_A_CODE
    tokens a code; either with ..._least: of the worst stage, if there are several. codebook_perplexity, and ..._share
    of K, which falls short of 1 where the window has few tokens a code (0.94 at four). codes_never_used: share.
    dead_code_age: mean over codes out of use that once were in it, in tokens. spread_ratio: how many times as far as
    tokens the codes are spread, and restart_pace: the share of codes that move within `restart_after` tokens a code,
    where the quantizer knows them.
    """
    stages = [_figures_of(stage) for stage in stages_of(stats)]
    figures = {name: jnp.mean(jnp.stack([stage[name] for stage in stages])) for name in stages[0]}
    if len(stages) > 1:
        for name in ("codebook_utilization", "codebook_utilization_recent"):
            figures[f"{name}_least"] = jnp.stack([stage[name] for stage in stages]).min()
    return figures


def _figures_of(stats) -> dict[str, jax.Array]:
    age, k = stats["age"], stats["age"].shape[0]
    fallen = (age >= USAGE_WINDOW) & (age < NEVER)
    even = perplexity(stats["usage"])
    known = {name: stats[name] for name in ("spread_ratio", "restart_pace") if name in stats}
    return known | {
        "codebook_utilization": utilization(age < USAGE_WINDOW),
        "codebook_utilization_recent": utilization(age < TOKENS_A_CODE * k),
        "codebook_perplexity": even,
        "codebook_perplexity_share": even / k,
        "codes_never_used": utilization(age >= NEVER),
        "dead_code_age": jnp.sum(jnp.where(fallen, age, 0).astype(jnp.float32)) / jnp.maximum(jnp.sum(fallen), 1),
    }


@jax.jit
def rank_figures(params) -> dict[str, jax.Array]:
    """Effective rank of W, the mean over several; {} where there is none."""
    ranks = [effective_rank(jnp.linalg.svd(layer["kernel"], compute_uv=False)) for layer in transforms_of(params)]
    return {"train/transform_effective_rank": jnp.mean(jnp.stack(ranks))} if ranks else {}


class CollapseWatch:
    """Reads the rows that training logs, and says once when a sign of collapse appears, and again if it comes back. Of
    several codebooks, utilization is that of the one used least, and other figures are means."""

    def __init__(self, quantizer, tokens_a_step: int):
        """quantizer: that part of the config; mends are told where its kind has any."""
        self._kind, self._size = quantizer.kind, quantizer.codebook_size
        self._cure = _cure(quantizer)
        self._window = TOKENS_A_CODE * self._size
        self._settled, self._begun = 2 * self._window / tokens_a_step, USAGE_WINDOW / tokens_a_step  # steps
        self._best = 0.0
        self._said: set[str] = set()

    def look(self, step: int, row: dict[str, float]) -> list[str]:
        """Sentences that are new with this row of "train/..." means; none where it has no finite ones."""
        used = row.get("train/codebook_utilization_recent_least", row["train/codebook_utilization_recent"])
        scales = row["train/token_scale"] / max(row["train/code_scale"], 1e-30)
        perplexity = row["train/codebook_perplexity"]
        if not math.isfinite(used + scales + perplexity):
            return []
        restarting = row.get("train/restart_pace", 0.0)
        self._best = max(self._best, used)
        settled = step >= self._settled
        signs = {
            "low": (
                settled and used < LOW,
                f"only {used:.1%} of the {self._size:,} codes were chosen in the last {self._window:,} tokens, so the"
                " codebook has collapsed",
                self._cure,
            ),
            "narrow": (
                self._begun <= step < self._settled and perplexity < NARROW * min(self._size, USAGE_WINDOW),
                f"tokens choose as if among {perplexity:,.0f} of the {self._size:,} codes, so the codebook collapses",
                self._cure,
            ),
            "fallen": (
                used < FALLEN * self._best,
                f"codes in use fell from {self._best:.1%} to {used:.1%}, so the codebook begins to collapse",
                self._of_simvq("lower optimizer.learning_rate, so that codes can follow the tokens"),
            ),
            "restless": (
                settled and restarting > RESTLESS,
                f"{restarting:.1%} of the codes restart while one waits to, so use in training"
                " is that of codes just moved, which do not stay in use",
                self._of_simvq("lower optimizer.transform_learning_rate, or ") + "raise quantizer.restart_after",
            ),
            "far": (
                settled and self._kind in TOKEN_SPACE and not 1 / FAR < scales < FAR,
                f"tokens are {scales:.3g} times as long as the codes chosen for them, so the codebook does not follow",
                self._of_simvq("raise optimizer.transform_learning_rate"),
            ),
        }
        new = [name for name, (present, _, _) in signs.items() if present and name not in self._said]
        self._said = {name for name, (present, _, _) in signs.items() if present}
        return [f"step {step}: {': '.join(filter(None, signs[name][1:]))}." for name in new]

    def look_back(self, numbers: dict[str, dict[int, float]]) -> list[str]:
        """All sentences of a run. numbers: name -> step -> value, as logged; steps that lack a figure are left out."""
        steps = sorted(set.intersection(*(set(numbers.get(name, {})) for name in WATCHED)))
        rows = [{name: by_step[step] for name, by_step in numbers.items() if step in by_step} for step in steps]
        return [sentence for step, row in zip(steps, rows, strict=True) for sentence in self.look(step, row)]

    def _of_simvq(self, mend: str) -> str:
        return mend if self._kind == "simvq" else ""


def _cure(quantizer) -> str:
    """What to change where codes fall out of use, "" if nothing is known; `quantizer` as in `CollapseWatch`."""
    simvq = quantizer.kind == "simvq"
    drawn = quantizer.basis_seed < 0 and not quantizer.basis_file
    may_restart = rows_may_restart(trainable=quantizer.trainable_basis, drawn=drawn, hidden=quantizer.hidden)
    if not quantizer.restart_after and (may_restart if simvq else quantizer.kind in ("vq", "ema_vq")):
        return "set quantizer.restart_after to 8, so that codes out of use start anew where tokens are"
    if not simvq:
        return ""
    region = quantizer.codebook_loss == "region"
    pull = "raise quantizer.region_sources" if region else "set quantizer.codebook_loss to region"
    return f"{pull}, and raise optimizer.transform_learning_rate"
