"""The mean and the covariance of the channels, compared separately.

The Gram matrix is the covariance plus the products of the means, so the means, which are large after a ReLU, dominate
it. Here, the mean and the covariance of the painting count the same.
"""

from __future__ import annotations

from flax import struct
from jaxtyping import Array, Float

from nst_exp.transfer.feature_losses.gram import products
from nst_exp.transfer.losses import Compare
from nst_exp.types import FeatureMap, GramMatrix, Scalar


@struct.dataclass
class Moments:
    """The mean of each channel, and the covariances of the channels, over all positions of a feature map."""

    mean: Float[Array, "channels"]
    covariance: GramMatrix


def moments(feature_map: FeatureMap) -> Moments:
    """Compute the mean `m` and the covariance `(F - m)^T (F - m) / (H W)` of the channels of a feature map.

    Args:
        feature_map: features of one picture, of shape (1, H, W, C).

    References:
        Kolkin, Salavon, Shakhnarovich (2019), Style Transfer by Relaxed Optimal Transport and Self-Similarity, section
        2.2, who compare the moments by their absolute differences; Li, Wang, Liu, Hou (2017), Demystifying Neural Style
        Transfer, match the mean and variance of each channel.
    """
    features = feature_map.reshape(-1, feature_map.shape[-1])
    mean = features.mean(0)
    return Moments(mean, products(features - mean) / features.shape[0])


def distance(feature_map: FeatureMap, target: Moments, compare: Compare) -> Scalar:
    """Add the distance between the means and the distance between the covariances."""
    found = moments(feature_map)
    return compare(found.mean, target.mean) + compare(found.covariance, target.covariance)
