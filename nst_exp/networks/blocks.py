"""What networks are made of: convolutions, pools, and three ways to join them.

A block is a plain description. It says which kernels it needs and how long a side comes out of it, and
computes when it is called inside a flax module, which hands it the params by name. A convolution is one with
a bias: batch normalisation is folded into both when params are read (`params.checks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from nst_exp.networks.convolution import convolution

_PRECISIONS = {
    # convolution precision, dtype of its operands; Gram matrices and losses are always float32
    "float32": (jax.lax.Precision.HIGHEST, None),
    "tf32": (jax.lax.Precision.DEFAULT, None),
    "bfloat16": (jax.lax.Precision.DEFAULT, jnp.bfloat16),
}

Kernels = Mapping[str, tuple[int, int, int, int]]  # shape of each convolution's kernel, HWIO


@dataclass(frozen=True)
class Options:
    """How a network is run.

    Args:
        pooling: of the pools that leave it open, `average` or `max`.
        precision: of convolutions, `float32`, `tf32` or `bfloat16`.
        replicated: the convolution before which the border is replicated instead of filled with zeros.
        repeated: as a network's.
    """

    pooling: str
    precision: str
    replicated: str | None
    repeated: bool = False


@runtime_checkable
class Block(Protocol):
    """A piece of a network."""

    def kernels(self, channels: int) -> tuple[Kernels, int]:
        """Of all convolutions inside, when `channels` come in; and the number of channels that come out."""

    def side(self, side: int) -> int:
        """How many pixels a side of `side` pixels leaves; none, or less, if it is too short."""

    def __call__(self, x: jax.Array, options: Options) -> jax.Array:
        """Feature maps of the feature maps `x`, NHWC, inside of a flax module."""


@dataclass(frozen=True)
class Conv:
    """A convolution with bias and, unless said otherwise, ReLU.

    Args:
        name: of its params.
        channels: that come out.
        kernel: height and width.
        padding: rows above and below, columns left and right.
        relu: whether negative values are cut off.
    """

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    relu: bool = True

    def kernels(self, channels: int) -> tuple[Kernels, int]:
        return {self.name: (*self.kernel, channels, self.channels)}, self.channels

    def side(self, side: int) -> int:
        rows = (side + 2 * pad - size for size, pad in zip(self.kernel, self.padding, strict=True))
        return min(row // self.stride + 1 for row in rows)

    def __call__(self, x: jax.Array, options: Options) -> jax.Array:
        precision, dtype = _PRECISIONS[options.precision]
        borders = [(pad, pad) for pad in self.padding]
        if self.name == options.replicated:
            x = jnp.pad(x, ((0, 0), *borders, (0, 0)), mode="edge")
            borders = [(0, 0), (0, 0)]
        learnt = nn.Conv(
            self.channels,
            self.kernel,
            strides=(self.stride, self.stride),
            padding=borders,
            precision=precision,
            dtype=dtype,
            kernel_init=nn.initializers.zeros,  # never drawn, but traced: flax's own takes most of the time then
            conv_general_dilated=partial(convolution, repeated=options.repeated),
            name=self.name,
        )
        return nn.relu(learnt(x)) if self.relu else learnt(x)


@dataclass(frozen=True)
class Pool:
    """The maximum or the mean of a square window; a mean is that of the pixels the picture has, border left out.

    Args:
        size: of the window.
        padding: pixels on each side.
        ceil: whether a last window may reach beyond the border (PyTorch's `ceil_mode`).
        kind: `average` or `max`; None: what the run's `pooling` says.
    """

    size: int
    stride: int
    padding: int = 0
    ceil: bool = False
    kind: str | None = None

    def kernels(self, channels: int) -> tuple[Kernels, int]:
        return {}, channels

    def side(self, side: int) -> int:
        room = side + 2 * self.padding - self.size
        if not self.ceil:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        starts_outside = (count - 1) * self.stride >= side + self.padding
        return count - 1 if starts_outside else count

    def __call__(self, x: jax.Array, options: Options) -> jax.Array:
        borders = [(self.padding, self._reach(side)) for side in x.shape[1:3]]
        windows = {"window_shape": (self.size, self.size), "strides": (self.stride, self.stride), "padding": borders}
        if (self.kind or options.pooling) == "max":
            return nn.max_pool(x, **windows)
        bordered = any(border != (0, 0) for border in borders)
        return nn.avg_pool(x, **windows, count_include_pad=not bordered)

    def _reach(self, side: int) -> int:
        """Rows that the last window needs behind a side of `side`."""
        if not self.ceil:
            return self.padding
        return max(0, (self.side(side) - 1) * self.stride + self.size - side - self.padding)


@dataclass(frozen=True)
class Chain:
    """One block after the other."""

    blocks: tuple[Block, ...]

    def kernels(self, channels: int) -> tuple[Kernels, int]:
        kernels: dict[str, Any] = {}
        for block in self.blocks:
            more, channels = block.kernels(channels)
            kernels |= more
        return kernels, channels

    def side(self, side: int) -> int:
        for block in self.blocks:
            side = block.side(side) if side > 0 else side
        return side

    def __call__(self, x: jax.Array, options: Options) -> jax.Array:
        for block in self.blocks:
            x = block(x, options)
        return x


@dataclass(frozen=True)
class Concat:
    """Blocks side by side; their channels are joined."""

    branches: tuple[Block, ...]

    def kernels(self, channels: int) -> tuple[Kernels, int]:
        kernels, counts = _side_by_side(self.branches, channels)
        return kernels, sum(counts)

    def side(self, side: int) -> int:
        return min(branch.side(side) for branch in self.branches)

    def __call__(self, x: jax.Array, options: Options) -> jax.Array:
        return jnp.concatenate([branch(x, options) for branch in self.branches], axis=-1)


@dataclass(frozen=True)
class Residual:
    """What the body makes of its input, plus the input or what the shortcut makes of it; then ReLU."""

    body: Block
    shortcut: Block | None = None

    def kernels(self, channels: int) -> tuple[Kernels, int]:
        kernels, counts = _side_by_side((self.body, self.shortcut or Chain(())), channels)
        return kernels, counts[0]

    def side(self, side: int) -> int:
        return self.body.side(side)

    def __call__(self, x: jax.Array, options: Options) -> jax.Array:
        kept = self.shortcut(x, options) if self.shortcut else x
        return nn.relu(self.body(x, options) + kept)


def _side_by_side(blocks: tuple[Block, ...], channels: int) -> tuple[Kernels, list[int]]:
    found = [block.kernels(channels) for block in blocks]
    return {name: shape for kernels, _ in found for name, shape in kernels.items()}, [count for _, count in found]


Table = tuple[tuple[str, Block], ...]  # a network: its layers' names, from shallow to deep, and what leads to each
