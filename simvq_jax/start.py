"""What a run starts from: its newest checkpoint, or a new state whose codes are matched to the first tokens."""

import sys

import jax

from simvq_jax import build
from simvq_jax.agreement import all_see, is_first
from simvq_jax.checkpoint import Checkpointer, CheckpointError
from simvq_jax.inputs import first_examples
from simvq_jax.mesh import batch_shards, state_sharding
from simvq_jax.models.tokenizer import as_float
from simvq_jax.quantize import SimVQ
from simvq_jax.quantize.basis import check_features
from simvq_jax.state import TrainState

MANY_CODES = 2**15  # of which k-means takes minutes on a CPU


def initial_state(config, networks, optimizers, checkpoints: Checkpointer, mesh) -> TrainState:
    """The restored state, or a new one; made in place on its devices."""
    template = state_template(config, networks, optimizers, mesh)
    if not all_see(lambda: str(checkpoints.steps())):
        raise CheckpointError(
            "the processes do not see the same checkpoints: look whether all see the same run folder, and start them"
            " again."
        )
    restored = checkpoints.restore(template)
    if restored is not None:
        return restored
    quantizer = networks.autoencoder.quantizer
    if isinstance(quantizer, SimVQ) and quantizer.basis_file is not None:
        check_features(quantizer.basis_file, quantizer.basis_shape)
    count = _example_count(config, quantizer)
    _announce(quantizer, count * build.tokens_an_example(config))
    examples = as_float(first_examples(config, count)) if count else None
    # Every device encodes them all, as many at a time as it holds in training.
    at_once = max(config.batch_size // (config.accumulate * batch_shards(mesh)), 1)

    def init(key, examples):
        return build.build_state(config, networks, optimizers, key, examples, at_once)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    # A program that runs once: optimising its many random draws would take ten times longer than it saves, unless many
    # tokens are looked at.
    quick = {} if quantizer.starts_at_tokens else {"xla_backend_optimization_level": 0}
    return jax.jit(init, out_shardings=shardings, compiler_options=quick)(jax.random.key(config.seed), examples)


def state_template(config, networks, optimizers, mesh) -> TrainState:
    """The state's shapes with their shardings; nothing is computed."""
    shapes = build.state_shapes(config, networks, optimizers)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_sharding(shapes, mesh),
    )


def _example_count(config, quantizer) -> int:
    """Training examples with as many tokens as the quantizer's start looks at; where codes only match the tokens'
    moments, a batch at most."""
    count = -(-quantizer.start_tokens // build.tokens_an_example(config))
    return count if quantizer.starts_at_tokens else min(count, config.batch_size)


def _announce(quantizer, tokens: int) -> None:
    """Says so where the start may take long."""
    codes = max(quantizer.codebook_sizes)
    if quantizer.starts_at_tokens and codes >= MANY_CODES and is_first():
        print(f"{codes:,} codes start from {tokens:,} tokens: this may take minutes", file=sys.stderr, flush=True)
