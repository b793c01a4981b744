"""The losses of neural style transfer that need no features, and the distances between features or their statistics.

There are two distances. `mean_squared_error` is the loss of most style transfer programs.
`relative_error` is dimensionless, so that a weight means the same for every picture, layer and network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_exp.types import Image, Scalar

SILENT = 1e-10  # root mean square below which a target consists of rounding errors only
Compare = Callable[[Array, Array], Scalar]  # a distance between values and a target of the same shape


def mean_squared_error(values: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Scalar:
    """Return `mean((x - t)^2)`, in the squared unit of `values`.

    Args:
        values: the features or statistics `x` of the pastiche.
        target: the features or statistics `t` to compare with.
    """
    return jnp.mean(jnp.square(values - target))


def relative_error(values: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Scalar:
    """Return `||x - t||^2 / ||t||^2`, which is dimensionless: 0 if `x` equals `t`, and 1 if `x` is 0.

    A target whose root mean square is below `SILENT`, such as the response of a layer to a flat picture, has no size
    to divide by. The mean square of `x - t` is returned for it instead, which is finite and has finite gradients.

    Args:
        values: the features or statistics `x` of the pastiche.
        target: the features or statistics `t` to compare with.
    """
    return relative(jnp.sum(jnp.square(values - target)), jnp.sum(jnp.square(target)), target.size)


def relative(squared: Scalar, size: Scalar, count: int) -> Scalar:
    """Divide a squared distance by the size of the target or, if the target is silent, by the number of its values.

    Args:
        squared: the squared distance.
        size: the sum of the squares of the target's values.
        count: the number of the target's values.
    """
    return squared / jnp.where(size > count * SILENT**2, size, count)


class Distance(NamedTuple):
    """A distance between features and their target, as an option of the setting `loss`.

    Attributes:
        between: computes the distance between values and a target of the same shape.
        normalise_layers: whether the weights of the style layers are divided by their sum.
    """

    between: Compare
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
