"""Residual networks with bottlenecks.

Layers have Keras' names: `conv1_relu`, and `conv2_block1_out` to `conv5_block3_out`, which are blocks after addition
and ReLU. Torchvision's names are aliases: `layer1.0` for `conv2_block1_out`, and `layer1` for the last block of that
stage.

Where a stage halves the image depends on the params: in the first convolution of its first block in the paper and in
Keras, and in the second convolution in torchvision.

References:
    He et al. (2015), Deep Residual Learning for Image Recognition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nst_exp.networks.blocks import Block, Chain, Conv, Pool, Residual, Table
from nst_exp.networks.network import Network

# channels of the bottlenecks of each stage; a block has four times as many output channels
_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class ResNet(Network):
    """A residual network.

    Attributes:
        stages: The number of blocks in each stage, where `stages[s]` belongs to `conv{s+2}`.
    """

    stages: tuple[int, ...]

    def table(self, *, strided_first: bool = False) -> Table:
        rows: list[tuple[str, Block]] = [("conv1_relu", Conv("conv1", 64, (7, 7), stride=2, padding=(3, 3)))]
        for name, width in self._blocks():
            stage_begins = name.endswith("_block1")
            stride = 2 if stage_begins and name != "conv2_block1" else 1
            strides = (stride, 1) if strided_first else (1, stride)
            body = Chain(
                (
                    Conv(f"{name}_1", width, stride=strides[0]),
                    Conv(f"{name}_2", width, (3, 3), stride=strides[1], padding=(1, 1)),
                    Conv(f"{name}_3", 4 * width, relu=False),
                )
            )
            shortcut = Conv(f"{name}_0", 4 * width, stride=stride, relu=False) if stage_begins else None
            block = Residual(body, shortcut)
            rows.append((f"{name}_out", Chain((Pool(3, 2, padding=1), block)) if name == "conv2_block1" else block))
        return tuple(rows)

    def _blocks(self) -> Iterator[tuple[str, int]]:
        for stage, (count, width) in enumerate(zip(self.stages, _WIDTHS, strict=True), start=2):
            yield from ((f"conv{stage}_block{block}", width) for block in range(1, count + 1))

    @property
    def aliases(self) -> Mapping[str, str]:
        blocks = {torch_block(name): f"{name}_out" for name, _ in self._blocks()}
        stages = {name.split(".")[0]: layer for name, layer in blocks.items()}  # later blocks replace earlier ones
        return {"conv1": "conv1_relu", "relu": "conv1_relu"} | blocks | stages

    def random_gain(self, convolution: str) -> float:
        """Return a small gain where a block is added to its input, so that values do not double with every block."""
        return 0.2 if convolution.endswith("_3") else 1.0


def torch_block(name: str) -> str:
    """Return torchvision's name of a block, such as `layer1.0` for `conv2_block1`."""
    stage, block = map(int, re.findall(r"\d+", name)[:2])
    return f"layer{stage - 1}.{block - 1}"


RESNET50 = ResNet("resnet50", (3, 4, 6, 3))
RESNET101 = ResNet("resnet101", (3, 4, 23, 3))
