"""The backends, and which of them serves a device, a codebook and a number of tokens."""

import contextlib
import functools
import importlib
import logging

import jax

from simvq_jax.search import blockwise, matrix_unit, portable

KERNELS = ("hopper", "tpu")
KERNEL_OF_PLATFORM = {"gpu": "hopper", "tpu": "tpu"}
NAMES = ("auto", "blockwise", *KERNELS, "portable")


@functools.cache
def choose(name: str, device: jax.Device, codebook: jax.ShapeDtypeStruct, sizes: blockwise.Sizes | None):
    """The search function (tokens, codebook, weight, bias, allowed, middle) -> Found; the same for the same arguments.

    Raises ValueError if the name is unknown, or the backend does not apply to the device or the codebook.
    """
    if name not in NAMES:
        raise ValueError(f"backend is {name!r} but must be one of {NAMES}: pass backend='auto'.")
    if sizes is not None and name != "blockwise":
        raise ValueError(f"sizes are for backend='blockwise' but backend is {name!r}: pass backend='blockwise'.")
    if sizes is not None and (min(sizes) < 1 or sizes.block < sizes.group):
        raise ValueError(f"sizes is {sizes} but all must be at least 1, and block at least group.")
    if name == "portable":
        return portable.search
    k, d = codebook.shape
    kernel = KERNEL_OF_PLATFORM.get(device.platform) if name == "auto" else name
    if kernel in KERNELS:
        module = kernel_module(kernel)
        reason = module.why_not(device, d, matrix_unit.code_limbs(codebook.dtype))
        if reason is None:
            group_maxima, groups = module.coarse_pass(k)
            return functools.partial(
                matrix_unit.search, group_maxima=group_maxima, groups=groups, platform=device.platform
            )
        if name != "auto":
            raise ValueError(f"backend {name!r} does not apply here ({reason}): pass backend='auto'.")
        _say_once(f"nearest_code: 'blockwise' instead of '{kernel}': {reason}.")
    sizes = sizes or blockwise.choose_sizes(k, d, device.platform)
    return functools.partial(blockwise.search, sizes=sizes, platform=device.platform)


def kernel_module(name: str):
    """The module of one of KERNELS; loaded only where it may serve, as Pallas takes its time."""
    return importlib.import_module(f"simvq_jax.search.{name}")


def device_of(array):
    """A device like those that will do the work: that of a concrete array, one of the current mesh, or the default."""
    if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer):
        return min(array.devices(), key=lambda device: device.id)
    of_mesh = jax.sharding.get_abstract_mesh().abstract_device
    if of_mesh is not None:
        with contextlib.suppress(RuntimeError):  # a program for another machine: that device's description must do
            return jax.devices(of_mesh.platform)[0]
        return of_mesh
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    if default is None or isinstance(default, str):
        return jax.devices(default)[0]
    return default


@functools.cache
def _say_once(message: str) -> None:
    logging.getLogger("simvq_jax").warning(message)
