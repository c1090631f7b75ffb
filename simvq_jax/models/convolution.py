"""Convolution, with gradients of its own on a CPU.

XLA has a fast convolution for CPUs, but gradients fall outside of it: that for the kernel is a convolution whose window
is a whole picture, that for the input of a strided one has holes. Both can be had from what is fast there: products of
matrices, and convolutions without strides. So can the convolution of a picture smaller than its kernel, where XLA's
spends its time on laying out the kernel. Elsewhere, and where a mesh splits the work, XLA's own are taken.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp

# From which on that gains more than it costs to compile: places a picture and features of what it gives, or
# multiplications of a batch.
LARGE, WIDE = 4096, 16
LONG = 2**30
COLUMNS = 2**18  # numbers of a block of windows, so that it stays in cache


def convolve(x, kernel, strides, padding, dilation):
    """x: (b, ..., c), kernel: (..., c, features) -> (b, ..., features).

    strides, dilation: an int for every axis between. padding: a pair of them, of zeros before and after. Long ones, in
    float32 on one device, are differentiated in reverse alone.
    """
    how = tuple(strides), tuple(map(tuple, padding)), tuple(dilation)
    size = jax.eval_shape(lambda x, kernel: _convolution(x, kernel, *how), x, kernel).shape
    lone = jax.sharding.get_abstract_mesh().size <= 1
    cut = any(n < 0 for pair in padding for n in pair)
    if lone and not cut and x.dtype == jnp.float32 and _is_large(size, kernel.shape):
        return _with_own_gradients(x, kernel, *how)
    return _convolution(x, kernel, *how)


def _is_large(size, kernel_size) -> bool:
    """size: of what the convolution gives."""
    if not all(isinstance(n, int) for n in size):  # of an exported program
        return False
    batch, *places, features = size
    multiplications = batch * math.prod(places) * math.prod(kernel_size)
    return batch > 0 and ((math.prod(places) >= LARGE and features >= WIDE) or multiplications >= LONG)


def _convolution(x, kernel, strides, padding, dilation):
    axes = "DHW"[-len(strides) :]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _with_own_gradients(x, kernel, strides, padding, dilation):
    xlas = functools.partial(_convolution, strides=strides, padding=padding, dilation=dilation)
    if max(strides) > 1 or kernel.size < x.size:
        return xlas(x, kernel)
    by_taps = functools.partial(_by_taps, padding=padding, dilation=dilation)
    return jax.lax.platform_dependent(x, kernel, cpu=by_taps, default=xlas)


def _forward(x, kernel, strides, padding, dilation):
    return _with_own_gradients(x, kernel, strides, padding, dilation), (x, kernel)


def _backward(strides, padding, dilation, saved, g):
    sizes = {"strides": strides, "padding": padding, "dilation": dilation}
    ways = [functools.partial(_of_xla, number, **sizes) for number in (0, 1)]
    own_ways = list(ways)
    if max(strides) > 1 and max(dilation) == 1:
        own_ways[0] = functools.partial(_for_input, strides=strides, padding=padding)
    if max(strides) == 1 and saved[1].size >= g.size:
        own_ways[0] = functools.partial(_for_input_by_taps, padding=padding, dilation=dilation)
    if len(strides) == 2:  # over one axis XLA's is as fast
        own_ways[1] = functools.partial(_for_kernel, **sizes)
    return tuple(
        jax.lax.platform_dependent(*saved, g, cpu=own, default=xlas) for own, xlas in zip(own_ways, ways, strict=True)
    )


_with_own_gradients.defvjp(_forward, _backward)


def _of_xla(number, x, kernel, g, *, strides, padding, dilation):
    """XLA's gradient for x (number 0) or the kernel (1)."""
    convolution = lambda x, kernel: _convolution(x, kernel, strides, padding, dilation)  # noqa: E731
    return jax.vjp(convolution, x, kernel)[1](g)[number]


def _by_taps(x, kernel, padding, dilation):
    """The convolution without strides: the sum over the kernel's places of x, moved, times the kernel there."""
    *taps, channels, features = kernel.shape
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in padding), (0, 0, 0)])
    size = [n - (t - 1) * d for n, t, d in zip(x.shape[1:-1], taps, dilation, strict=True)]
    total = jnp.zeros((len(x) * math.prod(size), features), x.dtype)
    for tap in itertools.product(*map(range, taps)):
        moved = x[:, *(slice(i * d, i * d + n) for i, d, n in zip(tap, dilation, size, strict=True))]
        total += moved.reshape(-1, channels) @ kernel[tap]
    return total.reshape(len(x), *size, features)


def _for_input_by_taps(x, kernel, g, *, padding, dilation):
    """The gradient for x, of a convolution without strides."""
    axes = len(dilation)
    reach = [(t - 1) * d for t, d in zip(kernel.shape[:axes], dilation, strict=True)]
    pads = [(n - before, n - after) for n, (before, after) in zip(reach, padding, strict=True)]
    return _by_taps(g, jnp.flip(kernel, range(axes)).swapaxes(-1, -2), pads, dilation)


def _for_input(x, kernel, g, *, strides, padding):
    """The gradient for x: of every phase of the strides, a convolution of g with the taps that fall on it."""
    size, axes = x.shape[1:-1], len(strides)
    # Of x with its padding, filled up to whole strides.
    steps = [-(-(n + sum(pad)) // stride) for n, pad, stride in zip(size, padding, strides, strict=True)]
    phases = []
    for phase in itertools.product(*map(range, strides)):
        taps = kernel[tuple(slice(first, None, stride) for first, stride in zip(phase, strides, strict=True))]
        pads = [(t - 1, n - m) for t, n, m in zip(taps.shape, steps, g.shape[1:-1], strict=False)]
        turned = jnp.flip(taps, range(axes)).swapaxes(-1, -2)
        phases.append(
            _convolution(g, turned, (1,) * axes, pads, (1,) * axes)
            if taps.size
            else jnp.zeros((len(x), *steps, x.shape[-1]), x.dtype)
        )
    # (b, steps..., c, phases...) -> phases within their steps.
    of_phases = jnp.stack(phases, axis=-1).reshape(len(x), *steps, x.shape[-1], *strides)
    order = [0, *(axis for i in range(axes) for axis in (1 + i, 2 + axes + i)), 1 + axes]
    padded = of_phases.transpose(order).reshape(
        len(x), *(n * stride for n, stride in zip(steps, strides, strict=True)), x.shape[-1]
    )
    return padded[:, *(slice(pad[0], pad[0] + n) for pad, n in zip(padding, size, strict=True))]


def _for_kernel(x, kernel, g, *, strides, padding, dilation):
    """The gradient for the kernel: windows of x, as a matrix, times g; a block of rows of g at a time.

    x: (b, h, w, c), kernel: (kh, kw, c, features), g: (b, h', w', features).
    """
    taps, channels, features = kernel.shape[:2], x.shape[-1], g.shape[-1]
    height, width = g.shape[1:3]
    window = math.prod(taps) * channels
    # Long enough to outweigh the sum, which every block reads and writes.
    rows = min(max(COLUMNS // (window * width), -(-features // width), 1), height)
    blocks = -(-height // rows)
    span = (rows - 1) * strides[0] + (taps[0] - 1) * dilation[0] + 1
    last = (blocks - 1) * rows * strides[0] + span
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    x = jnp.pad(x, ((0, 0), (0, max(last - x.shape[1], 0)), (0, 0), (0, 0)))
    g = jnp.pad(g, ((0, 0), (0, blocks * rows - height), (0, 0), (0, 0)))

    def add(total, number):
        item, row = number // blocks, number % blocks * rows
        here = jax.lax.dynamic_slice(x, (item, row * strides[0], 0, 0), (1, span, *x.shape[2:]))[0]
        g_here = jax.lax.dynamic_slice(g, (item, row, 0, 0), (1, rows, width, features))
        windows = [
            here[i * dilation[0] :: strides[0], j * dilation[1] :: strides[1]][:rows, :width]
            for i, j in itertools.product(*map(range, taps))
        ]
        columns = jnp.concatenate(windows, axis=-1).reshape(rows * width, window)
        return total + columns.T @ g_here.reshape(rows * width, features), None

    start = jnp.zeros((window, features), jnp.float32)
    return jax.lax.scan(add, start, jnp.arange(len(x) * blocks))[0].reshape(kernel.shape)
