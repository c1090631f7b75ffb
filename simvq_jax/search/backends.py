"""The backends, and which of them serves a device, a codebook and a number of tokens."""

import functools
import logging

import jax

from simvq_jax.search import blockwise, hopper, matrix_unit, portable, tpu

KERNELS = {"hopper": hopper, "tpu": tpu}
KERNEL_OF_PLATFORM = {"gpu": "hopper", "tpu": "tpu"}
NAMES = ("auto", "blockwise", *KERNELS, "portable")


@functools.cache
def choose(name: str, device: jax.Device, codebook: jax.ShapeDtypeStruct, sizes: blockwise.Sizes | None):
    """The search function (tokens, codebook, weight, bias, allowed) -> Found; the same one for the same arguments.

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
        reason = KERNELS[kernel].why_not(device, d, matrix_unit.code_limbs(codebook.dtype))
        if reason is None:
            group_maxima, groups = KERNELS[kernel].coarse_pass(k)
            return functools.partial(
                matrix_unit.search, group_maxima=group_maxima, groups=groups, platform=device.platform
            )
        if name != "auto":
            raise ValueError(f"backend {name!r} does not apply here ({reason}): pass backend='auto'.")
        _say_once(f"nearest_code: 'blockwise' instead of '{kernel}': {reason}.")
    sizes = sizes or blockwise.choose_sizes(k, d, device.platform)
    return functools.partial(blockwise.search, sizes=sizes, platform=device.platform)


def device_of(array):
    """The device that will hold the work: that of a concrete array, or the default one."""
    if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer):
        return min(array.devices(), key=lambda device: device.id)
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    if default is None or isinstance(default, str):
        return jax.devices(default)[0]
    return default


@functools.cache
def _say_once(message: str) -> None:
    logging.getLogger("simvq_jax").warning(message)
