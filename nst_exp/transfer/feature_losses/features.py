"""The features themselves, position by position, as Gatys et al. (2016) compare the content of two pictures."""

from __future__ import annotations

from nst_exp.transfer.losses import Compare
from nst_exp.types import FeatureMap, Scalar


def itself(feature_map: FeatureMap) -> FeatureMap:
    """Return a feature map as it is."""
    return feature_map


def distance(feature_map: FeatureMap, target: FeatureMap, compare: Compare) -> Scalar:
    """Compare two feature maps of the same shape."""
    return compare(feature_map, target)
