"""A tokenizer without this package: `python -m simvq_jax.export --run=RUN --out=FOLDER`.

Writes `encoder.stablehlo` and `decoder.stablehlo` (by jax.export: one artefact for CPUs, NVIDIA GPUs and TPUs, batch
and size symbolic), `weights.npz` beside them, and a README with the ten lines that load them. The search is a scan over
blocks of codes, without any device's kernel.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.export import SymbolicScope, export, symbolic_shape

from simvq_jax import cli
from simvq_jax.api import ImageTokenizer, SoundTokenizer, Tokenizer, load
from simvq_jax.files import new_folder
from simvq_jax.models.seanet import LAST
from simvq_jax.quantize import VQ, SimVQ
from simvq_jax.store import local_path

PLATFORMS = ("cpu", "cuda", "tpu")
FORMAT = "simvq_jax export 1"


def export_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """Writes the folder `out`, whole or not at all. Raises FileExistsError where it is in use."""
    with new_folder(out) as fresh:
        encode, decode, weights = programs(tokenizer)
        np.savez(fresh / "weights.npz", **cast(Any, weights))
        shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
        inputs, indices = arguments(tokenizer)
        for name, program, argument in (("encoder", encode, inputs), ("decoder", decode, indices)):
            artefact = export(jax.jit(program), platforms=PLATFORMS)(shapes, argument)
            (fresh / f"{name}.stablehlo").write_bytes(artefact.serialize())
        (fresh / "manifest.json").write_text(json.dumps(manifest(tokenizer), indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(readme(tokenizer), encoding="utf-8")


def programs(tokenizer: Tokenizer) -> tuple[Callable, Callable, dict[str, np.ndarray]]:
    """encode(weights, x), decode(weights, indices), and the weights by their paths; bfloat16, which .npz lacks, as
    float32, which the programs turn back."""
    autoencoder, variables = _with_plain_codebook(tokenizer)
    flat = flatten_dict(variables, sep="/")
    dtypes = {name: array.dtype for name, array in flat.items()}

    def nested(weights):
        return unflatten_dict({name: array.astype(dtypes[name]) for name, array in weights.items()}, sep="/")

    def encode(weights, x):
        return autoencoder.apply(nested(weights), x.astype(jnp.float32), method="encode")[1]

    def decode(weights, indices):
        return autoencoder.apply(nested(weights), indices, method="decode")

    def stored(array):
        return np.asarray(array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array)

    return encode, decode, {name: stored(array) for name, array in flat.items()}


def _with_plain_codebook(tokenizer: Tokenizer):
    """The autoencoder with SimVQ's effective codebook in a table, so that no program forms it anew; others as they
    are."""
    autoencoder, variables = tokenizer.autoencoder, tokenizer.variables
    quantizer = autoencoder.quantizer
    if not isinstance(quantizer, SimVQ):
        return autoencoder, variables
    table = VQ(quantizer.codebook_size, quantizer.dim, dtype=quantizer.dtype)
    codes = tokenizer.codebook()
    stats = table.init(jax.random.key(0), jnp.zeros((1, quantizer.dim)))["codebook_stats"]
    params = {**variables["params"], "quantizer": {"codebook": codes}}
    return autoencoder.clone(quantizer=table), {"params": params, "codebook_stats": {"quantizer": stats}}


def arguments(tokenizer: Tokenizer) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of what is encoded and of indices, with symbolic sizes."""
    stages = len(tokenizer.autoencoder.quantizer.codebook_sizes)
    last = f", {stages}" if stages > 1 else ""
    if isinstance(tokenizer, SoundTokenizer):
        # The last convolution reflects fewer tokens differently, so that the program would be another.
        scope = SymbolicScope([f"t >= {LAST}"])
        x, indices = f"b, {tokenizer.hop}*t", f"b, t{last}"
    else:
        assert isinstance(tokenizer, ImageTokenizer)
        scope = SymbolicScope()
        x, indices = f"b, {tokenizer.factor}*h, {tokenizer.factor}*w, 3", f"b, h, w{last}"
    return (
        jax.ShapeDtypeStruct(symbolic_shape(x, scope=scope), jnp.float32),
        jax.ShapeDtypeStruct(symbolic_shape(indices, scope=scope), jnp.int32),
    )


def manifest(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a reader of the folder may want to know."""
    sizes = tokenizer.autoencoder.quantizer.codebook_sizes
    about: dict[str, Any] = {
        "format": FORMAT,
        "model": tokenizer.fingerprint(),
        "step": tokenizer.step,
        "codebook_sizes": list(sizes),
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
    }
    if isinstance(tokenizer, SoundTokenizer):
        return about | {"input": "sound", "sample_rate": tokenizer.sample_rate, "samples_a_token": tokenizer.hop}
    assert isinstance(tokenizer, ImageTokenizer)
    return about | {"input": "images", "pixels_a_token": tokenizer.factor}


def readme(tokenizer: Tokenizer) -> str:
    """How to load the folder."""
    if isinstance(tokenizer, SoundTokenizer):
        hop = tokenizer.hop
        x = f"np.zeros((1, {hop} * 75), np.float32)  # (b, samples) in [-1, 1] at {tokenizer.sample_rate} Hz"
        needs = f"Samples must be {LAST} times {hop} or more, a multiple: fill up with zeros, and cut what is decoded."
    else:
        assert isinstance(tokenizer, ImageTokenizer)
        side = 8 * tokenizer.factor
        x = f"np.zeros((1, {side}, {side}, 3), np.float32)  # (b, h, w, 3) in [-1, 1]"
        needs = f"Height and width must be multiples of {tokenizer.factor}."
    return f"""# An exported tokenizer

Needs numpy, jax and flatbuffers. Runs on CPUs, NVIDIA GPUs and TPUs; batch and size are free. {needs}

```python
import jax
import jax.export
import numpy as np

folder = "."
weights = dict(np.load(f"{{folder}}/weights.npz"))
encoder, decoder = (
    jax.export.deserialize(open(f"{{folder}}/{{name}}.stablehlo", "rb").read()) for name in ("encoder", "decoder")
)
x = {x}
indices = encoder.call(weights, x)  # int32
reconstruction = decoder.call(weights, indices)  # float32, not clipped
```
"""


def main(run: str, out: str) -> None:
    """Command line of `export_tokenizer`."""
    folder = local_path("out", out)
    export_tokenizer(load(run), folder)
    print(f"{out}: encoder.stablehlo, decoder.stablehlo and weights.npz for {', '.join(PLATFORMS)}; see its README.md")


if __name__ == "__main__":
    cli.run_main(
        main,
        {"run": cli.REQUIRED, "out": cli.REQUIRED},
        {"run": "run folder, as runs/quickstart", "out": "folder for the programs and their weights"},
    )
