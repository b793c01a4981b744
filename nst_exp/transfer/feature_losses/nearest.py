"""Nearest neighbours: each feature of the pastiche is to be one of the painting's, whichever it is nearest to.

Unlike all other statistics, this one does not ask in which proportions the features occur.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from nst_exp.transfer.losses import SILENT, Compare
from nst_exp.types import FeatureMap, Scalar

_POSITIONS = 2048  # the most positions of a layer; larger feature maps are resized


@struct.dataclass
class Directions:
    """The features of the painting at `_POSITIONS` positions, minus their mean, scaled to length 1."""

    units: Float[Array, "positions channels"]


def directions(feature_map: FeatureMap) -> Directions:
    """Return the features of a painting, from a feature map of shape (1, H, W, C).

    Paintings of all sizes have the same number of positions, so that a batch can hold several paintings; features of
    small ones are repeated.
    """
    units = _centred_units(feature_map)
    return Directions(units[np.linspace(0, units.shape[0] - 1, _POSITIONS).round().astype(int)])


def distance(feature_map: FeatureMap, target: Directions, compare: Compare) -> Scalar:
    """Return the mean cosine distance of each feature to the nearest one of the painting, from 0 to 2.

    It is `mean_i min_j (1 - cos(x_i - mean x, y_j - mean y))` over the features `x_i` of the pastiche and `y_j` of the
    painting.

    Args:
        feature_map: features of the pastiche, of shape (1, H, W, C).
        target: the features of the painting.
        compare: is not used; the cosine distance is dimensionless whatever the setting `loss` is.

    References:
        Kolkin, Kucera, Paris, Sykora, Shechtman, Shakhnarovich (2022), Neural Neighbor Style Transfer.
        They join the layers to one feature before they look for neighbours; here each layer has neighbours of its own,
        so that each has a weight.
    """
    units = _centred_units(feature_map)
    nearest = jnp.argmax(jax.lax.stop_gradient(units) @ target.units.T, axis=1)
    return 1 - jnp.mean(jnp.sum(units * target.units[nearest], axis=1))


def _centred_units(feature_map: FeatureMap) -> Float[Array, "_ channels"]:
    pooled = thinned(feature_map, _POSITIONS)
    features = pooled.reshape(-1, pooled.shape[-1])
    return unit(features - features.mean(0))


def thinned(feature_map: FeatureMap, most: int) -> Float[Array, "1 _ _ channels"]:
    """Resize a feature map so that at most about `most` positions are left.

    Each position is a mean, weighted by a triangle, of the features around it. Without overlap, as with square windows,
    the borders of the windows could be seen in the pictures as a fine grid.
    """
    _, rows, columns, channels = feature_map.shape
    factor = max(1.0, math.sqrt(rows * columns / most))
    size = (1, math.ceil(rows / factor), math.ceil(columns / factor), channels)
    return jax.image.resize(feature_map, size, "linear", antialias=True)


def unit(features: Float[Array, "positions channels"]) -> Float[Array, "positions channels"]:
    """Scale each feature to length 1; a feature of length 0 stays 0."""
    squared = jnp.sum(jnp.square(features), axis=1, keepdims=True)
    return features / jnp.sqrt(squared + SILENT**2)
