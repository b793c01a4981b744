"""The Gram matrix: the mean products of channels, which mix their mean with how they vary together."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_exp.transfer.losses import Compare
from nst_exp.types import FeatureMap, GramMatrix, Scalar

# The number of channels from which two products are faster than one product and a transposition. On two CPU cores they
# took 0.5 to 0.8 of the time with 1024 channels (a gradient of 4 MB), and 0.15 with 2048.
_WIDE = 1024


def gram_matrix(feature_map: FeatureMap) -> GramMatrix:
    """Compute the correlations between the channels of a feature map.

    The Gram matrix is `F^T F / (H W C)`, where F is the matrix of features with a row for each of the H W positions
    and a column for each of the C channels. This is the normalisation of Dey (2019); Gatys et al. divide the loss by
    `4 N^2 M^2` instead. The product is computed in full float32 precision on every device, because TF32 would lose
    three digits here.

    Args:
        feature_map: features of one picture, of shape (1, H, W, C).

    Returns:
        The symmetric Gram matrix, of shape (C, C).

    Example:
        >>> import jax.numpy as jnp
        >>> from nst_exp.transfer.feature_losses.gram import gram_matrix
        >>> feature_map = jnp.array([1.0, 0.0, 2.0, 4.0]).reshape(1, 2, 1, 2)  # two positions, two channels
        >>> gram_matrix(feature_map)
        Array([[1.25, 2.  ],
               [2.  , 4.  ]], dtype=float32)

    References:
        Gatys, Ecker, Bethge (2016), Image Style Transfer Using CNNs, section 2.2.
    """
    features = feature_map.reshape(-1, feature_map.shape[-1])
    return products(features) / features.size


def distance(feature_map: FeatureMap, target: GramMatrix, compare: Compare) -> Scalar:
    """Compare the Gram matrix of a feature map with that of the painting."""
    return compare(gram_matrix(feature_map), target)


@jax.custom_vjp
def products(features: Float[Array, "pixels channels"]) -> GramMatrix:
    """Return `F^T F` in full float32 precision."""
    return jnp.matmul(features.T, features, precision=jax.lax.Precision.HIGHEST)


def _products_forward(features: Array) -> tuple[Array, Array]:
    return products(features), features


def _products_backward(features: Array, gradient: Array) -> tuple[Array]:
    """Compute `F (g + g^T)` in one product or, where the sum takes longer than a product, in two."""
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    if features.shape[1] >= _WIDE:
        return (product(features, gradient) + product(gradient, features.T).T,)
    return (product(features, gradient + gradient.T),)


products.defvjp(_products_forward, _products_backward)
