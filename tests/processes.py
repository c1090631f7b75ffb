"""Several processes of one job on this machine, each with a few simulated devices."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """This process's, with another number of devices."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return os.environ | {"XLA_FLAGS": flags}


@contextlib.contextmanager
def job(commands: list[list[str]], devices: int, port: int = 0) -> Iterator[list[subprocess.Popen]]:
    """Starts a process a command, in order, as one job; those that still run at the end are killed."""
    address = f"127.0.0.1:{port or free_port()}"
    started = []
    for number, command in enumerate(commands):
        place = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(len(commands)),
            "JAX_PROCESS_ID": str(number),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment(devices) | place,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def finish(started: list[subprocess.Popen], seconds: float = 300) -> list[str]:
    """What each process said, once all have ended. Fails if that takes longer."""
    deadline = time.monotonic() + seconds
    return [process.communicate(timeout=max(deadline - time.monotonic(), 0.1))[0] for process in started]


def run(*arguments: str, processes: int, devices: int) -> list[str]:
    """Runs one command in every process; what each said. Fails unless all end well."""
    with job([list(arguments)] * processes, devices) as started:
        said = finish(started)
        for process, text in zip(started, said, strict=True):
            assert process.returncode == 0, text
    return said
