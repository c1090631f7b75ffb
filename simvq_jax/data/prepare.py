"""Prepare a folder of images or sounds as a TFDS dataset in array_record files, without TensorFlow.

    python -m simvq_jax.data.prepare --folder=PICTURES --name=my_pictures --data_dir=DATASETS
    python -m simvq_jax.data.prepare --folder=RECORDINGS --name=my_speech --data_dir=DATASETS --of=sounds

The data source `tfds:my_pictures` with `data_dir=DATASETS` then reads it. One large file instead of many
small ones suits network file systems; on a local disk `folder:PICTURES` needs no such step.
"""

from pathlib import Path

from simvq_jax import cli
from simvq_jax.data.encoded import SkipLog
from simvq_jax.data.files import split_files
from simvq_jax.data.kinds import Kind, pictures, recordings
from simvq_jax.data.stored import store
from simvq_jax.store import local_path

SPLITS = {"train": "train", "eval": "validation"}  # ours -> TFDS's
CHECKED_RATE = 16_000  # that sounds are decoded at to see whether they can be read; they are stored as they are


def prepare_folder(folder: Path, name: str, data_dir: Path, kind: Kind) -> SkipLog:
    """Stores the files of a folder, as the bytes they are, as the TFDS dataset `name`.

    Args:
      folder: root of the files; see `split_files` for the splits, of which `eval` is stored as `validation`.
      name, data_dir, kind: as of `store`, whose errors are raised as well.

    Returns:
      The log of the files left out.

    Raises:
      FileNotFoundError: the folder is missing or holds no file of the kind.
    """
    files = split_files(folder, kind.extensions, kind.noun)
    splits = {SPLITS[split]: [(path.relative_to(folder).as_posix(), path) for path in files[split]] for split in files}
    description = f"{kind.noun.capitalize()}s of {folder}"
    return store(name=name, description=description, kind=kind, splits=splits, data_dir=data_dir)


def main(folder: str, name: str, data_dir: str, of: str, max_pixels: int, max_seconds: float) -> None:
    """Command line of `prepare_folder`."""
    kinds = {"images": pictures(max_pixels), "sounds": recordings(CHECKED_RATE, max_seconds)}
    if of not in kinds:
        raise ValueError(f"of is {of!r} but must be images or sounds.")
    skipped = prepare_folder(local_path("folder", folder), name, local_path("data_dir", data_dir), kinds[of])
    print(f"Prepared tfds:{name} in {data_dir}; unreadable files left out: {skipped.count}.")


if __name__ == "__main__":
    cli.run_main(
        main,
        {
            "folder": cli.REQUIRED,
            "name": cli.REQUIRED,
            "data_dir": cli.REQUIRED,
            "of": "images",
            "max_pixels": 100_000_000,
            "max_seconds": 3600.0,
        },
        {
            "folder": "folder of images or sounds, with or without train and val subfolders",
            "name": "name of the dataset, of lower-case letters, digits and underscores",
            "data_dir": "folder of prepared datasets to write to",
            "of": "images or sounds",
            "max_pixels": "largest height x width accepted",
            "max_seconds": "longest sound accepted",
        },
    )
