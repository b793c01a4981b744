"""The whole objective against NumPy in float64, and its gradient against finite differences."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_exp.networks import get_network
from nst_exp.networks.convolution import convolution
from nst_exp.networks.winograd import LEAST_CHANNELS, pays
from nst_exp.params.sources import ParamsSource, load_params
from nst_exp.transfer.objective import Objective
from nst_exp.transfer.terms import LossWeights, Problem, Targets
from nst_exp.types import NetworkParams

CONTENT_LAYERS = ("block4_conv2", "block2_conv1")
STYLE_LAYERS = {"block1_conv1": 0.2, "block3_conv2": 0.6}


def picture(height: int, width: int, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(1, height, width, 3)).astype(np.float32))


def tiny_objective(loss: str) -> Objective:
    network = get_network("tiny", pooling="average", padding="replicate", precision="float32")
    return Objective(network, CONTENT_LAYERS, tuple(STYLE_LAYERS), loss)


def make(loss: str, tmp_path: Path, **changes: float) -> tuple[Objective, Problem]:
    objective = tiny_objective(loss)
    network = objective.network
    loaded = load_params(ParamsSource("random"), network, network.truncated(objective.layers), tmp_path)
    params = jax.device_put(loaded.params)
    targets = targets_of(objective, params, picture(24, 20, 0), picture(18, 30, 1))
    return objective, Problem(params, targets, weights(loss, **changes))


def targets_of(objective: Objective, params: NetworkParams, content: jax.Array, style: jax.Array) -> Targets:
    return Targets(objective.content_targets(params, content), objective.style_targets(params, style))


def weights(loss: str, **changes: float) -> LossWeights:
    values = {"content": 2.0, "style": 0.5, "tv": 3.0, "range": 7.0, "temporal": 0.0}
    settings = {f"{name}_weight": value for name, value in values.items()} | changes
    return tiny_objective(loss).weights(settings, STYLE_LAYERS, {"style": 10.0})


def gram(features: np.ndarray) -> np.ndarray:
    flat = np.asarray(features).reshape(-1, features.shape[-1]).astype(np.float64)
    return flat.T @ flat / flat.size


@pytest.mark.parametrize("loss", ["relative", "article"])
def test_total_and_terms_against_numpy(loss: str, tmp_path: Path) -> None:
    objective, problem = make(loss, tmp_path)
    image = picture(24, 20, 2) * 1.5 - 0.2
    total, losses = objective.losses(problem, image)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        error = ((np.asarray(a, np.float64) - b) ** 2).sum()
        return float(error / (np.asarray(b, np.float64) ** 2).sum() if loss == "relative" else error / np.size(b))

    def features(of: jax.Array) -> dict[str, np.ndarray]:
        maps = objective.network.features(problem.params, of, objective.layers)
        return {layer: np.asarray(map_) for layer, map_ in maps.items()}

    at, content, style = features(image), features(picture(24, 20, 0)), features(picture(18, 30, 1))
    by_layer = {layer: distance(gram(at[layer]), gram(style[layer])) for layer in STYLE_LAYERS}
    normaliser = sum(STYLE_LAYERS.values()) if loss == "relative" else 1.0
    pixels = np.asarray(image, np.float64)
    expected = {
        "content": np.mean([distance(at[layer], content[layer]) for layer in CONTENT_LAYERS]),
        "style": sum(weight * by_layer[layer] for layer, weight in STYLE_LAYERS.items()) / normaliser,
        "tv": (np.diff(pixels, axis=1) ** 2).mean() + (np.diff(pixels, axis=2) ** 2).mean(),
        "range": ((pixels - pixels.clip(0, 1)) ** 2).mean(),
        **{f"style.{layer}": value for layer, value in by_layer.items()},
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-4, err_msg=name)
    sum_ = 2 * expected["content"] + 5 * expected["style"] + 3 * expected["tv"] + 7 * expected["range"]
    np.testing.assert_allclose(total, sum_, rtol=1e-4)


def test_losses_vanish_at_their_targets(tmp_path: Path) -> None:
    objective, problem = make("relative", tmp_path)
    content, style = picture(24, 20, 0), picture(24, 20, 1)
    problem = dataclasses.replace(problem, targets=targets_of(objective, problem.params, content, style))
    assert objective.losses(problem, content)[1]["content"] < 1e-10
    assert objective.losses(problem, style)[1]["style.block3_conv2"] < 1e-10


def test_relative_loss_does_not_know_the_scale_of_features(tmp_path: Path) -> None:
    """The losses are the same if the kernels of the first layer are ten times as large."""
    objective, problem = make("relative", tmp_path)
    layers = problem.params.layers

    def scaled(factor: float) -> NetworkParams:
        biasless = {name: {"kernel": layer["kernel"], "bias": 0 * layer["bias"]} for name, layer in layers.items()}
        first = {"kernel": factor * layers["block1_conv1"]["kernel"], "bias": 0 * layers["block1_conv1"]["bias"]}
        return NetworkParams(biasless | {"block1_conv1": first}, problem.params.preprocessing)

    totals = []
    for params in (scaled(1.0), scaled(10.0)):
        targets = targets_of(objective, params, picture(24, 20, 0), picture(18, 30, 1))
        totals.append(objective.losses(Problem(params, targets, problem.weights), picture(24, 20, 2))[0])
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-4)


@pytest.mark.parametrize("loss", ["relative", "article"])
def test_gradient_against_finite_differences(loss: str, tmp_path: Path) -> None:
    with jax.enable_x64(True):
        objective, problem = make(loss, tmp_path)
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), problem)
        total = jax.jit(lambda image: objective.losses(double, image)[0])
        image = jnp.asarray(picture(24, 20, 2), jnp.float64)
        gradient = jax.grad(total)(image)
        for seed in range(3):
            direction = np.random.default_rng(seed).normal(size=image.shape)
            step = 1e-4
            slope = (total(image + step * direction) - total(image - step * direction)) / (2 * step)
            # features are float32, so differences of losses cannot be more exact
            np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=5e-3)


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(2, 2), (1, 0)]], ids=str)
@pytest.mark.parametrize("kernel_size", [(3, 3), (5, 3), (1, 1)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (4, 3)])
def test_convolution_and_its_gradients_are_those_of_lax(
    padding: Any, kernel_size: tuple[int, int], strides: tuple[int, int]
) -> None:
    random = np.random.default_rng(0)
    inputs = jnp.asarray(random.normal(size=(2, 9, 8, 3)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(*kernel_size, 3, 4)), jnp.float32)
    usual = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    expected, back = jax.vjp(lambda x, k: usual(x, k, strides, padding), inputs, kernel)
    actual, our_back = jax.vjp(lambda x, k: convolution(x, k, strides, padding), inputs, kernel)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    cotangent = jnp.asarray(random.normal(size=expected.shape), jnp.float32)
    for ours, theirs in zip(our_back(cotangent), back(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(2, 2), (1, 0)]], ids=str)
@pytest.mark.parametrize("sides", [(9, 8), (6, 11)], ids=str)
def test_a_wide_convolution_by_fewer_multiplications_is_that_of_numpy(padding: Any, sides: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(3, 2, *sides, LEAST_CHANNELS)).astype(np.float32)  # three batch entries
    kernel = random.normal(size=(3, 3, LEAST_CHANNELS, LEAST_CHANNELS + 2)).astype(np.float32)
    assert pays(jnp.asarray(inputs[0]), jnp.asarray(kernel))
    borders = {"SAME": ((1, 1), (1, 1)), "VALID": ((0, 0), (0, 0))}[padding] if isinstance(padding, str) else padding

    def by_numpy(inputs: Any, kernel: Any) -> Any:
        padded = np.pad(inputs.astype(np.float64), ((0, 0), (0, 0), *borders, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("lnyxirc,rcio->lnyxo", windows, kernel, optimize=True)

    def batched(inputs: Any, kernel: Any) -> Any:
        return jax.vmap(lambda entry: convolution(entry, kernel, (1, 1), padding, repeated=True))(inputs)

    expected = by_numpy(inputs, kernel)
    actual, back = jax.vjp(batched, jnp.asarray(inputs), jnp.asarray(kernel))
    assert np.abs(actual - expected).max() < 3e-6 * np.abs(expected).max()
    cotangent = random.normal(size=expected.shape).astype(np.float32)
    to_inputs, to_kernel = back(jnp.asarray(cotangent))
    # both are linear: <cotangent, batched(x, k)> is <to_inputs, x> and <to_kernel, k>, here for other x and k
    other, other_kernel = random.normal(size=inputs.shape), random.normal(size=kernel.shape)
    np.testing.assert_allclose(np.vdot(to_inputs, other), np.vdot(cotangent, by_numpy(other, kernel)), rtol=1e-3)
    moved = by_numpy(inputs, other_kernel)
    np.testing.assert_allclose(np.vdot(to_kernel, other_kernel), np.vdot(cotangent, moved), rtol=1e-3)


def test_convolution_refuses_dilation() -> None:
    with pytest.raises(ValueError, match="dilation"):
        convolution(jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 1)), (1, 1), "SAME", rhs_dilation=(2, 2))
