"""Array types, and the pytrees that consist of them.

Images are float32 NHWC in [0, 1], in sRGB as stored in files. Their batch axis has length one: a batch of runs is a
`jax.vmap` over whole problems, never a longer batch axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

Scalar = Float[Array, ""]
Count = Int[Array, ""]
Losses = dict[str, Scalar]  # by term
Image = Float[Array, "1 height width 3"]
Images = Float[Array, "batch 1 height width 3"]
StyleImage = Float[Array, "1 style_height style_width 3"]  # may differ from the content image in size
AnyImage = Float[Array, "1 _ _ 3"]  # of any size, such as that of one scale
FeatureMap = Float[Array, "1 rows columns channels"]
GramMatrix = Float[Array, "channels channels"]
FeatureMaps = dict[str, Float[Array, "1 _ _ _"]]  # by layer, of many shapes
Statistics = dict[str, Any]  # by layer, a pytree that a style loss or content loss chooses
Learnt = Float[Array, "..."] | Float[np.ndarray, "..."]  # on the device, or still on the host
LayerParams = dict[str, dict[str, Learnt]]


@struct.dataclass
class Preprocessing:
    """How a network needs its pixels: `(pixels * value_range - mean) / std`, with channels in `channel_order`.

    Attributes:
        mean: Mean of each channel, in the order of `channel_order`.
        std: Standard deviation of each channel, in the order of `channel_order`.
        value_range: The value of white, 1 or 255.
        channel_order: `rgb` or `bgr`.
    """

    mean: Float[Array | np.ndarray, "3"]
    std: Float[Array | np.ndarray, "3"]
    value_range: float = struct.field(pytree_node=False)
    channel_order: str = struct.field(pytree_node=False)  # "rgb" or "bgr"


@struct.dataclass
class NetworkParams:
    """What a network has learnt, and how it is used.

    Attributes:
        layers: Kernels (HWIO) and biases (O): `{convolution: {"kernel": ..., "bias": ...}}`.
        preprocessing: The preprocessing that the network was trained with.
        strided_first: Whether the stages of a residual network halve the image in the first convolution of their first
            block (He et al. 2015, Caffe, Keras) instead of in the second (torchvision). Other networks ignore it.
    """

    layers: LayerParams
    preprocessing: Preprocessing
    strided_first: bool = struct.field(pytree_node=False, default=False)
