"""Reconstructions of a folder of images: `python -m simvq_jax.reconstruct --run=RUN --inputs=FOLDER --out=FOLDER`.

Images may have any size and mode; each is written as a PNG of the same size under the same relative name.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from simvq_jax import cli
from simvq_jax.api import Tokenizer, load
from simvq_jax.data.files import list_files
from simvq_jax.data.images import EXTENSIONS, UnreadableImage, decode_image, to_uint8
from simvq_jax.data.sources import SkipLog
from simvq_jax.progress import Progress


def reconstruct_folder(tokenizer: Tokenizer, inputs: Path, out: Path, max_pixels: int) -> SkipLog:
    """Reconstructs every image of a tree, or one file; returns the log of those that could not be read.

    Every new size compiles once, so images of one size go fastest. Raises FileNotFoundError or ValueError where
    there is nothing to reconstruct, or where `out` would overwrite the inputs.
    """
    root = inputs.parent if inputs.is_file() else inputs
    files = [inputs] if inputs.is_file() else list_files(inputs, EXTENSIONS, "image")
    targets = _targets(files, root, out)
    overwritten = {target.resolve() for target in targets} & {file.resolve() for file in files}
    if out.resolve() == root.resolve() or overwritten:
        raise ValueError(f"{out} is the folder of the inputs: give another --out, so that none is overwritten.")
    out.mkdir(parents=True, exist_ok=True)
    skipped = SkipLog(out / "skipped_files.txt")
    progress = Progress("reconstruct", len(files))
    for number, (file, target) in enumerate(zip(files, targets, strict=True), start=1):
        try:
            _reconstruct_file(tokenizer, file, target, max_pixels)
        except UnreadableImage as error:
            skipped.record(str(file.relative_to(root)), str(error))
        progress.update(number)
    return skipped


def _targets(files: list[Path], root: Path, out: Path) -> list[Path]:
    """PNG names; a.jpg and a.png in one folder keep their suffixes, so that neither overwrites the other."""
    plain = [out / file.relative_to(root).with_suffix(".png") for file in files]
    full = [out / f"{file.relative_to(root)}.png" for file in files]
    times = Counter(plain)
    targets = [short if times[short] == 1 else long for short, long in zip(plain, full, strict=True)]
    return targets if len(set(targets)) == len(files) else full  # with a.jpg.png beside them, all keep their suffixes


def _reconstruct_file(tokenizer: Tokenizer, file: Path, target: Path, max_pixels: int) -> None:
    image = decode_image(file, max_pixels)
    reconstruction = to_uint8(np.asarray(tokenizer.reconstruct(image[None])[0]))
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    Image.fromarray(reconstruction).save(fresh, format="PNG")
    fresh.replace(target)


def main(run: str, inputs: str, out: str, max_pixels: int) -> None:
    """Command line of `reconstruct_folder`."""
    skipped = reconstruct_folder(load(run), Path(inputs), Path(out), max_pixels)
    if skipped.count:
        print(f"{skipped.count} file(s) could not be read and are listed in {Path(out) / 'skipped_files.txt'}")


if __name__ == "__main__":
    cli.run_main(
        main,
        {"run": cli.REQUIRED, "inputs": cli.REQUIRED, "out": cli.REQUIRED, "max_pixels": 16_777_216},
        {
            "run": "run folder, as runs/quickstart",
            "inputs": "folder of images, searched through, or one image",
            "out": "folder for the reconstructions",
            "max_pixels": "larger images are skipped and listed; raise it where memory allows",
        },
    )
