"""A convolution whose gradient is as fast inside a compiled loop as outside of it.

The usual gradient with respect to the inputs is a convolution with a reversed and transposed kernel. Inside a `while`
body, XLA for CPUs (seen with jaxlib 0.10.2) has no fast kernel for it, so that it runs six times slower there, as in
github.com/jax-ml/jax/issues/12868. Here, the gradient is a plain convolution with a kernel that was flipped beforehand,
which is fast.

The gradient of a strided convolution is slower still. A strided convolution is therefore rewritten as one of stride
one: each square of stride x stride pixels becomes one pixel with that many times the channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from nst_exp.networks import winograd

Padding = tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(
    inputs: Array, kernel: Array, strides: Any, padding: Any, *, repeated: bool = False, **options: Any
) -> Array:
    """Convolve like `jax.lax.conv_general_dilated`, without its rarer options.

    The function fits the argument `conv_general_dilated` of flax's `nn.Conv`.

    Args:
        inputs: Feature maps, NHWC.
        kernel: The kernel, HWIO.
        strides: Strides of rows and columns.
        padding: Pairs (low, high) for rows and columns, or a name such as `SAME`.
        repeated: Whether the convolution is computed so often that faster code is worth a longer compilation.
        **options: Other arguments of `jax.lax.conv_general_dilated`, of which only `precision` has an effect.

    Raises:
        ValueError: If `options` ask for dilation or feature groups, which the gradient does not support.
    """
    plain = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1}
    if any(options.get(name, value) != value for name, value in plain.items()):
        raise ValueError(f"convolution knows neither dilation nor groups, got {options=}")
    named = isinstance(padding, str)
    pairs = jax.lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding) if named else padding
    borders = (tuple(pairs[0]), tuple(pairs[1]))
    if tuple(strides) != (1, 1):
        inputs, kernel = _unstrided(inputs, kernel, tuple(strides), borders)
        borders = ((0, 0), (0, 0))
    return _convolution(inputs, kernel, borders, options.get("precision"), repeated)


def _unstrided(inputs: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> tuple[Array, Array]:
    """Rearrange inputs and kernel so that a convolution without stride and padding gives the same result."""
    cells, reaches = [], []
    for side, size, stride, borders in zip(inputs.shape[1:3], kernel.shape[:2], strides, padding, strict=True):
        count = (side + sum(borders) - size) // stride + 1
        reach = -(-size // stride)  # length of the kernel, in strides
        cells.append((borders[0], (count + reach - 1) * stride - side - borders[0], 0))
        reaches.append((0, reach * stride - size, 0))
    none = (0, 0, 0)
    zero = jnp.zeros((), inputs.dtype)
    inputs = jax.lax.pad(inputs, zero, (none, *cells, none))  # also removes what no window reaches
    kernel = jax.lax.pad(kernel, zero, (*reaches, none, none))
    return _depth(inputs, strides), _depth(kernel[None], strides)[0]


def _depth(x: Array, strides: tuple[int, int]) -> Array:
    """Move the pixels of each cell of `strides` into the channels of an array (n, rows, columns, channels, ...)."""
    batch, height, width, channels, *rest = x.shape
    down, across = strides
    cells = x.reshape(batch, height // down, down, width // across, across, channels, *rest)
    moved = cells.transpose(0, 1, 3, 2, 4, 5, *range(6, cells.ndim))
    return moved.reshape(batch, height // down, width // across, down * across * channels, *rest)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolution(inputs: Array, kernel: Array, padding: Padding, precision: Any, repeated: bool) -> Array:
    plain = partial(_plain, padding=padding, precision=precision)
    if not repeated or not winograd.pays(inputs, kernel):
        return plain(inputs, kernel)
    fast = partial(winograd.convolution, padding=padding, precision=precision)
    return jax.lax.platform_dependent(inputs, kernel, cpu=fast, default=plain)


def _plain(inputs: Array, kernel: Array, padding: Padding, precision: Any) -> Array:
    return jax.lax.conv_general_dilated(inputs, kernel, (1, 1), padding, dimension_numbers=_LAYOUT, precision=precision)


def _forward(
    inputs: Array, kernel: Array, padding: Padding, precision: Any, repeated: bool
) -> tuple[Array, tuple[Array, Array]]:
    return _convolution(inputs, kernel, padding, precision, repeated), (inputs, kernel)


def _backward(
    padding: Padding, precision: Any, repeated: bool, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    inputs, kernel = residuals
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    reach = [(side - 1 - low, side - 1 - high) for side, (low, high) in zip(kernel.shape[:2], padding, strict=True)]
    to_inputs = _convolution(gradient, flipped, tuple(reach), precision, repeated)
    # not used while params are frozen, and then removed by XLA
    _, to_kernel = jax.vjp(lambda k: _plain(inputs, k, padding, precision), kernel)
    return to_inputs, to_kernel(gradient)[0]


_convolution.defvjp(_forward, _backward)
