"""Pictures a second that are turned into tokens, ours and the official encoder with the same weights, in alternation.

    python -m benchmarks.extraction --official=CHECKOUT [--pictures=8] [--repeats=7] [--width=128] \\
        [--out=benchmarks/results/extraction_cpu.json]

The official image tokenizer of the paper (128 x 128, K = 1,024) from random weights is converted, so both give the same
indices, which is checked. Then extract_tokens goes over a folder of PNG pictures, in processes of their own: its pace
with all reading and writing, and its peak memory for one folder and for one of four times as many pictures.
Ratios are official / ours: above 1 ours is the faster one. Needs PyTorch and a checkout of github.com/youngsheen/SimVQ.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks.official_step import import_torch, make_model, quantize
from benchmarks.timing import Contender, OtherLoad, alternate, provenance, ratio, summary, write_json
from simvq_jax import cli, convert
from simvq_jax.api import load
from simvq_jax.models.pretrained.safetensors import write_safetensors

SIZE, CODES = 128, 1024
EXTRACT = """
import resource, sys, time
from pathlib import Path
from simvq_jax.api import load
from simvq_jax.data.views import Views
from simvq_jax.extract_tokens import extract_tokens
run, data, out, size, batch = sys.argv[1:]
tokenizer = load(run, decoder=False)
views = Views("center", int(size), int(size), tokenizer.factor, False)
done = extract_tokens(tokenizer, Path(out), data=f"folder:{data}", views=views, batch_size=int(batch), shard_size=16)
print(done.records, done.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main(official: str, pictures: int, repeats: int, width: int, out: str) -> None:
    """Prints the result, and writes it as JSON."""
    torch: Any = import_torch()
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = make_model(torch, Path(official), SIZE, width, CODES).eval()
    x = np.random.default_rng(0).uniform(-1, 1, (pictures, SIZE, SIZE, 3)).astype(np.float32)
    load_elsewhere = OtherLoad()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        _convert(model, Path(folder) / "official.safetensors", run)
        measured = alternate(_contenders(torch, model, run, x), repeats)
        paces = {who: [pictures / seconds for seconds in values] for who, values in measured.items()}
        whole = [_extract(run, Path(folder) / str(count), count, pictures) for count in (16, 64)]
    result = provenance(["flax", "torch"]) | {
        "pictures": pictures,
        "width": width,
        "repeats": repeats,
        "encode_pictures_per_second": {who: summary(values) for who, values in paces.items()},
        "ratio": ratio(measured["official"], measured["ours"]),
        "extract_tokens": whole,
        "cores_busy_elsewhere": load_elsewhere.cores(),
    }
    print(json.dumps(result, indent=2))
    write_json(out, result)


def _convert(model, file: Path, run: Path) -> None:
    prefixes = ("encoder.", "decoder.", "quantize.")
    weights = {name: t.detach().numpy() for name, t in model.state_dict().items() if name.startswith(prefixes)}
    write_safetensors(file, weights, {})
    convert.convert(file, run, weights="raw")


def _contenders(torch, model, run: Path, x: np.ndarray) -> dict[str, Contender]:
    """Both from pictures to indices, which are compared first."""
    tokenizer = load(run, decoder=False)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2).copy())

    @torch.inference_mode()
    def official():
        return quantize(model, model.encoder(theirs))[2]

    ours = np.asarray(tokenizer.encode(x)).ravel()
    agreeing = float(np.mean(ours == official().numpy().ravel()))
    if agreeing < 0.999:  # ties within rounding may fall either way
        raise RuntimeError(f"only {agreeing:.1%} of the indices are equal: the two do not compute the same.")
    variables, autoencoder = tokenizer.variables, tokenizer.autoencoder
    encode = jax.jit(lambda v, x: autoencoder.apply(v, x, method="encode")[1])
    done = lambda _: None  # noqa: E731  PyTorch's calls return when they are done
    return {"ours": Contender(lambda: encode(variables, x)), "official": Contender(official, done)}


def _extract(run: Path, folder: Path, count: int, batch: int) -> dict[str, float]:
    """Of `count` pictures in a process of its own."""
    rng = np.random.default_rng(count)
    (folder / "data").mkdir(parents=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (160, 200, 3), dtype=np.uint8)).save(folder / f"data/{i:04d}.png")
    arguments = [str(run), str(folder / "data"), str(folder / "tokens"), str(SIZE), str(batch)]
    done = subprocess.run([sys.executable, "-c", EXTRACT, *arguments], capture_output=True, text=True, check=True)
    records, seconds, kib = map(float, done.stdout.split())
    return {
        "pictures": records,
        "pictures_per_second_with_compilation": round(records / seconds, 3),
        "peak_memory_gib": round(kib / 2**20, 3),
    }


if __name__ == "__main__":
    cli.run_main(
        main,
        {
            "official": cli.REQUIRED,
            "pictures": 8,
            "repeats": 7,
            "width": 128,
            "out": "benchmarks/results/extraction_cpu.json",
        },
        {
            "official": "folder of a checkout of github.com/youngsheen/SimVQ",
            "pictures": "encoded at once",
            "repeats": "rounds",
            "width": "of the first level; the paper's is 128",
            "out": "file of the result",
        },
    )
