"""The objective that the solver minimises.

    total = content_weight * content + style_weight * style_scale * style + tv_weight * tv
            + range_weight * range [+ temporal_weight * temporal]

The targets, such as features of the content image and Gram matrices of the style image, are computed once. Everything
that a sweep over weights changes is in the traced arrays of `LossWeights`, so such a sweep compiles once. Everything
that changes the structure of the computation is in `Objective`, which is static and hashable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from nst_exp.networks import Network
from nst_exp.transfer.colour import grey
from nst_exp.transfer.feature_losses import CONTENT_LOSSES, STYLE_LOSSES
from nst_exp.transfer.losses import DISTANCES
from nst_exp.transfer.terms import TERMS, LossWeights, Problem, View
from nst_exp.types import Image, Losses, NetworkParams, Scalar, Statistics, StyleImage


@dataclasses.dataclass(frozen=True)
class Objective:
    """The static part of the problem: the network, its layers, and how features are compared.

    Attributes:
        network: the network that computes the features.
        content_layers: the canonical names of the layers whose features are compared with those of the content image.
        style_layers: the canonical names of the layers whose features are compared with those of the style image.
        loss: a name in `nst_exp.transfer.losses.DISTANCES`, such as `relative` (dimensionless) or `article` (means of
            squared differences).
        style_loss: a name in `nst_exp.transfer.feature_losses.STYLE_LOSSES`.
        content_loss: a name in `nst_exp.transfer.feature_losses.CONTENT_LOSSES`.
        grey: whether only the luma of the pastiche counts. The targets are then those of grey pictures.

    Example:
        >>> import jax.numpy as jnp
        >>> from nst_exp.networks import get_network
        >>> from nst_exp.transfer.objective import Objective
        >>> network = get_network("tiny", pooling="average", padding="replicate", precision="float32")
        >>> objective = Objective(network, ("block2_conv1",), ("block1_conv1", "block2_conv1"), loss="relative")
        >>> objective.layers
        ('block2_conv1', 'block1_conv1')
        >>> settings = {"content_weight": 1.0, "style_weight": 0.1, "tv_weight": 10.0, "range_weight": 1000.0}
        >>> layer_weights = {"block1_conv1": 1.0, "block2_conv1": 3.0}
        >>> weights = objective.weights(settings | {"temporal_weight": 0.0}, layer_weights, {"style": 300.0})
        >>> weights.style_layers
        Array([0.25, 0.75], dtype=float32)
    """

    network: Network
    content_layers: tuple[str, ...]
    style_layers: tuple[str, ...]
    loss: str
    style_loss: str = "gram"
    content_loss: str = "features"
    grey: bool = False

    def weights(
        self,
        settings: Mapping[str, float],
        style_layer_weights: Mapping[str, float],
        scales: Mapping[str, float],
    ) -> LossWeights:
        """Return the weights of a run as arrays.

        Args:
            settings: the weight of each term by its key, such as `content_weight`; each 0 or above.
            style_layer_weights: the weight of each of `style_layers`, in their order; each 0 or above, and at least
                one above 0. They are divided by their sum if the distance asks for that.
            scales: factors of the weights of some terms, by term; above 0.
        """
        layers = np.array(list(style_layer_weights.values()), np.float32)
        return LossWeights(
            terms={name: jnp.float32(settings[f"{name}_weight"] * scales.get(name, 1.0)) for name in TERMS},
            style_layers=jnp.asarray(layers / layers.sum() if DISTANCES[self.loss].normalise_layers else layers),
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers whose features are needed, without repetitions."""
        return tuple(dict.fromkeys(self.content_layers + self.style_layers))

    @property
    def repeated(self) -> Objective:
        """The same objective, with the network prepared to compute features many times in a loop."""
        return dataclasses.replace(self, network=dataclasses.replace(self.network, repeated=True))

    def content_targets(self, params: NetworkParams, content_image: Image) -> Statistics:
        """Compute the targets of the content loss at `content_layers`, by layer.

        Args:
            params: the params of the network.
            content_image: the photograph, with pixels in [0, 1], at the size of the pastiche.
        """
        maps = self.network.features(params, content_image, self.content_layers)
        return {layer: CONTENT_LOSSES[self.content_loss].target(maps[layer]) for layer in self.content_layers}

    def style_targets(self, params: NetworkParams, style_image: StyleImage) -> Statistics:
        """Compute the targets of the style loss at `style_layers`, by layer.

        Args:
            params: the params of the network.
            style_image: the painting, with pixels in [0, 1], of any size that the network can read.
        """
        maps = self.network.features(params, style_image, self.style_layers)
        return {layer: STYLE_LOSSES[self.style_loss].target(maps[layer]) for layer in self.style_layers}

    def losses(self, problem: Problem, image: Image) -> tuple[Scalar, Losses]:
        """Compute the total loss of `image` and its terms.

        Args:
            problem: the params, targets and weights, and for a frame of a video its anchor.
            image: the pastiche, at the size of the content targets.

        Returns:
            The weighted total, and a dictionary of losses before their weights: each of `TERMS` that applies to the
            problem, and the distance of each style layer as `style.LAYER`.
        """
        compare, targets = DISTANCES[self.loss].between, problem.targets
        content_loss, style_loss = CONTENT_LOSSES[self.content_loss], STYLE_LOSSES[self.style_loss]
        image = grey(image) if self.grey else image
        maps = self.network.features(problem.params, image, self.layers)
        content = [content_loss.distance(maps[name], targets.content[name], compare) for name in self.content_layers]
        style = [style_loss.distance(maps[name], targets.style[name], compare) for name in self.style_layers]
        view = View(problem, image, maps, jnp.stack(content), jnp.stack(style))
        computed = {name: term(view) for name, term in TERMS.items()}
        terms = {name: loss for name, loss in computed.items() if loss is not None}
        total = jnp.asarray(sum(problem.weights.terms[name] * loss for name, loss in terms.items()))
        by_layer = {f"style.{layer}": loss for layer, loss in zip(self.style_layers, style, strict=True)}
        return total, terms | by_layer
