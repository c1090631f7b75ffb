"""docs/SCALING.md from the counts of `benchmarks.scaling`."""

from typing import Any, NamedTuple

from benchmarks.timing import markdown_table
from simvq_jax.explain import CHIPS, Chip

UTILIZATION = 0.4  # share of a chip's peak that convolutions reach, supposed
Case = dict[str, Any]


class Pod(NamedTuple):
    """counts: of devices to reckon for. in_node: devices of a node. between: GB/s that a device can send to another
    node."""

    title: str
    chip: Chip
    counts: tuple[int, ...]
    in_node: int
    between: float


PODS = (
    Pod("TPU v5e, one slice", CHIPS["v5e"], (1, 4, 16, 64, 256), 256, 0.0),
    Pod("H100, 8 a node, 400 Gbit/s each", CHIPS["h100"], (1, 4, 8, 16, 64), 8, 50.0),
)


def sending_seconds(size: float, pod: Pod, devices: int) -> float:
    """Of a sum of `size` bytes over so many devices of a pod: within the nodes first, then the parts between them."""
    inside = min(devices, pod.in_node)
    nodes = devices // inside
    seconds = 2 * (inside - 1) / inside * size / (pod.chip.link * 1e9)
    if nodes > 1:
        seconds += 2 * (nodes - 1) / nodes * size / inside / (pod.between * 1e9)
    return seconds


def summed(case: Case) -> float:
    """Bytes of all sums over devices in a step."""
    return sum(row["size"] for row in case["collectives"])


def sent(case: Case) -> float:
    """Bytes that a device sends in a step."""
    return sum(row["wire"] for row in case["collectives"])


def counted(cases: list[Case]) -> str:
    """A row for each case."""
    header = [
        "devices",
        "mesh",
        "pictures a device",
        "GFLOP a device",
        "sent, MB",
        "state, MB a device",
        "temporaries, GB",
    ]
    rows = []
    for case in cases:
        mesh = ", ".join(f"{axis}={size}" for axis, size in case["mesh"].items() if size > 1) or "-"
        split = case["mesh"]["data"] * case["mesh"]["fsdp"]
        rows.append(
            [
                case["devices"],
                mesh,
                case["overrides"]["batch_size"] // split,
                f"{case['flops'] / 1e9:,.0f}",
                f"{sent(case) / 1e6:,.1f}",
                f"{sum(case['state'].values()) / 1e6:,.0f}",
                f"{case['temporary'] / 1e9:,.1f}",
            ]
        )
    return markdown_table(header, rows)


def exchanged(case: Case) -> str:
    """What the devices of a case tell each other."""
    header = ["collective", "axes", "largest array, numbers", "MB", "for"]
    rows = [
        [row["kind"], row["axes"], f"{row['largest']:,}", f"{row['size'] / 1e6:,.3f}", row["purpose"]]
        for row in case["collectives"]
        if row["largest"] > 1
    ]
    return markdown_table(header, rows)


def reckoned(pod: Pod, one: Case, largest: Case, pictures: int | None) -> str:
    """Steps on one device and on more. pictures: of a batch; None: as many a device as were counted."""
    header = ["devices", "batch", "computing, ms", "sending, ms", "pictures a second", "of n times one device"]
    rows, alone = [], 0.0
    each = one["overrides"]["batch_size"]
    for devices in pod.counts:
        batch = pictures or each * devices
        computing = one["flops"] / each * batch / devices / (pod.chip.teraflops * 1e12 * UTILIZATION)
        sending = sending_seconds(summed(largest), pod, devices)
        rate = batch / (computing + sending)
        alone = alone or rate
        row = [devices, batch, f"{computing * 1e3:,.2f}", f"{sending * 1e3:,.2f}", f"{rate:,.0f}"]
        rows.append([*row, f"{rate / alone / devices:.0%}"])
    return markdown_table(header, rows)


def by_study(result: dict[str, Any], study: str) -> list[Case]:
    """Its cases, in order."""
    return [case for case in result["cases"] if case["study"] == study]


def million(cases: list[Case]) -> str:
    """Memory at a codebook of a million codes."""
    header = ["mesh", "basis", *(f"{name}, MB" for name in cases[0]["state"]), "in all, MB", "sent, MB"]
    rows = []
    for case in cases:
        mesh = ", ".join(f"{axis}={size}" for axis, size in case["mesh"].items() if size > 1)
        sizes = case["state"].values()
        basis = case["overrides"].get("quantizer.basis_dtype", "float32")
        row = [mesh, basis, *(f"{size / 1e6:,.1f}" for size in sizes), f"{sum(sizes) / 1e6:,.0f}"]
        rows.append([*row, f"{sent(case) / 1e6:,.1f}"])
    return markdown_table(header, rows)


def timed(result: dict[str, Any], case: Case) -> str:
    """What a device took for the step of one device. result: of `benchmarks.train_step`."""
    row, chip = result["rows"][0], CHIPS["h100"]
    seconds = row["ours"]["step"]["median"]
    return (
        f"One {result['machine']['devices'].partition(' x ')[2]} took {seconds * 1e3:.1f} ms for a step of"
        f" {row['batch_size']} pictures (benchmarks/results/h100, {result['date']}):"
        f" {case['flops'] / seconds / chip.teraflops / 1e12:.0%} of its peak."
    )


def page(result: dict[str, Any], one_step: dict[str, Any]) -> str:
    """The whole of docs/SCALING.md. one_step: of `benchmarks.train_step`, the same network on one device."""
    weak, strong, fsdp = (by_study(result, study) for study in ("weak", "strong", "fsdp"))
    ratio = sum(fsdp[-1]["state"].values()) / sum(strong[-1]["state"].values())
    each, own_batch = (cases[0]["overrides"]["batch_size"] for cases in (weak, strong))
    parts = [
        "# From one device to a pod\n",
        f"Written by `python -m benchmarks.scaling` ({result['date']}, jax {result['versions']['jax']}) for"
        f" `{result['config']}`: 128 x 128 pictures, discriminator, bfloat16, no LPIPS."
        " **Nothing here was timed but a single step.**"
        " The step was compiled for 1 to 8 simulated devices, and the program read: arithmetic of products and"
        " convolutions, bytes that devices exchange, bytes of state. `python -m simvq_jax.explain` does the same for"
        " any config and mesh.\n",
        "What the counts do not know: a CPU sends bfloat16 as float32, so what FSDP gathers is twice what an"
        " accelerator would send; it adds the discriminator's gradients of pictures and of reconstructions after the"
        " exchange, where compilers for accelerators can add them before; and it sums whole gradients where those"
        " scatter them. Temporaries are as laid out for a CPU, without rematerialisation.\n",
        *([f"{result['remark']}\n"] if "remark" in result else []),
        "## Weak scaling: as many pictures a device\n",
        counted(weak),
        "\n## Strong scaling: the same batch\n",
        counted(strong),
        "\n## FSDP\n",
        counted(fsdp),
        f"\nOn eight devices the state takes {ratio:.3f} of what it takes whole. Nothing of the quantizer is split over"
        " this axis: every step reads all codes.\n",
        "## What is exchanged\n",
        "Data parallel over eight devices:\n",
        exchanged(strong[-1]),
        "\nFSDP over eight:\n",
        exchanged(fsdp[-1]),
        "\n## A million codes\n",
        "Memory of the state, by device, on eight. Where the codes fit, keep them whole: the search then needs no word."
        " A codebook axis repeats the networks' work on each of its devices.\n",
        million(by_study(result, "million")),
        "\n## Reckoned on\n",
        f"Data parallel, from the counts above, at {UTILIZATION:.0%} of the chip's peak (supposed) and the links of its"
        " data sheet, if nothing overlaps: compilers for accelerators do overlap, so this is a floor. Sums between"
        " nodes are of parts that were summed within them.\n",
        f"{weak[0]['temporary'] / 1e9:.1f} GB of temporaries and {sum(weak[0]['state'].values()) / 1e9:.1f} GB of state"
        f" for {each} pictures are more than the 16 GB of a v5e: there `model.remat`, or fewer pictures a device, will"
        f" be needed. {timed(one_step, weak[0])}\n",
    ]
    for pod in PODS:
        sheet = f"{pod.chip.teraflops:g} TFLOP/s, {pod.chip.link:g} GB/s"
        parts += [
            f"\n### {pod.title} ({sheet})\n",
            f"{each} pictures a device:\n",
            reckoned(pod, weak[0], weak[-1], None),
            f"\nThe config's batch of {own_batch}:\n",
            reckoned(pod, weak[0], weak[-1], own_batch),
        ]
    return "\n".join(parts) + "\n"
