"""Every network against torchvision and timm, by the values of scripts/networks_reference.py.

Params are written to a file with the names of torchvision, timm or Keras, and read by the loader, which folds batch
normalisation. Set NST_EXP_ALL_SIZES=1 for all sizes of the large networks, which take minutes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from seeded import sample_indices, seeded_picture, seeded_tensor

from nst_exp.networks import ARCHITECTURES, Network
from nst_exp.params.sources import ParamsSource, load_params
from nst_exp.params.tensor_names import tensor_names
from nst_exp.types import Image, NetworkParams, Scalar

STORED = json.loads((Path(__file__).parent / "data" / "networks_reference.json").read_text())
CASES = STORED["cases"]
ALL_SIZES = bool(os.environ.get("NST_EXP_ALL_SIZES"))
QUICK = {  # (network, library): the size, and the deepest layer that is compared
    ("vgg19", "torch"): ([20, 24], "block4_conv4"),
    ("alexnet", "torch"): ([67, 70], "conv5"),
    ("resnet50", "torch"): ([65, 66], "conv5_block3_out"),
    ("resnet50", "keras"): ([64, 49], "conv3_block2_out"),
    ("resnet101", "torch"): ([65, 66], "conv3_block1_out"),
    ("googlenet", "torch"): ([65, 70], "inception5b"),
    ("inception_v4", "torch"): ([75, 96], "Mixed_7b"),
}
GRADIENTS = (
    "alexnet",
    "resnet50",
    "googlenet",
    "inception_v4",
)  # compared in the quick tests, too


def chosen() -> list[Any]:
    """Parameters (case, deepest layer that is compared)."""
    chosen = []
    for case in CASES:
        layers = ARCHITECTURES[case["network"]].layers
        size, quick_last = QUICK.get((case["network"], case["library"]), ([], ""))
        if ALL_SIZES or case["size"] == size:
            name = f"{case['network']} {case['library']} {case['size'][0]}x{case['size'][1]}"
            chosen.append(pytest.param(case, layers[-1] if ALL_SIZES else quick_last, id=name))
    return chosen


def seeded_params(network: Network, library: str, layers: tuple[str, ...], folder: Path) -> NetworkParams:
    """Params of `layers`, read from a file with the names of `library`."""
    torch_names = tensor_names(network).torch
    file_names = tensor_names(network).keras if library == "keras" else torch_names
    tensors: dict[str, np.ndarray] = {}
    for convolution, shape in network.kernels(layers).items():
        (name, norm), (file_name, file_norm) = torch_names[convolution], file_names[convolution]
        tensors[f"{file_name}.weight"] = seeded_tensor(f"{name}.weight", (*shape[:1:-1], *shape[:2]))
        if norm is None or library == "keras":
            tensors[f"{file_name}.bias"] = seeded_tensor(f"{name}.bias", (shape[-1],))
        for kind in ("weight", "bias", "running_mean", "running_var") if norm else ():
            tensors[f"{file_norm}.{kind}"] = seeded_tensor(f"{norm}.{kind}", (shape[-1],))
    path = folder / "params"
    (write_keras if library == "keras" else save_file)(tensors, path)
    source = ParamsSource("keras" if library == "keras" else "safetensors", path)
    return jax.device_put(load_params(source, network, layers, folder).params)


def write_keras(tensors: dict[str, np.ndarray], path: Path) -> None:
    with h5py.File(path, "w") as file:
        for tensor, values in tensors.items():
            layer, _, kind = tensor.rpartition(".")
            group = file.require_group(layer)
            group[f"{kind}:0"] = values.transpose(2, 3, 1, 0) if values.ndim == 4 else values
            group.attrs["weight_names"] = [*group.attrs.get("weight_names", []), f"{kind}:0"]


@pytest.mark.parametrize(("case", "last"), chosen())
def test_features_and_gradient(case: dict[str, Any], last: str, tmp_path: Path) -> None:
    network = ARCHITECTURES[case["network"]]
    layers = network.truncated((last,))
    params = seeded_params(network, case["library"], layers, tmp_path)
    picture = jnp.asarray(seeded_picture(*case["size"]))
    maps = compiled(lambda picture, params: network.features(params, picture, layers), picture, params)
    for name, wanted in case["layers"].items():
        layer = network.canonical_layer(name)
        if layer in layers:
            assert_features(layer, np.asarray(maps[layer]), wanted)
    if ALL_SIZES:
        assert_gradient(network, layers, picture, params, case["gradient"])
    elif network.name in GRADIENTS and case["library"] == "torch":
        assert_gradient(network, layers[:5], picture, params, case["shallow_gradient"])


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, compiled with few optimisations because it runs only once."""
    hurry = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=hurry)(*arguments)


def assert_features(layer: str, map_: np.ndarray, wanted: dict[str, Any]) -> None:
    values = map_.reshape(-1)[sample_indices(map_.size, len(wanted["values"]))]
    errors = {
        "mean": map_.mean(dtype=np.float64) - wanted["mean"],
        "std": map_.std(dtype=np.float64) - wanted["std"],
        "largest": np.abs(map_).max() - wanted["largest"],
        "values": np.abs(values - wanted["values"]).max(),
    }
    assert map_.shape[1:] == tuple(wanted["shape"]), layer
    for name, error in errors.items():
        assert abs(error) <= 1e-4 * wanted["largest"], f"{layer}: {name} is off by {error / wanted['largest']:.1e}"


def assert_gradient(
    network: Network, layers: tuple[str, ...], picture: Image, params: NetworkParams, wanted: dict[str, Any]
) -> None:
    def scalar(picture: Image, params: NetworkParams) -> Scalar:
        maps = network.features(params, picture, layers)
        return jnp.sum(jnp.stack([jnp.log(jnp.mean(jnp.square(map_))) for map_ in maps.values()]))

    gradient = np.asarray(compiled(jax.grad(scalar), picture, params))
    values = gradient.reshape(-1)[sample_indices(gradient.size, len(wanted["values"]))]
    np.testing.assert_allclose(np.linalg.norm(gradient), wanted["norm"], rtol=1e-3)
    np.testing.assert_allclose(values, wanted["values"], rtol=0, atol=1e-3 * wanted["largest"])
