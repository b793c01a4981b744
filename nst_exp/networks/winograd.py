"""3x3 convolutions with four ninths of the multiplications, for CPUs.

A square of 4x4 inputs is turned into one of 2x2 outputs by 16 products instead of 36, and each of the 16 is a matrix
product over all squares. This pays where there are many channels, so that the products take longer than the sums before
and after them. cuDNN chooses such algorithms by itself, but XLA for CPUs (seen with jaxlib 0.10.2) does not.

References:
    Lavin, Gray (2016), Fast Algorithms for Convolutional Neural Networks, section 4.1, F(2x2, 3x3).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

LEAST_CHANNELS = 128  # of inputs and of outputs; with 64, it is no faster and takes longer to compile


def pays(inputs: Array, kernel: Array) -> bool:
    """Return whether `convolution` is faster than XLA's for inputs and a kernel like these, of any number of pixels."""
    height, width, *channels = kernel.shape
    return (height, width) == (3, 3) and min(channels) >= LEAST_CHANNELS and inputs.dtype == kernel.dtype == jnp.float32


def convolution(
    inputs: Array, kernel: Array, padding: tuple[tuple[int, int], tuple[int, int]], precision: Any
) -> Array:
    """Compute a convolution of stride 1 with a 3x3 kernel.

    Rounding errors are like those of the usual convolution.

    Args:
        inputs: Feature maps, NHWC.
        kernel: The kernel, HWIO, of height and width 3.
        padding: Pairs (low, high) for rows and columns.
        precision: Precision of the matrix products, as in `jax.numpy.einsum`.

    Returns:
        Feature maps, NHWC.
    """
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
    squares, kernels = jax.lax.optimization_barrier((squares, kernels))  # or XLA repeats the sums for each product
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
