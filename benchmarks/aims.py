"""What the default recipe was to reach, beside what the committed runs measured: a section of docs/RESULTS.md."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.recovery import areas_of, by_recipe
from benchmarks.runs import Run, in_recent_training, in_training, method_of, spread, stages_of
from benchmarks.timing import markdown_table
from simvq_jax.health import TOKENS_A_CODE
from simvq_jax.quantize.base import USAGE_WINDOW

COSTS = {  # device -> what benchmarks.recipe_cost wrote there, and how much longer a step may take
    "CPU": (Path("benchmarks/results/recipe_cost_cpu.json"), 0.15),
    "GPU": (Path("benchmarks/results/recipe_cost_gpu.json"), 0.05),
}
IN_USE = {1024: 0.99, 8192: 0.99, 65_536: 0.95}  # K -> least share over a window of training tokens
HELD_OUT = {8192: 0.85}
VANILLA, STAGE, TIMES = 0.15, 0.9, 5.0
ALMOST = 0.99  # of all codes


class Aim(NamedTuple):
    """what: of the default recipe. asked, measured: as they are shown. met: in words."""

    what: str
    asked: str
    measured: str
    met: str


GRIDS = (
    Aim("all studies at reduced size, on 2 cores", "an hour", "58 minutes (Intel Xeon, 2026-11-28)", "yes"),
    Aim("all studies at full size, K up to 262,144, on one GPU", "hours", "not run", "unknown"),
)


def section(headline: list[Run], recovery: list[Run], architectures: list[Run]) -> str:
    """The section; what was not measured or run is a row too."""
    found = [*_in_use(headline), *_recovered(recovery), *_stages([*headline, *architectures]), *_cost(), *GRIDS]
    text = (
        f'"In use, training" is over the last {USAGE_WINDOW:,} tokens, or {TOKENS_A_CODE} a code if those are more (at'
        f" least {TOKENS_A_CODE} a code were asked for), and behind it over just {TOKENS_A_CODE} a code, of which a"
        " code with a tenth of the mean's tokens is missed one time in seven. Codes move within either window, and"
        " those that restart do so to tokens of training, so fewer may be in use at any one moment: held out is the"
        " sterner measure. UR-AUC: the mean share in use over training from starts at wrong scales, in percent."
    )
    return "\n\n".join(["## What was to be reached", text, markdown_table(list(Aim._fields), found)])


def _in_use(runs: list[Run]) -> Iterable[Aim]:
    for k, least in IN_USE.items():
        chosen = _of(runs, "simvq", k)
        of_windows = [[share(run) for run in chosen] for share in (in_training, in_recent_training)]
        yield from _at_least(f"in use, training, K = {k:,}", least, *of_windows)
    for k, least in HELD_OUT.items():
        chosen = _of(runs, "simvq", k)
        tokens = [run["figures"]["eval/tokens"] / k for run in chosen]
        what = f"in use, held out, K = {k:,}, {max(tokens, default=0):.0f} tokens a code"
        yield from _at_least(what, least, [run["figures"]["eval/codebook_utilization"] for run in chosen])
    vanilla = [in_training(run) for k in IN_USE for run in _of(runs, "vq", k)]
    if vanilla:
        yield Aim(
            "vanilla VQ beside it, all K",
            f"under {VANILLA:.0%}",
            f"{max(vanilla):.1%} at most",
            _yes(max(vanilla) < VANILLA),
        )


def _of(runs: list[Run], method: str, k: int) -> list[Run]:
    return [run for run in runs if method_of(run) == method and run["codebook_size"] == k]


def _at_least(what: str, least: float, shares: list[float], recent: list[float] | None = None) -> Iterable[Aim]:
    """recent: the shares over TOKENS_A_CODE a code, told where they are other ones."""
    if not shares:
        return
    measured, met = spread(shares, "{:.1%}".format), _met(shares, least)
    if recent and recent != shares:
        measured, met = f"{measured}; {spread(recent, '{:.1%}'.format)}", f"{met}; {_met(recent, least)}"
    yield Aim(what, f"{least:.0%}", measured, met)


def _met(shares: list[float], least: float) -> str:
    in_the_mean = "in the mean, not with every seed" if statistics.mean(shares) >= least else "no"
    return "yes" if min(shares) >= least else in_the_mean


def _recovered(runs: list[Run]) -> Iterable[Aim]:
    recipes = by_recipe(runs)
    areas = areas_of(recipes)
    for k in sorted(k for k, recipe in areas if recipe == "simvq"):
        of_windows = [
            [share(run) for run in recipes[k, "simvq"].values()] for share in (in_training, in_recent_training)
        ]
        measured = "; ".join(f"{min(shares):.1%} at least" for shares in of_windows)
        met = "; ".join(_almost_all(min(shares)) for shares in of_windows)
        yield Aim(f"in use from any starting scale, K = {k:,}", "all", measured, met)
        for other in ("simvq_plain", "simvq_plain_centred", "simvq_paper"):
            if (k, other) in areas:
                times = areas[k, "simvq"] / areas[k, other]
                measured = f"{times:.1f} times, of {100 / areas[k, other]:.1f} possible"
                yield Aim(f"UR-AUC over that of {other}, K = {k:,}", f"{TIMES:g} times", measured, _yes(times >= TIMES))


def _almost_all(share: float) -> str:
    return "yes" if share == 1 else f"but for {1 - share:.2%}" if share >= ALMOST else "no"


def _stages(runs: list[Run]) -> Iterable[Aim]:
    for run in (run for run in runs if "residual_simvq" in (run["run"], method_of(run))):
        stages = f"of {stages_of(run)} residual stages, {run['steps']} steps"
        asked, least = f"over {STAGE:.0%}", [share(run, "_least") for share in (in_training, in_recent_training)]
        measured, met = ("; ".join(words) for words in ([f"{v:.1%}" for v in least], [_yes(v > STAGE) for v in least]))
        yield Aim(f"in use, training, the worst {stages}", asked, measured, met)
        named = run["figures"].items()
        shares = [value for name, value in named if name.startswith("eval/codebook_utilization_stage")]
        listed = ", ".join(f"{share:.1%}" for share in shares)
        yield Aim(f"in use, held out, each {stages}", asked, listed, _yes(min(shares) > STAGE))


def _cost() -> Iterable[Aim]:
    for device, (file, most) in COSTS.items():
        measured, met = "not measured", "unknown"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))["ours_over_paper"]
            more, lowest, highest = (found[name] - 1 for name in ("of_medians", "lowest", "highest"))
            remark = f", {found['remark']}" if "remark" in found else ""
            measured, met = f"{more:+.1%} (rounds from {lowest:+.0%} to {highest:+.0%}){remark}", _yes(more <= most)
        yield Aim(f"time of a {device} step, K = 65,536", f"{most:+.0%} at most", measured, met)


def _yes(met: bool) -> str:
    return "yes" if met else "no"
