"""A run's inputs, read: pictures, params, weights; and how its pictures are solved."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Hashable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from cachetools import LRUCache

from nst_exp.config import RunConfig
from nst_exp.errors import OutOfMemoryError
from nst_exp.files import cache_folder
from nst_exp.media.image import read_image
from nst_exp.memory import remembered
from nst_exp.networks import Network
from nst_exp.params.sources import ParamsSource, load_params
from nst_exp.runs.plan import Plan, params_source, solver_method
from nst_exp.transfer.methods import Method
from nst_exp.transfer.objective import Objective
from nst_exp.transfer.stylize import Schedule, Stop, coarse_to_fine
from nst_exp.transfer.terms import LossWeights
from nst_exp.types import Image, NetworkParams, StyleImage

_REMEMBERED_BYTES = 256e6  # of pictures on the device: 80 of 512 px
_LEAST_SIDE = 16  # px; the shortest side that a picture may have
_COARSEST = 128  # px; where coarse-to-fine begins ...
_SINGLE_SCALE = 256  # px; ... for pictures larger than this


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything a run needs, read and checked.

    Attributes:
        content_image: the photograph, or the first frame of a video or a camera.
    """

    plan: Plan
    weights: LossWeights
    content_image: Image
    style_image: StyleImage
    params: NetworkParams


def load(plan: Plan) -> Inputs:
    """Read pictures and params.

    Raises:
        InputError: if one of them cannot be read, or is too small.
    """
    config = plan.config
    style_scale = config.loss.style_scale * (config.network.style_scale or 1.0)
    weights = plan.objective.weights(config.loss_weights, plan.style_layer_weights, style_scale)
    least = _least_side(plan.objective)
    style_size = round(config.size * config.style_zoom)
    style_image = _picture("style", plan.hashes["style"], plan.files["style"], style_size, config.aspect, least)

    def read_content(path: Path) -> Image:
        return _picture("content", plan.hashes["content"], path, config.size, config.aspect, least)

    content_image = plan.source.content_image(config, least, read_content)
    return Inputs(plan, weights, content_image, style_image, _load_params(plan))


def _picture(name: str, sha256: str, path: Path, size: int, aspect: str, least: int) -> Image:
    """A picture on the device, the same object for all runs that read it: a batch then holds it once.

    Args:
        sha256: of the file, for the contents behind a path may change.
    """
    return remembered(
        _pictures,
        (name, sha256, path, size, aspect, least),
        lambda: jnp.asarray(read_image(path, size=size, aspect=aspect, smallest_side=least, name=name)),
    )


_pictures: LRUCache[Hashable, Image] = LRUCache(_REMEMBERED_BYTES, getsizeof=lambda image: image.nbytes)


def _load_params(plan: Plan) -> NetworkParams:
    """The params of all layers in use, on the device."""
    network = plan.objective.network
    layers = network.truncated(plan.objective.layers)
    return _params(
        plan.hashes["params"], params_source(plan.config), network, layers, cache_folder(plan.config.cache_dir)
    )


@functools.lru_cache(maxsize=2)
def _params(sha256: str, source: ParamsSource, network: Network, layers: tuple[str, ...], cache: Path) -> NetworkParams:
    """A network's params on the device, the same object for all runs that have these; `sha256` as of `_picture`."""
    return jax.device_put(load_params(source, network, layers, cache).params)


def _least_side(objective: Objective) -> int:
    return max(objective.network.smallest_side(objective.layers), _LEAST_SIDE)


# --- how pictures are solved -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SolverSetup:
    """What pictures must have in common to be solved in one batch: what is compiled in, and the network's params."""

    objective: Objective
    method: Method
    schedule: Schedule
    params_sha256: str

    @classmethod
    def of(cls, inputs: Inputs) -> SolverSetup:
        """The setup for a picture, or for a video's frame that does not start from another one."""
        plan = inputs.plan
        return cls(plan.objective, plan.method, schedule_of(inputs), plan.hashes["params"])

    @classmethod
    def following(cls, inputs: Inputs) -> SolverSetup:
        """The setup for a frame that starts from the frame before: at full size only, until it improves no more."""
        plan, video = inputs.plan, inputs.plan.config.video
        assert video.steps is not None
        assert video.improvement is not None
        assert video.window is not None
        _, height, width, _ = inputs.content_image.shape
        stop = Stop(video.improvement, video.window)
        schedule = dataclasses.replace(schedule_of(inputs), sizes=((height, width),), steps=video.steps, stop=stop)
        # such a frame starts near its end, where the first step has a length of its own
        first_step = None if plan.config.solver.first_step is None else video.first_step
        method = solver_method(dataclasses.replace(plan.config.solver, first_step=first_step))
        return cls(plan.objective, method, schedule, plan.hashes["params"])


def schedule_of(inputs: Inputs) -> Schedule:
    """How a picture's work is laid out, coarse to fine."""
    config, objective = inputs.plan.config, inputs.plan.objective
    _, height, width, _ = inputs.content_image.shape
    coarsest = config.coarsest_size or (_COARSEST if config.size > _SINGLE_SCALE else config.size)
    sizes = coarse_to_fine(height, width, coarsest, _least_side(objective))
    stop = Stop(config.stop.improvement, config.stop.window)
    return Schedule(sizes[-config.steps :], config.steps, config.init, stop)


@contextlib.contextmanager
def out_of_memory_as_input_error(config: RunConfig) -> Iterator[None]:
    """Report that the device is out of memory as something that a user can put right.

    Raises:
        OutOfMemoryError: instead of JAX's own error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemoryError(f"size={config.size}: the device is out of memory, give a smaller one") from error
