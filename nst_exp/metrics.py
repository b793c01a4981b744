"""Measures of a finished picture that do not depend on what a sweep varies, so that its runs can be compared.

The layers are fixed here, whatever the run optimised, and the weights play no part. They see the picture as
it is written to its file: clipped and rounded to 8 bits.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from nst_exp.losses import gram_matrix, relative_error, total_variation
from nst_exp.networks import Vgg
from nst_exp.types import Image, NetworkParams, Scalar, StyleImage

CONTENT_LAYER = "block4_conv2"
STYLE_LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
LAYERS = (CONTENT_LAYER, *STYLE_LAYERS)


@partial(jax.jit, static_argnames="network")
def measures(
    network: Vgg, params: NetworkParams, pastiche: Image, content_image: Image, style_image: StyleImage
) -> dict[str, Scalar]:
    """How much of the photograph is kept, how much of the painting is reached, and how noisy the result is.

    Returns:
        content_distance: `relative_error` of the features at `CONTENT_LAYER`; 0 = the photograph, and about
            1 = nothing in common with it.
        style_distance: mean over `STYLE_LAYERS` of the Gram matrices' relative error to the painting, as a
            fraction of the photograph's own; 1 = untouched, 0 = the painting.
        noise: total variation as a multiple of the photograph's; far above 1 = noisy, far below = blurred.
    """
    features = partial(network.features, params)
    content, style, result = (features(image, LAYERS) for image in (content_image, style_image, pastiche))

    def style_distance(maps: dict[str, jax.Array]) -> Scalar:
        distances = [relative_error(gram_matrix(maps[layer]), gram_matrix(style[layer])) for layer in STYLE_LAYERS]
        return jnp.mean(jnp.stack(distances))

    tiny = jnp.finfo(jnp.float32).tiny
    return {
        "content_distance": relative_error(result[CONTENT_LAYER], content[CONTENT_LAYER]),
        "style_distance": style_distance(result) / jnp.maximum(style_distance(content), tiny),
        "noise": total_variation(pastiche) / jnp.maximum(total_variation(content_image), tiny),
    }
