"""The base class of all architectures: named layers, the params that they need, and features.

An architecture is a table of its layers, from shallow to deep, each with the block that leads to it from the layer
before. The table is cut after the deepest layer in use. Everything else follows from the table.

Four options depart from the papers: other pools (Gatys et al. 2016, section 2, take averages), a factor that makes up
for their smaller values, a replicated border of the first convolution, which keeps the edge of the image from showing
in every Gram matrix, and smoothed activations.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_exp.errors import InputError
from nst_exp.networks.blocks import Chain, Kernels, Options, Table
from nst_exp.suggestions import did_you_mean
from nst_exp.types import FeatureMaps, Image, NetworkParams, Preprocessing


@dataclasses.dataclass(frozen=True)
class Network(abc.ABC):
    """An architecture with its options.

    A network is hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
        name: Name of the network in conf/network.
        pooling: Kind of those pools that the architecture does not fix, `average`, `max` or `l2`.
        pooling_gain: Factor of the output of these pools.
        padding: Border of the first convolution, `zeros` or `replicate`.
        precision: Precision of convolutions, `float32`, `tf32` or `bfloat16`.
        smoothing: Smoothing of the features: `softmax`, or None for no smoothing.
        repeated: Whether the network is evaluated so often that faster code is worth a longer compilation.
    """

    name: str
    pooling: str = dataclasses.field(default="max", kw_only=True)
    pooling_gain: float = dataclasses.field(default=1.0, kw_only=True)
    padding: str = dataclasses.field(default="zeros", kw_only=True)
    precision: str = dataclasses.field(default="float32", kw_only=True)
    smoothing: str | None = dataclasses.field(default=None, kw_only=True)
    repeated: bool = dataclasses.field(default=False, kw_only=True)

    # --- defined by each architecture ------------------------------------------------------------------

    @abc.abstractmethod
    def table(self, *, strided_first: bool = False) -> Table:
        """Return all layers, from shallow to deep, each with the block that leads to it.

        Args:
            strided_first: As in `NetworkParams`; matters to residual networks only.
        """

    @property
    def aliases(self) -> Mapping[str, str]:
        """The layers' own names, by other names for them."""
        return {}

    def random_gain(self, convolution: str) -> float:
        """Return a factor on the random kernel of a convolution."""
        return 1.0

    # --- derived from the table ------------------------------------------------------------------------

    def configured(
        self, *, pooling: str, padding: str, precision: str, smoothing: str | None = None, pooling_gain: float = 1.0
    ) -> Network:
        """Return the same architecture with these options; see `get_network`."""
        return dataclasses.replace(
            self,
            pooling=pooling,
            pooling_gain=pooling_gain,
            padding=padding,
            precision=precision,
            smoothing=smoothing,
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of all layers whose features are available, from shallow to deep."""
        return tuple(layer for layer, _ in self.table())

    def kernels(self, layers: Sequence[str]) -> Kernels:
        """Return the shapes of the kernels that lead to each of `layers` from the layer before it.

        Args:
            layers: Canonical names of layers.

        Returns:
            Shapes (HWIO) by name of the convolution.
        """
        kernels: dict[str, tuple[int, int, int, int]] = {}
        channels = 3
        for layer, block in self.table():
            shapes, channels = block.kernels(channels)
            kernels |= shapes if layer in layers else {}
        return kernels

    def canonical_layer(self, layer: str) -> str:
        """Return a layer's own name.

        Args:
            layer: The layer's own name, or an alias.

        Raises:
            InputError: If the network has no such layer. The message lists the layers that it has.
        """
        if layer not in self.layers and layer not in self.aliases:
            hint = did_you_mean(layer, (*self.layers, *self.aliases))
            raise InputError(f"layer {layer!r} is not in {self.name}: choose among {', '.join(self.layers)}{hint}")
        return self.aliases.get(layer, layer)

    def truncated(self, layers: Sequence[str]) -> tuple[str, ...]:
        """Return all layers up to the deepest of `layers`, which are those whose params are needed."""
        deepest = max(self.layers.index(layer) for layer in layers)
        return self.layers[: deepest + 1]

    def smallest_side(self, layers: Sequence[str]) -> int:
        """Return the least height and width, in px, of an image that has features at the deepest of `layers`."""
        needed = self.truncated(layers)
        way = Chain(tuple(block for layer, block in self.table() if layer in needed))
        return next(side for side in itertools.count(1) if way.side(side) > 0)

    def features(self, params: NetworkParams, image: Image, layers: tuple[str, ...]) -> FeatureMaps:
        """Compute the features of an image.

        Args:
            params: Params of `truncated(layers)` or more.
            image: Pixels in [0, 1], with sides of at least `smallest_side(layers)` px.
            layers: Canonical names of layers.

        Returns:
            Feature maps in float32, by layer.
        """
        table = self.table(strided_first=params.strided_first)[: len(self.truncated(layers))]
        first = next(iter(self.kernels(self.layers)))
        replicated = first if self.padding == "replicate" else None
        options = Options(self.pooling, self.precision, replicated, self.repeated, self.pooling_gain)
        module = _Extractor(table, options)
        pixels = _preprocess(image, params.preprocessing)
        maps = cast(dict[str, jax.Array], module.apply({"params": params.layers}, pixels))
        wanted = {layer: maps[layer].astype(jnp.float32) for layer in layers}
        return {layer: _softmax(map_) for layer, map_ in wanted.items()} if self.smoothing else wanted


class _Extractor(nn.Module):
    table: Table
    options: Options

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        maps: dict[str, jax.Array] = {}
        for layer, block in self.table:
            x = maps[layer] = block(x, self.options)
        return maps


def _softmax(feature_map: Float[Array, "1 rows columns channels"]) -> Float[Array, "1 rows columns channels"]:
    """Return `exp(F) / mean(exp(F))`, over all channels and positions.

    With it, a few large activations no longer dominate the loss. The paper divides by the sum. The mean keeps values
    near one at any size, and makes no difference to the relative loss. The authors' program also tries a plain factor
    on deep layers, which is equivalent to a factor on their weights and makes no difference to the relative loss.

    References:
        Wang, Li, Vasconcelos (2021), Rethinking and Improving the Robustness of Image Style Transfer, section 4.
    """
    return jax.nn.softmax(feature_map, axis=(1, 2, 3)) * feature_map.size


def _preprocess(image: Image, preprocessing: Preprocessing) -> Image:
    if preprocessing.channel_order == "bgr":
        image = image[..., ::-1]
    return (image * preprocessing.value_range - preprocessing.mean) / preprocessing.std
