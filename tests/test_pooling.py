"""Pools against NumPy in float64, and the gradient of the root of the mean of squares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from nst_exp.networks import ARCHITECTURES, get_network
from nst_exp.networks.blocks import POOLINGS, Options, Pool
from nst_exp.params.sources import ParamsSource, load_params

REDUCED = {
    "average": lambda tiles: tiles.mean(axis=(1, 3)),
    "max": lambda tiles: tiles.max(axis=(1, 3)),
    "l2": lambda tiles: np.sqrt(np.square(tiles).mean(axis=(1, 3))),
}


def options(pooling: str, gain: float = 1.0) -> Options:
    return Options(pooling, "float32", None, pooling_gain=gain)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("gain", [1.0, 1.56])
def test_a_pool_of_two_by_two(pooling: str, gain: float) -> None:
    x = np.random.default_rng(0).normal(size=(7, 9, 3)).astype(np.float32)
    tiles = x[:6, :8].astype(np.float64).reshape(3, 2, 4, 2, 3)
    pooled = Pool(2, 2)(jnp.asarray(x)[None], options(pooling, gain))
    np.testing.assert_allclose(pooled[0], gain * REDUCED[pooling](tiles), rtol=1e-5, atol=1e-6)


def test_a_pool_that_fixes_its_kind_has_no_gain() -> None:
    pooled = Pool(2, 2, kind="max")(jnp.ones((1, 4, 4, 1)), options("l2", gain=3.0))
    np.testing.assert_array_equal(pooled, 1.0)


def test_a_border_does_not_count() -> None:
    pool = Pool(3, 2, padding=1)
    np.testing.assert_allclose(pool(jnp.ones((1, 6, 7, 2)), options("l2")), 1.0, rtol=1e-6)


def test_the_gradient_of_l2_in_float64() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 6, 2)))
        assert x.dtype == jnp.float64
        check_grads(
            lambda x: Pool(2, 2)(jnp.asarray(x), options("l2")), (x,), order=1, modes=["rev"], rtol=1e-7, atol=1e-7
        )


def test_the_gradient_of_l2_is_finite_where_all_is_zero() -> None:
    """Behind a ReLU, whole windows are zero. One of the three windows here is, and one is very small."""
    x = jnp.zeros((1, 2, 6, 1)).at[0, 0, 2, 0].set(1e-30).at[0, 1, 5, 0].set(3.0)
    gradient = jax.grad(lambda x: jnp.sum(Pool(2, 2)(x, options("l2"))))(x)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[0, :, :2], 0)
    np.testing.assert_allclose(gradient[0, 1, 5], 0.5, rtol=1e-6)  # d sqrt(x^2 / 4) / dx


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_is_pooled(name: str) -> None:
    """Kind and gain change the features behind the first pool, and those before it not at all."""
    network = get_network(name, pooling="average", padding="zeros", precision="float32")
    layers = network.layers[:6]
    params = load_params(ParamsSource("random"), network, layers, Path("unused")).params
    image = jnp.asarray(np.random.default_rng(0).random((1, 75, 80, 3), np.float32))
    plain = network.features(params, image, layers)
    for changed in (replace(network, pooling="l2"), replace(network, pooling_gain=2.0)):
        features = changed.features(params, image, layers)
        np.testing.assert_array_equal(plain[layers[0]], features[layers[0]])
        assert not np.allclose(plain[layers[-1]], features[layers[-1]])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_faster_code_agrees(pooling: str) -> None:
    """Of wide convolutions behind the pools, as in a loop of evaluations."""
    network = get_network("vgg16", pooling=pooling, padding="replicate", precision="float32", pooling_gain=1.5)
    layers = network.layers[:6]
    params = load_params(ParamsSource("random"), network, layers, Path("unused")).params
    image = jnp.asarray(np.random.default_rng(0).random((1, 16, 20, 3), np.float32))

    def deepest(image: jax.Array, *, repeated: bool) -> jax.Array:
        return replace(network, repeated=repeated).features(params, image, layers)[layers[-1]]

    def gradient(image: jax.Array, *, repeated: bool) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(jnp.square(deepest(x, repeated=repeated))))(image)

    for function in (deepest, gradient):
        plain, fast = (np.asarray(function(image, repeated=repeated)) for repeated in (False, True))
        np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())
