"""What travels through the house: array aliases and the pytrees made of them.

Images are float32 NHWC in [0, 1] (sRGB as stored in files) with a batch axis of one: a batch of runs is a
`jax.vmap` over whole problems, never a larger batch axis.
"""

from __future__ import annotations

from flax import struct
from jaxtyping import Array, Float, Int

Scalar = Float[Array, ""]
Count = Int[Array, ""]
Image = Float[Array, "1 height width 3"]
FeatureMap = Float[Array, "1 rows columns channels"]
GramMatrix = Float[Array, "channels channels"]
LayerParams = dict[str, dict[str, Array]]


@struct.dataclass
class Preprocessing:
    """How a network wants its pixels: `(pixels * value_range - mean) / std`, channels in `channel_order`."""

    mean: Float[Array, 3]
    std: Float[Array, 3]
    value_range: float = struct.field(pytree_node=False)
    channel_order: str = struct.field(pytree_node=False)  # "rgb" or "bgr"


@struct.dataclass
class NetworkParams:
    """What a network has learnt: `{layer: {"kernel": HWIO, "bias": O}}`, with the preprocessing that fits it."""

    layers: LayerParams
    preprocessing: Preprocessing
