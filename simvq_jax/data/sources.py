"""Random-access sources: the bundled photographs and speech, a folder, or a prepared TFDS dataset.

A source has a length and gives `{"image": uint8 (height, width, 3), "key": str, "label": int, str or None}` by index,
or `{"audio": float32 (samples,), ...}`, as its kind says; the order of its items is the same on every machine. Its
split is "train", "eval" (what is held out), or "all".
"""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from simvq_jax import store
from simvq_jax.data import images
from simvq_jax.data.encoded import EncodedSource, Item, Record, SkipLog, Source
from simvq_jax.data.files import SPLIT_FOLDERS, check_split, class_of, list_files, split_files, split_folders
from simvq_jax.data.kinds import Kind
from simvq_jax.data.tfds import TfdsSource

SIZES_AT_ONCE = 32
SPEECH = Path(__file__).parent / "speech"
PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


class PhotosSource:
    """Eight photographs that the scikit-image package carries, kept decoded in memory; nothing is downloaded.

    Args:
      split: "train" for the left three quarters of each picture, "eval" for the rest (columns from
        `width * 3 // 4` on), which share no pixel; "all" for whole pictures.

    Raises:
      FileNotFoundError: the installed scikit-image lacks one of the pictures.
    """

    def __init__(self, split: str):
        check_split(split)
        self._items = [_photo(name, split) for name in PHOTOS]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        return self._items[index]

    def read(self, index: int) -> Item:
        """Return picture `index`."""
        return self._items[index]

    def key(self, index: int) -> str:
        """Return the name of picture `index`."""
        return self._items[index]["key"]

    def identity(self) -> str:
        """Return the names of the pictures."""
        return f"photos {' '.join(item['key'] for item in self._items)}"


def _photo(name: str, split: str) -> Item:
    image = _bundled_photo(name)
    edge = image.shape[1] * 3 // 4
    part = {"train": image[:, :edge], "eval": image[:, edge:], "all": image}[split]
    return {"image": part, "key": Path(name).stem, "label": None}


@functools.cache
def _bundled_photo(name: str) -> np.ndarray:
    import skimage

    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; reinstall scikit-image, which carries it.")
    image = images.decode_image(path, max_pixels=10**7)
    image.flags.writeable = False  # every source and crop shares this one copy
    return image


class FolderSource(EncodedSource):
    """All files of a kind in a tree of folders, by extension, in the order of their relative paths.

    Args:
      path: the tree's root, also in a bucket; see `files.split_files` for what is held out.
      split: "train", "eval" or "all".
      kind: of the files.
      skipped: log of unreadable files.

    Raises:
      FileNotFoundError: the folder is missing or holds no such file.
    """

    def __init__(self, path: str | Path, split: str, *, kind: Kind, skipped: SkipLog):
        super().__init__(f"folder {path}", kind, skipped)
        check_split(split)
        self._root = store.path_of(path).expanduser()
        self._files = self._of_split(split)
        self._no_classes = SPLIT_FOLDERS if split_folders(self._root) else ()

    def _of_split(self, split: str) -> list[Path]:
        if split == "all":
            return list_files(self._root, self._kind.extensions, self._kind.noun)
        return split_files(self._root, self._kind.extensions, self._kind.noun)[split]

    def __len__(self) -> int:
        return len(self._files)

    def identity(self) -> str:
        """Return the SHA-256 of the files' relative paths and sizes."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor(SIZES_AT_ONCE) as pool:  # on a network's file system each takes its time
            for file, size in zip(self._files, pool.map(_size, self._files), strict=True):
                line = f"{file.relative_to(self._root).as_posix()}\t{size}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
        return f"folder of {len(self)} {self._kind.noun}s, sha256 {digest.hexdigest()}"

    def _record(self, index: int) -> Record:
        file = self._files[index]
        key = file.relative_to(self._root).as_posix()
        return Record(key, file, class_of(key, self._no_classes))


def _size(file: Path) -> int:
    """Bytes; -1 of what cannot be reached, as a link to nowhere: reading it says so, and goes on."""
    try:
        return store.size(file)
    except OSError:
        return -1


class SpeechSource(FolderSource):
    """Synthesised speech as `synthesis.py` lays it out; what the package carries is such a folder.

    "train" is its folder of that name, "eval" held-out sentences of the same voices, then held-out voices.
    """

    def _of_split(self, split: str) -> list[Path]:
        train, held_out = ("train",), ("held_out_sentences", "held_out_voices")
        folders = {"train": train, "eval": held_out, "all": (*train, *held_out)}[split]
        files = [list_files(self._root / name, self._kind.extensions, self._kind.noun) for name in folders]
        return [file for of_folder in files for file in of_folder]


class BundledSpeech(SpeechSource):
    """The few minutes of speech that the package carries, decoded once and kept in memory: 21 MB at 24 kHz.

    Args:
      split: "train", "eval" or "all".
      kind: of recordings.
      skipped: log of unreadable files.
    """

    def __init__(self, split: str, *, kind: Kind, skipped: SkipLog):
        super().__init__(SPEECH, split, kind=kind, skipped=skipped)
        self._decoded: dict[int, Item | None] = {}

    def read(self, index: int) -> Item | None:
        """Return recording `index`."""
        if index not in self._decoded:
            item = super().read(index)
            if item is not None:
                item["audio"].flags.writeable = False  # every clip shares this one copy
            self._decoded[index] = item
        return self._decoded[index]


def open_source(spec: str, split: str, *, kind: Kind, data_dir: str = "", skipped: SkipLog) -> Source:
    """Open the source that a config names.

    Args:
      spec: `photos`, `speech`, `speech:PATH`, `folder:PATH`, `tfds:NAME` or `tfds:NAME@SPLIT`.
      split: "train", "eval" or "all".
      kind: of `kinds.py`, what the model takes.
      data_dir: folder of prepared TFDS datasets; "" for TFDS's own default.
      skipped: log of unreadable files.

    Raises:
      ValueError: `spec` has none of these forms, is of another kind, or is of no use.
      FileNotFoundError: the folder or dataset is not there.
    """
    name, _, place = spec.partition(":")
    bundled = {"photos": "image", "speech": "sound"}.get(name)
    if bundled and bundled != kind.noun:
        raise ValueError(f"The data source {spec!r} is of {bundled}s, but the model takes {kind.noun}s; give another.")
    if spec == "photos":
        return PhotosSource(split)
    if name == "speech":
        if not place:
            return BundledSpeech(split, kind=kind, skipped=skipped)
        return SpeechSource(place, split, kind=kind, skipped=skipped)
    if name == "folder" and place:
        return FolderSource(place, split, kind=kind, skipped=skipped)
    if name == "tfds" and place:
        return TfdsSource(place, split, data_dir=data_dir, kind=kind, skipped=skipped)
    raise ValueError(
        f"The data source {spec!r} is unknown; give photos, speech, speech:PATH, folder:PATH or tfds:NAME[@SPLIT]."
    )
