"""The building blocks of networks: convolutions, pools, and three ways to combine them.

A block is a plain description. It states which kernels it needs and how long a side of its output is. It computes when
it is called inside a flax module, which provides the params by name. Every convolution has a bias, because batch
normalisation is folded into kernel and bias when params are read (`params.checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from nst_exp.networks.convolution import convolution

_PRECISIONS = {
    # precision of convolutions, dtype of their operands; Gram matrices and losses are always float32
    "float32": (jax.lax.Precision.HIGHEST, None),
    "tf32": (jax.lax.Precision.DEFAULT, None),
    "bfloat16": (jax.lax.Precision.DEFAULT, jnp.bfloat16),
}

Kernels = Mapping[str, tuple[int, int, int, int]]  # shape (HWIO) of each convolution's kernel


@dataclass(frozen=True)
class Options:
    """How a network is run.

    Attributes:
        pooling: Kind of those pools that do not fix it, a name in `POOLINGS`.
        precision: Precision of convolutions, `float32`, `tf32` or `bfloat16`.
        replicated: Name of the convolution whose border is replicated instead of filled with zeros; None if there is
            none.
        repeated: Whether the network is evaluated so often that faster code is worth a longer compilation.
        pooling_gain: Factor of the output of those pools that do not fix their kind.
    """

    pooling: str
    precision: str
    replicated: str | None
    repeated: bool = False
    pooling_gain: float = 1.0


@runtime_checkable
class Block(Protocol):
    """A part of a network."""

    def kernels(self, channels: int) -> tuple[Kernels, int]:
        """Return the kernels of all convolutions in the block, and the number of channels of its output.

        Args:
            channels: The number of channels of the block's input.

        Returns:
            Shapes (HWIO) by name of the convolution, and the number of output channels.
        """

    def side(self, side: int) -> int:
        """Return the length, in px, of a side of the output for one of the input; 0 or less if that is too short."""

    def __call__(self, x: jax.Array, options: Options) -> jax.Array:
        """Compute the output for the feature maps `x`, NHWC, inside a flax module."""


@dataclass(frozen=True)
class Conv:
    """A convolution with a bias, followed by ReLU by default.

    Attributes:
        name: Name of its params.
        channels: Number of output channels.
        kernel: Height and width of the kernel.
        stride: Stride in both directions.
        padding: Number of rows added above and below, and of columns added left and right.
        relu: Whether ReLU follows.
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
            kernel_init=nn.initializers.zeros,  # never called, but traced; flax's default takes most of the tracing
            conv_general_dilated=partial(convolution, repeated=options.repeated),
            name=self.name,
        )
        return nn.relu(learnt(x)) if self.relu else learnt(x)


@dataclass(frozen=True)
class Pool:
    """A pool over a square window, such as the maximum or the mean.

    Only pixels of the image count, not those of the padding.

    Attributes:
        size: Height and width of the window.
        stride: Stride in both directions.
        padding: Number of pixels added on each side.
        ceil: Whether the last window may reach beyond the border, as with PyTorch's `ceil_mode`.
        kind: A name in `POOLINGS`; None for the network's `pooling`, multiplied by its `pooling_gain`.
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
        if self.kind is not None:
            return POOLINGS[self.kind](x, **windows)
        return options.pooling_gain * POOLINGS[options.pooling](x, **windows)

    def _reach(self, side: int) -> int:
        """Return the number of rows that the last window needs beyond a side of length `side`."""
        if not self.ceil:
            return self.padding
        return max(0, (self.side(side) - 1) * self.stride + self.size - side - self.padding)


def _average_pool(x: jax.Array, **windows: Any) -> jax.Array:
    bordered = any(border != (0, 0) for border in windows["padding"])
    return nn.avg_pool(x, **windows, count_include_pad=not bordered)


def _l2_pool(x: jax.Array, **windows: Any) -> jax.Array:
    """Return the root of the mean of squares; where that is 0, so is its gradient, which has no limit there."""
    mean = _average_pool(jnp.square(x), **windows)
    positive = mean > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, mean, 1)), 0)


# The kinds of pools. They are called like flax's `max_pool`.
POOLINGS: Mapping[str, Callable[..., jax.Array]] = {"average": _average_pool, "max": nn.max_pool, "l2": _l2_pool}


@dataclass(frozen=True)
class Chain:
    """Blocks applied one after the other.

    Attributes:
        blocks: The blocks, in order.
    """

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
    """Blocks applied to the same input, whose output channels are concatenated.

    Attributes:
        branches: The blocks, in the order of their channels.
    """

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
    """A residual block: the sum of a body and a shortcut, followed by ReLU.

    Attributes:
        body: The block whose output is added to the shortcut's.
        shortcut: The block through which the input reaches the sum; None for the input itself.
    """

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
    """Return the kernels of all blocks, and the number of output channels of each."""
    found = [block.kernels(channels) for block in blocks]
    return {name: shape for kernels, _ in found for name, shape in kernels.items()}, [count for _, count in found]


# A network: the names of its layers, from shallow to deep, and the block that leads to each.
Table = tuple[tuple[str, Block], ...]
