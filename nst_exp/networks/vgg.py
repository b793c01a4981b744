"""VGG networks.

Layers have Keras' names: `block4_conv3` is the third convolution of the fourth block, *after* its ReLU. The
literature's `relu4_3` and torchvision's `features.22`, the number of the ReLU, are aliases.

References:
    Simonyan, Zisserman (2015), Very Deep Convolutional Networks for Large-Scale Image Recognition, configurations D and
    E.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nst_exp.networks.blocks import Block, Chain, Conv, Pool, Table
from nst_exp.networks.network import Network


@dataclass(frozen=True)
class Vgg(Network):
    """A VGG network.

    Attributes:
        blocks: The number of output channels of each convolution, where `blocks[b][c]` belongs to
            `block{b+1}_conv{c+1}`.
    """

    blocks: tuple[tuple[int, ...], ...]

    def table(self, *, strided_first: bool = False) -> Table:
        rows: list[tuple[str, Block]] = []
        for block, widths in enumerate(self.blocks, start=1):
            for index, channels in enumerate(widths, start=1):
                name = f"block{block}_conv{index}"
                convolution = Conv(name, channels, (3, 3), padding=(1, 1))
                pooled = index == 1 and block > 1
                rows.append((name, Chain((Pool(2, 2), convolution)) if pooled else convolution))
        return tuple(rows)

    @property
    def aliases(self) -> Mapping[str, str]:
        literature = {name.replace("block", "relu").replace("conv", ""): name for name in self.layers}
        return literature | {f"features.{index + 1}": name for name, index in self.torch_indices().items()}

    def torch_indices(self) -> dict[str, int]:
        """Return the number of each convolution in torchvision's `features`.

        Torchvision also counts the ReLU after each convolution and the pool after each block.
        """
        indices, index = {}, 0
        for name in self.layers:
            index += 1 if index and name.endswith("conv1") else 0
            indices[name] = index
            index += 2
        return indices


VGG16 = Vgg("vgg16", ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)))
VGG19 = Vgg("vgg19", ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4))
# VGG-16 with 4 to 16 channels, for tests and dry runs of a whole pipeline with `params=random`.
TINY = Vgg("tiny", ((4, 4), (8, 8), (8, 8, 8), (16, 16, 16), (16, 16, 16)))
