"""LibriTTS (1904.02882) from its official archives as a TFDS dataset in array_record files, without TensorFlow.

    python -m simvq_jax.data.libritts --archives=/data/archives --data_dir=/data/tfds

The archives (https://www.openslr.org/60) stay packed, under their own names. The dataset `libritts24k` has the
paper's splits: `train` of the three train archives, `validation` of dev-clean, `test_clean` and `test_other`.
Recordings are stored as 16-bit FLAC, which loses nothing.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from simvq_jax import cli
from simvq_jax.data.kinds import recordings
from simvq_jax.data.stored import store
from simvq_jax.store import local_path

ARCHIVES = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "validation": ("dev-clean",),
    "test_clean": ("test-clean",),
    "test_other": ("test-other",),
}
SAMPLE_RATE = 24_000
LONGEST = 60.0  # seconds; the corpus has none so long


def prepare_libritts(archives: Path, data_dir: Path) -> int:
    """Stores the corpus as `libritts24k`; returns how many recordings could not be read, which are listed beside it.

    Raises FileNotFoundError naming the archives that are missing, ValueError where the dataset is there already, an
    archive is damaged or a split holds no recording.
    """
    missing = [
        f"{name}.tar.gz" for names in ARCHIVES.values() for name in names if not _archive(archives, name).is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{archives} lacks {', '.join(missing)}: get them from https://www.openslr.org/60 and leave them packed."
        )
    skipped = store(
        name="libritts24k",
        description="LibriTTS, recordings as FLAC",
        kind=recordings(SAMPLE_RATE, LONGEST),
        splits={split: _recordings(archives, names) for split, names in ARCHIVES.items()},
        data_dir=data_dir,
    )
    return skipped.count


def _archive(archives: Path, name: str) -> Path:
    return archives / f"{name}.tar.gz"


def _recordings(archives: Path, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """(path in the archive, FLAC) of every recording, read in one go through each archive. Raises ValueError naming an
    archive that is cut off or damaged."""
    for name in names:
        path = _archive(archives, name)
        try:
            for member, wav in _wavs(path):
                yield member.removeprefix("LibriTTS/"), _as_flac(wav)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{path} is damaged or cut off ({error}): compare its md5 with that of https://www.openslr.org/60, and"
                " get it again."
            ) from error


def _wavs(path: Path) -> Iterator[tuple[str, bytes]]:
    with gzip.open(path) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".wav"):
                    content = archive.extractfile(member)
                    assert content is not None  # it is a file
                    yield member.name, content.read()
        while unpacked.read(1 << 20):  # tarfile stops at what looks like the end; the checksum is behind the real one
            pass


def _as_flac(wav: bytes) -> bytes:
    """The same samples as FLAC; what is no 16-bit WAV stays as it is, to be stored or refused like any file."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(wav)) as file:
            if file.subtype != "PCM_16":
                return wav
            samples, rate = file.read(dtype="int16"), file.samplerate
    except soundfile.LibsndfileError:
        return wav
    packed = io.BytesIO()
    soundfile.write(packed, samples, rate, format="FLAC", subtype="PCM_16")
    return packed.getvalue()


def main(archives: str, data_dir: str) -> None:
    """Command line of `prepare_libritts`."""
    left_out = prepare_libritts(local_path("archives", archives), local_path("data_dir", data_dir))
    print(f"Prepared tfds:libritts24k in {data_dir}; unreadable recordings left out: {left_out}.")


if __name__ == "__main__":
    cli.run_main(
        main,
        {"archives": cli.REQUIRED, "data_dir": cli.REQUIRED},
        {
            "archives": "folder of the official archives, packed",
            "data_dir": "folder of prepared datasets to write to",
        },
    )
