"""What every architecture has in common: named layers, the params they need, and features.

An architecture is a table, from shallow to deep, of the names of its layers and the block that leads from
each to the next; it is cut after the deepest layer in use. All else follows from the table.

Departures from the papers, all optional: average pooling (Gatys et al. 2016, section 2), replicated borders
on the first layer, which keep the frame of the picture from drawing itself into every Gram matrix, and
smoothed activations.
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
    """An architecture with its static options; hashable, so that it can be a static argument of `jit`.

    Attributes:
        name: as in conf/network.
        pooling: `average` or `max`.
        padding: of the first layer, `zeros` or `replicate`.
        precision: of convolutions, `float32`, `tf32` or `bfloat16`.
        smoothing: of the features, `softmax` or None.
        repeated: it is evaluated so often that what runs faster is worth compiling for longer.
    """

    name: str
    pooling: str = dataclasses.field(default="max", kw_only=True)
    padding: str = dataclasses.field(default="zeros", kw_only=True)
    precision: str = dataclasses.field(default="float32", kw_only=True)
    smoothing: str | None = dataclasses.field(default=None, kw_only=True)
    repeated: bool = dataclasses.field(default=False, kw_only=True)

    # --- what an architecture says of itself -----------------------------------------------------------

    @abc.abstractmethod
    def table(self, *, strided_first: bool = False) -> Table:
        """All layers; `strided_first` is `NetworkParams.strided_first`."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names of layers, and the layers' own."""
        return {}

    def random_gain(self, convolution: str) -> float:
        """A factor on random kernels."""
        return 1.0

    # --- what follows from it --------------------------------------------------------------------------

    def configured(self, *, pooling: str, padding: str, precision: str, smoothing: str | None = None) -> Network:
        """The same architecture with these options."""
        return dataclasses.replace(self, pooling=pooling, padding=padding, precision=precision, smoothing=smoothing)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers whose features can be asked for, from shallow to deep."""
        return tuple(layer for layer, _ in self.table())

    def kernels(self, layers: Sequence[str]) -> Kernels:
        """Shape of the kernel, HWIO, of every convolution on the way to `layers` from those just before each."""
        kernels: dict[str, tuple[int, int, int, int]] = {}
        channels = 3
        for layer, block in self.table():
            shapes, channels = block.kernels(channels)
            kernels |= shapes if layer in layers else {}
        return kernels

    def canonical_layer(self, layer: str) -> str:
        """The layer's own name for `layer`, itself a name or an alias.

        Raises:
            InputError: if the network has no such layer; the message lists those it has.
        """
        if layer not in self.layers and layer not in self.aliases:
            hint = did_you_mean(layer, (*self.layers, *self.aliases))
            raise InputError(f"layer {layer!r} is not in {self.name}: choose among {', '.join(self.layers)}{hint}")
        return self.aliases.get(layer, layer)

    def truncated(self, layers: Sequence[str]) -> tuple[str, ...]:
        """All layers up to the deepest of `layers`: those whose params are needed."""
        deepest = max(self.layers.index(layer) for layer in layers)
        return self.layers[: deepest + 1]

    def smallest_side(self, layers: Sequence[str]) -> int:
        """The least height and width, in px, that still leave a pixel at the deepest of `layers`."""
        needed = self.truncated(layers)
        way = Chain(tuple(block for layer, block in self.table() if layer in needed))
        return next(side for side in itertools.count(1) if way.side(side) > 0)

    def features(self, params: NetworkParams, image: Image, layers: tuple[str, ...]) -> FeatureMaps:
        """Feature maps of `image` at `layers`, float32.

        Args:
            params: at least those of `truncated(layers)`.
            image: pixels in [0, 1]; any size of at least `smallest_side(layers)`.
            layers: canonical names.
        """
        table = self.table(strided_first=params.strided_first)[: len(self.truncated(layers))]
        first = next(iter(self.kernels(self.layers)))
        replicated = first if self.padding == "replicate" else None
        options = Options(self.pooling, self.precision, replicated, self.repeated)
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
    """`exp(F) / mean(exp(F))`, over all channels and positions: few large activations no longer rule the loss.

    The paper divides by the sum; the mean keeps values near one whatever the size, and the relative loss does
    not know the difference. The authors' program also tries a mere factor on deep layers: that is a factor on
    their weights, and nothing to the relative loss.

    References:
        Wang, Li, Vasconcelos (2021), Rethinking and Improving the Robustness of Image Style Transfer, section 4.
    """
    return jax.nn.softmax(feature_map, axis=(1, 2, 3)) * feature_map.size


def _preprocess(image: Image, preprocessing: Preprocessing) -> Image:
    if preprocessing.channel_order == "bgr":
        image = image[..., ::-1]
    return (image * preprocessing.value_range - preprocessing.mean) / preprocessing.std
