"""Inception-v4, as in timm.

Layers have the names of TensorFlow's slim, `Conv2d_1a_3x3` to `Mixed_7d`. timm's `features.0` to `features.21` are
aliases. The first convolution has no border, so `padding` has no effect.

References:
    Szegedy et al. (2016), Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nst_exp.networks.blocks import Block, Chain, Concat, Conv, Pool, Table
from nst_exp.networks.network import Network


@dataclass(frozen=True)
class InceptionV4(Network):
    """Inception-v4, figure 9 of the paper."""

    def table(self, *, strided_first: bool = False) -> Table:
        stem: Table = (
            ("Conv2d_1a_3x3", Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2)),
            ("Conv2d_2a_3x3", Conv("Conv2d_2a_3x3", 32, (3, 3))),
            ("Conv2d_2b_3x3", Conv("Conv2d_2b_3x3", 64, (3, 3), padding=(1, 1))),
            ("Mixed_3a", Concat((Pool(3, 2), Conv("Mixed_3a.conv", 96, (3, 3), stride=2)))),
            ("Mixed_4a", _mixed_4a("Mixed_4a")),
            ("Mixed_5a", Concat((Conv("Mixed_5a.conv", 192, (3, 3), stride=2), Pool(3, 2)))),
        )
        return (
            *stem,
            *((f"Mixed_5{letter}", _inception_a(f"Mixed_5{letter}")) for letter in "bcde"),
            ("Mixed_6a", _reduction_a("Mixed_6a")),
            *((f"Mixed_6{letter}", _inception_b(f"Mixed_6{letter}")) for letter in "bcdefgh"),
            ("Mixed_7a", _reduction_b("Mixed_7a")),
            *((f"Mixed_7{letter}", _inception_c(f"Mixed_7{letter}")) for letter in "bcd"),
        )

    @property
    def aliases(self) -> Mapping[str, str]:
        return {f"features.{index}": layer for index, layer in enumerate(self.layers)}


def _same(name: str, channels: int, *kernel: int) -> Conv:
    """Return a convolution that keeps the size."""
    height, width = kernel
    return Conv(name, channels, (height, width), padding=(height // 2, width // 2))


def _halving(name: str, channels: int) -> Conv:
    return Conv(name, channels, (3, 3), stride=2)


def _branch(name: str, *sizes: tuple[int, int, int]) -> Chain:
    """Chain convolutions (channels, height, width) that keep the size, numbered from 0."""
    return Chain(tuple(_same(f"{name}.{index}", *size) for index, size in enumerate(sizes)))


def _then(chain: Chain, *blocks: Block) -> Chain:
    return Chain((*chain.blocks, *blocks))


def _averaged(name: str, channels: int) -> Chain:
    return Chain((Pool(3, 1, padding=1, kind="average"), Conv(f"{name}.1", channels)))


def _mixed_4a(name: str) -> Concat:
    last: dict[str, Any] = {"channels": 96, "kernel": (3, 3)}
    return Concat(
        (
            _then(_branch(f"{name}.branch0", (64, 1, 1)), Conv(f"{name}.branch0.1", **last)),
            _then(_branch(f"{name}.branch1", (64, 1, 1), (64, 1, 7), (64, 7, 1)), Conv(f"{name}.branch1.3", **last)),
        )
    )


def _inception_a(name: str) -> Concat:
    return Concat(
        (
            Conv(f"{name}.branch0", 96),
            _branch(f"{name}.branch1", (64, 1, 1), (96, 3, 3)),
            _branch(f"{name}.branch2", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
            _averaged(f"{name}.branch3", 96),
        )
    )


def _reduction_a(name: str) -> Concat:
    return Concat(
        (
            _halving(f"{name}.branch0", 384),
            _then(_branch(f"{name}.branch1", (192, 1, 1), (224, 3, 3)), _halving(f"{name}.branch1.2", 256)),
            Pool(3, 2),
        )
    )


def _inception_b(name: str) -> Concat:
    return Concat(
        (
            Conv(f"{name}.branch0", 384),
            _branch(f"{name}.branch1", (192, 1, 1), (224, 1, 7), (256, 7, 1)),
            _branch(f"{name}.branch2", (192, 1, 1), (192, 7, 1), (224, 1, 7), (224, 7, 1), (256, 1, 7)),
            _averaged(f"{name}.branch3", 128),
        )
    )


def _reduction_b(name: str) -> Concat:
    wide = _branch(f"{name}.branch1", (256, 1, 1), (256, 1, 7), (320, 7, 1))
    return Concat(
        (
            _then(_branch(f"{name}.branch0", (192, 1, 1)), _halving(f"{name}.branch0.1", 192)),
            _then(wide, _halving(f"{name}.branch1.3", 320)),
            Pool(3, 2),
        )
    )


def _inception_c(name: str) -> Concat:
    def fork(branch: str) -> Concat:
        return Concat((_same(f"{name}.{branch}a", 256, 1, 3), _same(f"{name}.{branch}b", 256, 3, 1)))

    deep = (
        Conv(f"{name}.branch2_0", 384),
        _same(f"{name}.branch2_1", 448, 3, 1),
        _same(f"{name}.branch2_2", 512, 1, 3),
    )
    return Concat(
        (
            Conv(f"{name}.branch0", 256),
            Chain((Conv(f"{name}.branch1_0", 384), fork("branch1_1"))),
            Chain((*deep, fork("branch2_3"))),
            _averaged(f"{name}.branch3", 256),
        )
    )


INCEPTION_V4 = InceptionV4("inception_v4")
