"""Many processes as one job: how each finds the others, and that none waits for the dead.

A process learns its place from flags, from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, from SLURM or
Open MPI, or from a Cloud TPU; where none of them speaks of others it is alone.
"""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging

from simvq_jax import cli
from simvq_jax.accelerators import tpu_is_present
from simvq_jax.agreement import wait_for_all

# Named as jax.distributed.initialize names them.
FLAGS = {"coordinator_address": "", "num_processes": 0, "process_id": -1}
HELP = {
    "coordinator_address": "several processes: HOST:PORT of process 0, the same for all; else found (docs/CLUSTERS.md)",
    "num_processes": "several processes: how many",
    "process_id": "several processes: which of them this is, from 0",
}
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# jax's name of a scheduler -> a variable that only its tasks have, and where their number is.
SCHEDULERS = {
    "slurm": ("SLURM_STEP_NODELIST", "SLURM_NTASKS"),
    "ompi": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"),
}
LOSS = (
    "another process of the job is gone ({}): see what it said, and start all of them again; training goes on from the"
    " newest checkpoint."
)
# What errors say of a loss, those of jax by the first word of some; a fault of this process' own has another.
LOST = ("Gloo", "NCCL", "by peer", "Socket closed", "coordination service")
LOST_STATUSES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED")
TRY_AGAIN = 75  # exit status of a process that could not go on for want of another: EX_TEMPFAIL of sysexits.h
MARGIN = 60  # seconds that jax waits beyond our limit: its own end is an abort with a stack trace


class Place(NamedTuple):
    """This process among all. coordinator: HOST:PORT of process 0."""

    coordinator: str
    processes: int
    process: int


class Timeouts(NamedTuple):
    """Seconds. initialization: until all have come. heartbeat: from a process' death until the others end. shutdown:
    that an ending process waits for the others."""

    initialization: int
    heartbeat: int
    shutdown: int

    def check(self) -> None:
        """Raises ValueError on one below 1."""
        for name, seconds in self._asdict().items():
            if seconds < 1:
                raise ValueError(f"cluster.{name}_timeout is {seconds} but must be at least 1 second.")


@contextlib.contextmanager
def joined(timeouts: Timeouts, flags: Mapping[str, Any], *, saves_on_sigterm: bool = False) -> Iterator[None]:
    """Makes this process one of its job, if there is one, before anything asks for a device.

    flags: values of FLAGS, where they are not the default. saves_on_sigterm: what runs inside asks a `StopRequest`;
    otherwise the signal ends it. In the end every process waits for all, however long one still writes or draws. An
    error inside ends this process at once, and so, within `timeouts.heartbeat`, the others: to leave in good order it
    would have to wait for them, and they wait for it.

    Raises ValueError on a place that cannot be.
    """
    timeouts.check()
    jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
    _join(timeouts, place_of({**FLAGS, **flags}, os.environ))
    if jax.process_index() and logging.get_verbosity() == logging.WARNING:
        logging.set_verbosity(logging.ERROR)  # process 0 says it; what cannot be read is listed by each
    try:
        yield
        wait_for_all("the end")
    except Exception as error:
        if jax.process_count() == 1:
            raise
        lost = is_loss(error)
        if not lost and not isinstance(error, cli.MISTAKES):  # a fault of ours, which ends as it would alone
            traceback.print_exc()
            _exit_at_once(1)
        cli.tell(f"process {jax.process_index()}: {LOSS.format(_first_line(error)) if lost else error}")
        _exit_at_once(TRY_AGAIN if lost else cli.FAILED)


def taken_from(arguments: dict[str, Any]) -> dict[str, Any]:
    """The values of FLAGS among a command's arguments, of which they are removed."""
    return {name: arguments.pop(name) for name in FLAGS if name in arguments}


def place_of(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Place | None:
    """The place that flags or variables give; None where they are silent. Raises ValueError on half of one."""
    coordinator, count, process = (environment.get(name, "") for name in VARIABLES)
    coordinator = flags["coordinator_address"] or coordinator
    count = str(flags["num_processes"] or count)
    process = str(flags["process_id"]) if flags["process_id"] >= 0 else process
    if not (coordinator or count or process):
        return None
    given = (
        f"coordinator_address={coordinator or 'none'}, num_processes={count or 'none'}, process_id={process or 'none'}"
    )
    if not (coordinator and count.isdecimal() and process.isdecimal() and int(process) < int(count)):
        raise ValueError(
            f"the place among processes is {given} but needs all three, with 0 <= process_id < num_processes: give the"
            f" flags, or {', '.join(VARIABLES)}."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"coordinator_address is {coordinator!r} but must be HOST:PORT, the port below 65,536.")
    return Place(coordinator, int(count), int(process))


def scheduler_of(environment: Mapping[str, str]) -> str | None:
    """jax's name of the scheduler of which this is one of several tasks; None where it is of none."""
    for name, (marker, tasks) in SCHEDULERS.items():
        if marker in environment and int(environment.get(tasks, "1")) > 1:
            return name
    return None


def _join(timeouts: Timeouts, place: Place | None) -> None:
    scheduler = scheduler_of(os.environ)
    options: dict[str, Any] = {
        "initialization_timeout": timeouts.initialization + MARGIN,
        "heartbeat_timeout_seconds": timeouts.heartbeat,
        "shutdown_timeout_seconds": timeouts.shutdown,
    }
    if place is not None:
        options |= {"cluster_detection_method": "deactivate", **dict(zip(FLAGS, place, strict=True))}
    elif scheduler is not None:
        options["cluster_detection_method"] = scheduler
    elif not tpu_is_present():
        return
    where = f"process {place.process} of {place.processes} at {place.coordinator}" if place else "the other processes"
    with _limit(timeouts.initialization, where):
        try:
            jax.distributed.initialize(**options)
        except ValueError:
            if place is not None or scheduler is not None:
                raise  # a TPU without others around it is no mistake


@contextlib.contextmanager
def _limit(seconds: int, where: str) -> Iterator[None]:
    """Ends this process with a sentence if what is inside takes longer: it cannot be interrupted."""

    def end():
        cli.tell(
            f"{where} did not find all others within {seconds} seconds (cluster.initialization_timeout): look whether"
            " each was started, and reaches that address."
        )
        _exit_at_once(TRY_AGAIN)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_loss(error: BaseException) -> bool:
    """Whether an error of one of several processes comes of the end of another: jax says so in many words and types."""

    def says_so(cause: BaseException) -> bool:
        of_jax = isinstance(cause, jax.errors.JaxRuntimeError) and str(cause).startswith(LOST_STATUSES)
        return of_jax or any(word in str(cause) for word in LOST)

    return jax.process_count() > 1 and any(map(says_so, causes(error)))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came of, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _exit_at_once(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
