"""What a run starts from: its newest checkpoint, or a new state whose codes are matched to the first tokens."""

import jax
from absl import logging

from simvq_jax import build
from simvq_jax.checkpoint import Checkpointer
from simvq_jax.inputs import first_images
from simvq_jax.mesh import state_sharding
from simvq_jax.quantize import SimVQ
from simvq_jax.quantize.basis import check_features
from simvq_jax.state import TrainState
from simvq_jax.step import as_float


def initial_state(config, networks, optimizers, checkpoints: Checkpointer, mesh) -> TrainState:
    """The restored state, or a new one; made in place on its devices."""

    def init(key, images=None):
        return build.build_state(config, networks, optimizers, key, images)

    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(init, key)
    shardings = state_sharding(shapes, mesh)
    template = jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )
    restored = checkpoints.restore(template)
    if restored is not None:
        return restored
    quantizer = networks.autoencoder.quantizer
    if isinstance(quantizer, SimVQ) and quantizer.basis_file is not None:
        check_features(quantizer.basis_file, quantizer.basis_shape)
    images = _images_for(config, quantizer.start_tokens)
    # A program that runs once: optimising its many random draws would take ten times longer than it saves.
    quick = {"xla_backend_optimization_level": 0}
    return jax.jit(init, out_shardings=shardings, compiler_options=quick)(key, images)


def _images_for(config, tokens: int):
    """Training images with about as many tokens, a batch of them at most: (n, size, size, 3); None of 0 tokens."""
    if not tokens:
        return None
    of_an_image = (config.data.size // build.pixels_a_token(config)) ** 2
    count = min(-(-tokens // of_an_image), config.batch_size)
    if config.quantizer.codebook_init == "kmeans" and count * of_an_image < config.quantizer.codebook_size:
        logging.warning(
            "k-means starts %d codes from the %d tokens of a batch, so some start alike: raise batch_size, or set"
            " quantizer.restart_after.",
            config.quantizer.codebook_size,
            count * of_an_image,
        )
    return as_float(first_images(config, count))
