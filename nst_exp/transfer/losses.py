"""The losses of neural style transfer, as pure functions of arrays.

There are two distances between features. `mean_squared_error` is the loss of most style transfer programs.
`relative_error` is dimensionless, so that a weight means the same for every picture, layer and network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_exp.types import FeatureMap, GramMatrix, Image, Scalar

SILENT = 1e-10  # root mean square below which a target consists of rounding errors only
# The number of channels from which two products are faster than one product and a transposition. On two CPU cores they
# took 0.5 to 0.8 of the time with 1024 channels (a gradient of 4 MB), and 0.15 with 2048.
_WIDE = 1024


def gram_matrix(feature_map: FeatureMap) -> GramMatrix:
    """Compute the correlations between the channels of a feature map.

    The Gram matrix is `F^T F / (H W C)`, where F is the matrix of features with a row for each of the H W positions
    and a column for each of the C channels. This is the normalisation of Dey (2019); Gatys et al. divide the loss by
    `4 N^2 M^2` instead. The product is computed in full float32 precision on every device, because TF32 would lose
    three digits here.

    Args:
        feature_map: features of one picture, of shape (1, H, W, C).

    Returns:
        The symmetric Gram matrix, of shape (C, C).

    Example:
        >>> import jax.numpy as jnp
        >>> from nst_exp.transfer.losses import gram_matrix
        >>> feature_map = jnp.array([1.0, 0.0, 2.0, 4.0]).reshape(1, 2, 1, 2)  # two positions, two channels
        >>> gram_matrix(feature_map)
        Array([[1.25, 2.  ],
               [2.  , 4.  ]], dtype=float32)

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
    """Compute `F (g + g^T)` in one product or, where the sum takes longer than a product, in two."""
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    if features.shape[1] >= _WIDE:
        return (product(features, gradient) + product(gradient, features.T).T,)
    return (product(features, gradient + gradient.T),)


_products.defvjp(_products_forward, _products_backward)


def mean_squared_error(values: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Scalar:
    """Return `mean((x - t)^2)`, in the squared unit of `values`.

    Args:
        values: the features or Gram matrix `x` of the pastiche.
        target: the features or Gram matrix `t` to compare with.
    """
    return jnp.mean(jnp.square(values - target))


def relative_error(values: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Scalar:
    """Return `||x - t||^2 / ||t||^2`, which is dimensionless: 0 if `x` equals `t`, and 1 if `x` is 0.

    A target whose root mean square is below `SILENT`, such as the response of a layer to a flat picture, has no size
    to divide by. The mean square of `x - t` is returned for it instead, which is finite and has finite gradients.

    Args:
        values: the features or Gram matrix `x` of the pastiche.
        target: the features or Gram matrix `t` to compare with.
    """
    size, silent = jnp.sum(jnp.square(target)), target.size * SILENT**2
    return jnp.sum(jnp.square(values - target)) / jnp.where(size > silent, size, target.size)


class Distance(NamedTuple):
    """A distance between features and their target, as an option of the setting `loss`.

    Attributes:
        between: computes the distance between values and a target of the same shape.
        normalise_layers: whether the weights of the style layers are divided by their sum.
    """

    between: Callable[[Array, Array], Scalar]
    normalise_layers: bool


DISTANCES = {
    "relative": Distance(relative_error, normalise_layers=True),
    "article": Distance(mean_squared_error, normalise_layers=False),
}


def total_variation(image: Image) -> Scalar:
    """Return the mean square of the differences between neighbouring pixels.

    The means over vertical and over horizontal neighbours are added. They are means rather than sums, so that the
    loss does not grow with the picture.

    Args:
        image: the pastiche, with pixels in [0, 1]; at least two pixels high and wide.

    References:
        Mahendran, Vedaldi (2015), Understanding Deep Image Representations by Inverting Them, section 2.2, with
        beta = 2.
    """
    down = jnp.square(image[:, 1:] - image[:, :-1])
    across = jnp.square(image[:, :, 1:] - image[:, :, :-1])
    return jnp.mean(down) + jnp.mean(across)


def out_of_range(image: Image) -> Scalar:
    """Return the mean square of the part of each pixel that lies outside [0, 1].

    Writing a file clips that part away.
    """
    return jnp.mean(jnp.square(image - jnp.clip(image, 0.0, 1.0)))


def temporal(image: Image, anchor: Image, mask: Float[Array, "1 height width 1"]) -> Scalar:
    """Return the mean square of the differences between a frame and its anchor, where the mask is 1.

    The mean is taken over all pixels, masked or not.

    Args:
        image: the painted frame, with pixels in [0, 1].
        anchor: earlier painted frames, warped by optical flow to the position of this frame.
        mask: 1 where the anchor is valid, 0 where it is not, such as in disoccluded areas and at edges of motion.

    References:
        Ruder, Dosovitskiy, Brox (2016), Artistic Style Transfer for Videos, equation 7. If the anchor of each pixel
        comes from the nearest earlier frame that shows it, this is also the long-term loss of equation 9.
    """
    return jnp.mean(mask * jnp.square(image - anchor))
