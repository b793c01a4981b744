"""What is minimised: targets computed once, then the total loss and its breakdown by term.

    total = content_weight * content + style_weight * style_scale * style + tv_weight * tv
            + range_weight * range [+ temporal_weight * temporal]

Everything that a sweep over weights changes is in `LossWeights`, traced arrays: such a sweep compiles once.
What changes the computation's shape is in `Objective`, static and hashable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from nst_exp.networks import Network
from nst_exp.transfer.losses import DISTANCES, gram_matrix
from nst_exp.transfer.terms import TERMS, LossWeights, Problem, View
from nst_exp.types import FeatureMaps, GramMatrices, Image, Losses, NetworkParams, Scalar, StyleImage


@dataclasses.dataclass(frozen=True)
class Objective:
    """The static half of the problem: which network, which layers, which distance.

    Attributes:
        loss: a name in `DISTANCES`: `relative` (dimensionless, default) or `article` (means of squares of raw
            differences).
    """

    network: Network
    content_layers: tuple[str, ...]
    style_layers: tuple[str, ...]
    loss: str

    def weights(
        self, settings: Mapping[str, float], style_layer_weights: Mapping[str, float], style_scale: float
    ) -> LossWeights:
        """The traced weights of a run.

        Args:
            settings: the weight of each term by its key, such as `content_weight`; 0 or above.
            style_layer_weights: of each of `style_layers`, in their order; 0 or above, one of them above 0. They
                are divided by their sum if the distance asks for that.
            style_scale: multiplies `style_weight`; above 0.
        """
        scales = {"style": style_scale}
        layers = np.array(list(style_layer_weights.values()), np.float32)
        return LossWeights(
            terms={name: jnp.float32(settings[f"{name}_weight"] * scales.get(name, 1.0)) for name in TERMS},
            style_layers=jnp.asarray(layers / layers.sum() if DISTANCES[self.loss].normalise_layers else layers),
        )

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
            The weighted total, and each of `TERMS` that the problem has, and as `style.LAYER` the distance of each
            style layer before its weight.
        """
        distance = DISTANCES[self.loss].between
        maps = self.network.features(problem.params, image, self.layers)
        content = [distance(maps[layer], problem.targets.content[layer]) for layer in self.content_layers]
        style = [distance(gram_matrix(maps[layer]), problem.targets.style[layer]) for layer in self.style_layers]
        view = View(problem, image, maps, jnp.stack(content), jnp.stack(style))
        computed = {name: term(view) for name, term in TERMS.items()}
        terms = {name: loss for name, loss in computed.items() if loss is not None}
        total = jnp.asarray(sum(problem.weights.terms[name] * loss for name, loss in terms.items()))
        by_layer = {f"style.{layer}": loss for layer, loss in zip(self.style_layers, style, strict=True)}
        return total, terms | by_layer
