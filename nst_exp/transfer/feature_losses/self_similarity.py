"""Self-similarity: how alike the features at any two positions of a picture are.

It keeps the structure of the photograph, such as a face, but leaves open in which colours and strokes it is painted.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_exp.transfer.feature_losses.nearest import thinned, unit
from nst_exp.transfer.losses import SILENT, Compare
from nst_exp.types import FeatureMap, Scalar

_POSITIONS = 1024  # the most positions of a layer, as in Kolkin et al.; larger feature maps are resized

Distances = Float[Array, "positions positions"]


def distances(feature_map: FeatureMap) -> Distances:
    """Return the cosine distance between the features at any two positions, divided by the sum of each column."""
    pooled = thinned(feature_map, _POSITIONS)
    units = unit(pooled.reshape(-1, pooled.shape[-1]))
    cosine = 1 - units @ units.T
    return cosine / (jnp.sum(cosine, axis=0) + SILENT)


def distance(feature_map: FeatureMap, target: Distances, compare: Compare) -> Scalar:
    """Return the mean absolute difference of the normalised cosine distances, from 0 to 2.

    It is `1/n sum_ij |D_ij / sum_i D_ij - E_ij / sum_i E_ij|`, where `D` and `E` are the cosine distances between the
    features at `n` positions of the pastiche and of the photograph. Kolkin et al. divide by `n^2`, which makes the loss
    depend on the size of the picture.

    Args:
        feature_map: features of the pastiche, of shape (1, H, W, C).
        target: the normalised distances of the photograph.
        compare: is not used; the distance is dimensionless whatever the setting `loss` is.

    References:
        Kolkin, Salavon, Shakhnarovich (2019), Style Transfer by Relaxed Optimal Transport and Self-Similarity,
        section 2.3.
    """
    return jnp.sum(jnp.abs(distances(feature_map) - target)) / target.shape[0]
