"""What a run starts from: its newest checkpoint, or a new state whose codes are matched to the first tokens."""

import jax

from simvq_jax import build
from simvq_jax.agreement import all_see
from simvq_jax.checkpoint import Checkpointer, CheckpointError
from simvq_jax.inputs import first_examples
from simvq_jax.mesh import state_sharding
from simvq_jax.quantize import SimVQ
from simvq_jax.quantize.basis import check_features
from simvq_jax.quantize.vq import KMEANS
from simvq_jax.state import TrainState
from simvq_jax.step import as_float


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
    # Every device encodes them all, as many at a time as it holds in training.
    at_once = max(config.batch_size // (config.accumulate * mesh.size), 1)
    examples = _examples_for(config, quantizer.start_tokens, at_once)

    def init(key, examples):
        return build.build_state(config, networks, optimizers, key, examples, at_once)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    # A program that runs once: optimising its many random draws would take ten times longer than it saves. k-means of
    # a large codebook is worth it.
    quick = {} if config.quantizer.codebook_init == KMEANS else {"xla_backend_optimization_level": 0}
    return jax.jit(init, out_shardings=shardings, compiler_options=quick)(jax.random.key(config.seed), examples)


def state_template(config, networks, optimizers, mesh) -> TrainState:
    """The state's shapes with their shardings; nothing is computed."""
    shapes = build.state_shapes(config, networks, optimizers)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_sharding(shapes, mesh),
    )


def _examples_for(config, tokens: int, at_once: int):
    """Training examples with about as many tokens, in whole groups: (n, ...); None of 0 tokens. Where codes only match
    the tokens' moments, a batch at most."""
    if not tokens:
        return None
    count = -(-tokens // build.tokens_an_example(config))
    if config.quantizer.codebook_init != KMEANS and config.quantizer.basis_init != "tokens":
        count = min(count, config.batch_size)
    return as_float(first_examples(config, count if count <= at_once else -(-count // at_once) * at_once))
