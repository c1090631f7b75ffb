"""The vision transformer: shapes, positions, gradients, types, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.models.vit import ViTDecoder, ViTEncoder, rotate

FIELDS = {"patch": 4, "width": 16, "depth": 2, "heads": 2}


@functools.cache
def encoder(**more):
    module = ViTEncoder(latent_channels=6, **FIELDS, **more)
    return module, jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(8, 8), (16, 12), (4, 20)])
def test_one_set_of_weights_serves_any_size(size):
    module, variables = encoder()
    z = module.apply(variables, pictures(2, *size))
    assert z.shape == (2, size[0] // 4, size[1] // 4, 6)
    decoder = ViTDecoder(**FIELDS)
    weights = decoder.init(jax.random.key(1), z)
    assert decoder.apply(weights, z).shape == (2, *size, 3)
    features = decoder.apply(weights, z, method="features")
    np.testing.assert_array_equal(decoder.apply(weights, features, method="to_pixels"), decoder.apply(weights, z))


def test_a_decoder_token_stands_where_its_patch_is():
    """Without blocks a token decides over its own patch alone."""
    decoder = ViTDecoder(**{**FIELDS, "depth": 0})
    z = pictures(1, 2, 2)
    weights = decoder.init(jax.random.key(1), z)
    changed = z.copy()
    changed[0, 1, 0] += np.array([1.0, -2.0, 0.5], np.float32)
    moved = np.any(decoder.apply(weights, z) != decoder.apply(weights, changed), axis=(0, 3))
    expected = np.zeros((8, 8), bool)
    expected[4:, :4] = True
    np.testing.assert_array_equal(moved, expected)


def test_products_of_rotated_vectors_depend_on_the_difference_of_positions_alone():
    """And on rows and columns differently, and lengths stay."""
    query, key = (np.random.default_rng(i).standard_normal(8).astype(np.float32) for i in range(2))
    grids = (rotate(jnp.broadcast_to(v, (1, 5, 6, 1, 8)))[0, :, :, 0] for v in (query, key))
    product = np.einsum("ijc,klc->ijkl", *map(np.asarray, grids))
    for down, right in ((0, 0), (1, 0), (0, 1), (2, 3)):
        same = [product[i, j, i + down, j + right] for i in range(5 - down) for j in range(6 - right)]
        np.testing.assert_allclose(same, same[0], rtol=1e-4, atol=1e-5)
    assert abs(product[0, 0, 1, 0] - product[0, 0, 0, 1]) > 1e-3
    np.testing.assert_allclose(product[0, 0, 0, 0], query @ key, rtol=1e-5)


def test_attention_sees_the_whole_picture_and_where_things_are():
    module, variables = encoder()
    x = pictures(1, 16, 16)
    changed = x.copy()
    changed[0, -1, -1] = 0.9
    difference = np.abs(np.asarray(module.apply(variables, x) - module.apply(variables, changed)))
    assert np.all(difference.max(-1) > 0)
    mirrored = module.apply(variables, x[:, :, ::-1].reshape(1, 16, 4, 4, 3)[:, :, :, ::-1].reshape(1, 16, 16, 3))
    assert not np.allclose(mirrored[:, :, ::-1], module.apply(variables, x), atol=1e-3)


def test_recomputing_blocks_changes_no_gradient():
    x = pictures(1, 8, 8)
    module, variables = encoder()
    remat, _ = encoder(remat=True)
    grads = [
        jax.jit(jax.grad(lambda v, module=m: jnp.sum(module.apply(v, x) ** 2)))(variables) for m in (module, remat)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *grads)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads[0]))


def test_compute_in_bfloat16_leaves_parameters_in_float32():
    module, variables = encoder(dtype=jnp.bfloat16)
    assert module.apply(variables, pictures(1, 8, 8)).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("sides", [(20, 24), (24, 23), (0, 8)])
def test_sides_that_are_no_multiples_get_one_sentence(sides):
    with pytest.raises(ValueError, match=f"images are {sides[0]}x{sides[1]} but must be multiples of 8: pad or crop"):
        ViTEncoder(**{**FIELDS, "patch": 8}).init(jax.random.key(0), jnp.zeros((1, *sides, 3)))


def test_a_width_that_heads_cannot_share_gets_one_sentence():
    with pytest.raises(ValueError, match="a width of 18 is no positive multiple of 4 x 2 heads"):
        ViTEncoder(**{**FIELDS, "width": 18}).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
