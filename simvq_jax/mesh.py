"""The device mesh, where arrays live on it, and the placing of batches."""

import dataclasses
import functools
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
SMALLEST_SHARDED = 2**14  # elements; smaller arrays stay whole on every device
CODES = (
    "basis",
    "codebook",
    "moved",
    "sums",
)  # names of arrays (K, d) that quantizers keep; so are their optimiser states'


def make_mesh(data: int = -1, fsdp: int = 1, codebook: int = 1) -> Mesh:
    """Mesh with the axes `data`, `fsdp`, `codebook`; data = -1 takes all devices that the others leave.

    Raises ValueError if the axes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    if fsdp < 1 or codebook < 1 or (data < 1 and data != -1):
        raise ValueError(
            f"mesh (data={data}, fsdp={fsdp}, codebook={codebook}) has an axis below 1: only mesh.data may be -1."
        )
    if data == -1:
        data = max(devices // (fsdp * codebook), 1)
    if data * fsdp * codebook != devices:
        left, rest = divmod(devices, fsdp * codebook)
        mend = f"choose mesh.fsdp and mesh.codebook so that their product divides {devices}"
        raise ValueError(
            f"mesh (data={data}, fsdp={fsdp}, codebook={codebook}) needs {data * fsdp * codebook} devices but"
            f" {devices} are present: {mend if rest else f'set mesh.data to {left}, or to -1'}."
        )
    return jax.make_mesh((data, fsdp, codebook), ("data", "fsdp", "codebook"), axis_types=(AxisType.Auto,) * 3)


def local_mesh() -> Mesh:
    """This process's devices alone, all on axis `data`."""
    devices = jax.local_devices()
    return jax.make_mesh(
        (len(devices), 1, 1), ("data", "fsdp", "codebook"), axis_types=(AxisType.Auto,) * 3, devices=devices
    )


@dataclasses.dataclass(frozen=True)
class BatchShare:
    """Which rows of every batch a process reads: number `index` of `count` equal shares. Processes whose devices differ
    along axis `codebook` alone read the same. readers: the first process that reads each share, in order. devices: that
    a share's rows are split over."""

    index: int = 0
    count: int = 1
    readers: tuple[int, ...] = (0,)
    devices: int = 1


ALONE = BatchShare()  # of one process


@functools.cache  # asked for at every batch
def batch_share(mesh: Mesh) -> BatchShare:
    """This process's. Raises ValueError where processes' shares would overlap in part."""
    by_rows = mesh.devices.reshape(-1, mesh.shape["codebook"])
    places: dict[int, list[int]] = {}  # of rows, by process
    for place, devices in enumerate(by_rows):
        for process in {device.process_index for device in devices}:
            places.setdefault(process, []).append(place)
    readers: dict[tuple[int, ...], int] = {}  # by share
    for process in sorted(places):
        readers.setdefault(tuple(places[process]), process)
    shares = sorted(readers)
    if sum(map(len, shares)) != len(by_rows) or len(set(map(len, shares))) != 1:
        raise ValueError(
            f"mesh.codebook is {mesh.shape['codebook']}, so that processes would share a part of their rows only: let"
            " it divide the devices of a process, or be a multiple of them."
        )
    own = tuple(places[jax.process_index()])
    return BatchShare(shares.index(own), len(shares), tuple(readers[share] for share in shares), len(own))


def batch_shards(mesh: Mesh) -> int:
    """Devices that share a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(batch_size: int, accumulate: int, mesh: Mesh, key: str = "batch_size") -> None:
    """Raises ValueError unless every micro-batch divides evenly over the devices that share it, and processes can share
    it. key: its config key."""
    batch_share(mesh)  # refuses a mesh that no batch fits
    shards = batch_shards(mesh)
    if batch_size < 1 or accumulate < 1 or batch_size % (shards * accumulate):
        raise ValueError(
            f"{key} {batch_size} is no positive multiple of {shards * accumulate}, the {shards} devices of mesh"
            f" axes data and fsdp times accumulate = {accumulate}: change {key} or the mesh."
        )


def check_codebook(codebook_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless the codes divide evenly over axis `codebook`."""
    shards = mesh.shape["codebook"]
    if codebook_size % shards:
        raise ValueError(
            f"mesh.codebook is {shards} but does not divide the {codebook_size} codes: change mesh.codebook or"
            " quantizer.codebook_size."
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over the devices of `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(shapes, mesh: Mesh):
    """Shardings of a tree of shapes: the codes over axis `codebook`, other arrays worth it over `fsdp`.

    Nothing of the quantizer is split over `fsdp`: every step reads all codes, and W with each of them, so what is not
    kept would be sent each time.
    """

    def rule(path, leaf):
        names = [getattr(key, "key", None) for key in path]
        if len(leaf.shape) == 2 and names and names[-1] in CODES:
            return NamedSharding(mesh, PartitionSpec("codebook"))
        if "quantizer" in names:
            return replicated(mesh)
        return _split_largest(leaf.shape, mesh)

    return jax.tree_util.tree_map_with_path(rule, shapes)


def _split_largest(shape, mesh: Mesh) -> NamedSharding:
    """The largest axis that `fsdp` divides."""
    fsdp = mesh.shape["fsdp"]
    splittable = [axis for axis, n in enumerate(shape) if n % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < SMALLEST_SHARDED or not splittable:
        return replicated(mesh)
    largest = max(splittable, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))


def jit_step(step, state, mesh: Mesh):
    """`step(state, batch, whole) -> (state, metrics)` as one jitted call that reuses the state's memory.

    state: arrays, or shapes with shardings, which it keeps. whole: what every device has whole.
    """
    shardings = jax.tree.map(lambda a: a.sharding, state)
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def place_whole(tree, mesh: Mesh):
    """Puts arrays that every process has alike whole on every device."""

    def place(array):
        return jax.make_array_from_process_local_data(replicated(mesh), np.asarray(array))

    return jax.tree.map(place, tree)


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a global batch, its `batch_share`, on its devices."""
    sharding, shares = batch_sharding(mesh), batch_share(mesh).count

    def place(rows):
        whole = (shares * len(rows), *rows.shape[1:])  # what jax guesses is wrong where codes are over processes
        return jax.make_array_from_process_local_data(sharding, rows, whole)

    return {key: place(rows) for key, rows in batch.items()}
