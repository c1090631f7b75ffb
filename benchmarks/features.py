"""Features for `quantizer.basis_file`, as VQGAN-LC (2406.11837) has them: what a trained encoder makes of training
examples, in as many centres as there are codes. The paper's encoder is CLIP's; any tokenizer's serves.

    python -m benchmarks.features --run=runs/quickstart --out=runs/study/features [--codebook_sizes=1024,8192]

Writes OUT_K.npy for each K: float32 (K, d), d of the run's tokens.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import simvq_jax
from benchmarks.flags import numbers
from simvq_jax import build, cli
from simvq_jax.inputs import first_examples
from simvq_jax.quantize.kmeans import kmeans

TOKENS_A_CENTRE = 8
BATCH = 32


def training_tokens(tokenizer, count: int) -> np.ndarray:
    """At least `count` tokens of what the tokenizer was trained on: float32 (N, d)."""
    batches = -(-count // (BATCH * build.tokens_an_example(tokenizer.config)))
    examples = first_examples(tokenizer.config, batches * BATCH)
    latents = [np.asarray(tokenizer.latents(batch)) for batch in np.split(examples, batches)]
    return np.concatenate(latents).reshape(-1, latents[0].shape[-1]).astype(np.float32)


def centres(tokens: np.ndarray, count: int) -> np.ndarray:
    """k-means of the first TOKENS_A_CENTRE tokens a centre: (N, d) -> (count, d)."""
    some = jnp.asarray(tokens[: count * TOKENS_A_CENTRE])
    return np.asarray(kmeans(jax.random.key(0), some, jnp.ones(len(some)), count))


def main(run: str, out: str, codebook_sizes: str) -> None:
    sizes = numbers(codebook_sizes, "codebook_sizes")
    tokens = training_tokens(simvq_jax.load(run), TOKENS_A_CENTRE * max(sizes))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        file = f"{out}_{size}.npy"
        np.save(file, centres(tokens, size))
        print(f"{file}: {size} features of {tokens.shape[1]} dimensions")


if __name__ == "__main__":
    cli.run_main(
        main,
        {"run": cli.REQUIRED, "out": cli.REQUIRED, "codebook_sizes": "1024,8192"},
        {
            "run": "folder of a trained tokenizer",
            "out": "where to write, without _K.npy",
            "codebook_sizes": "values of K, with commas between",
        },
    )
