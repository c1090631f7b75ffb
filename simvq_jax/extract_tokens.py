"""Tokens of a data set: `python -m simvq_jax.extract_tokens --run=RUN --data=folder:PATH --out=FOLDER`.

Writes shards of records (see `data/tokens.py`), each the tokens of one view of a picture, or of a recording, with its
key, label and place. `simvq_jax.TokenSource(FOLDER)` reads them by index; the manifest lists what cannot be read.

The same command again goes on where it stopped, after kill -9 too: shards are fixed parts of the data, whole or not
there, so nothing comes twice and nothing is left out. Several processes, on one machine or many, share the shards:
those of a job of many (see `cluster.py`) by themselves, others by --process_count and --process_index.
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax

from simvq_jax import agreement, cli, cluster
from simvq_jax.api import ImageTokenizer, Tokenizer, load
from simvq_jax.build import build_timeouts
from simvq_jax.data.encoded import Item, SkipLog, Source
from simvq_jax.data.reading import read_ahead
from simvq_jax.data.tokens import (
    FORMATS,
    INDEXED,
    KIND,
    MANIFEST,
    is_whole,
    read_manifest,
    summary_path,
    token_dtype,
    write_shard,
)
from simvq_jax.data.views import Views
from simvq_jax.files import check_unused, create_text, remove_left_behind, replace_text
from simvq_jax.inputs import READING, READING_HELP, open_data, read_as, reading_from
from simvq_jax.progress import Progress, duration
from simvq_jax.store import local_path
from simvq_jax.token_records import RecordMaker

SETTINGS = "extraction.json"


class Extraction(NamedTuple):
    """What was done: records written, in seconds; what could not be read; whether all shards are there now, with their
    manifest; how to look again, which writes the manifest if they are."""

    records: int
    seconds: float
    skipped: SkipLog
    complete: bool
    look_again: Callable[[], bool]


class Share(NamedTuple):
    """Which of the shards a process writes: every `processes`-th, from number `process` on."""

    process: int
    processes: int


WHOLE = Share(0, 1)


def extract_tokens(
    tokenizer: Tokenizer,
    out: Path,
    *,
    data: str,
    split: str = "all",
    views: Views | None = None,
    batch_size: int = 32,
    shard_size: int = 4096,
    form: str = INDEXED,
    share: Share = WHOLE,
) -> Extraction:
    """Writes the tokens of a data set, or this process's share of them, as far as they are not there.

    Args:
        data: as `config.data.source`. split: "all", "train" or "eval".
        views: what is cut of pictures; None for sound, which is taken whole.
        batch_size: pictures or recordings encoded at once, rounded up to a multiple of the devices.
        shard_size: pictures or recordings of the data that a shard holds the tokens of.
        form: "array_record", "npz" or "jsonl".

    Raises ValueError on settings that cannot be, or where `out` holds tokens of other settings.
    """
    _check(form, batch_size, shard_size, share)
    skipped = SkipLog(None)
    source = open_data(tokenizer.config, split, skipped, data)
    shards = -(-len(source) // shard_size)
    settings = _settings(tokenizer, source, data=data, split=split, views=views, shard_size=shard_size, form=form)
    _claim(out, settings)
    paths = [out / f"tokens-{i:05d}-of-{shards:05d}.{form}" for i in range(shards)]
    own = range(share.process, shards, share.processes)
    left = [shard for shard in own if not is_whole(paths[shard])]
    maker = RecordMaker(tokenizer, views, batch_size)
    progress = Progress("extract_tokens", sum(len(_items(shard, shard_size, source)) for shard in left))
    done, records, began = 0, 0, time.monotonic()
    for shard in left:
        for path in (paths[shard], summary_path(paths[shard])):
            remove_left_behind(path)
        items, before = _items(shard, shard_size, source), len(skipped.reasons)
        found = maker.records(progress.over(_read(source, items, tokenizer.config.data.threads), done))
        new = sorted(list(skipped.reasons.items())[before:])
        write_shard(paths[shard], found, {"records": len(found), "skipped": new})
        done, records = done + len(items), records + len(found)
    finish = functools.partial(_finish, out, settings, paths)
    return Extraction(records, time.monotonic() - began, skipped, finish(), finish)


def _items(shard: int, shard_size: int, source: Source) -> range:
    return range(shard * shard_size, min((shard + 1) * shard_size, len(source)))


def _check(form: str, batch_size: int, shard_size: int, share: Share) -> None:
    if form not in FORMATS:
        raise ValueError(f"format is {form!r} but must be one of {', '.join(FORMATS)}.")
    if batch_size < 1 or shard_size < 1:
        raise ValueError(f"batch_size is {batch_size} and shard_size {shard_size} but both must be at least 1.")
    if share.processes < 1:
        raise ValueError(f"process_count is {share.processes} but must be at least 1.")
    if not 0 <= share.process < share.processes:
        raise ValueError(
            f"process_index is {share.process} but must lie in 0..{share.processes - 1}, below process_count."
        )


def _settings(tokenizer: Tokenizer, source: Source, *, views: Views | None, form: str, **rest) -> dict[str, Any]:
    """All that decides what the tokens are; the same for every process and every new start."""
    sizes = tokenizer.autoencoder.quantizer.codebook_sizes
    return {
        "model": tokenizer.fingerprint(),
        "step": tokenizer.step,
        "codebook_size": max(sizes),
        "stages": len(sizes),
        "dtype": token_dtype(max(sizes)).name,
        "format": form,
        "items": len(source),
        "data_identity": source.identity(),
        **_of_reading(tokenizer.config.data, views),
        **rest,
    }


def _of_reading(data, views: Views | None) -> dict[str, Any]:
    if views is None:
        return {"sample_rate": data.sample_rate, "max_seconds": data.max_seconds}
    return {**views._asdict(), "max_pixels": data.max_pixels}


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Makes the folder this extraction's, or checks that it is."""
    path = out / SETTINGS
    if not path.is_file():
        try:
            check_unused(out)
        except FileExistsError:
            if not path.is_file():  # else another process of this extraction was faster
                raise
        out.mkdir(parents=True, exist_ok=True)
        create_text(path, json.dumps(settings, indent=2) + "\n")
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = [key for key in settings if found.get(key) != settings[key]]
    if differing:
        changes = ", ".join(f"{key}: {found.get(key)!r} -> {settings[key]!r}" for key in differing)
        raise ValueError(f"{out} holds tokens of other settings ({changes}): give another --out, or the same ones.")


def _read(source: Source, items: range, threads: int) -> Iterator[Item | None]:
    """The items in order, decoded ahead by threads; None where one cannot be read."""
    # Each in a tuple, for grain drops what is None.
    stream = grain.MapDataset.source(list(items)).map(lambda index: (source.read(index),))
    with contextlib.closing(read_ahead(stream, threads, 2 * threads)) as items_read:
        for (item,) in items_read:
            yield item


def _finish(out: Path, settings: dict[str, Any], paths: list[Path]) -> bool:
    """Writes the manifest once every shard of every process is whole; whether it is."""
    summaries = [summary_path(path) for path in paths]
    if not all(map(is_whole, paths)):
        return False
    found = [json.loads(path.read_text(encoding="utf-8")) for path in summaries]
    shards = [{"file": path.name, "records": part["records"]} for path, part in zip(paths, found, strict=True)]
    skipped = [{"key": key, "reason": reason} for part in found for key, reason in part["skipped"]]
    records = sum(part["records"] for part in found)
    manifest = {"kind": KIND} | settings | {"records": records, "shards": shards, "skipped": skipped}
    replace_text(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    if not records:
        raise ValueError(
            f"none of the {settings['items']} items of {settings['data']} can be read: see {out / MANIFEST}."
        )
    return True


def main(run: str, process_index: int, process_count: int, **rest) -> None:
    """Command line of `extract_tokens`."""
    job = cluster.taken_from(rest)
    with cluster.joined(build_timeouts(cli.default_config()), job):
        agreement.check_alike("the command", f"{run} {process_count} {rest}")
        share = Share(process_index, process_count)
        if jax.process_count() > 1:
            if share != WHOLE:
                raise ValueError(
                    f"--process_count is {process_count} but this is a job of {jax.process_count()} processes already,"
                    " which share the work: leave --process_count and --process_index out."
                )
            share = Share(jax.process_index(), jax.process_count())
        done = extract_run(run, share, **rest)
        agreement.wait_for_all("tokens extracted")
        # On a network's file system each may have seen the others' last shards late, and left the manifest to them.
        if jax.process_count() > 1 and agreement.is_first() and not agreement.comes_true(done.look_again):
            raise RuntimeError(
                f"not all shards of other processes can be seen in {rest['out']}: give an --out on a file system that"
                " all share, and run the same command again; what is whole there is kept."
            )


def extract_run(
    run: str,
    share: Share,
    data: str,
    out: str,
    split: str,
    crops: str,
    size: int,
    resize_short: int,
    flip: bool,
    **rest,
) -> Extraction:
    """Extracts with the tokenizer `run`, and prints what was done. The arguments are the command line's."""
    folder = local_path("out", out)
    tokenizer = load(run, decoder=False)
    read_as(tokenizer.config, **reading_from(rest))
    of = tokenizer.config.data
    views = None
    if isinstance(tokenizer, ImageTokenizer):
        if crops == "whole" and (size or resize_short > 0):
            raise ValueError("--crops=whole takes pictures at their own size: leave --size and --resize_short out.")
        short = of.resize_short if resize_short < 0 else resize_short
        views = Views(crops, size or of.size, 0 if crops == "whole" else short, tokenizer.factor, flip)
        views.check()
    elif crops != "center" or size or resize_short >= 0 or flip:
        raise ValueError("--crops, --size, --resize_short and --flip are of pictures: leave them out.")
    done = extract_tokens(
        tokenizer,
        folder,
        data=data or of.source,
        split=split,
        views=views,
        batch_size=rest["batch_size"],
        shard_size=rest["shard_size"],
        form=rest["format"],
        share=share,
    )
    pace = done.records / max(done.seconds, 1e-9)
    print(f"{out}: {done.records:,} records in {duration(done.seconds)}, {pace:,.1f} a second")
    if done.complete and (skipped := len(read_manifest(folder)["skipped"])):
        print(
            f"{skipped} file(s) could not be read and are listed in {folder / MANIFEST}: once they are mended,"
            " extract into a new folder"
        )
    if not done.complete:
        print(f"{folder / MANIFEST} will be written by the process that finishes last")
    return done


if __name__ == "__main__":
    cli.run_main(
        main,
        {
            "run": cli.REQUIRED,
            "data": "",
            **READING,
            "out": cli.REQUIRED,
            "split": "all",
            "crops": "center",
            "size": 0,
            "resize_short": -1,
            "flip": False,
            "batch_size": 32,
            "shard_size": 4096,
            "format": INDEXED,
            "process_index": 0,
            "process_count": 1,
            **cluster.FLAGS,
        },
        {
            "run": "run folder, as runs/quickstart",
            "data": "photos, speech, folder:PATH or tfds:NAME[@SPLIT]; by default the run's own",
            **READING_HELP,
            "out": "folder for the tokens",
            "split": "all, train or eval (what is held out)",
            "crops": "pictures: center, ten (corners and centre, mirrored too) or whole (at their own size)",
            "size": "pictures: pixels of a crop's side; 0 = those of training",
            "resize_short": "pictures: short side before cropping; 0 = as it is, -1 = as in training",
            "flip": "pictures: every crop mirrored too",
            "batch_size": "pictures or recordings encoded at once",
            "shard_size": "pictures or recordings of a shard, which is what an interruption loses",
            "format": f"of the shards: {', '.join(FORMATS)}",
            "process_index": "which of --process_count processes this is",
            "process_count": "processes that share the work, each started with its own --process_index",
            **cluster.HELP,
        },
    )
