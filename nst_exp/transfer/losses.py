"""The losses of neural style transfer, as pure functions of arrays.

Each distance comes in two normalisations: `mean_squared_error`, the raw loss of most programs, and
`relative_error`, dimensionless, so that a weight means the same for every picture, layer and network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_exp.types import FeatureMap, GramMatrix, Image, Scalar

SILENT = 1e-10  # root mean square below which a target is rounding error only
_WIDE = 1024  # channels, 4 MB of gradient: two products took 0.5 to 0.8 of the time there, 0.15 at 2048 (two CPU cores)


def gram_matrix(feature_map: FeatureMap) -> GramMatrix:
    """Correlations of channels, `F^T F / (H W C)` with F the (H W, C) matrix of features.

    The normalisation is the article's; Gatys et al. divide the loss by `4 N^2 M^2` instead. Accumulated in
    float32 at full precision whatever the device: TF32 loses three digits here.

    References:
        Gatys, Ecker, Bethge (2016), Image Style Transfer Using CNNs, section 2.2.
    """
    features = feature_map.reshape(-1, feature_map.shape[-1])
    return _products(features) / features.size


@jax.custom_vjp
def _products(features: Float[Array, "pixels channels"]) -> GramMatrix:
    return jnp.matmul(features.T, features, precision=jax.lax.Precision.HIGHEST)


def _products_forward(features: Array) -> tuple[Array, Array]:
    return _products(features), features


def _products_backward(features: Array, gradient: Array) -> tuple[Array]:
    """`F (g + g^T)` in one product; in two where a matrix is so wide that adding its transpose takes longer."""
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    if features.shape[1] >= _WIDE:
        return (product(features, gradient) + product(gradient, features.T).T,)
    return (product(features, gradient + gradient.T),)


_products.defvjp(_products_forward, _products_backward)


def mean_squared_error(values: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Scalar:
    """`mean((x - t)^2)`, in squared units of `values`."""
    return jnp.mean(jnp.square(values - target))


def relative_error(values: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Scalar:
    """`||x - t||^2 / ||t||^2`: 0 where they agree, 1 at x = 0; dimensionless.

    A silent target (a layer without any response to a flat picture) has no size to be relative to. Its distance is
    the mean square of `x - t` instead, which is finite and has finite gradients.
    """
    size, silent = jnp.sum(jnp.square(target)), target.size * SILENT**2
    return jnp.sum(jnp.square(values - target)) / jnp.where(size > silent, size, target.size)


class Distance(NamedTuple):
    """How far features are from their target.

    Attributes:
        between: the distance of values from a target of the same shape.
        normalise_layers: whether the weights of style layers are divided by their sum.
    """

    between: Callable[[Array, Array], Scalar]
    normalise_layers: bool


DISTANCES = {
    "relative": Distance(relative_error, normalise_layers=True),
    "article": Distance(mean_squared_error, normalise_layers=False),
}


def total_variation(image: Image) -> Scalar:
    """Mean square of the differences between neighbouring pixels, down plus across; pixels in [0, 1].

    References:
        Mahendran, Vedaldi (2015), Understanding Deep Image Representations by Inverting Them, section 2.2,
        with beta = 2, and a mean in place of the sum so that it does not grow with the picture.
    """
    down = jnp.square(image[:, 1:] - image[:, :-1])
    across = jnp.square(image[:, :, 1:] - image[:, :, :-1])
    return jnp.mean(down) + jnp.mean(across)


def out_of_range(image: Image) -> Scalar:
    """Mean square of how far pixels lie outside [0, 1]: what clipping will take away when a file is written."""
    return jnp.mean(jnp.square(image - jnp.clip(image, 0.0, 1.0)))


def temporal(image: Image, anchor: Image, mask: Float[Array, "1 height width 1"]) -> Scalar:
    """Mean square of the differences from what is expected of a frame, where that is known; pixels in [0, 1].

    Args:
        anchor: earlier pictures of the video, each carried along by optical flow.
        mask: 1 where the anchor holds, 0 where nothing is known (disoccluded, at edges of motion).

    References:
        Ruder, Dosovitskiy, Brox (2016), Artistic Style Transfer for Videos, equation 7, over all pixels; with the
        nearest earlier frame that shows a pixel as the anchor there, equation 9 (long-term) is this sum, too.
    """
    return jnp.mean(mask * jnp.square(image - anchor))
