"""3x3 convolutions with four ninths of the multiplications, for CPUs.

A square of 4x4 inputs becomes one of 2x2 outputs by way of 16 products instead of 36; each of the 16 is a matrix
product over all squares. It pays where channels are many, so that the products outweigh the sums before and after
them. cuDNN chooses such algorithms by itself, XLA for CPUs (seen with jaxlib 0.10.2) does not.

References:
    Lavin, Gray (2016), Fast Algorithms for Convolutional Neural Networks, section 4.1, F(2x2, 3x3).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

LEAST_CHANNELS = 128  # of inputs and of outputs; with 64 it is no faster, and takes longer to compile


def pays(inputs: Array, kernel: Array) -> bool:
    """Whether `convolution` is faster than XLA's for these shapes, of any number of pixels."""
    height, width, *channels = kernel.shape
    return (height, width) == (3, 3) and min(channels) >= LEAST_CHANNELS and inputs.dtype == kernel.dtype == jnp.float32


def convolution(
    inputs: Array, kernel: Array, padding: tuple[tuple[int, int], tuple[int, int]], precision: Any
) -> Array:
    """The convolution of stride 1 of NHWC inputs and a 3x3 HWIO kernel; rounding is that of the usual one."""
    batch, *sides, _ = inputs.shape
    height, width = (side + sum(borders) - 2 for side, borders in zip(sides, padding, strict=True))
    down, across = -(-height // 2), -(-width // 2)
    cells = [
        (low, 2 * count + 2 - side - low, 0)
        for side, (low, _), count in zip(sides, padding, (down, across), strict=True)
    ]
    padded = jax.lax.pad(inputs, jnp.zeros((), inputs.dtype), ((0, 0, 0), *cells, (0, 0, 0)))
    rows = jnp.stack(_of_inputs(*(padded[:, row : row + 2 * down - 1 : 2] for row in range(4))))
    squares = jnp.stack(_of_inputs(*(rows[:, :, :, column : column + 2 * across - 1 : 2] for column in range(4))))
    kernels = jnp.stack(_of_kernel(*jnp.stack(_of_kernel(*kernel), axis=1)))
    squares, kernels = jax.lax.optimization_barrier((squares, kernels))  # or XLA sums up anew for each product
    products = jnp.einsum("crnyxi,crio->crnyxo", squares, kernels, precision=precision)
    products = jax.lax.optimization_barrier(products)
    columns = jnp.stack(_of_products(*products), axis=1)
    outputs = jnp.stack(_of_products(*columns)).transpose(2, 3, 0, 4, 1, 5)
    return outputs.reshape(batch, 2 * down, 2 * across, kernel.shape[-1])[:, :height, :width]


def _of_inputs(first: Array, second: Array, third: Array, fourth: Array) -> tuple[Array, ...]:
    return first - third, second + third, third - second, second - fourth


def _of_kernel(first: Array, second: Array, third: Array) -> tuple[Array, ...]:
    return first, (first + second + third) / 2, (first - second + third) / 2, third


def _of_products(first: Array, second: Array, third: Array, fourth: Array) -> tuple[Array, Array]:
    return first + second + third, second - third - fourth
