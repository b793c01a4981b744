"""Colours: how those of one picture are given to another, and whose colours a result has.

The values of pixels are those that files store, sRGB in [0, 1], as in Gatys et al. (2016). The luma of a pixel is that
of ITU-R BT.601, which is also the Y of YIQ, the space that Gatys et al. (2017) use. Its chroma is what is left of the
pixel without its luma: R - Y, G - Y and B - Y. So a pixel changes its luma, and keeps its chroma, if the same number is
added to its three channels.

References:
    Gatys, Bethge, Hertzmann, Shechtman (2016), Preserving Color in Neural Artistic Style Transfer (arXiv:1606.05897).
    Gatys, Ecker, Bethge, Hertzmann, Shechtman (2017), Controlling Perceptual Factors in Neural Style Transfer,
    section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_exp.types import AnyImage, Image, StyleImage

_LEAST = 1e-6  # added to each variance of pixels in [0, 1], so that pictures with a single colour can be mapped too
_LUMA = (0.299, 0.587, 0.114)  # the weights of R, G and B in the luma of ITU-R BT.601


@jax.jit
def recoloured(image: AnyImage, reference: AnyImage) -> AnyImage:
    """Give `image` the colours of `reference` by a linear map.

    The colours are mapped so that their mean and covariance become those of `reference`. Of all such maps, this is the
    Monge-Kantorovich map, which changes colours least.

    Args:
        image: the picture to recolour, with pixels in [0, 1].
        reference: the picture whose colours are wanted, with pixels in [0, 1]; it may have another size.

    Returns:
        The recoloured picture, clipped to [0, 1].

    References:
        Pitie, Kokaram (2007), The Linear Monge-Kantorovitch Linear Colour Mapping, section 4. Gatys et al. (2016), the
        section on colour histogram matching, which recolours the painting.
    """
    colours, goal = (picture.reshape(-1, 3) for picture in (image, reference))
    own, wanted = (jnp.cov(pixels.T) + _LEAST * jnp.eye(3) for pixels in (colours, goal))
    root, inverse_root = _power(own, 0.5), _power(own, -0.5)
    transform = inverse_root @ _power(root @ wanted @ root, 0.5) @ inverse_root
    moved = (colours - colours.mean(0)) @ transform + goal.mean(0)
    return jnp.clip(moved, 0, 1).reshape(image.shape)


def _power(covariance: Float[Array, "3 3"], exponent: float) -> Float[Array, "3 3"]:
    """Raise a symmetric positive semidefinite matrix to a power."""
    values, vectors = jnp.linalg.eigh(covariance)
    return (vectors * jnp.maximum(values, _LEAST**2) ** exponent) @ vectors.T


def histogram_matched(image: AnyImage, reference: AnyImage) -> AnyImage:
    """Give each channel of `image` the histogram of the same channel of `reference`.

    Args:
        image: the picture to recolour, with pixels in [0, 1].
        reference: the picture whose histograms are wanted, with pixels in [0, 1]; it may have another size.
    """
    from skimage.exposure import match_histograms  # only here, because most runs do not need it

    matched = match_histograms(np.asarray(image[0]), np.asarray(reference[0]), channel_axis=-1)
    return jnp.asarray(matched[None], jnp.float32)


def luma(image: AnyImage) -> Float[Array, "1 _ _ 1"]:
    """Return the luma of each pixel, the sum of its channels weighted as in ITU-R BT.601."""
    # a sum of products, because a device may compute a matrix product with fewer digits
    return jnp.sum(image * jnp.array(_LUMA, jnp.float32), axis=-1, keepdims=True)


def grey(image: AnyImage) -> AnyImage:
    """Replace each channel by the luma of the pixel."""
    return jnp.broadcast_to(luma(image), image.shape)


@jax.jit
def luma_matched(image: AnyImage, reference: AnyImage) -> AnyImage:
    """Return a grey picture: the luma of `image` with the mean and the standard deviation of the luma of `reference`.

    Args:
        image: the picture, with pixels in [0, 1].
        reference: the picture whose mean and standard deviation are wanted, with pixels in [0, 1]; it may have another
            size.

    Returns:
        The grey picture, of the shape of `image`. It is clipped to [0, 1], because no picture can reach the contrast of
        a painting that leaves this range. What is cut off changes the mean and the standard deviation a little.

    References:
        Gatys et al. (2016), the section on luminance-only transfer.
    """
    own, wanted = luma(image), luma(reference)
    contrast = jnp.sqrt((jnp.var(wanted) + _LEAST) / (jnp.var(own) + _LEAST))
    moved = (own - jnp.mean(own)) * contrast + jnp.mean(wanted)
    return jnp.broadcast_to(jnp.clip(moved, 0, 1), image.shape)


@jax.jit
def with_chroma_of(content_image: AnyImage, image: AnyImage) -> AnyImage:
    """Return a picture with the chroma of `content_image` and the luma of `image`.

    The luma of each pixel is limited so that no channel leaves [0, 1], and the chroma stays exact. There always is such
    a luma, because that of `content_image` is one.

    Args:
        content_image: the photograph, with pixels in [0, 1].
        image: the picture that gives the luma, of the same size; its pixels may lie outside [0, 1].
    """
    change = luma(image) - luma(content_image)
    darkest, brightest = (limit(content_image, -1, keepdims=True) for limit in (jnp.min, jnp.max))
    return content_image + jnp.clip(change, -darkest, 1 - brightest)


# --- whose colours a result has ----------------------------------------------------------------------------------


@runtime_checkable
class Colours(Protocol):
    """The interface of the options of `colour=`, which say whose colours a result has.

    They are frozen dataclasses, so that equal ones share a batch.

    Attributes:
        grey: whether the solver works on grey pictures: then the loss sees the luma of the pastiche alone.
    """

    grey: ClassVar[bool]

    @classmethod
    def of(cls, match: str | None) -> Colours:
        """Return the option with the setting `colour.match`, which is None for options that do not have it."""

    def painting(self, style_image: StyleImage, content_image: Image) -> StyleImage:
        """Return the painting as the solver sees it, with pixels in [0, 1].

        Args:
            style_image: the painting, with pixels in [0, 1].
            content_image: the photograph, or the first frame of a video, whose colours the painting may be given.
        """

    def photograph(self, content_image: AnyImage) -> AnyImage:
        """Return the photograph as the solver sees it, and likewise a picture that a frame is held to."""

    def finished(self, pastiche: AnyImage, content_image: Image) -> AnyImage:
        """Return the result in its final colours.

        Args:
            pastiche: what the solver made; its pixels may lie outside [0, 1].
            content_image: the photograph. It is resized if `pastiche` is smaller, at a coarse scale.
        """


@dataclass(frozen=True)
class ColoursOfPainting:
    """Leave all pictures as they are, so that the result takes on the colours of the painting."""

    grey: ClassVar[bool] = False

    @classmethod
    def of(cls, match: str | None) -> ColoursOfPainting:
        """See `Colours`."""
        return cls()

    def painting(self, style_image: StyleImage, content_image: Image) -> StyleImage:
        """See `Colours`."""
        return style_image

    def photograph(self, content_image: AnyImage) -> AnyImage:
        """See `Colours`."""
        return content_image

    def finished(self, pastiche: AnyImage, content_image: Image) -> AnyImage:
        """See `Colours`."""
        return pastiche


@dataclass(frozen=True)
class ColoursOfPhotograph:
    """Transfer the style between grey pictures, and give the result the chroma of the photograph.

    References:
        Gatys et al. (2016), the section on luminance-only transfer.
    """

    grey: ClassVar[bool] = True

    @classmethod
    def of(cls, match: str | None) -> ColoursOfPhotograph:
        """See `Colours`."""
        return cls()

    def painting(self, style_image: StyleImage, content_image: Image) -> StyleImage:
        """See `Colours`."""
        return luma_matched(style_image, content_image)

    def photograph(self, content_image: AnyImage) -> AnyImage:
        """See `Colours`."""
        return grey(content_image)

    def finished(self, pastiche: AnyImage, content_image: Image) -> AnyImage:
        """See `Colours`."""
        if content_image.shape != pastiche.shape:
            content_image = jnp.clip(jax.image.resize(content_image, pastiche.shape, "cubic", antialias=True), 0, 1)
        return with_chroma_of(content_image, pastiche)


@dataclass(frozen=True)
class MatchedColours(ColoursOfPainting):
    """Recolour the painting to the photograph before the transfer, and take the result as it is.

    Attributes:
        match: how the painting is recoloured, a name in `MATCHES`.

    References:
        Gatys et al. (2016), the section on colour histogram matching.
    """

    match: str

    @classmethod
    def of(cls, match: str | None) -> MatchedColours:
        """See `Colours`."""
        assert match is not None
        return cls(match)

    def painting(self, style_image: StyleImage, content_image: Image) -> StyleImage:
        """See `Colours`."""
        return MATCHES[self.match](style_image, content_image)


# The values of `colour.match`, and for each a function that gives one picture the colours of another.
MATCHES: Mapping[str, Callable[[AnyImage, AnyImage], AnyImage]] = {
    "moments": recoloured,
    "histogram": histogram_matched,
}
# The options of `colour=`.
COLOURS: Mapping[str, type[Colours]] = {
    "painting": ColoursOfPainting,
    "photograph": ColoursOfPhotograph,
    "matched": MatchedColours,
}
COLOURS_OF_PAINTING = ColoursOfPainting()
