"""Whole recordings in batches of like lengths: each once, by one process, the unreadable left out."""

import threading

import numpy as np
import pytest

from simvq_jax.data import eval_sounds
from simvq_jax.data.eval_sounds import EvalSounds
from simvq_jax.data.reading import DeadReader

RATE = 10
LENGTHS = [5, 30, 10, 11, 40, 200, 39, 1, 21, 8]
BROKEN = 3


class Recordings:
    """Recording i holds LENGTHS[i] times the number i + 1. asked: for, in any order."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        return self.read(index)

    def read(self, index):
        self.asked.append(index)
        return None if index == BROKEN else {"audio": np.full(LENGTHS[index], index + 1, np.float32), "key": str(index)}


def sounds(limit=0, batch_size=2):
    return EvalSounds(Recordings(), sample_rate=RATE, limit=limit, batch_size=batch_size, threads=2)


def test_every_recording_comes_once_and_whole():
    data, found = sounds(), []
    for batch in data.batches():
        samples = batch["audio"].shape[1]
        assert samples in (40, 80, 160, 320)
        for row in range(2):
            index, length = batch["index"][row], batch["lengths"][row]
            if not batch["mask"][row]:
                assert index == -1 and length == samples and not batch["audio"][row].any()
                continue
            assert length == LENGTHS[index] and samples / 2 < max(length, 21)
            assert (batch["audio"][row, :length] == index + 1).all() and not batch["audio"][row, length:].any()
            found.append(index)
    assert sorted(found) == [i for i in range(len(LENGTHS)) if i != BROKEN]
    assert len(data) == len(LENGTHS)


@pytest.mark.parametrize("shares", [2, 4])
def test_each_share_reads_its_own_and_all_agree_on_the_batches(shares):
    """Also the share that comes to an end before the others."""
    told, together = {}, threading.Barrier(shares, timeout=10)
    data, batches = [sounds(batch_size=4) for _ in range(shares)], {}

    def evaluate(share):
        def exchange(own):
            told[share] = own.copy()
            together.wait()
            everyones = np.stack([told[other] for other in range(shares)])
            together.wait()
            return everyones

        batches[share] = list(data[share].batches(share, shares, exchange=exchange))

    threads = [threading.Thread(target=evaluate, args=(share,)) for share in range(shares)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = [set(one._source.asked) for one in data]
    assert set.union(*asked) == set(range(len(LENGTHS))) and sum(map(len, asked)) == len(LENGTHS)
    found = []
    for parts in zip(*(batches[share] for share in range(shares)), strict=True):
        assert len({part["audio"].shape for part in parts}) == 1 and len(parts[0]["mask"]) == 4 // shares
        assert any(part["mask"].any() for part in parts)
        for share, part in enumerate(parts):
            own = part["index"][part["mask"]]
            assert set(own) <= asked[share]
            assert (part["lengths"][part["mask"]] == np.array(LENGTHS)[own]).all()
            assert (part["audio"].max(axis=1)[part["mask"]] == own + 1).all()
            found += list(own)
    assert sorted(found) == [i for i in range(len(LENGTHS)) if i != BROKEN]


@pytest.mark.parametrize(("seconds", "devices", "rows"), [(16, 1, 2), (8, 1, 1), (8, 2, 2), (64, 2, 4)])
def test_long_recordings_go_in_batches_of_fewer_rows(monkeypatch, seconds, devices, rows):
    monkeypatch.setattr(eval_sounds, "LONGEST_FULL", seconds)
    batches = list(sounds(batch_size=4).batches(devices=devices))
    assert {batch["audio"].shape[1]: len(batch["mask"]) for batch in batches} == {40: 4, 320: rows}
    found = np.concatenate([batch["index"][batch["mask"]] for batch in batches])
    assert sorted(found) == [i for i in range(len(LENGTHS)) if i != BROKEN]


def test_what_a_share_could_not_read_is_told_by_another_that_has_the_same():
    """Two processes with one share: a file that one of them cannot read counts for neither."""
    data = sounds(batch_size=2)

    def exchange(own):
        return np.where(own == 320, 0, own)[np.newaxis]  # the other could not read the longest

    found = np.concatenate([batch["index"] for batch in data.batches(exchange=exchange)])
    assert sorted(found[found >= 0]) == [i for i in range(len(LENGTHS)) if i not in (BROKEN, LENGTHS.index(200))]


def test_the_death_of_a_reading_thread_is_told():
    class Broken(Recordings):
        def read(self, index):
            raise KeyError("no such shard")

    data = EvalSounds(Broken(), sample_rate=RATE, limit=0, batch_size=2, threads=2)
    with pytest.raises(DeadReader, match=r"a thread that reads the data died \(KeyError: 'no such shard'\)"):
        list(data.batches())


def test_a_limit_takes_recordings_spread_over_the_source():
    data = sounds(limit=3)
    found = np.concatenate([batch["index"] for batch in data.batches()])
    assert sorted(found[found >= 0]) == [0, 6]  # 0, 3 and 6, of which 3 is broken
    with pytest.raises(ValueError, match="limit -1 is negative"):
        sounds(limit=-1)
