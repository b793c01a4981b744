"""AlexNet in one column.

Layers are named `conv1` to `conv5`, each after its ReLU. Their aliases are `relu1` and so on, and torchvision's
`features.1` and so on, which number the ReLUs.

References:
    Krizhevsky (2014), One weird trick for parallelizing convolutional neural networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nst_exp.networks.blocks import Chain, Conv, Pool, Table
from nst_exp.networks.network import Network

# the number of each convolution in torchvision's `features`
TORCH_INDICES = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}


@dataclass(frozen=True)
class AlexNet(Network):
    """AlexNet as in torchvision and LPIPS."""

    def table(self, *, strided_first: bool = False) -> Table:
        return (
            ("conv1", Conv("conv1", 64, (11, 11), stride=4, padding=(2, 2))),
            ("conv2", Chain((Pool(3, 2), Conv("conv2", 192, (5, 5), padding=(2, 2))))),
            ("conv3", Chain((Pool(3, 2), Conv("conv3", 384, (3, 3), padding=(1, 1))))),
            ("conv4", Conv("conv4", 256, (3, 3), padding=(1, 1))),
            ("conv5", Conv("conv5", 256, (3, 3), padding=(1, 1))),
        )

    @property
    def aliases(self) -> Mapping[str, str]:
        literature = {name.replace("conv", "relu"): name for name in self.layers}
        return literature | {f"features.{index + 1}": name for name, index in TORCH_INDICES.items()}


ALEXNET = AlexNet("alexnet")
