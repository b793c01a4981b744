"""Measures of a finished picture that do not depend on the settings of its run, so that runs can be compared.

Every picture is measured by the same evaluator: a network with params of its own, whose layers, size of pictures and
size of the painting are fixed in this module. It reads the picture as its file has it, clipped and rounded to 8 bits,
at the size of the photograph that it is compared with.

`catalogue.MEASURES` documents each measure. Measures of style are fractions of the photograph's own distance to the
painting. Where that distance is zero, they are the picture's distance itself, as a fraction of the distance of
features that are all zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Float32
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity
from threadpoolctl import threadpool_limits

from nst_exp.networks import Network
from nst_exp.transfer.feature_losses.gram import gram_matrix
from nst_exp.transfer.losses import SILENT, relative_error, total_variation
from nst_exp.types import AnyImage, FeatureMap, FeatureMaps, Image, Learnt, NetworkParams, Scalar, StyleImage

EVALUATOR_SIZE = 256  # px, the long side of every picture that is measured
EVALUATOR_STYLE_ZOOM = 1.5  # the painting's long side over that; fixed, so that values of `style_zoom` can be compared
CONTENT_LAYER = "block4_conv2"
STYLE_LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
LPIPS_LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")
LAYERS = (CONTENT_LAYER, *STYLE_LAYERS, *LPIPS_LAYERS)

_DIRECTIONS = 32  # along which a sliced distance is measured
_LEVELS = 256  # quantiles that represent a distribution on a line
_LEAST = 1e-6  # the least denominator; smaller distances are errors of rounding
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Wang et al.'s own program
_SSIM_WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

Table = Float32[np.ndarray, "directions levels"]


@dataclass(frozen=True, eq=False)
class Evaluator:
    """The network that measures pictures.

    The documented measures need VGG-16 with max pooling, zero padding and the params `bundled`.

    Attributes:
        network: the network; the only static part under `jit`.
        params: its params up to `LAYERS`, as of `network.truncated(LAYERS)`, preferably on the device already.
        lpips_weights: a non-negative weight for each channel, of shape (channels,), by the names in `LPIPS_LAYERS`.
    """

    network: Network
    params: NetworkParams
    lpips_weights: Mapping[str, Learnt]


@struct.dataclass
class _Statistics:
    """The style of one feature map."""

    gram: Float[Array, "_ _"]
    mean: Float[Array, "_"]
    covariance: Float[Array, "_ _"]


@dataclass(frozen=True, eq=False)
class Description:
    """All that the measures need of a picture.

    Attributes:
        maps: feature maps by layer, for content; empty for a painting.
        statistics: Gram matrix, mean and covariance by layer and scale, for style.
        quantiles: the distribution of features along fixed directions by layer and scale, for style.
        palette: the distribution of CIELAB colours along fixed directions.
        luma: the brightness of each pixel, in [0, 1].
    """

    maps: FeatureMaps
    statistics: Mapping[str, _Statistics]
    quantiles: Mapping[str, Table]
    palette: Table
    luma: Float[np.ndarray, "height width"]

    @property
    def nbytes(self) -> int:
        """The memory of all arrays, in bytes."""
        arrays = (self.maps, dict(self.statistics), dict(self.quantiles), self.palette, self.luma)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))


@dataclass(frozen=True, eq=False)
class References:
    """The descriptions that pictures of one photograph and painting are compared with.

    Attributes:
        photograph: the description of the photograph.
        painting: the description of the painting, without feature maps.
        style_distances: the photograph's distances to the painting, by the names of the measures of style.
    """

    photograph: Description
    painting: Description
    style_distances: Mapping[str, float]

    @classmethod
    def of(cls, photograph: Description, painting: Description) -> References:
        """Return the references for all pictures of this photograph and painting."""
        return cls(photograph, painting, _style_distances(photograph, painting))


def references(evaluator: Evaluator, content_image: Image, style_image: StyleImage) -> References:
    """Describe a photograph and a painting, for `measures` of all pictures made of them.

    Args:
        evaluator: the network that measures.
        content_image: the photograph, with a long side of `EVALUATOR_SIZE`.
        style_image: the painting, with a long side of `EVALUATOR_SIZE * EVALUATOR_STYLE_ZOOM`.

    Returns:
        Both descriptions, and the distances between their styles.
    """
    return References.of(describe_photograph(evaluator, content_image), describe_painting(evaluator, style_image))


def describe_photograph(evaluator: Evaluator, content_image: Image) -> Description:
    """Return the features, style, colours and brightness of a photograph; narrow strips are enlarged first."""
    return _describe(evaluator, _large_enough(evaluator, content_image))


def describe_painting(evaluator: Evaluator, style_image: StyleImage) -> Description:
    """Return the style and colours of a painting, without its feature maps, which take most of the memory."""
    return dataclasses.replace(describe_photograph(evaluator, style_image), maps={})


def measures(evaluator: Evaluator, references: References, pastiche: Image) -> dict[str, float]:
    """Compute all of `catalogue.MEASURES` except the noise, which `noise` measures at the size of the run.

    Args:
        evaluator: the network that measures; the same one that described the references.
        references: the photograph and the painting.
        pastiche: the picture as it is in its file, of any size.

    Returns:
        The value of each measure by its name.
    """
    photograph, painting = references.photograph, references.painting
    description = _describe(evaluator, _resized(pastiche, photograph.luma.shape))
    lpips, content_distance = _content_distances(evaluator.lpips_weights, description.maps, photograph.maps)
    style = {
        name: distance / _scale(references.style_distances[name])
        for name, distance in _style_distances(description, painting).items()
    }
    style_distance = sum(style.values()) / len(style)
    return {
        "score": (1 + float(lpips)) * (1 + style_distance) ** 2,
        "lpips": float(lpips),
        "content_distance": float(content_distance),
        "ssim": float(structural_similarity(description.luma, photograph.luma, data_range=1.0, **_SSIM_WINDOW)),
        "style_distance": style_distance,
        **style,
        "colour_distance": 2 * float(np.mean(np.abs(description.palette - painting.palette))),
    }


def noise(pastiche: Image, content_image: AnyImage, style_image: AnyImage) -> float:
    """Compute `catalogue.MEASURES["noise"]`.

    The larger a picture is, the smoother it is, so all three must have the sizes of the run.

    Args:
        pastiche: the picture as it is in its file.
        content_image: the photograph.
        style_image: the painting.

    Returns:
        The total variation of the pastiche, as a multiple of the larger one of the other two.

    References:
        Mahendran, Vedaldi (2015), Understanding Deep Image Representations by Inverting Them: total variation.
    """
    inputs = max(float(total_variation(image)) for image in (content_image, style_image))
    return float(total_variation(pastiche)) / max(inputs, _LEAST)


# --- describing pictures -----------------------------------------------------------------------------------


def _describe(evaluator: Evaluator, image: AnyImage) -> Description:
    maps, statistics, projections = _features(evaluator.network, evaluator.params, image)
    pixels = np.asarray(image[0])
    with threadpool_limits(1, "blas"):  # OpenBLAS 0.3.31 has been seen to wait for its own threads forever
        colours = rgb2lab(pixels).reshape(-1, 3).astype(np.float32)
        palette = _quantiles(_hemisphere() @ colours.T)
        luma = pixels.astype(np.float64) @ np.array(_LUMA)
    quantiles = {name: _quantiles(np.asarray(rows)) for name, rows in projections.items()}
    return Description(maps, statistics, quantiles, palette, luma)


@partial(jax.jit, static_argnames="network")
def _features(
    network: Network, params: NetworkParams, image: Image
) -> tuple[FeatureMaps, dict[str, _Statistics], dict[str, Float[Array, "_ _"]]]:
    """Return feature maps for content, and statistics and (directions, pixels) projections for style.

    Feature maps are keyed by layer, the rest by layer and scale. Style is described with maximum pooling at full size
    and with average pooling at half size: an evaluator with one pooling would favour the runs that use it.
    """
    height, width = image.shape[1:3]
    averaging = dataclasses.replace(network, pooling="average")
    half = _resized(image, (round(height / 2), round(width / 2)))
    maps = network.features(params, image, LAYERS)
    style_maps = {f"{layer} full": maps[layer] for layer in STYLE_LAYERS}
    style_maps |= {f"{layer} half": map_ for layer, map_ in averaging.features(params, half, STYLE_LAYERS).items()}
    content_maps = {layer: maps[layer] for layer in (CONTENT_LAYER, *LPIPS_LAYERS)}
    statistics = {name: _statistics(map_) for name, map_ in style_maps.items()}
    return content_maps, statistics, {name: _projections(map_) for name, map_ in style_maps.items()}


def _statistics(feature_map: FeatureMap) -> _Statistics:
    """Return Gram matrix, mean and covariance of channels; both matrices are divided by the number of channels."""
    mean = jnp.mean(feature_map, axis=(0, 1, 2))
    return _Statistics(gram_matrix(feature_map), mean, gram_matrix(feature_map - mean))


def _projections(feature_map: FeatureMap) -> Float[Array, "directions pixels"]:
    """Project features on `_DIRECTIONS` directions drawn uniformly from the sphere, the same ones in every run."""
    channels = feature_map.shape[-1]
    # RandomState, not a Generator: NumPy promises never to change its numbers (NEP 19)
    directions = np.random.RandomState(0).standard_normal((_DIRECTIONS, channels))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rows = feature_map.reshape(-1, channels)
    return jnp.matmul(directions.astype(np.float32), rows.T, precision=jax.lax.Precision.HIGHEST)


def _hemisphere() -> Float32[np.ndarray, "directions 3"]:
    """Return `_DIRECTIONS` directions, spread evenly over half a sphere by a Fibonacci lattice.

    The axis of the sphere is the first coordinate, lightness: the mean over directions is exact for differences in
    lightness.

    References:
        Swinbank, Purser (2006), Fibonacci Grids: A Novel Approach to Global Modelling.
    """
    index = np.arange(_DIRECTIONS)
    height, angle = (index + 0.5) / _DIRECTIONS, index * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - height**2)
    return np.stack([height, radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _quantiles(rows: Float32[np.ndarray, "directions pixels"]) -> Table:
    """Return the quantiles of each row at the levels (k + 1/2) / `_LEVELS`.

    The i-th smallest of a row's values is its quantile at (i + 1/2) / pixels; the others are interpolated. The mean
    absolute difference of two such tables is the Wasserstein-1 distance of the rows, and exact for `_LEVELS` pixels.
    This is computed on the host because XLA sorts ten times slower than NumPy on CPUs.
    """
    ordered = np.sort(rows, axis=1)
    last = rows.shape[1] - 1
    position = np.clip((np.arange(_LEVELS) + 0.5) / _LEVELS * rows.shape[1] - 0.5, 0, last)
    below = position.astype(np.intp)
    share = (position - below).astype(np.float32)
    return (1 - share) * ordered[:, below] + share * ordered[:, np.minimum(below + 1, last)]


def _large_enough(evaluator: Evaluator, image: AnyImage) -> AnyImage:
    """Enlarge a narrow strip so that it still has a pixel at the deepest layer when it is halved."""
    height, width = image.shape[1:3]
    factor = max(1.0, 2 * evaluator.network.smallest_side(LAYERS) / min(height, width))
    return _resized(image, (round(height * factor), round(width * factor)))


def _resized(image: AnyImage, size: tuple[int, ...]) -> AnyImage:
    """As `media` does when it reads a file: Lanczos over the pixels that go into one."""
    if image.shape[1:3] == size:
        return image
    return jnp.clip(jax.image.resize(image, (1, *size, 3), "lanczos3", antialias=True), 0.0, 1.0)


# --- comparing descriptions --------------------------------------------------------------------------------


@jax.jit
def _content_distances(
    lpips_weights: Mapping[str, Learnt], maps: FeatureMaps, target: FeatureMaps
) -> tuple[Scalar, Scalar]:
    """Return LPIPS and the content distance."""
    lpips = sum(_perceptual(maps[layer], target[layer], lpips_weights[layer]) for layer in LPIPS_LAYERS)
    return jnp.asarray(lpips), relative_error(maps[CONTENT_LAYER], target[CONTENT_LAYER])


def _perceptual(feature_map: FeatureMap, target: FeatureMap, weights: Learnt) -> Scalar:
    """Return one layer's term of LPIPS: the mean over pixels of `sum_c w_c (u_c - v_c)^2`, u and v of length 1."""
    difference = _unit(feature_map) - _unit(target)
    return jnp.mean(jnp.sum(weights * jnp.square(difference), axis=-1))


def _unit(feature_map: FeatureMap) -> FeatureMap:
    length = jnp.sqrt(jnp.sum(jnp.square(feature_map), axis=-1, keepdims=True))
    return feature_map / (length + 1e-10)  # the same constant as in the original implementation


def _scale(distance: float) -> float:
    """Return the divisor of distances to the painting: the photograph's own distance, or 1 if that is next to 0."""
    return distance if distance >= _LEAST else 1.0


def _style_distances(description: Description, painting: Description) -> dict[str, float]:
    """Return the mean distance over layers and scales for each measure; features of zero have distance 1."""
    gram, moments = _statistics_distances(description.statistics, painting.statistics)
    sliced = [_sliced(table, painting.quantiles[name]) ** 2 for name, table in description.quantiles.items()]
    return {"style_gram": float(gram), "style_moments": float(moments), "style_swd": sum(sliced) / len(sliced)}


@jax.jit
def _statistics_distances(
    statistics: Mapping[str, _Statistics], target: Mapping[str, _Statistics]
) -> tuple[Scalar, Scalar]:
    """Return the mean `relative_error` of Gram matrices, and that of means and covariances."""
    pairs = [(statistics[name], target[name]) for name in statistics]
    grams = [relative_error(one.gram, other.gram) for one, other in pairs]
    means = [relative_error(one.mean, other.mean) for one, other in pairs]
    covariances = [relative_error(one.covariance, other.covariance) for one, other in pairs]
    return jnp.mean(jnp.stack(grams)), jnp.mean(jnp.stack(means + covariances))


def _sliced(table: Table, target: Table) -> float:
    """Return the sliced Wasserstein-1 distance, as a fraction of the distance between the target and zeros.

    If the target itself is zero, the distance is divided by 1, as in `relative_error`.
    """
    size = float(np.mean(np.abs(target)))
    return float(np.mean(np.abs(table - target))) / (size if size > SILENT else 1.0)
