"""Params and pictures from seeded generators, shared by scripts/networks_reference.py and the tests."""

from __future__ import annotations

import zlib

import numpy as np


def seeded_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor for the name and the shape that torchvision or timm give it."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4:
        return random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    values = random.random(shape, np.float32)
    if name.endswith("running_var") or (name.endswith("weight")):
        gain = 0.2 if ".bn3." in name else 1.0  # keeps the values of a residual network from doubling with every block
        return gain * (values + np.float32(0.5))
    return np.float32(0.2) * (values - np.float32(0.5))  # biases, shifts and means


def seeded_picture(height: int, width: int) -> np.ndarray:
    """A picture (1, height, width, 3) in [0, 1] that is a smooth slope with noise."""
    random = np.random.default_rng((height, width))
    rough = random.random((1, height, width, 3), np.float32)
    slope = np.linspace(0, 1, height, dtype=np.float32)[None, :, None, None]
    return 0.5 * rough + 0.5 * slope


def sample_indices(size: int, count: int) -> np.ndarray:
    """The indices at which a flattened NHWC array of `size` numbers is compared."""
    return np.random.default_rng(size).integers(0, size, count)
