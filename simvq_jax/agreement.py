"""What the processes of one job tell each other beside the step: that they are alike, a word, a sum. Every process must
call each of these at the same place; a lone one gets its own word back."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from simvq_jax.versions import of_installed

SEEN_WITHIN = 60.0  # seconds until a network's file system must show on one machine what another has written


def check_alike(what: str, text: str) -> None:
    """Raises ValueError unless `text` is the same on every process, and the versions that compute with it."""
    own = _digest(f"{of_installed(('simvq_jax', 'jax', 'jaxlib', 'flax', 'optax'))} {text}")
    everyones = np.reshape(multihost_utils.process_allgather(own), (-1, len(own)))
    others = [process for process, other in enumerate(everyones) if (other != everyones[0]).any()]
    if others:
        raise ValueError(
            f"{what} of process {', '.join(map(str, others))} differs from that of process 0: start all processes with"
            " the same command, files and versions."
        )


def _digest(text: str) -> np.ndarray:
    """A fingerprint, as uint32 (2,)."""
    return np.frombuffer(hashlib.sha256(os.fsencode(text)).digest()[:8], np.uint32)


def all_see(read: Callable[[], str]) -> bool:
    """Whether every process reads what process 0 reads, within SEEN_WITHIN seconds."""
    wanted = multihost_utils.broadcast_one_to_all(_digest(read()))
    return all_agree(comes_true(lambda: bool((_digest(read()) == wanted).all())))


def comes_true(holds: Callable[[], bool]) -> bool:
    """Whether what another process has written is seen here, within SEEN_WITHIN seconds."""
    deadline = time.monotonic() + SEEN_WITHIN
    while not (true := holds()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return true


def is_first() -> bool:
    """Whether this is process 0, which alone writes what all share."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns once every process is here. name: of this place in the program."""
    multihost_utils.sync_global_devices(name)


def agreed(value: bool) -> bool:
    """Process 0's word, on every process."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def all_agree(value: bool) -> bool:
    """Whether `value` is true on every process."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(value))))


def total_over_processes(count: int) -> int:
    """Sum of each process's count."""
    return int(np.sum(multihost_utils.process_allgather(np.asarray(count))))


def of_shares(numbers: np.ndarray, share: int, shares: int) -> np.ndarray:
    """What the process of each share has for itself, (n,), as (shares, n): the lowest, where several have one share."""
    gathered = multihost_utils.process_allgather(np.array([share, *numbers], np.int32)).reshape(-1, 1 + len(numbers))
    return np.stack([gathered[gathered[:, 0] == i, 1:].min(axis=0) for i in range(shares)])


def whole(tree):
    """A tree of global arrays as numpy, whole."""
    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree, tiled=True))


def rows_of(tree, processes: Sequence[int]):
    """Of numpy arrays that each process has for itself the rows of some processes, one behind the other."""

    def join(array, gathered):
        by_process = np.reshape(gathered, (-1, *np.shape(array)))
        return np.concatenate([by_process[process] for process in processes])

    return jax.tree.map(join, tree, multihost_utils.process_allgather(tree))
