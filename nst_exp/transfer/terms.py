"""The terms of the loss, and the arrays that they are computed from.

The total loss is the sum of all terms, each multiplied by its weight, the setting `NAME_weight`. To add a term, add a
function to `TERMS`, which usually calls a loss of `losses`, and add its weight as the key `NAME_weight` to
conf/run.yaml and to `config.RunConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from nst_exp.transfer.losses import out_of_range, temporal, total_variation
from nst_exp.types import FeatureMaps, Image, NetworkParams, Scalar, Statistics


@struct.dataclass
class LossWeights:
    """The weights of the loss, which a sweep can change without compiling again.

    Attributes:
        terms: the weight of each of `TERMS`; those of `content` and `style` are multiplied by their scales.
        style_layers: the weight of each style layer, in the order of `Objective.style_layers`.
    """

    terms: dict[str, Float[Array, ""]]
    style_layers: Float[Array, "layers"]


@struct.dataclass
class Targets:
    """What the features of the pastiche are compared with, by layer.

    Attributes:
        content: the targets of the content loss, computed from the content image.
        style: the targets of the style loss, computed from the style image.
    """

    content: Statistics
    style: Statistics


@struct.dataclass
class Anchor:
    """The picture that the temporal loss compares a frame of a video with.

    Attributes:
        image: earlier painted frames, warped by optical flow; pixels in [0, 1].
        mask: 1 where `image` is valid, 0 elsewhere.
    """

    image: Image
    mask: Float[Array, "1 height width 1"]


@struct.dataclass
class Problem:
    """Everything that the loss needs besides the pastiche; its arrays are traced.

    Attributes:
        params: the params of the network.
        targets: what the features are compared with.
        weights: the weights of the terms and of the style layers.
        anchor: for a frame that follows other frames of a video; None for other pictures.
    """

    params: NetworkParams
    targets: Targets
    weights: LossWeights
    anchor: Anchor | None = None


class View(NamedTuple):
    """The values that a term can be computed from.

    Attributes:
        problem: the targets, the weights and, for a frame of a video, the anchor.
        image: the pastiche.
        maps: the feature maps of the pastiche at all layers of the objective.
        content_distances: the distance of the features at each content layer from their target.
        style_distances: the distance of the features at each style layer from their target.
    """

    problem: Problem
    image: Image
    maps: FeatureMaps
    content_distances: Float[Array, "content_layers"]
    style_distances: Float[Array, "style_layers"]


def _temporal(view: View) -> Scalar | None:
    anchor = view.problem.anchor
    return None if anchor is None else temporal(view.image, anchor.image, anchor.mask)


# A term returns None, and is left out of the total, if it does not apply to a problem: a picture has no temporal loss.
TERMS: dict[str, Callable[[View], Scalar | None]] = {
    "content": lambda view: jnp.mean(view.content_distances),
    "style": lambda view: jnp.dot(view.problem.weights.style_layers, view.style_distances),
    "tv": lambda view: total_variation(view.image),
    "range": lambda view: out_of_range(view.image),
    "temporal": _temporal,
}
