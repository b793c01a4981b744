"""The losses that compare the features of the pastiche at a layer with those of the painting or the photograph.

Each has a module of its own. `target` says what is kept of the painting or photograph, and `distance` how far a feature
map of the pastiche is from that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nst_exp.transfer.feature_losses import (
    features,
    gram,
    moments,
    nearest,
    self_similarity,
    sliced_wasserstein,
    wasserstein,
)
from nst_exp.transfer.losses import Compare
from nst_exp.types import FeatureMap, Scalar


class FeatureLoss(NamedTuple):
    """A loss of the features at a layer.

    Attributes:
        target: computes what is compared, a pytree of arrays, from a feature map of the painting or photograph.
        distance: computes the distance of a feature map from a target. The last argument is the distance between
            arrays that the setting `loss` chooses; a loss that is a distance by itself does not use it.
    """

    target: Callable[[FeatureMap], Any]
    distance: Callable[[FeatureMap, Any, Compare], Scalar]


# the options of the settings `style_loss` and `content_loss`
STYLE_LOSSES = {
    "gram": FeatureLoss(gram.gram_matrix, gram.distance),
    "moments": FeatureLoss(moments.moments, moments.distance),
    "wasserstein": FeatureLoss(wasserstein.gaussian, wasserstein.distance),
    "sliced_wasserstein": FeatureLoss(sliced_wasserstein.slices, sliced_wasserstein.distance),
    "nearest": FeatureLoss(nearest.directions, nearest.distance),
}
CONTENT_LOSSES = {
    "features": FeatureLoss(features.itself, features.distance),
    "self_similarity": FeatureLoss(self_similarity.distances, self_similarity.distance),
}
