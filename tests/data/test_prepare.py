"""Folders prepared as TFDS datasets, read back by name, and the errors of datasets that cannot be read."""

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import soundfile
from PIL import Image

from simvq_jax.data import kinds, libritts, prepare, sources
from simvq_jax.data.encoded import SkipLog

LIMIT = 10**6


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


def open_tfds(name, split, data_dir):
    return sources.open_source(
        f"tfds:{name}", split, data_dir=str(data_dir), kind=kinds.pictures(LIMIT), skipped=SkipLog(None)
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two training pictures (one CMYK), one for evaluation, and one file that is no picture."""
    root = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    for name in ("train/dogs/a.png", "val/b.webp"):
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(noise).save(root / name)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(root / "train/c.jpg")
    (root / "train/broken.jpg").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def prepared(pictures, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("datasets")
    done = run(
        "-m",
        "simvq_jax.data.prepare",
        f"--folder={pictures}",
        "--name=my_pictures",
        f"--data_dir={data_dir}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Prepared tfds:my_pictures in {data_dir}; unreadable files left out: 1.\n")
    return data_dir


def test_a_prepared_folder_reads_back_as_the_folder_itself(pictures, prepared):
    for split in ("train", "eval"):
        folder = sources.open_source(f"folder:{pictures}", split, kind=kinds.pictures(LIMIT), skipped=SkipLog(None))
        expected = {item["key"]: item["image"] for index in range(len(folder)) if (item := folder.read(index))}
        dataset = open_tfds("my_pictures", split, prepared)
        assert len(dataset) == len(expected)
        for index in range(len(dataset)):
            item = dataset[index]
            np.testing.assert_array_equal(item["image"], expected.pop(item["key"]))
        assert not expected


def test_all_is_every_split_with_labels_from_the_folders(pictures, prepared):
    whole = open_tfds("my_pictures", "all", prepared)
    parts = [open_tfds("my_pictures", split, prepared) for split in ("train", "eval")]
    found = {item["key"]: item["label"] for item in map(whole.read, range(len(whole)))}
    assert found.keys() == {part.read(i)["key"] for part in parts for i in range(len(part))}
    assert found["train/dogs/a.png"] == "dogs"
    assert whole.identity().endswith(f", {len(found)} records") and "my_pictures" in whole.identity()


def test_another_process_reads_the_original_bytes_without_tensorflow(pictures, prepared):
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"data = tfds.data_source('my_pictures', split='train', data_dir={str(prepared)!r},\n"
        "                        decoders={'image': tfds.decode.SkipDecoding()})\n"
        "print(sorted((record['key'], record['image']) for record in data))\n"
        "print('tensorflow' in sys.modules)\n"
    )
    done = run("-c", code)
    names = ("train/c.jpg", "train/dogs/a.png")
    records = [(name.encode(), (pictures / name).read_bytes()) for name in names]
    assert done.stdout == f"{records}\nFalse\n", done.stderr


def test_unreadable_files_are_listed_beside(prepared):
    lines = (prepared / "my_pictures.skipped.tsv").read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith("train/broken.jpg\tThe 6 bytes are not an image")


def test_a_taken_name_is_refused(pictures, prepared):
    with pytest.raises(ValueError, match="'my_pictures' is already in"):
        prepare.prepare_folder(pictures, "my_pictures", prepared, kinds.pictures(LIMIT))


def test_a_malformed_name_is_refused(pictures, tmp_path):
    with pytest.raises(ValueError, match="'My pictures' is malformed; use lower-case"):
        prepare.prepare_folder(pictures, "My pictures", tmp_path, kinds.pictures(LIMIT))


def test_a_split_without_a_readable_image_is_refused(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(ValueError, match="No image of the train split can be read, of 1; replace them"):
        prepare.prepare_folder(tmp_path, "broken", tmp_path / "out", kinds.pictures(LIMIT))


def test_the_command_line_prints_one_sentence(tmp_path):
    done = run("-m", "simvq_jax.data.prepare", f"--folder={tmp_path}/none", "--name=a", f"--data_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/none is not a folder; give the path of an existing folder of images.\n"


@pytest.mark.parametrize("name", ["no_such_dataset", "not a name", "my_pictures:9.9.9"])
def test_an_unknown_dataset(prepared, name):
    with pytest.raises(FileNotFoundError, match=f"There is no dataset '{name}' in .*; prepare one"):
        open_tfds(name, "train", prepared)


def test_a_stock_dataset_that_is_not_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'cifar10' is not prepared in .*; prepare it as docs/IMAGENET.md"):
        open_tfds("cifar10", "train", tmp_path)


@pytest.fixture
def altered(prepared, tmp_path):
    """Returns a function that copies the dataset with a change to its description."""

    def alter(file, change):
        target = tmp_path / "my_pictures" / "1.0.0"
        target.mkdir(parents=True)
        for path in (prepared / "my_pictures" / "1.0.0").iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        description = json.loads((target / file).read_text())
        change(description)
        (target / file).write_text(json.dumps(description))
        return tmp_path

    return alter


def test_tfrecord_is_refused(altered):
    data_dir = altered("dataset_info.json", lambda info: info.update(fileFormat="tfrecord"))
    with pytest.raises(ValueError, match="is stored as tfrecord, without random access; prepare it as array_record"):
        open_tfds("my_pictures", "train", data_dir)


def test_without_an_evaluation_split_the_end_of_train_is_held_out(altered):
    def only_train(info):
        info["splits"] = [split for split in info["splits"] if split["name"] == "train"]

    data_dir = altered("dataset_info.json", only_train)
    train, held_out = (open_tfds("my_pictures", split, data_dir) for split in ("train", "eval"))
    assert len(train) == len(held_out) == 1 and train[0]["key"] != held_out[0]["key"]


def test_a_single_picture_without_an_evaluation_split_is_refused(altered):
    def rename(info):
        info["splits"] = [split for split in info["splits"] if split["name"] == "validation"]
        info["splits"][0]["name"] = "train"

    data_dir = altered("dataset_info.json", rename)
    with pytest.raises(ValueError, match="has one record, so none can be held out"):
        open_tfds("my_pictures", "train", data_dir)


def test_without_a_train_split_it_is_refused(altered):
    def only_validation(info):
        info["splits"] = [split for split in info["splits"] if split["name"] == "validation"]

    data_dir = altered("dataset_info.json", only_validation)
    with pytest.raises(ValueError, match="has the splits validation and no 'train'"):
        open_tfds("my_pictures", "train", data_dir)


def test_without_images_it_is_refused(altered):
    def no_image(features):
        features["featuresDict"]["features"].pop("image")

    data_dir = altered("features.json", no_image)
    with pytest.raises(ValueError, match="has the features key and no 'image'"):
        open_tfds("my_pictures", "train", data_dir)


def test_a_folder_of_sounds(tmp_path):
    for name, seconds in (("train/a.wav", 0.1), ("val/b.flac", 0.2)):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / "in" / name, np.sin(np.arange(int(seconds * 8000))), 8000)
    done = run(
        "-m",
        "simvq_jax.data.prepare",
        f"--folder={tmp_path}/in",
        "--name=my_sounds",
        f"--data_dir={tmp_path}/out",
        "--of=sounds",
    )
    assert done.returncode == 0, done.stderr
    for split, seconds in (("train", 0.1), ("eval", 0.2)):
        source = sources.open_source(
            "tfds:my_sounds", split, data_dir=f"{tmp_path}/out", kind=kinds.recordings(8000, 1), skipped=SkipLog(None)
        )
        assert len(source) == 1 and source[0]["audio"].shape == (int(seconds * 8000),)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """LibriTTS's archives with a recording each, and in the first a text and one that is broken."""
    folder = tmp_path_factory.mktemp("archives")
    for number, name in enumerate(name for names in libritts.ARCHIVES.values() for name in names):
        wav = io.BytesIO()
        soundfile.write(wav, np.full(240, number / 10), 24_000, format="WAV", subtype="PCM_16")
        members = {f"{name}/1/2/1_2_3.wav": wav.getvalue(), f"{name}/1/2/1_2_3.normalized.txt": b"Hello."}
        if number == 0:
            members[f"{name}/1/2/1_2_4.wav"] = b"RIFF"
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            for path, content in members.items():
                info = tarfile.TarInfo(f"LibriTTS/{path}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return folder


def test_libritts_has_the_paper_s_splits(archives, tmp_path):
    assert libritts.prepare_libritts(archives, tmp_path) == 1
    assert "train-clean-100/1/2/1_2_4.wav" in (tmp_path / "libritts24k.skipped.tsv").read_text()

    def recordings(name, split):
        kind = kinds.recordings(24_000, 60)
        source = sources.open_source(name, split, data_dir=str(tmp_path), kind=kind, skipped=SkipLog(None))
        return {item["key"]: item["audio"] for item in map(source.read, range(len(source)))}

    train = recordings("tfds:libritts24k", "train")
    assert sorted(train) == [f"{name}/1/2/1_2_3.wav" for name in sorted(libritts.ARCHIVES["train"])]
    for name, number in (("libritts24k", 3), ("libritts24k@test_clean", 4), ("libritts24k@test_other", 5)):
        (sound,) = recordings(f"tfds:{name}", "eval").values()
        np.testing.assert_allclose(sound, np.full(240, number / 10), atol=1e-4)
    with pytest.raises(ValueError, match="give one of those, and not train, instead of 'train'"):
        recordings("tfds:libritts24k@train", "eval")
    with pytest.raises(ValueError, match=r"'all' .* is not 'test_clean' alone: give --split=eval"):
        recordings("tfds:libritts24k@test_clean", "all")
    with pytest.raises(ValueError, match="'libritts24k' is already in"):
        libritts.prepare_libritts(archives, tmp_path)


def test_missing_archives_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks train-clean-100.tar.gz, .*test-other.tar.gz: get them"):
        libritts.prepare_libritts(tmp_path, tmp_path)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9, -1])
def test_an_archive_with_a_flipped_bit_is_named(archives, tmp_path, place):
    for file in archives.iterdir():
        content = bytearray(file.read_bytes())
        if "360" in file.name:
            content[int(place * len(content)) if place > 0 else place] ^= 16
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(ValueError, match=r"train-clean-360.tar.gz is damaged or cut off \(.*\): compare its md5"):
        libritts.prepare_libritts(tmp_path, tmp_path / "out")


def test_an_archive_that_was_cut_off_is_named(archives, tmp_path):
    for file in archives.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if "360" in file.name else content)
    with pytest.raises(ValueError, match=r"train-clean-360.tar.gz is damaged or cut off \(.*\): compare its md5"):
        libritts.prepare_libritts(tmp_path, tmp_path / "out")
