"""Study (f), recovery of codes that start at a wrong scale: UR-AUC (StableVQ, 2609.26774) and its table."""

import statistics

from benchmarks.runs import Run, spread, use_curve
from benchmarks.timing import markdown_table
from simvq_jax.health import TOKENS_A_CODE

NEAR = 0.05  # utilization so many hundredths short of the best is regained
TEXT = (
    "Codes start at a multiple of the tokens' scale: with this project's recipe and in simvq_plain_centred around the"
    " tokens' mean, else around the origin, as the paper's do. A cell has the share of codes in use at the end, over"
    f" the last {TOKENS_A_CODE} tokens a code, and the first logged step from which on it was within"
    f" {100 * NEAR:.0f} points of the best recipe of that K started at the tokens' own scale. UR-AUC is the mean of"
    " that share over steps and the wrong scales, in percent. As the window grows with K, and with it the time in"
    " which a code that moves may be chosen, values of unlike K, or of other papers' windows, do not compare; those of"
    " one K do. Held-out use and PSNR are means over the wrong scales. For PSNR compare simvq with simvq_plain, whose"
    " networks have its schedule, warm-up and cosine: at the constant rate of the paper's recipe they get further in so"
    " few steps."
)
Recipes = dict[tuple[int, str], dict[float, Run]]  # (codebook size, recipe) -> starting scale -> run


def table(runs: list[Run]) -> str:
    """A row a codebook size and recipe; its last columns are of the wrong scales, the mean and the range."""
    scales, recipes = sorted({scale_of(run) for run in runs}), by_recipe(runs)
    areas, rows = areas_of(recipes), []
    for (k, name), of_scale in recipes.items():
        best = best_matched(recipes, k)
        cells = [regained(of_scale.get(scale), best) for scale in scales]
        wrong = [run["figures"] for scale, run in of_scale.items() if scale != 1]
        ends = [
            spread([figures[name] for figures in wrong], form) if wrong else "-"
            for name, form in (("eval/codebook_utilization", "{:.1%}".format), ("eval/psnr", "{:.1f}".format))
        ]
        rows.append([f"{k:,}", name, f"{areas[k, name]:.1f}" if (k, name) in areas else "-", *cells, *ends])
    header = ["K", "recipe", "UR-AUC", *[f"from {scale:g}" for scale in scales], "in use, held out", "PSNR (dB)"]
    return markdown_table(header, rows)


def scale_of(run: Run) -> float:
    return run["changes"]["quantizer.start_scale"]


def by_recipe(runs: list[Run]) -> Recipes:
    """The runs of each recipe by starting scale."""
    found: Recipes = {}
    for run in sorted(runs, key=lambda run: (run["codebook_size"], run["run"])):
        k = run["codebook_size"]
        found.setdefault((k, run["run"].removesuffix(f"_{k}_{scale_of(run):g}")), {})[scale_of(run)] = run
    return found


def best_matched(recipes: Recipes, k: int) -> Run | None:
    """Of the runs of k codes that started at the tokens' scale, the one that ended with most in use."""
    matched = [of_scale[1.0] for (size, _), of_scale in recipes.items() if size == k and 1.0 in of_scale]
    return max(matched, key=lambda run: use_curve(run)["value"][-1], default=None)


def areas_of(recipes: Recipes) -> dict[tuple[int, str], float]:
    """UR-AUC in percent of the recipes that were run from all scales."""
    wrong = {scale for of_scale in recipes.values() for scale in of_scale} - {1.0}
    return {
        recipe: 100 * statistics.mean(statistics.mean(use_curve(of_scale[scale])["value"]) for scale in wrong)
        for recipe, of_scale in recipes.items()
        if wrong and of_scale.keys() == wrong | {1.0}
    }


def regained(run: Run | None, matched: Run | None) -> str:
    """The share of codes in use at the end, and from when on it was that of the best whose codes started matched."""
    if run is None:
        return "-"
    steps, values = use_curve(run).values()
    end = f"{values[-1]:.1%}"
    if matched is None or scale_of(run) == 1:
        return end
    behind = [value < wanted - NEAR for value, wanted in zip(values, use_curve(matched)["value"], strict=True)]
    if behind[-1]:
        return f"{end} (not regained)"
    first = len(behind) - behind[::-1].index(True) if True in behind else 0
    return f"{end} (step {steps[first]})"
