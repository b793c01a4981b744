"""VGG's features against an independent convolution in NumPy, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike

from nst_exp.networks import Network
from nst_exp.networks.vgg import TINY, VGG16
from nst_exp.params.sources import ParamsSource, load_params
from nst_exp.types import NetworkParams


def reference_features(network: Network, params: NetworkParams, image: np.ndarray) -> dict[str, np.ndarray]:
    """All feature maps, by the textbook formulas."""
    wanted = params.preprocessing
    x = np.asarray(image[0], np.float64)
    x = x[..., ::-1] if wanted.channel_order == "bgr" else x
    x = (x * wanted.value_range - np.asarray(wanted.mean)) / np.asarray(wanted.std)
    maps: dict[str, np.ndarray] = {}
    for layer in network.layers:
        if maps and layer.endswith("conv1"):
            x = pooled(x, network.pooling)
        border: Literal["edge", "constant"] = "edge" if not maps and network.padding == "replicate" else "constant"
        x = np.maximum(convolved(x, params.layers[layer], border), 0)
        maps[layer] = x
    return maps


def convolved(x: np.ndarray, layer: Mapping[str, ArrayLike], border: Literal["edge", "constant"]) -> np.ndarray:
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode=border)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))  # rows, columns, I, 3, 3
    kernel = np.asarray(layer["kernel"], np.float64)
    return np.tensordot(windows, kernel, axes=((3, 4, 2), (0, 1, 2))) + np.asarray(layer["bias"])


def pooled(x: np.ndarray, pooling: str) -> np.ndarray:
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    tiles = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1)
    return tiles.mean(axis=(1, 3)) if pooling == "average" else tiles.max(axis=(1, 3))


def assert_features_agree(network: Network, params: NetworkParams, height: int, width: int) -> None:
    image = np.random.default_rng(0).random((1, height, width, 3), np.float32)
    features = network.features(params, jnp.asarray(image), network.layers)
    for layer, wanted in reference_features(network, params, image).items():
        error = np.abs(np.asarray(features[layer][0]) - wanted).max() / np.abs(wanted).max()
        assert features[layer].shape[1:] == wanted.shape
        assert error < 1e-4, f"{layer}: {error}"


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_tiny_features(pooling: str, padding: str, tmp_path: Path) -> None:
    params = jax.device_put(load_params(ParamsSource("random"), TINY, TINY.layers, tmp_path).params)
    assert_features_agree(TINY.configured(pooling=pooling, padding=padding, precision="float32"), params, 45, 61)


def test_vgg16_features(tmp_path: Path) -> None:
    params = jax.device_put(load_params(ParamsSource("bundled"), VGG16, VGG16.layers, tmp_path).params)
    assert_features_agree(VGG16, params, 20, 24)
