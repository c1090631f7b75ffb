"""Reconstructions of a folder: `python -m simvq_jax.reconstruct --run=RUN --inputs=FOLDER --out=FOLDER`.

Images may have any size and mode; each is written as a PNG of the same size under the same relative name. Sounds may
have any length, rate and number of channels; each is written as a mono FLAC at the model's rate.
"""

import functools
from collections import Counter
from collections.abc import Callable, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from simvq_jax import cli
from simvq_jax.api import ImageTokenizer, SoundTokenizer, Tokenizer, load
from simvq_jax.data import images, sounds
from simvq_jax.data.files import Unreadable, list_files
from simvq_jax.data.sources import SkipLog
from simvq_jax.data.tokens import Record, TokenSource, is_tokens
from simvq_jax.files import replacing
from simvq_jax.progress import Progress
from simvq_jax.store import local_path


class Form(NamedTuple):
    """noun, extensions: of the files read. suffix: of those written. convert: reads a file and writes its
    reconstruction; raises `Unreadable`."""

    noun: str
    extensions: Set[str]
    suffix: str
    convert: Callable[[Path, Path], None]


def form_of(tokenizer: Tokenizer, max_pixels: int, max_seconds: float) -> Form:
    """Of pictures or sound, as the tokenizer is. max_pixels, max_seconds: of a file. Raises ValueError where the
    seconds are no limit."""
    if isinstance(tokenizer, SoundTokenizer):
        sounds.check_limit(max_seconds)
        convert = functools.partial(_sound, tokenizer, max_seconds=max_seconds)
        return Form("sound", sounds.EXTENSIONS, ".flac", convert)
    assert isinstance(tokenizer, ImageTokenizer)
    return Form("image", images.EXTENSIONS, ".png", functools.partial(_picture, tokenizer, max_pixels=max_pixels))


def reconstruct_folder(form: Form, inputs: Path, out: Path) -> SkipLog:
    """Reconstructs every file of a tree, or one; returns the log of those that could not be read.

    Every new size of a picture compiles once, so pictures of one size go fastest. Raises FileNotFoundError or
    ValueError where there is nothing to reconstruct, or where `out` would overwrite the inputs.
    """
    root = inputs.parent if inputs.is_file() else inputs
    files = [inputs] if inputs.is_file() else list_files(inputs, form.extensions, form.noun)
    targets = _targets(files, root, out, form.suffix)
    overwritten = {target.resolve() for target in targets} & {file.resolve() for file in files}
    if out.resolve() == root.resolve() or overwritten:
        raise ValueError(f"{out} is the folder of the inputs: give another --out, so that none is overwritten.")
    out.mkdir(parents=True, exist_ok=True)
    skipped = SkipLog(out / "skipped_files.txt")
    progress = Progress("reconstruct", len(files))
    for number, (file, target) in enumerate(zip(files, targets, strict=True), start=1):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(target) as fresh:
                form.convert(file, fresh)
        except Unreadable as error:
            skipped.record(str(file.relative_to(root)), str(error))
        progress.update(number)
    return skipped


def decode_tokens(tokenizer: Tokenizer, inputs: Path, out: Path) -> None:
    """Decodes every record of a folder of tokens, to the name of its key; of several views, each with its number.

    Every new shape of tokens compiles once. Raises ValueError where another model made the tokens, where a key would
    lead out of `out`, and where `out` is the folder of the tokens.
    """
    if out.resolve() == inputs.resolve():
        raise ValueError(f"{out} is the folder of the tokens: give another --out.")
    source = TokenSource(inputs)
    if source.manifest["model"] != tokenizer.fingerprint():
        raise ValueError(f"{inputs} holds tokens of another model: give the --run that they were extracted with.")
    sound = isinstance(tokenizer, SoundTokenizer)
    write, suffix = (_decode_sound, ".flac") if sound else (_decode_picture, ".png")
    several = source.manifest.get("crops") == "ten" or source.manifest.get("flip", False)
    progress = Progress("decode", len(source))
    for record in progress.over(source[i] for i in range(len(source))):
        key = record["key"]
        target = out / f"{key}.{record['view']}{suffix}" if several else out / f"{key}{suffix}"
        if not isinstance(key, str) or not key or out.resolve() not in target.resolve().parents:
            raise ValueError(f"the key {key!r} leads out of {out}: extract the tokens of other names.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as fresh:
            write(tokenizer, record, fresh)


def _decode_picture(tokenizer: Tokenizer, record: Record, target: Path) -> None:
    image = images.to_uint8(np.asarray(tokenizer.decode(record["tokens"][None])[0]))
    image = image[: record["height"], : record["width"]]  # of a whole picture the edge was repeated
    Image.fromarray(image).save(target, format="PNG")


def _decode_sound(tokenizer: Tokenizer, record: Record, target: Path) -> None:
    import soundfile

    assert isinstance(tokenizer, SoundTokenizer)
    sound = np.clip(tokenizer.decode(record["tokens"][None])[0, : record["samples"]], -1.0, 1.0)
    soundfile.write(target, sound, tokenizer.sample_rate, format="FLAC", subtype="PCM_16")


def _targets(files: list[Path], root: Path, out: Path, suffix: str) -> list[Path]:
    """Names of the results; a.jpg and a.png in one folder keep their suffixes, so that neither overwrites the other."""
    plain = [out / file.relative_to(root).with_suffix(suffix) for file in files]
    full = [out / f"{file.relative_to(root)}{suffix}" for file in files]
    times = Counter(plain)
    targets = [short if times[short] == 1 else long for short, long in zip(plain, full, strict=True)]
    return targets if len(set(targets)) == len(files) else full  # with a.jpg.png beside them, all keep their suffixes


def _picture(tokenizer: ImageTokenizer, file: Path, out: Path, max_pixels: int) -> None:
    image = images.decode_image(file, max_pixels)
    reconstruction = images.to_uint8(np.asarray(tokenizer.reconstruct(image[None])[0]))
    Image.fromarray(reconstruction).save(out, format="PNG")


def _sound(tokenizer: SoundTokenizer, file: Path, out: Path, max_seconds: float) -> None:
    import soundfile

    sound = sounds.decode_sound(file, tokenizer.sample_rate, max_seconds)
    reconstruction = np.clip(tokenizer.reconstruct(sound[None])[0], -1.0, 1.0)
    soundfile.write(out, reconstruction, tokenizer.sample_rate, format="FLAC", subtype="PCM_16")


def main(run: str, inputs: str, out: str, max_pixels: int, max_seconds: float) -> None:
    """Command line of `reconstruct_folder`."""
    source, target = local_path("inputs", inputs), local_path("out", out)
    tokenizer = load(run)
    if is_tokens(source):
        decode_tokens(tokenizer, source, target)
        return
    skipped = reconstruct_folder(form_of(tokenizer, max_pixels, max_seconds), source, target)
    if skipped.count:
        print(f"{skipped.count} file(s) could not be read and are listed in {target / 'skipped_files.txt'}")


if __name__ == "__main__":
    cli.run_main(
        main,
        {
            "run": cli.REQUIRED,
            "inputs": cli.REQUIRED,
            "out": cli.REQUIRED,
            "max_pixels": 16_777_216,
            "max_seconds": 600.0,
        },
        {
            "run": "run folder, as runs/quickstart",
            "inputs": "folder of images or sounds, as the run is of, searched through; one file; or a folder of tokens",
            "out": "folder for the reconstructions",
            "max_pixels": "larger images are skipped and listed; raise it where memory allows",
            "max_seconds": "longer sounds are skipped and listed; raise it where memory allows",
        },
    )
