"""GoogLeNet with batch normalisation, as in torchvision.

Layers have torchvision's names, `conv1` to `conv3` and `inception3a` to `inception5b`. Caffe's `inception_3a` and
Lucid's `mixed3a` are aliases. The "5 x 5" convolutions are 3 x 3, a mistake with which torchvision's params were
trained.

References:
    Szegedy et al. (2014), Going Deeper with Convolutions.
    Ioffe, Szegedy (2015), Batch Normalization.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nst_exp.networks.blocks import Block, Chain, Concat, Conv, Pool, Table
from nst_exp.networks.network import Network

_INCEPTIONS = {
    # channels of the 1 x 1; before and in the 3 x 3; before and in the "5 x 5"; after the pool
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


@dataclass(frozen=True)
class GoogLeNet(Network):
    """GoogLeNet as in torchvision, without its auxiliary heads."""

    def table(self, *, strided_first: bool = False) -> Table:
        pool = Pool(3, 2, ceil=True)
        stem: Table = (
            ("conv1", Conv("conv1", 64, (7, 7), stride=2, padding=(3, 3))),
            ("conv2", Chain((pool, Conv("conv2", 64)))),
            ("conv3", Conv("conv3", 192, (3, 3), padding=(1, 1))),
        )
        pools = {"inception3a": pool, "inception4a": pool, "inception5a": Pool(2, 2, ceil=True)}
        rest: list[tuple[str, Block]] = []
        for name, channels in _INCEPTIONS.items():
            inception = _inception(name, *channels)
            rest.append((name, Chain((pools[name], inception)) if name in pools else inception))
        return (*stem, *rest)

    @property
    def aliases(self) -> Mapping[str, str]:
        names = {f"{word}{name[-2:]}": name for name in _INCEPTIONS for word in ("inception_", "mixed")}
        return names | {"conv2d0": "conv1", "conv2d1": "conv2", "conv2d2": "conv3"}


def _inception(name: str, one: int, before_three: int, three: int, before_five: int, five: int, pooled: int) -> Concat:
    def conv(branch: str, channels: int) -> Conv:
        return Conv(f"{name}.{branch}", channels)

    def conv3(branch: str, channels: int) -> Conv:
        return Conv(f"{name}.{branch}", channels, (3, 3), padding=(1, 1))

    return Concat(
        (
            conv("branch1", one),
            Chain((conv("branch2.0", before_three), conv3("branch2.1", three))),
            Chain((conv("branch3.0", before_five), conv3("branch3.1", five))),
            Chain((Pool(3, 1, padding=1, kind="max"), conv("branch4.1", pooled))),
        )
    )


GOOGLENET = GoogLeNet("googlenet")
