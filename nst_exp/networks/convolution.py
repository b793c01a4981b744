"""A convolution whose gradient is as fast inside a compiled loop as outside.

XLA for CPUs (seen with jaxlib 0.10.2) has no fast kernel for the usual input gradient, a convolution with a
reversed and transposed kernel, when it stands in a `while` body: it runs six times slower there, as in
github.com/jax-ml/jax/issues/12868. Written as a plain convolution with a kernel flipped beforehand it does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

Padding = tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(inputs: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` for stride one; fits flax's `nn.Conv(conv_general_dilated=...)`.

    Raises:
        ValueError: for strides, dilation or feature groups, which its gradient does not know.
    """
    height, width = kernel.shape[:2]
    plain = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1}
    if tuple(strides) != (1, 1) or any(options.get(name, value) != value for name, value in plain.items()):
        raise ValueError(f"convolution knows stride one without dilation or groups, got {strides=}, {options=}")
    pairs = jax.lax.padtype_to_pads(inputs.shape[1:3], (height, width), (1, 1), padding)
    return _convolution(inputs, kernel, tuple(map(tuple, pairs)), options.get("precision"))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(inputs: Array, kernel: Array, padding: Padding, precision: Any) -> Array:
    return jax.lax.conv_general_dilated(inputs, kernel, (1, 1), padding, dimension_numbers=_LAYOUT, precision=precision)


def _forward(inputs: Array, kernel: Array, padding: Padding, precision: Any) -> tuple[Array, tuple[Array, Array]]:
    return _convolution(inputs, kernel, padding, precision), (inputs, kernel)


def _backward(padding: Padding, precision: Any, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    inputs, kernel = residuals
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    reach = [(side - 1 - low, side - 1 - high) for side, (low, high) in zip(kernel.shape[:2], padding, strict=True)]
    to_inputs = _convolution(gradient, flipped, tuple(reach), precision)
    # never needed while params are frozen, and then not computed: XLA drops what nobody reads
    _, to_kernel = jax.vjp(
        lambda k: jax.lax.conv_general_dilated(
            inputs, k, (1, 1), padding, dimension_numbers=_LAYOUT, precision=precision
        ),
        kernel,
    )
    return to_inputs, to_kernel(gradient)[0]


_convolution.defvjp(_forward, _backward)
