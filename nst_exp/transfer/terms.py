"""The terms of the loss. The total is the sum of all terms, each times its weight, the setting `NAME_weight`.

A new term is a function in `TERMS`, usually of a loss in `losses`, and its weight: a key `NAME_weight` in
conf/run.yaml and in `config.RunConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from nst_exp.transfer.losses import out_of_range, temporal, total_variation
from nst_exp.types import FeatureMaps, GramMatrices, Image, NetworkParams, Scalar


@struct.dataclass
class LossWeights:
    """The numbers that a sweep over weights changes.

    Attributes:
        terms: the weight of each of `TERMS`; that of `style` is style_weight * style_scale.
        style_layers: the weight of each style layer, in the order of the objective's.
    """

    terms: dict[str, Float[Array, ""]]
    style_layers: Float[Array, "layers"]


@struct.dataclass
class Targets:
    """Features of the content image and Gram matrices of the style image, by layer."""

    content: FeatureMaps
    style: GramMatrices


@struct.dataclass
class Anchor:
    """What a frame of a video is held to: `image`, where `mask` is 1 and not 0."""

    image: Image
    mask: Float[Array, "1 height width 1"]


@struct.dataclass
class Problem:
    """All that the loss needs besides the pastiche: the traced arguments of a compiled solve."""

    params: NetworkParams
    targets: Targets
    weights: LossWeights
    anchor: Anchor | None = None


class View(NamedTuple):
    """What a term is computed from.

    Attributes:
        problem: targets, weights and, for a frame of a video, the anchor.
        image: the pastiche.
        maps: its feature maps at all layers of the objective.
        content_distances: of each content layer, by the objective's loss.
        style_distances: of each style layer's Gram matrix, likewise.
    """

    problem: Problem
    image: Image
    maps: FeatureMaps
    content_distances: Float[Array, "content_layers"]
    style_distances: Float[Array, "style_layers"]


def _temporal(view: View) -> Scalar | None:
    anchor = view.problem.anchor
    return None if anchor is None else temporal(view.image, anchor.image, anchor.mask)


# A term that a problem has no data for, such as the temporal one of a picture, is None and left out.
TERMS: dict[str, Callable[[View], Scalar | None]] = {
    "content": lambda view: jnp.mean(view.content_distances),
    "style": lambda view: jnp.dot(view.problem.weights.style_layers, view.style_distances),
    "tv": lambda view: total_variation(view.image),
    "range": lambda view: out_of_range(view.image),
    "temporal": _temporal,
}
