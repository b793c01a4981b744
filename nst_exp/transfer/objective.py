"""What is minimised: targets computed once, then the total loss and its breakdown by term.

    total = content_weight * content + style_weight * style_scale * style + tv_weight * tv
            + range_weight * range [+ temporal_weight * temporal]

Everything a sweep over weights changes is in `LossWeights`, traced arrays: such a sweep compiles once.
What changes the computation's shape is in `Objective`, static and hashable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from nst_exp.networks import Network
from nst_exp.transfer.losses import (
    gram_matrix,
    mean_squared_error,
    out_of_range,
    relative_error,
    temporal,
    total_variation,
)
from nst_exp.types import FeatureMaps, GramMatrices, Image, Losses, NetworkParams, Scalar, StyleImage

_DISTANCES = {"relative": relative_error, "article": mean_squared_error}


@struct.dataclass
class LossWeights:
    """The numbers of a sweep; scalars but for `style_layers`, in the order of the objective's layers."""

    content: Float[Array, ""]
    style: Float[Array, ""]  # style_weight * style_scale
    style_layers: Float[Array, "layers"]
    tv: Float[Array, ""]
    range: Float[Array, ""]
    temporal: Float[Array, ""]


@struct.dataclass
class Targets:
    """Features of the content image and Gram matrices of the style image, by layer."""

    content: FeatureMaps
    style: GramMatrices


@struct.dataclass
class Anchor:
    """What a frame of a clip is held to: `image`, where `mask` is 1 and not 0."""

    image: Image
    mask: Float[Array, "1 height width 1"]


@struct.dataclass
class Problem:
    """All that the loss needs besides the pastiche: the traced arguments of a compiled solve."""

    params: NetworkParams
    targets: Targets
    weights: LossWeights
    anchor: Anchor | None = None


def loss_weights(
    *,
    content_weight: float,
    style_weight: float,
    style_scale: float,
    style_layer_weights: Mapping[str, float],
    tv_weight: float,
    range_weight: float,
    temporal_weight: float = 0.0,
    normalise: bool,
) -> LossWeights:
    """The traced weights, layer weights divided by their sum if `normalise` (the relative loss)."""
    layers = np.array(list(style_layer_weights.values()), np.float32)
    return LossWeights(
        content=jnp.float32(content_weight),
        style=jnp.float32(style_weight * style_scale),
        style_layers=jnp.asarray(layers / layers.sum() if normalise else layers),
        tv=jnp.float32(tv_weight),
        range=jnp.float32(range_weight),
        temporal=jnp.float32(temporal_weight),
    )


@dataclasses.dataclass(frozen=True)
class Objective:
    """The static half of the problem: which network, which layers, which normalisation.

    Attributes:
        loss: `relative` (dimensionless, default) or `article` (means of squares of raw differences).
    """

    network: Network
    content_layers: tuple[str, ...]
    style_layers: tuple[str, ...]
    loss: str

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers whose features are needed, each once."""
        return tuple(dict.fromkeys(self.content_layers + self.style_layers))

    @property
    def repeated(self) -> Objective:
        """The same, for a loop: the network's features are computed many times."""
        return dataclasses.replace(self, network=dataclasses.replace(self.network, repeated=True))

    def content_targets(self, params: NetworkParams, content_image: Image) -> FeatureMaps:
        """The features that the pastiche's are held against."""
        return self.network.features(params, content_image, self.content_layers)

    def style_targets(self, params: NetworkParams, style_image: StyleImage) -> GramMatrices:
        """The Gram matrices that the pastiche's are held against; the painting may be of any size."""
        maps = self.network.features(params, style_image, self.style_layers)
        return {layer: gram_matrix(maps[layer]) for layer in self.style_layers}

    def losses(self, problem: Problem, image: Image) -> tuple[Scalar, Losses]:
        """Total loss of `image`, and its terms before their weights.

        Returns:
            The weighted total, and `{"content", "style", "tv", "range", "style.LAYER"...}`: the mean of the
            content layers' distances, the sum of the style layers' weighted by `style_layers`, total variation,
            what is out of range, with an anchor the temporal loss, and each style layer's own distance.
        """
        distance = _DISTANCES[self.loss]
        maps = self.network.features(problem.params, image, self.layers)
        content = [distance(maps[layer], problem.targets.content[layer]) for layer in self.content_layers]
        style = [distance(gram_matrix(maps[layer]), problem.targets.style[layer]) for layer in self.style_layers]
        weights = problem.weights
        terms = {
            "content": jnp.mean(jnp.stack(content)),
            "style": jnp.dot(weights.style_layers, jnp.stack(style)),
            "tv": total_variation(image),
            "range": out_of_range(image),
        }
        if problem.anchor is not None:
            terms["temporal"] = temporal(image, problem.anchor.image, problem.anchor.mask)
        total = sum(getattr(weights, name) * loss for name, loss in terms.items())
        by_layer = {f"style.{layer}": loss for layer, loss in zip(self.style_layers, style, strict=True)}
        return total, terms | by_layer
