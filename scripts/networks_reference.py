"""Computes features and gradients by torchvision and timm, which tests/test_networks_reference.py compares with.

Run it once, with a Python that has torch, torchvision and timm, whose versions are stored in the result:

    /path/to/python/with/torch scripts/networks_reference.py

It writes tests/data/networks_reference.json. For every network and size, the file holds the shape, mean, standard
deviation, largest value and a few values of every layer, and the gradient of `sum over layers of log mean F^2` with
respect to the picture, for all layers and for the first five. All params are drawn from seeded generators. The "keras"
cases are torchvision's ResNets, changed to what Keras does differently: strides in the first convolution of a stage,
biases, an epsilon of 1.001e-5, and Caffe's pixels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from seeded import sample_indices, seeded_picture, seeded_tensor  # noqa: E402

RESULT = ROOT / "tests" / "data" / "networks_reference.json"
SHALLOW = 5  # number of layers whose gradient is compiled in seconds
FEATURE_SAMPLES, GRADIENT_SAMPLES = 6, 24
CASES = [
    # network, library, (height, width)
    *(("vgg19", "torch", size) for size in ((20, 24), (37, 33))),
    *(("alexnet", "torch", size) for size in ((64, 49), (67, 70), (90, 97))),
    *(("resnet50", "torch", size) for size in ((64, 49), (65, 66), (97, 80))),
    *(("resnet50", "keras", size) for size in ((64, 49), (65, 66))),
    *(("resnet101", "torch", size) for size in ((64, 49), (65, 66))),
    *(("resnet101", "keras", size) for size in ((65, 66),)),
    *(("googlenet", "torch", size) for size in ((64, 49), (65, 70), (90, 97))),
    *(("inception_v4", "torch", size) for size in ((75, 96), (107, 98), (120, 131))),
]


def main() -> None:
    versions = {module.__name__: module.__version__ for module in (torch, torchvision, timm)}
    cases = [reference(*case) for case in CASES]
    text = ",\n".join(json.dumps(case) for case in cases)
    RESULT.write_text(f'{{"versions": {json.dumps(versions)}, "cases": [\n{text}\n]}}\n')
    print(f"{RESULT}: {len(cases)} cases, {RESULT.stat().st_size / 1024:.0f} KiB")


def reference(network: str, library: str, size: tuple[int, int]) -> dict[str, Any]:
    model, layers = MODELS[network]()
    fill(model)
    if library == "keras":
        as_keras(model)
    maps: list[torch.Tensor] = []
    for name in layers:
        model.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    picture = torch.tensor(seeded_picture(*size)).permute(0, 3, 1, 2).requires_grad_()
    model(PIXELS["keras" if library == "keras" else network](picture))
    found = [feature_figures(map_.detach().permute(0, 2, 3, 1).numpy()) for map_ in maps]
    return {
        "network": network,
        "library": library,
        "size": size,
        "layers": dict(zip(layers, found, strict=True)),
        "gradient": gradient_figures(maps, picture),
        "shallow_gradient": gradient_figures(maps[:SHALLOW], picture),
    }


def gradient_figures(maps: list[torch.Tensor], picture: torch.Tensor) -> dict[str, Any]:
    total = sum(torch.log(torch.mean(torch.square(map_))) for map_ in maps)
    (gradient,) = torch.autograd.grad(total, picture, retain_graph=True)
    gradient = gradient.permute(0, 2, 3, 1).numpy()
    figures = {"norm": np.linalg.norm(gradient), "largest": np.abs(gradient).max()}
    values = sampled(gradient, GRADIENT_SAMPLES)
    return {**{name: number(figure) for name, figure in figures.items()}, "values": values}


def fill(model: torch.nn.Module) -> None:
    state = model.state_dict()
    kept = {name for name in state if name.endswith("num_batches_tracked")}
    drawn = {n: torch.tensor(seeded_tensor(n, tuple(t.shape))) for n, t in state.items() if n not in kept}
    model.load_state_dict(drawn | {name: state[name] for name in kept})
    model.eval()


def as_keras(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1.001e-5
        elif isinstance(module, torch.nn.Conv2d):
            module.bias = torch.nn.Parameter(torch.tensor(seeded_tensor(f"{name}.bias", (module.out_channels,))))
        elif isinstance(module, torchvision.models.resnet.Bottleneck) and module.stride > 1:
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride


def feature_figures(map_: np.ndarray) -> dict[str, Any]:
    return {
        "shape": map_.shape[1:],
        "mean": number(map_.mean(dtype=np.float64)),
        "std": number(map_.std(dtype=np.float64)),
        "largest": number(np.abs(map_).max()),
        "values": sampled(map_, FEATURE_SAMPLES),
    }


def sampled(array: np.ndarray, count: int) -> list[float]:
    return [number(value) for value in array.reshape(-1)[sample_indices(array.size, count)]]


def number(value: float) -> float:
    return float(f"{value:.7g}")


def relus(features: torch.nn.Sequential) -> list[str]:
    return [f"features.{index}" for index, module in enumerate(features) if isinstance(module, torch.nn.ReLU)]


def vgg19() -> tuple[torch.nn.Module, list[str]]:
    return headless(torchvision.models.vgg19(weights=None))


def alexnet() -> tuple[torch.nn.Module, list[str]]:
    return headless(torchvision.models.alexnet(weights=None))


def headless(model: Any) -> tuple[torch.nn.Module, list[str]]:
    """The model without the last pool and the classifier, which do not take every size."""
    kept = torch.nn.Sequential()
    kept.add_module("features", model.features[:-1])
    return kept, relus(kept.features)


def resnet(build: Callable[..., Any]) -> tuple[torch.nn.Module, list[str]]:
    model = build(weights=None)
    stages = ((f"layer{index}", getattr(model, f"layer{index}")) for index in range(1, 5))
    return model, ["relu", *(f"{name}.{block}" for name, stage in stages for block in range(len(stage)))]


def googlenet() -> tuple[torch.nn.Module, list[str]]:
    model = torchvision.models.googlenet(weights=None, aux_logits=False, transform_input=True, init_weights=False)
    inceptions = [name for name, _ in model.named_children() if name.startswith("inception")]
    return model, ["conv1", "conv2", "conv3", *inceptions]


def inception_v4() -> tuple[torch.nn.Module, list[str]]:
    model = timm.create_model("inception_v4", pretrained=False)
    return model, [f"features.{index}" for index in range(len(model.features))]


def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda picture: (picture - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


IMAGENET = normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MODELS: dict[str, Callable[[], tuple[torch.nn.Module, list[str]]]] = {
    "vgg19": vgg19,
    "alexnet": alexnet,
    "resnet50": lambda: resnet(torchvision.models.resnet50),
    "resnet101": lambda: resnet(torchvision.models.resnet101),
    "googlenet": googlenet,
    "inception_v4": inception_v4,
}
PIXELS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **dict.fromkeys(("vgg19", "alexnet", "resnet50", "resnet101", "googlenet"), IMAGENET),
    "inception_v4": normalised(timm.data.IMAGENET_INCEPTION_MEAN, timm.data.IMAGENET_INCEPTION_STD),
    "keras": lambda rgb: normalised((103.939, 116.779, 123.68), (1.0, 1.0, 1.0))(255 * rgb.flip(1)),
}

if __name__ == "__main__":
    main()
