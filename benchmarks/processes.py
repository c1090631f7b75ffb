"""Several processes of one job on this machine, each with simulated devices."""

import os
import socket


def environments(processes: int, devices: int) -> list[dict[str, str]]:
    """The environment of each process, by which they find each other; a lone one is told of no others."""
    alone = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    if processes == 1:
        return [alone]
    job = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
    return [alone | job | {"JAX_PROCESS_ID": str(number)} for number in range(processes)]


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
