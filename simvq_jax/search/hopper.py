"""Coarse scores on NVIDIA Hopper: maxima over groups of codes, one fused Pallas (Mosaic GPU) kernel.

A block of the grid keeps a tile of tokens in shared memory and walks over a range of codes. One warpgroup, the loader,
streams the codes there by TMA (the copy engine); the others, the workers, multiply them by their own rows of tokens
(wgmma) and keep the running maximum of every lane in registers. Neither scores nor indices leave the chip.

A worker scores `rows` tokens by a tile of codes. Code c of a tile belongs to lane c % LANES, so the maximum over a
group is elementwise from tile to tile. What bounds the speed, 64 tokens by 256 codes at d columns and one
product: tensor cores 8 d cycles; epilogue 384 cycles (128 moves, 128 maxima at half rate, a thread), mostly hidden
behind the other worker's product from d = 64 on; codes 512 d bytes from L2, shared by both workers. To make the workers
take turns between product and epilogue costs more than it hides.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from simvq_jax.search.codes import Groups

LANES = 64  # columns of a running maximum
# Codes whose scores share one maximum: group s * LANES + l has codes (s * GROUP + r) * LANES + l, all r. All codes of a
# token's best group are scored again, and all its maxima looked through, so small codebooks have small groups.
GROUP = 32
SMALL_GROUPS = {2048: 8, 16_384: 16}  # instead, up to so many codes
NEVER = float(np.finfo(np.float32).max) / 4  # half norm of a code that must not win; finite, so that sums of it are

CHUNK = 64  # columns of a tile, of one limb, in a stage of the pipeline: 128 bytes of bfloat16, the widest swizzle
STAGES = 8  # enough in flight to hide the latency of L2; more hide no more
# Workers, tokens of each, codes of a tile, and the stages that must fit beside those, in order of preference. Tokens
# times codes are what the registers hold. 128 times 128 is slower for two and three products, and no search takes one.
LAYOUTS = ((2, 64, 256, 3), (2, 64, 128, 3), (1, 64, 128, 2))
MULTIPROCESSORS = 132  # of an H100 or H200 SXM; another count costs speed only
# Shared memory a block may have (227 KiB), less barriers, alignment and what the compiler takes for itself.
SHARED_BYTES = (227 - 4) * 1024
# The registers of 3 x 128 threads: a worker has 128 accumulators and 32 maxima a thread, the loader next to none.
WORKER_REGISTERS, LOADER_REGISTERS = 240, 24
STORED = (plgpu.TilingTransform((8, CHUNK)), plgpu.SwizzleTransform(128))  # what wgmma reads without bank conflicts
OUT = "out_type" if "out_type" in inspect.signature(plgpu.kernel).parameters else "out_shape"  # the latter in older jax


class Plan(NamedTuple):
    """Sizes of one launch."""

    workers: int  # warpgroups that multiply
    rows: int  # tokens of a worker: 64, one wgmma high
    tile: int  # codes a worker scores at once
    stages: int  # chunks in flight
    chunks: int  # of a tile
    tiles: int  # of workers * rows tokens
    block: int  # codes whose maxima are written at once; K is padded to whole blocks
    blocks: int
    splits: int  # parts of the codebook that run side by side


def coarse_pass(k: int) -> tuple[Callable, Groups]:
    """The kernel as it serves K codes, and the groups that it takes maxima over."""
    group = next((size for most, size in SMALL_GROUPS.items() if k <= most), GROUP)
    return functools.partial(group_maxima, group=group), Groups(group, LANES)


def group_maxima(u_limbs, code_limbs, half_norms, products, *, group=GROUP, epilogue=True, interpret=None):
    """Largest score of every group of codes, `max_k sum_(i, j) u_i . c_kj - h_k`.

    Sums in float32 as the tensor cores do it: rounded toward zero, starting from -h. Under `jax.vmap` the batch
    becomes one more axis of the grid, planned as if alone: flatten tokens instead where codes are shared.

    Args:
        u_limbs: bfloat16 (N, d) each, the limbs of the tokens. code_limbs: bfloat16 (K, d) each.
        half_norms: float32 (K,), NEVER or inf where a code must not win.
        products: pairs (i, j) of limbs to multiply and add; limbs of codes beyond the largest j are not looked at.
        group: codes of a group, for GROUP.
        epilogue: False leaves half norms and maxima out, to time the product; the result is then meaningless.
        interpret: parameters of the GPU interpreter, to run on a CPU.

    Returns:
        float32 (N, G), G = ceil(K / (GROUP * LANES)) * LANES; column s * LANES + l is the maximum over the codes
        (s * GROUP + r) * LANES + l for r in 0..GROUP-1.

    Raises:
        ValueError: d beyond what fits shared memory.
    """
    code_limbs = code_limbs[: 1 + max(j for _, j in products)]  # all that are loaded must be multiplied
    (n, d), (k,) = u_limbs[0].shape, half_norms.shape
    plan = plan_launch(n, k, d, len(u_limbs), group)
    tokens, codes, columns = plan.tiles * plan.workers * plan.rows, plan.blocks * plan.block, plan.chunks * CHUNK
    u_limbs = [_padded(u, tokens, columns) for u in u_limbs]
    code_limbs = [_padded(c, codes, columns) for c in code_limbs]
    bias = jnp.pad(-half_norms, (0, codes - k), constant_values=-NEVER)
    result: dict[str, Any] = {OUT: jax.ShapeDtypeStruct((tokens, plan.blocks * LANES), jnp.float32)}
    launch = plgpu.kernel(
        functools.partial(_kernel, plan, products, epilogue, interpret is not None, len(u_limbs)),
        # The last axis of the grid runs fastest: blocks that start together read the same codes.
        grid=(plan.splits, plan.tiles),
        grid_names=("split", "tile"),
        num_threads=plan.workers + 1,
        thread_name="warpgroup",
        interpret=interpret,
        **result,
    )
    return launch(*u_limbs, *code_limbs, bias)[:n]


def why_not(device: jax.Device, d: int, code_limbs: int) -> str | None:
    """Why the kernel cannot search codes of length d on such a device with two limbs of the tokens, or None.

    code_limbs: of no matter here, where one is loaded after the other; the TPU kernel holds all.
    """
    capability = getattr(device, "compute_capability", "none")
    if device.platform not in ("gpu", "cuda") or capability != "9.0":
        return f"it needs a Hopper GPU (compute capability 9.0), not {device.device_kind} ({capability})"
    try:
        plan_launch(1, 1, d, 2)
    except ValueError as error:
        return str(error)
    return None


def plan_launch(n: int, k: int, d: int, u_limbs: int, group: int = GROUP) -> Plan:
    """The first of LAYOUTS that leaves room for a pipeline, and enough splits to fill the chip."""
    chunks = -(-d // CHUNK)
    for workers, rows, tile, least_stages in LAYOUTS:
        stage_bytes = tile * CHUNK * 2 + tile * 4
        tokens_bytes = u_limbs * workers * rows * chunks * CHUNK * 2
        stages = min(STAGES, (SHARED_BYTES - tokens_bytes) // stage_bytes)
        half_empty = workers == 2 and n <= rows
        if stages >= least_stages and not half_empty:
            break
    else:
        widest = (SHARED_BYTES - 2 * stage_bytes) // (u_limbs * 64 * CHUNK * 2) * CHUNK
        raise ValueError(f"d is {d} but shared memory holds at most {widest} with {u_limbs} limbs of the tokens")
    block = group * LANES
    tiles, blocks = -(-n // (workers * rows)), -(-k // block)

    def cost(splits):  # in codes; to start costs about as much as 512
        return math.ceil(tiles * splits / MULTIPROCESSORS) * (blocks * block / splits + 512)

    splits = min((s for s in range(1, blocks + 1) if blocks % s == 0), key=cost)
    stages = min(stages, blocks // splits * (block // tile) * chunks)  # no more than there is to load
    return Plan(workers, rows, tile, stages, chunks, tiles, block, blocks, splits)


def _padded(a, rows: int, columns: int):
    return jnp.pad(a, ((0, rows - a.shape[0]), (0, columns - a.shape[1])))


def _kernel(plan, products, epilogue, interpreted, u_count, *refs):
    """One block of the grid. refs in global memory: limbs of tokens, limbs of codes, bias, result."""
    u_gmem, (*codes_gmem, bias_gmem, out_gmem) = refs[:u_count], refs[u_count:]

    def run(u, codes, bias, u_ready, ready, free):
        warpgroup = lax.axis_index("warpgroup")

        @pl.when(warpgroup == plan.workers)
        def _():
            if plan.workers == 2:
                plgpu.set_max_registers(LOADER_REGISTERS, action="decrease")
            _load_tokens(plan, u_gmem, u, u_ready)
            _load_codes(plan, codes_gmem, bias_gmem, codes, bias, ready, free)

        @pl.when(warpgroup < plan.workers)
        def _():
            if plan.workers == 2:
                plgpu.set_max_registers(WORKER_REGISTERS, action="increase")
            score = functools.partial(_scores, plan, products, epilogue, interpreted, u, codes, bias, ready, free)
            plgpu.barrier_wait(u_ready.at[warpgroup])
            _work(plan, epilogue, score, out_gmem)

    pl.run_scoped(
        run,
        plgpu.SMEM((u_count, plan.workers, plan.chunks, plan.rows, CHUNK), jnp.bfloat16, transforms=STORED),
        plgpu.SMEM((plan.stages, plan.tile, CHUNK), jnp.bfloat16, transforms=STORED),
        plgpu.SMEM((plan.stages, plan.tile), jnp.float32),
        # A copy by TMA arrives once at its barrier; a worker's arrival counts as one, however many threads it has.
        plgpu.Barrier(num_arrivals=u_count * plan.chunks, num_barriers=plan.workers),
        plgpu.Barrier(num_arrivals=2, num_barriers=plan.stages),
        plgpu.Barrier(num_arrivals=plan.workers, num_barriers=plan.stages),
        collective_axes="warpgroup",
    )


def _load_tokens(plan, u_gmem, u, u_ready):
    first = lax.axis_index("tile") * (plan.workers * plan.rows)
    for worker in range(plan.workers):
        rows = pl.ds(first + worker * plan.rows, plan.rows)
        for limb, source in enumerate(u_gmem):
            for chunk in range(plan.chunks):
                columns = pl.ds(chunk * CHUNK, CHUNK)
                plgpu.copy_gmem_to_smem(source.at[rows, columns], u.at[limb, worker, chunk], u_ready.at[worker])


def _load_codes(plan, codes_gmem, bias_gmem, codes, bias, ready, free):
    """Streams the chunks of this split's codes, limb by limb; each with the bias of its tile, so stages are alike."""
    limbs = len(codes_gmem)
    chunks = plan.blocks // plan.splits * (plan.block // plan.tile) * plan.chunks
    first = lax.axis_index("split") * (plan.blocks // plan.splits * plan.block)

    def load(chunk, carry):
        rows = pl.ds(first + lax.div(chunk, plan.chunks) * plan.tile, plan.tile)
        columns = pl.ds(lax.rem(chunk, plan.chunks) * CHUNK, CHUNK)
        for limb, source in enumerate(codes_gmem):
            item = chunk * limbs + limb
            stage = lax.rem(item, plan.stages)
            pl.when(item >= plan.stages)(functools.partial(plgpu.barrier_wait, free.at[stage]))
            plgpu.commit_smem()  # The workers' plain reads of the bias come before TMA writes over it.
            plgpu.copy_gmem_to_smem(source.at[rows, columns], codes.at[stage], ready.at[stage])
            plgpu.copy_gmem_to_smem(bias_gmem.at[rows], bias.at[stage], ready.at[stage])
        return carry

    lax.fori_loop(0, chunks, load, None)

    def drain(item, carry):
        plgpu.barrier_wait(free.at[lax.rem(item, plan.stages)])
        return carry

    # Every arrival is awaited once, so that a barrier ends in the phase its waits have seen.
    lax.fori_loop(chunks * limbs - plan.stages, chunks * limbs, drain, None)


def _work(plan, epilogue, score, out_gmem):
    """Maxima of this worker's tokens over the split's codes, written block by block."""
    worker = lax.axis_index("warpgroup")
    rows = pl.ds((lax.axis_index("tile") * plan.workers + worker) * plan.rows, plan.rows)
    blocks, tiles = plan.blocks // plan.splits, plan.block // plan.tile

    def block(b, carry):
        def tile(t, maxima):
            scores = score(worker, b * tiles + t)
            if not epilogue:
                return scores[:, :LANES]
            return functools.reduce(jnp.maximum, [scores[:, l : l + LANES] for l in range(0, plan.tile, LANES)], maxima)

        lowest = plgpu.layout_cast(jnp.full((plan.rows, LANES), -jnp.inf, jnp.float32), plgpu.Layout.WGMMA)
        maxima = lax.fori_loop(0, tiles, tile, lowest)
        # Straight from registers: four threads fill a 32-byte sector, and no shared memory is needed.
        out_gmem[rows, pl.ds((lax.axis_index("split") * blocks + b) * LANES, LANES)] = maxima
        return carry

    lax.fori_loop(0, blocks, block, None)


def _scores(plan, products, epilogue, interpreted, u, codes, bias, ready, free, worker, step):
    """Scores of one tile of codes. -> (plan.rows, plan.tile)."""
    limbs = 1 + max(j for _, j in products)

    def stage(item):  # item: of this tile
        return lax.rem(step * plan.chunks * limbs + item, plan.stages)

    def multiply_limb(accumulator, chunk, limb, first=False):
        item = chunk * limbs + limb
        if not first:
            plgpu.barrier_wait(ready.at[stage(item)])
        of_tokens = [i for i, j in products if j == limb]
        for i in of_tokens:
            # Codes are stored by rows, so a tile is the transposed right-hand side; wgmma takes it as it is.
            plgpu.wgmma(accumulator, u.at[i, worker, chunk], codes.at[stage(item)].transpose((1, 0)))
        if not first:
            # Each wgmma call is one group; groups end in order, so the item before is no longer read.
            plgpu.wgmma_wait(len(of_tokens))
            plgpu.barrier_arrive(free.at[stage(item - 1)])

    def multiply(accumulator):
        for limb in range(limbs):
            multiply_limb(accumulator, 0, limb, first=limb == 0)

        def proceed(chunk, carry):
            for limb in range(limbs):
                multiply_limb(accumulator, chunk, limb)
            return carry

        lax.fori_loop(1, plan.chunks, proceed, None)

    def product(accumulator):
        multiply(accumulator)
        return accumulator[...]

    shape = (plan.rows, plan.tile)
    plgpu.barrier_wait(ready.at[stage(0)])
    if epilogue:
        start = plgpu.layout_cast(bias[stage(0)], plgpu.Layout.WGMMA.reduce(0))
        start = lax.broadcast_in_dim(start, shape, [1])
    if epilogue and not interpreted:
        # The half norms start the sum: to subtract them afterwards would cost one more instruction a score.
        scores = pl.run_state(multiply)(plgpu.ACC.init(start))
    else:
        # The interpreter has no run_state, and adds what the accumulator would have started from.
        scores = pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))
        scores = scores + start if epilogue else scores
    plgpu.barrier_arrive(free.at[stage(plan.chunks * limbs - 1)])
    return scores
