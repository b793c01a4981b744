"""The Wasserstein-2 distance between two normal distributions of features.

The features of a picture at a layer are described by their mean and covariance, as in `moments`, but these are compared
by the work that it takes to turn one normal distribution into the other. Directions in which the features of the
painting vary little count as much as they do in the work, whereas the squared difference of covariances hardly sees
them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from nst_exp.transfer.feature_losses.gram import products
from nst_exp.transfer.feature_losses.moments import moments
from nst_exp.transfer.losses import Compare, relative
from nst_exp.types import FeatureMap, GramMatrix, Scalar

_LEAST = 1e-6  # eigenvalues below this fraction of the largest one are rounding errors in float32


@struct.dataclass
class Gaussian:
    """The mean of each channel, and the symmetric square root of the covariance matrix of the channels."""

    mean: Float[Array, "channels"]
    root: GramMatrix


def gaussian(feature_map: FeatureMap) -> Gaussian:
    """Fit a normal distribution to a feature map of shape (1, H, W, C)."""
    found = moments(feature_map)
    values, vectors = jnp.linalg.eigh(found.covariance)
    return Gaussian(found.mean, _product(vectors * jnp.sqrt(jnp.maximum(values, 0.0)), vectors.T))


def distance(feature_map: FeatureMap, target: Gaussian, compare: Compare) -> Scalar:
    """Return the squared Wasserstein-2 distance, relative to the mean square of the painting's features.

    For means `m`, `n` and covariances `S`, `T` of the pastiche and the painting it is

        (||m - n||^2 + tr S + tr T - 2 tr (T^(1/2) S T^(1/2))^(1/2)) / (||n||^2 + tr T)

    Without the means, the numerator is the squared Bures distance. Its last trace is the nuclear norm of
    `X T^(1/2) / sqrt(H W)`, where the rows of X are the features of the pastiche minus `m`.

    Args:
        feature_map: features of the pastiche, of shape (1, H, W, C).
        target: the normal distribution of the painting's features.
        compare: is not used; the distance is relative whatever the setting `loss` is.

    References:
        Olkin, Pukelsheim (1982), The Distance between Two Random Vectors with Given Dispersion Matrices, theorem 4;
        Mroueh (2019), Wasserstein Style Transfer, section 3.
    """
    features = feature_map.reshape(-1, feature_map.shape[-1])
    mean = features.mean(0)
    deviations = (features - mean) / features.shape[0] ** 0.5
    variance = jnp.sum(jnp.square(target.root))
    bures = jnp.sum(jnp.square(deviations)) + variance - 2 * nuclear_norm(_product(deviations, target.root))
    squared = jnp.sum(jnp.square(mean - target.mean)) + jnp.maximum(bures, 0.0)
    return relative(squared, jnp.sum(jnp.square(target.mean)) + variance, mean.size)


@jax.custom_vjp
def nuclear_norm(matrix: Float[Array, "rows columns"]) -> Scalar:
    """Return the sum of the singular values of a matrix.

    The gradient is the orthogonal factor `U V^T` of the matrix `U D V^T`. Both come from one eigendecomposition of the
    smaller one of `A A^T` and `A^T A`, which is not differentiated itself.
    """
    return _norm_and_gradient(matrix)[0]


def _norm_and_gradient(matrix: Array) -> tuple[Scalar, Array]:
    if matrix.shape[0] < matrix.shape[1]:
        norm, gradient = _norm_and_gradient(matrix.T)
        return norm, gradient.T
    values, vectors = jnp.linalg.eigh(products(matrix))
    kept = values > _LEAST * values[-1]
    values = jnp.where(kept, values, 1.0)
    inverse_root = _product(vectors * jnp.where(kept, values**-0.5, 0.0), vectors.T)
    return jnp.sum(jnp.where(kept, jnp.sqrt(values), 0.0)), _product(matrix, inverse_root)


def _forward(matrix: Array) -> tuple[Scalar, Array]:
    return _norm_and_gradient(matrix)


def _backward(gradient: Array, cotangent: Scalar) -> tuple[Array]:
    return (cotangent * gradient,)


nuclear_norm.defvjp(_forward, _backward)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
