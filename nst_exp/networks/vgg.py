"""VGG networks (Simonyan & Zisserman 2015, configuration D), truncated at the deepest layer in use.

Layers bear Keras' names, `block4_conv3` being the third convolution of the fourth block *after* its ReLU;
the literature's `relu4_3` is an alias.

Departures from the paper, all optional: average pooling (Gatys et al. 2016, section 2) and replicated
borders on the first layer, which keep the frame of the picture from drawing itself into every Gram matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from nst_exp.errors import InputError
from nst_exp.networks.convolution import convolution
from nst_exp.types import FeatureMaps, Image, NetworkParams, Preprocessing

_PRECISIONS = {
    # convolution precision, dtype of its operands; Gram matrices and losses are always float32
    "float32": (jax.lax.Precision.HIGHEST, None),
    "tf32": (jax.lax.Precision.DEFAULT, None),
    "bfloat16": (jax.lax.Precision.DEFAULT, jnp.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Vgg:
    """One VGG architecture: `blocks[b][c]` is the number of output channels of `block{b+1}_conv{c+1}`."""

    name: str
    blocks: tuple[tuple[int, ...], ...]
    pooling: str = "max"
    padding: str = "zeros"
    precision: str = "float32"

    def configured(self, *, pooling: str, padding: str, precision: str) -> Vgg:
        """The same architecture with these options."""
        return dataclasses.replace(self, pooling=pooling, padding=padding, precision=precision)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers whose features can be asked for, from shallow to deep."""
        return tuple(name for name, _, _ in self.convolutions())

    def convolutions(self) -> Iterator[tuple[str, int, int]]:
        """(layer name, input channels, output channels), from shallow to deep."""
        channels_in = 3
        for block, widths in enumerate(self.blocks, start=1):
            for index, channels_out in enumerate(widths, start=1):
                yield f"block{block}_conv{index}", channels_in, channels_out
                channels_in = channels_out

    def canonical_layer(self, layer: str) -> str:
        """The layer's own name for `layer`, itself a name or an alias (`relu4_3` for `block4_conv3`).

        Raises:
            InputError: if the network has no such layer; the message lists those it has.
        """
        aliases = {name.replace("block", "relu").replace("conv", ""): name for name in self.layers}
        if layer not in self.layers and layer not in aliases:
            raise InputError(f"layer {layer!r} is not in {self.name}: choose among {', '.join(self.layers)}")
        return aliases.get(layer, layer)

    def truncated(self, layers: Sequence[str]) -> tuple[str, ...]:
        """All layers up to the deepest of `layers`: those whose params are needed."""
        deepest = max(self.layers.index(layer) for layer in layers)
        return self.layers[: deepest + 1]

    def smallest_side(self, layers: Sequence[str]) -> int:
        """The least height and width, in px, that still leave a pixel at the deepest of `layers`."""
        return 2 ** max(_block(layer) - 1 for layer in layers)

    def features(self, params: NetworkParams, image: Image, layers: tuple[str, ...]) -> FeatureMaps:
        """Feature maps of `image` at `layers`, float32.

        Args:
            params: at least the layers of `truncated(layers)`.
            image: pixels in [0, 1]; any size of at least `smallest_side(layers)`.
            layers: canonical names.
        """
        module = _VggModule(self, self.truncated(layers))
        pixels = _preprocess(image, params.preprocessing)
        maps = cast(dict[str, jax.Array], module.apply({"params": params.layers}, pixels))
        return {layer: maps[layer].astype(jnp.float32) for layer in layers}


class _VggModule(nn.Module):
    network: Vgg
    layers: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        precision, dtype = _PRECISIONS[self.network.precision]
        maps: dict[str, jax.Array] = {}
        for layer, _, channels in self.network.convolutions():
            if layer not in self.layers:
                break
            if maps and layer.endswith("conv1"):
                x = _pool(x, self.network.pooling)
            first_replicated = not maps and self.network.padding == "replicate"
            if first_replicated:
                x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
            learnt = nn.Conv(
                channels,
                (3, 3),
                padding="VALID" if first_replicated else "SAME",
                precision=precision,
                dtype=dtype,
                conv_general_dilated=convolution,
                name=layer,
            )
            x = maps[layer] = nn.relu(learnt(x))
        return maps


def _block(layer: str) -> int:
    return int(layer.removeprefix("block").split("_")[0])


def _pool(x: jax.Array, pooling: str) -> jax.Array:
    pool = nn.avg_pool if pooling == "average" else nn.max_pool
    return pool(x, (2, 2), strides=(2, 2))


def _preprocess(image: Image, preprocessing: Preprocessing) -> Image:
    if preprocessing.channel_order == "bgr":
        image = image[..., ::-1]
    return (image * preprocessing.value_range - preprocessing.mean) / preprocessing.std


VGG16 = Vgg("vgg16", ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)))
# VGG-16 with 4 to 16 channels: for tests and dry runs of a whole pipeline, with `params=random`.
TINY = Vgg("tiny", ((4, 4), (8, 8), (8, 8, 8), (16, 16, 16), (16, 16, 16)))
