"""The stream of batches: the same for any number of processes and threads, and from any step on."""

import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvq_jax.data import images, pipeline, reading
from simvq_jax.data.cuts import CROPS, picture_cut, recording_cut
from simvq_jax.data.encoded import SkipLog
from simvq_jax.data.kinds import pictures
from simvq_jax.data.sources import FolderSource, PhotosSource

CUT = {"size": 16, "resize_short": 0, "crop": "random", "flip": True, "crop_scale": (0.2, 1.0)}
TRAIN = {
    "batch_size": 16,
    "seed": 3,
    "start_step": 0,
    "process_index": 0,
    "process_count": 1,
    "threads": 2,
}
EVAL = {"batch_size": 8, "process_index": 0, "process_count": 1, "threads": 2}
GRID = {"size": 8, "resize_short": 0, "per_picture": 12, "limit": 0}


class Numbered:
    """Pictures of one colour, their number; remembers which were read."""

    def __init__(self, count: int, height: int = 20, width: int = 24, unreadable: tuple[int, ...] = ()):
        self.count, self.height, self.width, self.unreadable = count, height, width, unreadable
        self.opened: list[int] = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.opened.append(index)
        return {"image": np.full((self.height, self.width, 3), index, np.uint8), "key": str(index)}

    def read(self, index):
        return None if index in self.unreadable else self[index]


def stream_of(source, **changes):
    """The training stream of pictures; changes: of its cut, and of the rest."""
    cut = {name: changes.pop(name, value) for name, value in CUT.items()}
    return pipeline.train_batches(source, picture_cut(**cut), **{**TRAIN, **changes})


def take(source, count, **changes):
    stream = stream_of(source, **changes)
    batches = [batch["image"] for batch in itertools.islice(stream, count)]
    stream.close()
    return np.stack(batches)


@pytest.fixture(scope="module")
def photos():
    return PhotosSource("train")


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("resize_short", [0, 20])
def test_batches_have_their_shape(photos, crop, resize_short):
    batches = take(photos, 2, crop=crop, resize_short=resize_short)
    assert batches.shape == (2, 16, 16, 16, 3) and batches.dtype == np.uint8


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_same_global_batches(photos, process_count):
    shares = [take(photos, 3, process_index=index, process_count=process_count) for index in range(process_count)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), take(photos, 3))


def test_a_batch_may_be_one_row(photos):
    """Of one picture, or of as many processes as rows."""
    np.testing.assert_array_equal(take(photos, 3, batch_size=1)[:, 0], take(photos, 1, batch_size=3)[0])


def test_a_process_reads_only_its_rows():
    source = Numbered(64)
    take(source, 1, process_index=1, process_count=4, threads=1, crop="center")
    # One batch taken, and at most two more fetched ahead, each of four rows instead of sixteen.
    assert len(source.opened) <= 12


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_matter(photos, threads):
    np.testing.assert_array_equal(take(photos, 4, threads=threads), take(photos, 4))


def test_starting_late_equals_skipping(photos):
    np.testing.assert_array_equal(take(photos, 2, start_step=5), take(photos, 7)[5:])


def test_starting_late_reads_nothing_before():
    source = Numbered(32)
    take(source, 1, start_step=10**12, threads=1)
    assert len(source.opened) <= 3 * 16


def test_the_seed_matters(photos):
    assert not np.array_equal(take(photos, 1, seed=4), take(photos, 1))


def test_every_epoch_holds_every_picture_in_another_order():
    order = take(Numbered(24), 3, crop="center")[:, :, 0, 0, 0].reshape(2, 24)
    assert [sorted(epoch) for epoch in order] == [list(range(24))] * 2
    assert not np.array_equal(order[0], order[1])


def test_one_picture_fills_a_batch_with_different_crops():
    class One(Numbered):
        def __getitem__(self, index):
            return {"image": np.arange(40 * 40 * 3, dtype=np.uint32).reshape(40, 40, 3) % 251, "key": "0"}

    batch = take(One(1), 1)[0]
    assert len({crop.tobytes() for crop in batch}) > 12


def test_flips_are_half_of_the_rows():
    class Slope(Numbered):
        def __getitem__(self, index):
            return {"image": np.tile(np.arange(16, dtype=np.uint8)[None, :, None], (16, 1, 3)), "key": "0"}

    left = take(Slope(4), 20)[:, :, 0, 0, 0]
    assert 0.35 < np.mean(left == 15) < 0.65
    assert (take(Slope(4), 20, flip=False)[:, :, 0, 0, 0] == 0).all()


def test_closing_or_dropping_the_stream_stops_its_threads(photos):
    def readers():
        return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]

    stream = stream_of(photos)
    next(stream)
    started = readers()
    assert started
    del stream
    for thread in started:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_a_process_with_an_open_stream_exits():
    code = (
        "from simvq_jax.data import cuts, pipeline, sources\n"
        f"cut = cuts.picture_cut(**{CUT})\n"
        f"stream = pipeline.train_batches(sources.PhotosSource('train'), cut, **{TRAIN})\n"
        "print(next(stream)['image'].shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "(16, 16, 16, 3)\n", done.stderr


def test_the_death_of_a_reading_thread_is_reported():
    class Broken(Numbered):
        def __getitem__(self, index):
            raise KeyError("no such shard")

    batches = stream_of(Broken(3))
    with pytest.raises(reading.DeadReader, match=r"a thread that reads the data died \(KeyError: 'no such shard'\)"):
        next(batches)


def test_nothing_readable_reaches_the_consumer(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"broken")
    source = FolderSource(tmp_path, "train", kind=pictures(10**6), skipped=SkipLog(None))
    with pytest.raises(ValueError, match=r"No image in folder .* can be read, of 1"):
        next(stream_of(source))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"process_count": 3}, "batch size 16 is no positive multiple of the 3 processes"),
        ({"batch_size": 0}, "batch size 0 is no positive multiple"),
        ({"process_index": 1}, "process index 1 is not in 0..0"),
        ({"crop": "centre"}, "crop 'centre' is unknown; give one of random, resized, center"),
        ({"crop_scale": (0.5, 1.5)}, r"crop scale \(0.5, 1.5\) is not"),
        ({"resize_short": 15}, "short side 15 is under the crop size 16"),
        ({"size": 0}, "crop size 0 is under 1"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"start_step": -1}, "start step -1 is negative"),
        ({"threads": 0}, "number of threads 0 is under 1"),
    ],
)
def test_bad_settings_are_refused_at_once(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        stream_of(Numbered(4), **changes)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="holds nothing to train on"):
        stream_of(Numbered(0))
    with pytest.raises(ValueError, match="holds no picture"):
        pipeline.eval_crops(Numbered(0), **GRID)


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 24),
    extra=st.integers(-1, 10),
    per_picture=st.integers(1, 9),
    limit=st.integers(0, 12),
)
def test_eval_crops_have_their_shape(height, width, size, extra, per_picture, limit):
    resize_short = 0 if extra < 0 else size + extra
    crops = pipeline.eval_crops(
        Numbered(3, height, width), size=size, resize_short=resize_short, per_picture=per_picture, limit=limit
    )
    assert len(crops) == min(limit or 3 * per_picture, 3 * per_picture)
    for index in range(len(crops)):
        crop = crops[index]
        assert crop["image"].shape == (size, size, 3) and crop["image"].dtype == np.uint8 and crop["mask"]


def test_a_grid_spreads_over_the_picture_from_border_to_border():
    source = Numbered(2, 16, 21)
    ramp = np.random.default_rng(0).integers(0, 256, (16, 21, 3), dtype=np.uint8)
    source.read = lambda index: {"image": ramp, "key": str(index)}
    crops = pipeline.eval_crops(source, **GRID)
    expected = [ramp[top : top + 8, left : left + 8] for top in (0, 4, 8) for left in (0, 4, 8, 13)] * 2
    np.testing.assert_array_equal([crops[index]["image"] for index in range(len(crops))], expected)


def test_a_grid_decodes_each_picture_once():
    source = Numbered(3)
    crops = pipeline.eval_crops(source, **GRID)
    assert source.opened == []
    list(pipeline.eval_batches(crops, **{**EVAL, "threads": 1}))
    assert source.opened == [0, 1, 2]


def test_center_crops_match_the_direct_computation(photos):
    crops = pipeline.eval_crops(photos, size=16, resize_short=20, per_picture=1, limit=0)
    for index in range(len(photos)):
        direct = images.center_crop(images.resize_short_side(photos[index]["image"], 20), 16)
        np.testing.assert_array_equal(crops[index]["image"], direct)


def test_a_limit_keeps_evenly_spaced_crops():
    everything = pipeline.eval_crops(Numbered(10), **{**GRID, "per_picture": 1})
    some = pipeline.eval_crops(Numbered(10), **{**GRID, "per_picture": 1, "limit": 4})
    assert [int(some[index]["image"][0, 0, 0]) for index in range(len(some))] == [0, 2, 5, 7]
    assert len(pipeline.eval_crops(Numbered(10), **{**GRID, "per_picture": 1, "limit": 99})) == len(everything) == 10


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_eval_batches_cover_the_list_once_and_mask_the_rest(process_count):
    crops = pipeline.eval_crops(Numbered(19), **{**GRID, "per_picture": 1})
    shares = [
        list(pipeline.eval_batches(crops, **{**EVAL, "process_index": index, "process_count": process_count}))
        for index in range(process_count)
    ]
    assert {len(share) for share in shares} == {3}
    batches = [
        {key: np.concatenate([part[key] for part in parts]) for key in ("image", "mask")}
        for parts in zip(*shares, strict=True)
    ]
    mask = np.concatenate([batch["mask"] for batch in batches])
    first = np.concatenate([batch["image"] for batch in batches])[:, 0, 0, 0]
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.arange(24) < 19)
    np.testing.assert_array_equal(first, np.where(mask, np.arange(24), 0))


def test_unreadable_pictures_are_masked_not_replaced(tmp_path):
    crops = pipeline.eval_crops(Numbered(6, unreadable=(2,)), **{**GRID, "per_picture": 1})
    (batch,) = pipeline.eval_batches(crops, **EVAL)
    np.testing.assert_array_equal(batch["mask"], [True, True, False, True, True, True, False, False])
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], [0, 1, 0, 3, 4, 5, 0, 0])


@pytest.mark.parametrize("name, value", [("per_picture", 0), ("limit", -1), ("size", 0), ("resize_short", 7)])
def test_bad_eval_settings(name, value):
    with pytest.raises(ValueError, match=rf"{value}\b.*; give"):
        pipeline.eval_crops(Numbered(4), **{**GRID, name: value})


def test_an_eval_crop_out_of_range():
    with pytest.raises(IndexError, match="no evaluation crop 3; there are 3"):
        pipeline.eval_crops(Numbered(3), **{**GRID, "per_picture": 1})[3]


class Recordings:
    """Recordings of one number, their own, some shorter than a clip."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"audio": np.full(30 * (index + 1), (index + 1) / 10, np.float32), "key": str(index)}

    read = __getitem__


def test_clips_of_recordings_are_streamed_alike_for_any_number_of_processes():
    cut = recording_cut(samples=70, loudness=(-20.0, -10.0))

    def first(process_index=0, process_count=1):
        share = {**TRAIN, "process_index": process_index, "process_count": process_count}
        stream = pipeline.train_batches(Recordings(), cut, **share)
        batch = next(stream)["audio"]
        stream.close()
        return batch

    whole = first()
    assert whole.shape == (16, 70) and whole.dtype == np.float32 and len(np.unique(whole)) == 16
    assert whole.min() >= 0.1 and whole.max() <= 10**-0.5 + 1e-6
    np.testing.assert_array_equal(np.concatenate([first(p, 4) for p in range(4)]), whole)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"samples": 0, "loudness": None}, "The clip has 0 samples; give at least 1"),
        ({"samples": 9, "loudness": (-1.0, -6.0)}, r"The loudness \(-1.0, -6.0\) is not quietest <= loudest <= 0 dB"),
        ({"samples": 9, "loudness": None, "speed": (1.2, 0.9)}, r"The speed \(1.2, 0.9\) is not 0.5 <= slowest"),
        ({"samples": 9, "loudness": None, "speed": ()}, r"The speed \(\) is not 0.5 <= slowest"),
        ({"samples": 9, "loudness": (-3.0,)}, r"The loudness \(-3.0,\) is not quietest <= loudest"),
        ({"samples": 9, "loudness": (-1.0, 2.0)}, r"The loudness \(-1.0, 2.0\) is not"),
    ],
)
def test_clips_that_cannot_be_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        recording_cut(**fields)
