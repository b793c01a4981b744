"""Transfer of colours from a painting to a photograph, which gives the initial picture of `init=colours`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_exp.types import AnyImage

_LEAST = 1e-6  # added to each variance of pixels in [0, 1], so that pictures with a single colour can be mapped too


@jax.jit
def recoloured(content_image: AnyImage, style_image: AnyImage) -> AnyImage:
    """Give `content_image` the colours of `style_image`.

    The colours are mapped linearly, so that their mean and covariance become those of `style_image`. Of all such
    maps, this is the Monge-Kantorovich map, which changes colours least.

    Args:
        content_image: the photograph, with pixels in [0, 1].
        style_image: the painting, with pixels in [0, 1]; it may have another size.

    Returns:
        The recoloured photograph, clipped to [0, 1].

    References:
        Pitie, Kokaram (2007), The Linear Monge-Kantorovitch Linear Colour Mapping, section 4. Gatys et al. (2017),
        Controlling Perceptual Factors in Neural Style Transfer, section 5.1, recolour the painting instead.
    """
    colours, goal = (image.reshape(-1, 3) for image in (content_image, style_image))
    own, wanted = (jnp.cov(pixels.T) + _LEAST * jnp.eye(3) for pixels in (colours, goal))
    root, inverse_root = _power(own, 0.5), _power(own, -0.5)
    transform = inverse_root @ _power(root @ wanted @ root, 0.5) @ inverse_root
    moved = (colours - colours.mean(0)) @ transform + goal.mean(0)
    return jnp.clip(moved, 0, 1).reshape(content_image.shape)


def _power(covariance: Float[Array, "3 3"], exponent: float) -> Float[Array, "3 3"]:
    """Raise a symmetric positive semidefinite matrix to a power."""
    values, vectors = jnp.linalg.eigh(covariance)
    return (vectors * jnp.maximum(values, _LEAST**2) ** exponent) @ vectors.T
