"""Losses against NumPy in float64, and their gradients against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from nst_exp.transfer.feature_losses.gram import gram_matrix
from nst_exp.transfer.losses import (
    mean_squared_error,
    out_of_range,
    relative_error,
    temporal,
    total_variation,
)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_gram_matrix_is_the_mean_product_of_channels() -> None:
    features = random(1, 5, 7, 3)
    rows = features.astype(np.float64).reshape(35, 3)
    expected = sum(np.outer(row, row) for row in rows) / (5 * 7 * 3)
    np.testing.assert_allclose(gram_matrix(jnp.asarray(features)), expected, rtol=1e-5)


@pytest.mark.parametrize("channels", [3, 1024])
def test_gradient_of_a_gram_matrix(channels: int) -> None:
    """The gradient is `F (g + g^T) / (H W C)` for any cotangent, symmetric or not."""
    features, cotangent = random(1, 2, 3, channels), random(channels, channels, seed=1)
    _, pull_back = jax.vjp(gram_matrix, jnp.asarray(features))
    (gradient,) = pull_back(jnp.asarray(cotangent))
    expected = features.astype(np.float64) @ (cotangent + cotangent.T) / features.size
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_gram_matrix_does_not_know_where_features_are() -> None:
    features = random(1, 4, 6, 5)
    shuffled = np.random.default_rng(1).permutation(features.reshape(24, 5)).reshape(1, 4, 6, 5)
    np.testing.assert_allclose(gram_matrix(jnp.asarray(features)), gram_matrix(jnp.asarray(shuffled)), rtol=1e-5)


def test_errors() -> None:
    values, target = random(6, 4), random(6, 4, seed=1)
    squares = (values.astype(np.float64) - target) ** 2
    np.testing.assert_allclose(mean_squared_error(jnp.asarray(values), jnp.asarray(target)), squares.mean(), rtol=1e-5)
    expected = squares.sum() / (target.astype(np.float64) ** 2).sum()
    np.testing.assert_allclose(relative_error(jnp.asarray(values), jnp.asarray(target)), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_relative_error_has_no_unit(scale: float) -> None:
    values, target = jnp.asarray(random(8)), jnp.asarray(random(8, seed=1))
    np.testing.assert_allclose(
        relative_error(scale * values, scale * target), relative_error(values, target), rtol=1e-5
    )


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e-12])
def test_relative_error_of_a_silent_target(scale: float) -> None:
    """Kind: a distance relative to a number that may be zero, denormal or only a rounding error."""
    values = np.array([0.0, 1.0, -2.0, 1000.0], np.float32)
    target = np.full(4, scale, np.float32)
    distance, gradient = jax.value_and_grad(relative_error)(jnp.asarray(values), jnp.asarray(target))
    np.testing.assert_allclose(distance, np.mean((values - target).astype(np.float64) ** 2), rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * (values - target).astype(np.float64) / 4, rtol=1e-6)


def test_relative_error_of_a_quiet_target_stays_relative() -> None:
    values, target = np.full(4, 3e-6), np.full(4, 1e-6)
    np.testing.assert_allclose(relative_error(jnp.asarray(values), jnp.asarray(target)), 4.0, rtol=1e-5)


def test_total_variation() -> None:
    image = random(1, 5, 6, 3)
    down, across = np.diff(image.astype(np.float64), axis=1), np.diff(image.astype(np.float64), axis=2)
    np.testing.assert_allclose(total_variation(jnp.asarray(image)), (down**2).mean() + (across**2).mean(), rtol=1e-5)
    assert total_variation(jnp.full((1, 4, 4, 3), 0.3)) == 0


def test_out_of_range_counts_what_clipping_takes() -> None:
    image = jnp.array([[[[-0.5, 0.0, 1.0]], [[0.5, 1.2, 2.0]]]])
    np.testing.assert_allclose(out_of_range(image), (0.5**2 + 0.2**2 + 1) / 6, rtol=1e-5)


def test_gradients() -> None:
    features, target = jnp.asarray(random(1, 4, 5, 3)), jnp.asarray(random(3, 3, seed=1))
    for function in (
        lambda x: relative_error(gram_matrix(jnp.asarray(x)), target),
        lambda x: mean_squared_error(gram_matrix(jnp.asarray(x)), target),
        lambda x: total_variation(jnp.asarray(x)),
        lambda x: out_of_range(jnp.asarray(x)),
    ):
        check_grads(function, (features,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)


def test_temporal_is_the_masked_mean_of_squares() -> None:
    image, anchor = random(1, 4, 5, 3), random(1, 4, 5, 3, seed=1)
    mask = (random(1, 4, 5, 1, seed=2) > 0).astype(np.float32)
    expected = np.sum(mask.astype(np.float64) * (image.astype(np.float64) - anchor) ** 2) / 60
    held = functools.partial(temporal, anchor=jnp.asarray(anchor), mask=jnp.asarray(mask))
    np.testing.assert_allclose(held(jnp.asarray(image)), expected, rtol=1e-5)
    check_grads(lambda pixels: held(jnp.asarray(pixels)), (jnp.asarray(image),), order=1, modes=["rev"], rtol=1e-2)
