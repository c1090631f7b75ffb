"""Whole recordings in batches of like lengths: each once, on every process its rows, the unreadable left out."""

import numpy as np
import pytest

from simvq_jax.data.eval_sounds import EvalSounds

RATE = 10
LENGTHS = [5, 30, 10, 11, 40, 200, 39, 1, 21, 8]
BROKEN = 3


class Recordings:
    """Recording i holds LENGTHS[i] times the number i + 1."""

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        return self.read(index)

    def read(self, index):
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
    assert data.keys == {i: str(i) for i in found} and len(data) == len(LENGTHS)


def test_processes_get_their_rows_of_the_same_batches():
    whole = list(sounds(batch_size=4).batches())
    shares = [list(sounds(batch_size=4).batches(process, 2)) for process in range(2)]
    assert len(whole) == len(shares[0]) == len(shares[1])
    for together, *parts in zip(whole, *shares, strict=True):
        for name in together:
            np.testing.assert_array_equal(together[name], np.concatenate([part[name] for part in parts]))


def test_a_limit_takes_recordings_spread_over_the_source():
    data = sounds(limit=3)
    found = np.concatenate([batch["index"] for batch in data.batches()])
    assert sorted(found[found >= 0]) == [0, 6]  # 0, 3 and 6, of which 3 is broken
    with pytest.raises(ValueError, match="limit -1 is negative"):
        sounds(limit=-1)
