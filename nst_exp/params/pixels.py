"""The pixels that published params were trained on.

The module imports no other module of the package, so that settings can be checked quickly.
"""

from __future__ import annotations

from typing import NamedTuple


class Pixels(NamedTuple):
    """How pixels in [0, 1] are converted to a network's input.

    The input is `(value_range * pixels - mean) / std`, with channels in `channel_order`.

    Attributes:
        mean: Mean of each channel, in units of `value_range` and in the order of `channel_order`.
        std: Standard deviation of each channel, likewise.
        value_range: The value of white, 1 or 255.
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
