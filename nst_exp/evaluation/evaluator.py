"""The evaluator: its network is loaded once, and each photograph and painting is described once.

`metrics` says what is measured; here are the files, and what a process remembers from run to run.
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

_REMEMBERED_BYTES = 256e6  # of descriptions of photographs and paintings: about 22 MB a photograph of 256 px
_PAINTINGS_BYTES = 64e6  # of paintings at the sizes of runs, which are needed once a frame


@dataclass(frozen=True)
class Pair:
    """Photograph and painting as files; equal pairs are looked at once.

    Attributes:
        hashes: SHA-256 of both files, for the contents behind a path may change.
        aspect: how the photograph is read.
        frame_index: of a clip, whose frame stands for the photograph.
        frame: that frame as its source has it: measures must not depend on the size of a run.
    """

    content: Path
    style: Path
    hashes: tuple[str, str]
    aspect: str
    frame_index: int | None = None
    frame: npt.NDArray[np.uint8] | None = field(default=None, compare=False)


def measure(name: str, pair: Pair, content_image: Image, pastiche: Image, cache: Path) -> dict[str, float]:
    """All of `catalogue.MEASURES` of `pastiche`.

    Args:
        name: `vgg16`, or `tiny`, whose numbers mean nothing, for tests and dry runs.
        content_image: the photograph at the run's own size.
        pastiche: as it is in its file, of the same size.
        cache: takes converted params.

    Raises:
        InputError: if the evaluator's params cannot be loaded, or a file is gone.
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
    """The photograph, or the source's frame in its place, at the evaluator's size."""
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
    """The painting; `sha256` is of the file, for the contents behind a path may change."""
    return remembered(
        _paintings,
        (path, sha256, size),
        lambda: jnp.asarray(read_image(path, size=size, aspect="keep", smallest_side=None, name="style")),
    )


_paintings: LRUCache[Hashable, Image] = LRUCache(_PAINTINGS_BYTES, getsizeof=lambda image: image.nbytes)
