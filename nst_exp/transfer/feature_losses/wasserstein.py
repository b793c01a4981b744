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
    return Gaussian(found.mean, _power(found.covariance, 0.5))


def distance(feature_map: FeatureMap, target: Gaussian, compare: Compare) -> Scalar:
    """Return the squared Wasserstein-2 distance, relative to the mean square of the painting's features.

    For means `m`, `n` and covariances `S`, `T` of the pastiche and the painting it is

        (||m - n||^2 + tr S + tr T - 2 tr (T^(1/2) S T^(1/2))^(1/2)) / (||n||^2 + tr T)

    Without the means, the numerator is the squared Bures distance. Its gradient with respect to S is
    `1 - T^(1/2) (T^(1/2) S T^(1/2))^(-1/2) T^(1/2)`, so one eigendecomposition gives both, and none is differentiated.

    Args:
        feature_map: features of the pastiche, of shape (1, H, W, C).
        target: the normal distribution of the painting's features.
        compare: is not used; the distance is relative whatever the setting `loss` is.

    References:
        Olkin, Pukelsheim (1982), The Distance between Two Random Vectors with Given Dispersion Matrices, theorem 4;
        Mroueh (2019), Wasserstein Style Transfer, section 3.
    """
    found = moments(feature_map)
    variance = jnp.sum(jnp.square(target.root))
    bures = jnp.trace(found.covariance) + variance - 2 * _trace_of_root(found.covariance, target.root)
    squared = jnp.sum(jnp.square(found.mean - target.mean)) + jnp.maximum(bures, 0.0)
    return relative(squared, jnp.sum(jnp.square(target.mean)) + variance, target.mean.size)


@jax.custom_vjp
def _trace_of_root(covariance: GramMatrix, root: GramMatrix) -> Scalar:
    """Return `tr (R S R)^(1/2)` of a covariance matrix `S` and a root `R`; only `S` has a gradient."""
    return _trace_and_gradient(covariance, root)[0]


def _trace_and_gradient(covariance: GramMatrix, root: GramMatrix) -> tuple[Scalar, GramMatrix]:
    product = _product(_product(root, covariance), root)
    values, vectors = jnp.linalg.eigh(product)
    kept = values > _LEAST * values[-1]
    values = jnp.where(kept, values, 1.0)
    inverse = _product(vectors * jnp.where(kept, values**-0.5, 0.0), vectors.T)
    return jnp.sum(jnp.where(kept, jnp.sqrt(values), 0.0)), 0.5 * _product(_product(root, inverse), root)


def _forward(covariance: GramMatrix, root: GramMatrix) -> tuple[Scalar, GramMatrix]:
    return _trace_and_gradient(covariance, root)


def _backward(gradient: GramMatrix, cotangent: Scalar) -> tuple[GramMatrix, None]:
    return cotangent * gradient, None


_trace_of_root.defvjp(_forward, _backward)


def _power(covariance: GramMatrix, exponent: float) -> GramMatrix:
    values, vectors = jnp.linalg.eigh(covariance)
    return _product(vectors * jnp.maximum(values, 0.0) ** exponent, vectors.T)


def _product(left: GramMatrix, right: GramMatrix) -> GramMatrix:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
