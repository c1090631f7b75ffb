"""docs/RESULTS.md and its pictures, made from the committed results of the studies: `python -m benchmarks.results`.

Reads benchmarks/results/study/STUDY/RUN.json (see record.py), a "remark" in it too, and what benchmarks.toy and
benchmarks.recipe_cost wrote beside that folder. Running it again changes nothing.
"""

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import aims, findings, recovery, toy_picture
from benchmarks.runs import FOLDER, Run, grouped, method_of, read, spread, stages_of
from benchmarks.timing import markdown_table
from simvq_jax import cli, experiment
from simvq_jax.drawing import charts
from simvq_jax.files import replace_text

PAGE, PICTURES = Path("docs/RESULTS.md"), Path("docs/results")
COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("in use, last 20 a code", "train/codebook_utilization_recent", lambda v: f"{v:.1%}"),
    ("in use, last 262,144", "train/codebook_utilization", lambda v: f"{v:.1%}"),
    ("in use, held out", "eval/codebook_utilization", lambda v: f"{v:.1%}"),
    ("perplexity, training", "train/codebook_perplexity", lambda v: f"{v:,.0f}"),
    ("perplexity, held out", "eval/codebook_perplexity", lambda v: f"{v:,.0f}"),
    ("PSNR (dB)", "eval/psnr", lambda v: f"{v:.2f}"),
    ("SSIM", "eval/ssim", lambda v: f"{v:.3f}"),
)
INTRODUCTION = """# Results

Written by `python -m benchmarks.results` from `benchmarks/results/`: `study/`, where each run's file has its command,
seed, machine, versions and date, `toy.json` and `recipe_cost_*.json`. Data are scikit-image's photographs, of which a
quarter is held out. **In use** is the share of codes chosen in the last 20 training tokens a code, in the last
262,144, or, **held out**, over crops of the held-out regions, which overlap. Where several seeds were run, a cell has
their mean, and in brackets the lowest and the highest; of several codebooks, it is their mean.

"""


def cell(runs: Iterable[Run], name: str, form: Callable[[float], str]) -> str:
    """The mean over runs, and the range if there are several."""
    values = [run["figures"][name] for run in runs if name in run["figures"]]
    return spread(values, form) if values else "-"


def table(groups: dict[tuple[str, ...], list[Run]], header: list[str]) -> str:
    """A row a group: its key, then the figures."""
    titles = [*header, *[title for title, _, _ in COLUMNS]]
    return markdown_table(
        titles, [[*key, *[cell(runs, name, form) for _, name, form in COLUMNS]] for key, runs in groups.items()]
    )


def by_size(study: str, title: str) -> str:
    """Studies (a) and (h): a row for each codebook size and method, over its seeds; and (d), the rank of W."""
    runs = sorted(read(study), key=lambda run: (run["codebook_size"], method_of(run), run["seed"]))
    groups = grouped(runs, lambda run: (codebooks_of(run), method_of(run)))
    figures = table(groups, ["K", "method"])
    said = [findings.more_codes(runs), findings.better(runs), findings.ranks(runs)]
    return section(title, study, runs, figures, *said, rank_picture(study, runs))


def rank_picture(study: str, runs: list[Run]) -> str:
    """Effective rank of W over training."""
    name, series = "train/transform_effective_rank", {}
    for run in runs:
        if name in run["curves"] and run["seed"] == 0:
            curve = run["curves"][name]
            series[f"{method_of(run)}, K = {run['codebook_size']:,}"] = (curve["step"], curve["value"])
    return picture(f"rank_{study}", series, "Effective rank of W over training", "dimensions") if series else ""


def picture(name: str, series, title: str, unit: str, include=(0.0,)) -> str:
    """Draws docs/results/NAME.svg, and gives the markdown that shows it."""
    drawing = charts.line_chart(series, title, "step", unit, include_y=include)
    replace_text(PICTURES / f"{name}.svg", drawing.replace(">", f"><style>{charts.STYLE}</style>", 1) + "\n")
    return f"![{title}](results/{name}.svg)"


def plain(study: str, title: str, say: Callable[[list[Run]], str] = lambda runs: "") -> str:
    """A study of one table, with the runs that it shares with the study of methods, and what `say` makes of them."""
    runs = read(study)
    shared = of_methods(study, runs)
    rows = sorted([*runs, *(run | {"run": name} for name, run in shared.items())], key=lambda run: run["run"])
    check_alike(study, rows)
    whose = ", ".join(f"{name} ({run['run']})" for name, run in shared.items())
    return section(
        title, study, runs, f"Runs of the study of methods: {whose}." if whose else "", by_run(rows), say(rows)
    )


def of_methods(study: str, runs: list[Run]) -> dict[str, Run]:
    """The runs of the study of methods that another one has under names of its own, by those."""
    module = importlib.import_module(f"configs.study.{study}")
    of = {run["run"]: run for run in read("methods")}
    k = max((run["codebook_size"] for run in runs), default=0)
    names = {name: f"{method}_{k}_seed0" for name, method in module.OF_METHODS.items()}
    return {name: of[there] for name, there in names.items() if there in of}


def by_run(runs: list[Run]) -> str:
    """A row a run."""
    return table(grouped(runs, lambda run: (run["run"], codebooks_of(run))), ["run", "K"])


def codebooks_of(run: Run) -> str:
    """K, of several codebooks with their number."""
    stages = stages_of(run)
    return f"{run['codebook_size']:,}" if stages == 1 else f"{stages} x {run['codebook_size']:,}"


def recovered() -> str:
    """Study (f)."""
    runs = read("recovery")
    return section("Recovery from a wrong scale", "recovery", runs, recovery.TEXT, recovery.table(runs))


def toy() -> str:
    """Study (c), the paper's toy of disjoint and joint optimisation."""
    file = FOLDER.parent / "toy.json"
    if not file.is_file():
        return ""
    found = json.loads(file.read_text(encoding="utf-8"))
    replace_text(PICTURES / "toy.svg", toy_picture.draw(found) + "\n")
    text = (
        f"The paper's toy: {len(found['tokens'])} fixed tokens (grey), and codes from around the origin moved by plain"
        f" gradient descent; lines are the codes' ways. {findings.toy(found)} `{found['command']}`, {found['date']}."
    )
    return f"## Which codes move\n\n{text}\n\n![Codes' ways in two dimensions](results/toy.svg)"


def section(title: str, study: str, runs: list[Run], *parts: str) -> str:
    """A heading, how the runs were made, and the parts; nothing of a study that was not run."""
    if not runs:
        return ""
    made = runs[0]
    check_alike(study, runs)
    sizes = sorted({run["codebook_size"] for run in runs if run["kind"] != "fsq"})
    tokens, dates = int(made["figures"]["eval/tokens"]), [run["date"] for run in runs]
    study_command = made["command"].rpartition(" --only")[0]
    how = (
        f"{_count(runs, study_command)} of {made['steps']} steps, {made['batch_size']} crops a step, d = {made['dim']},"
        f" K = {' or '.join(f'{k:,}' for k in sizes)}, {tokens:,} tokens held out"
        f" ({' or '.join(f'{tokens / k:,.0f}' for k in sizes)} a code):"
        f" `{study_command}`, {made_on(runs)}, {' to '.join(sorted({min(dates), max(dates)}))}."
    )
    return "\n\n".join([f"## {title}", how, *[part for part in [remarks(runs), *parts] if part]])


def check_alike(study: str, runs: list[Run]) -> None:
    """Raises ValueError where runs of one table differ in what a study leaves alone."""
    for name in ("steps", "batch_size", "dim"):
        if len(values := {run[name] for run in runs}) > 1:
            raise ValueError(f"runs of {study} have {name} {sorted(values)} but stand in one table: run some anew.")


def _count(runs: list[Run], command: str) -> str:
    """How many runs there are, of how many that the study has, and how many kept their changes to it alone.

    Raises ValueError where the study has no such run.
    """
    argument = command.partition("--config=")[2].partition(" ")[0]
    planned = {run.name for run in experiment.planned_runs(argument)}
    if strange := sorted({run["run"] for run in runs} - planned):
        raise ValueError(f"{argument} has no runs {', '.join(strange)} but results of them: rename or remove those.")
    count = f"{len(runs)} runs" if len(runs) == len(planned) else f"{len(runs)} of {len(planned)} planned runs"
    bare = sum("config" not in run for run in runs)
    return f"{count} ({bare} of which kept their changes, not their whole config)" if bare else count


def made_on(runs: list[Run]) -> str:
    """Machines and versions of jax, each with its number of runs where they are several."""

    def place(run: Run) -> str:
        machine = run["machine"]
        return f"{machine['cores']} cores of {machine['cpu']}, {machine['devices']}, jax {run['versions']['jax']}"

    of = Counter(place(run) for run in runs)
    return next(iter(of)) if len(of) == 1 else "; ".join(f"{count} on {where}" for where, count in of.items())


def remarks(runs: list[Run]) -> str:
    """What was remarked on some runs, by hand in their files under "remark"; "" where nothing was."""
    of = grouped([run for run in runs if run.get("remark")], lambda run: (run["remark"],))
    return " ".join(f"{', '.join(run['run'] for run in same)}: {remark}." for (remark,), same in of.items())


def write() -> None:
    """The page and its pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    sections = [
        aims.section(read("headline"), read("recovery"), read("architectures")),
        by_size("headline", "The default recipe"),
        by_size("largest", "More codes for longer"),
        by_size("methods", "Methods and codebook sizes"),
        toy(),
        plain("architectures", "Convolutions, a vision transformer, several codebooks"),
        recovered(),
        plain("basis", "The basis: random or of tokens, frozen or trained", findings.trained_basis),
        plain("rate", "Learning rate and schedule of W"),
        plain("estimators", "Estimators"),
    ]
    names = markdown_table(["name", "what it is"], list(findings.NAMES.items()))
    replace_text(PAGE, "\n\n".join([INTRODUCTION + findings.NOISE, names, *filter(None, sections)]) + "\n")


if __name__ == "__main__":
    cli.run_main(write, {}, {})
