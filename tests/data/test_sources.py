"""Sources: the bundled photographs, folders with all their faults, and the parsing of a source's name."""

import threading

import numpy as np
import pytest
import soundfile
from PIL import Image

from simvq_jax.data import sources
from simvq_jax.data.encoded import SkipLog
from simvq_jax.data.kinds import pictures, recordings

LIMIT = 10**6


def picture(path, height=10, width=12, color=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (color, 0, 0)).save(path)


def folder(path, split="train", skipped=None):
    return sources.open_source(f"folder:{path}", split, kind=pictures(LIMIT), skipped=skipped or SkipLog(None))


def keys(source):
    return [source[index]["key"] for index in range(len(source))]


def test_photos_train_and_eval_share_no_column():
    train, held_out = sources.PhotosSource("train"), sources.PhotosSource("eval")
    assert keys(train) == keys(held_out) and len(train) == 8
    for index, name in enumerate(sources.PHOTOS):
        whole = sources._bundled_photo(name)
        parts = [train[index]["image"], held_out[index]["image"]]
        assert parts[1].shape[1] == whole.shape[1] - whole.shape[1] * 3 // 4
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_photos_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        sources.PhotosSource("train")[0]["image"][0, 0] = 0


def test_folder_is_sorted_and_recursive(tmp_path):
    for name in ("b.PNG", "a/z.jpg", "a/c.webp", "c.tiff"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert keys(folder(tmp_path, "eval")) == ["a/c.webp"]
    assert keys(folder(tmp_path, "train")) == ["a/z.jpg", "b.PNG", "c.tiff"]


def test_all_is_everything_and_labels_are_folders(tmp_path):
    for name in ("train/cats/1.png", "train/dogs/2.png", "val/cats/3.png", "4.png"):
        picture(tmp_path / name)
    source = folder(tmp_path, "all")
    assert keys(source) == ["4.png", "train/cats/1.png", "train/dogs/2.png", "val/cats/3.png"]
    assert [source[i]["label"] for i in range(4)] == [None, "cats", "dogs", "cats"]
    assert sources.PhotosSource("all")[0]["image"].shape == sources._bundled_photo(sources.PHOTOS[0]).shape


def test_a_split_is_no_label(tmp_path):
    for name in ("test/0.png", "train/1.png", "val/2.png"):
        picture(tmp_path / name)
    source = folder(tmp_path, "all")
    assert [source[i]["label"] for i in range(3)] == [None, None, None]
    for name, kind in (("val", "cats"), ("test", "dogs")):
        (tmp_path / name).rename(tmp_path / kind)
    source = folder(tmp_path, "all")
    assert [source[i]["label"] for i in range(3)] == ["cats", "dogs", "train"]  # a class like others


def test_an_identity_changes_with_names_and_sizes_of_files(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    first = folder(tmp_path, "all").identity()
    assert first == folder(tmp_path, "all").identity()
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    second = folder(tmp_path, "all").identity()
    picture(tmp_path / "c.png", height=50)
    assert len({first, second, folder(tmp_path, "all").identity()}) == 3


def test_every_twentieth_file_is_held_out(tmp_path):
    for index in range(41):
        picture(tmp_path / f"{index:02}.png")
    held_out = keys(folder(tmp_path, "eval"))
    assert held_out == ["00.png", "20.png", "40.png"]
    assert sorted(keys(folder(tmp_path, "train")) + held_out) == [f"{index:02}.png" for index in range(41)]


@pytest.mark.parametrize("name", ["val", "validation", "eval", "test"])
def test_split_folders_are_used(tmp_path, name):
    picture(tmp_path / "train/a.png")
    picture(tmp_path / name / "b.png")
    assert keys(folder(tmp_path, "train")) == ["train/a.png"]
    assert keys(folder(tmp_path, "eval")) == [f"{name}/b.png"]


def test_a_single_file_serves_both_splits(tmp_path):
    picture(tmp_path / "only.png")
    assert keys(folder(tmp_path, "train")) == keys(folder(tmp_path, "eval")) == ["only.png"]


def test_linked_folders_are_followed_once(tmp_path):
    picture(tmp_path / "elsewhere/a.png")
    picture(tmp_path / "root/b.png")
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/loop").symlink_to(tmp_path / "root")
    assert keys(folder(tmp_path / "root", "eval")) + keys(folder(tmp_path / "root")) == [
        "b.png",
        "link/a.png",
    ]


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; give the path"):
        folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no image file; put files with one of \.bmp"):
        folder(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(FileNotFoundError, match="holds no image file"):
        folder(tmp_path)


def test_unreadable_files_are_skipped_counted_and_listed(tmp_path):
    root, listing = tmp_path / "images", tmp_path / "skipped.tsv"
    for index in range(5):
        picture(root / f"{index}.png")
    for index in (2, 4):
        (root / f"{index}.png").write_bytes(b"broken")
    skipped = SkipLog(listing)
    source = folder(root, skipped=skipped)  # 0.png is held out
    for _ in range(2):
        assert keys(source) == ["1.png", "3.png", "3.png", "1.png"]
    assert skipped.count == 2
    lines = [line.split("\t") for line in listing.read_text().splitlines()]
    assert [key for key, _ in lines] == ["2.png", "4.png"]
    assert lines[0][1].startswith("The 6 bytes are not an image")
    assert source.read(1) is None


def test_a_file_that_disappears_is_skipped(tmp_path):
    for index in range(3):
        picture(tmp_path / f"{index}.png")
    source = folder(tmp_path)
    (tmp_path / "1.png").unlink()
    assert keys(source) == ["2.png", "2.png"]


def test_nothing_readable(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"No image in folder .* can be read, of 2: mend them, .* [ab]\.png: The "):
        folder(tmp_path)[0]


def test_a_link_to_nowhere_is_skipped(tmp_path):
    picture(tmp_path / "train/a.png")
    picture(tmp_path / "val/a.png")
    (tmp_path / "train/b.png").symlink_to(tmp_path / "gone.png")
    skipped = SkipLog(None)
    source = folder(tmp_path, skipped=skipped)
    assert source.identity().startswith("folder of 2 images")
    assert source.read(1) is None and list(skipped.reasons) == ["train/b.png"]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    picture(tmp_path / "cats/a.png")

    def walk(root, onerror, **_):
        onerror(PermissionError(13, "Permission denied", f"{root}/dogs"))
        yield from ()

    monkeypatch.setattr("os.walk", walk)
    with pytest.raises(PermissionError, match=r"dogs cannot be listed \(Permission denied\): restore its permissions"):
        folder(tmp_path)


def test_a_sliver_is_skipped(tmp_path):
    picture(tmp_path / "a.png", height=1, width=101)
    skipped = SkipLog(None)
    source = folder(tmp_path, skipped=skipped)
    assert source.read(0) is None and skipped.count == 1


def test_index_out_of_range(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(IndexError, match="has no image 1; it holds 1"):
        folder(tmp_path)[1]


def test_skip_log_is_thread_safe_and_keeps_its_listing(tmp_path):
    listing = tmp_path / "skipped.tsv"
    listing.write_text("key 3\tfrom the run before\n")
    log = SkipLog(listing)

    def record_all():
        for index in range(20):
            log.record(f"key {index}", "line one\nline\ttwo")

    threads = [threading.Thread(target=record_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = listing.read_text().splitlines()
    assert log.count == 20 and len(lines) == 20
    assert sorted(line.split("\t")[0] for line in lines) == sorted(f"key {index}" for index in range(20))
    assert lines[1].endswith("\tline one line two")


@pytest.mark.parametrize("spec", ["", "photo", "photos:x", "folder", "folder:", "tfds:", "imagenet"])
def test_unknown_source(spec):
    with pytest.raises(
        ValueError, match=f"'{spec}' is unknown; give photos, speech, speech:PATH, folder:PATH or tfds:NAME"
    ):
        sources.open_source(spec, "train", kind=pictures(LIMIT), skipped=SkipLog(None))


def test_unknown_split():
    with pytest.raises(ValueError, match="'test' is unknown; give one of train, eval, all"):
        sources.open_source("photos", "test", kind=pictures(LIMIT), skipped=SkipLog(None))


def test_the_bundled_speech_has_its_held_out_parts_apart():
    kind = recordings(24_000, 60.0)
    train, held_out = (sources.open_source("speech", s, kind=kind, skipped=SkipLog(None)) for s in ("train", "eval"))
    assert len(train) > 30 and len(held_out) > 12
    assert all(item["key"].startswith("train/") for item in map(train.read, range(len(train))))
    folders = [held_out.read(i)["key"].split("/")[0] for i in range(len(held_out))]
    assert sorted(folders) == folders and set(folders) == {"held_out_sentences", "held_out_voices"}
    assert train[0]["audio"].dtype == np.float32 and train[0]["audio"].ndim == 1


def test_the_bundled_speech_is_decoded_once_and_cannot_be_written_to():
    source = sources.open_source("speech", "train", kind=recordings(24_000, 60.0), skipped=SkipLog(None))
    assert source[1]["audio"] is source.read(1)["audio"]
    with pytest.raises(ValueError, match="read-only"):
        source[1]["audio"][0] = 0


def test_sounds_in_a_folder_are_read_and_the_unreadable_ones_listed(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 2)), 48_000)
    soundfile.write(tmp_path / "b.flac", np.full(100, 0.5), 24_000)
    (tmp_path / "c.wav").write_text("words")
    skipped = SkipLog(tmp_path / "skipped.tsv")
    source = sources.open_source(f"folder:{tmp_path}", "train", kind=recordings(24_000, 60.0), skipped=skipped)
    assert [source[i]["key"] for i in range(len(source))] == ["b.flac", "b.flac"] and skipped.count == 1
    assert "c.wav\tThe 5 bytes cannot be decoded" in (tmp_path / "skipped.tsv").read_text()


def test_a_source_of_the_other_kind_is_refused():
    for spec, kind, noun, other in (
        ("speech", pictures(LIMIT), "sounds", "images"),
        ("photos", recordings(24_000, 60.0), "images", "sounds"),
    ):
        with pytest.raises(ValueError, match=f"'{spec}' is of {noun}, but the model takes {other}; give another"):
            sources.open_source(spec, "train", kind=kind, skipped=SkipLog(None))


def test_a_folder_without_sounds_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"holds no sound file; put files with one of \.flac, \.mp3, \.ogg, \.wav"
    ):
        sources.open_source(f"folder:{tmp_path}", "train", kind=recordings(24_000, 60.0), skipped=SkipLog(None))
