"""Measure a pastiche by the files of its photograph and painting.

The module `metrics` computes the measures from arrays. This one reads the files, loads the evaluator's network once
in a process, and keeps descriptions of photographs and paintings in memory, so that each is described once for all
runs that share it.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from nst_exp.config import EVALUATORS
from nst_exp.evaluation import metrics
from nst_exp.media.image import from_uint8, read_image
from nst_exp.media.sizes import fitted_size
from nst_exp.memory import remembered
from nst_exp.networks import get_network
from nst_exp.params.sources import ParamsSource, load_lpips_weights, load_params
from nst_exp.types import Image, LayerParams, Learnt

_REMEMBERED_BYTES = 256e6  # descriptions of photographs and paintings; a photograph of 256 px takes about 22 MB
_PAINTINGS_BYTES = 64e6  # paintings at the sizes of runs, which are needed for every frame


@dataclass(frozen=True)
class Pair:
    """The files of a photograph and a painting; equal pairs are described once.

    Attributes:
        content: the photograph, or the video.
        style: the painting.
        hashes: the SHA-256 hashes of both files, because the contents behind a path may change.
        aspect: how the photograph is fitted to a size, as in the setting `aspect`.
        frame_index: the index of a frame that stands for the photograph; None for a photograph.
        frame: that frame at the size of its source, because measures must not depend on the size of a run; None for
            a photograph.
    """

    content: Path
    style: Path
    hashes: tuple[str, str]
    aspect: str
    frame_index: int | None = None
    frame: npt.NDArray[np.uint8] | None = field(default=None, compare=False)


def measure(name: str, pair: Pair, content_image: Image, pastiche: Image, cache: Path) -> dict[str, float]:
    """Compute all of `catalogue.MEASURES` for a pastiche.

    Args:
        name: the evaluator: `vgg16`, or `tiny` for tests and dry runs, whose numbers mean nothing.
        pair: the files of the photograph and the painting.
        content_image: the photograph at the size of the run.
        pastiche: the picture of the run as it is in its file, of the same size.
        cache: the folder that keeps converted params.

    Returns:
        The value of each measure by its name.

    Raises:
        InputError: if the evaluator's params cannot be loaded, or a file cannot be read any more.
    """
    evaluator = _evaluator(name, cache)
    found = metrics.measures(evaluator, _references(evaluator, pair), pastiche)
    painting = _painting(pair.style, pair.hashes[1], max(pastiche.shape))
    return found | {"noise": metrics.noise(pastiche, content_image, painting)}


@functools.cache
def _evaluator(name: str, cache: Path) -> metrics.Evaluator:
    network = get_network(name, pooling="max", padding="zeros", precision="float32")
    layers = network.truncated(metrics.LAYERS)
    params = load_params(ParamsSource(EVALUATORS[name]), network, layers, cache).params
    return metrics.Evaluator(network, jax.device_put(params), _lpips_weights(name, params.layers))


def _lpips_weights(name: str, params: LayerParams) -> Mapping[str, Learnt]:
    if name == "vgg16":
        return load_lpips_weights()
    channels = {layer: len(params[layer]["bias"]) for layer in metrics.LPIPS_LAYERS}
    return {layer: np.full(count, 1 / count, np.float32) for layer, count in channels.items()}


def _references(evaluator: metrics.Evaluator, pair: Pair) -> metrics.References:
    photograph_key = (evaluator, pair.content, pair.hashes[0], pair.aspect, pair.frame_index)
    painting_key = (evaluator, pair.style, pair.hashes[1])
    photograph = remembered(
        _descriptions, photograph_key, lambda: metrics.describe_photograph(evaluator, _photograph(pair))
    )
    zoomed = round(metrics.EVALUATOR_SIZE * metrics.EVALUATOR_STYLE_ZOOM)
    painting = remembered(
        _descriptions,
        painting_key,
        lambda: metrics.describe_painting(evaluator, _painting(pair.style, pair.hashes[1], zoomed)),
    )
    return metrics.References.of(photograph, painting)


_descriptions: LRUCache[Hashable, metrics.Description] = LRUCache(
    _REMEMBERED_BYTES, getsizeof=lambda description: description.nbytes
)


def _photograph(pair: Pair) -> Image:
    """Return the photograph, or the frame in its place, at the evaluator's size."""
    if pair.frame is not None:
        from nst_exp.media.frame_conversion import resize

        height, width, _ = pair.frame.shape
        size = fitted_size((width, height), metrics.EVALUATOR_SIZE, pair.aspect, even=False)
        return jnp.asarray(from_uint8(resize(pair.frame, size)))
    whole = read_image(
        pair.content, size=metrics.EVALUATOR_SIZE, aspect=pair.aspect, smallest_side=None, name="content"
    )
    return jnp.asarray(whole)


def _painting(path: Path, sha256: str, size: int) -> Image:
    """Return the painting with a long side of `size` px; `sha256` tells versions of its file apart."""
    return remembered(
        _paintings,
        (path, sha256, size),
        lambda: jnp.asarray(read_image(path, size=size, aspect="keep", smallest_side=None, name="style")),
    )


_paintings: LRUCache[Hashable, Image] = LRUCache(_PAINTINGS_BYTES, getsizeof=lambda image: image.nbytes)
