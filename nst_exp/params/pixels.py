"""The pixels that params were trained on. This module imports nothing, so that settings can be checked quickly."""

from __future__ import annotations

from typing import NamedTuple


class Pixels(NamedTuple):
    """How pixels in [0, 1] become a network's input: `(value_range * pixels - mean) / std`, channels reordered.

    Attributes:
        mean: of each channel, in units of `value_range`, in the order of `channel_order`.
        std: likewise.
        value_range: 1 or 255.
        channel_order: `rgb` or `bgr`.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    value_range: float
    channel_order: str


PREPROCESSINGS = {
    "torchvision": Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0, "rgb"),
    "keras": Pixels((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, "bgr"),  # as in Caffe
    "inception": Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "rgb"),
}
