"""The sliced Wasserstein distance: whole distributions of features, compared along many directions.

Along one direction, the optimal transport between two distributions maps each quantile of one to the same quantile of
the other. So nothing is assumed about the distributions, whereas the other statistics see the mean and covariance only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from nst_exp.transfer.losses import Compare
from nst_exp.types import FeatureMap, Scalar

_DIRECTIONS = 128  # the most of a layer; layers with fewer channels have as many directions as channels
_LEVELS = 1024  # of the quantile function of the painting, and of the distribution function of the pastiche

Projected = Float[Array, "directions pixels"]


@struct.dataclass
class Slices:
    """The distributions of the painting's features along some directions.

    Attributes:
        directions: orthonormal vectors, as rows; the same for all pictures.
        quantiles: for each direction, the quantiles at levels that divide [0, 1] evenly.
    """

    directions: Float[Array, "directions channels"]
    quantiles: Float[Array, "directions levels"]


def slices(feature_map: FeatureMap) -> Slices:
    """Compute the quantiles of a feature map of shape (1, H, W, C) along fixed random directions."""
    directions = jnp.asarray(_directions(feature_map.shape[-1]))
    levels = jnp.linspace(0.0, 1.0, _LEVELS)
    return Slices(directions, jnp.quantile(_projected(feature_map, directions), levels, axis=1).T)


def distance(feature_map: FeatureMap, target: Slices, compare: Compare) -> Scalar:
    """Compare the projected features with where the optimal transport to the painting's distribution moves them.

    With `compare` relative, this is `sum_d sum_i (x_di - T_d(x_di))^2 / sum_d sum_i T_d(x_di)^2`, where `x_di` is
    feature i along direction d, and `T_d` maps each quantile of the pastiche to that of the painting. Sorting is slow
    on many devices, so the distribution function of the pastiche is read from a histogram of 1024 bins. The gradient
    keeps `T_d(x_di)` fixed, which is the gradient of the Wasserstein distance.

    Args:
        feature_map: features of the pastiche, of shape (1, H, W, C).
        target: the distributions of the painting's features.
        compare: the distance between the features and their goals.

    References:
        Heitz, Vanhoey, Chambon, Belcour (2021), A Sliced Wasserstein Loss for Neural Texture Synthesis, section 3;
        Bonneel, Rabin, Peyre, Pfister (2015), Sliced and Radon Wasserstein Barycenters of Measures, section 2.
    """
    features = _projected(feature_map, target.directions)
    return compare(features, jax.lax.stop_gradient(_transported(features, target.quantiles)))


def _directions(channels: int) -> Float[np.ndarray, "directions channels"]:
    vectors = np.random.default_rng(0).normal(size=(channels, min(channels, _DIRECTIONS)))
    return np.linalg.qr(vectors)[0].T.astype(np.float32)


def _projected(feature_map: FeatureMap, directions: Float[Array, "directions channels"]) -> Projected:
    features = feature_map.reshape(-1, feature_map.shape[-1])
    return jnp.matmul(directions, features.T, precision=jax.lax.Precision.HIGHEST)


def _transported(features: Projected, quantiles: Float[Array, "directions levels"]) -> Projected:
    """Map each feature to the quantile of the painting at the level that the feature has among its like."""
    least, most = features.min(1, keepdims=True), features.max(1, keepdims=True)
    bins = quantiles.shape[1] - 1
    places = bins * (features - least) / jnp.where(most > least, most - least, 1.0)
    inside = jnp.minimum(places.astype(jnp.int32), bins - 1)
    counts = jax.vmap(lambda row: jnp.zeros(bins).at[row].add(1.0))(inside)
    below = jnp.cumsum(counts, 1) - counts
    levels = _at(below, inside) + (places - inside) * _at(counts, inside)  # linear within a bin
    return _interpolated(quantiles, levels * (bins / features.shape[1]))


def _interpolated(rows: Float[Array, "directions levels"], places: Projected) -> Projected:
    """Read each row of a table at fractional indices."""
    whole = jnp.clip(places.astype(jnp.int32), 0, rows.shape[1] - 2)
    low, high = _at(rows, whole), _at(rows, whole + 1)
    return low + (places - whole) * (high - low)


def _at(rows: Array, indices: Array) -> Array:
    return jnp.take_along_axis(rows, indices, axis=1)
