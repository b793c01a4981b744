"""The inputs of a run, that is its pictures, params and weights, and the setup of the solver for them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Hashable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from cachetools import LRUCache

from nst_exp.config import RunConfig
from nst_exp.errors import OutOfMemoryError
from nst_exp.files import cache_folder
from nst_exp.media.image import read_image
from nst_exp.memory import remembered
from nst_exp.networks import Network
from nst_exp.params.sources import ParamsSource, load_params
from nst_exp.runs.plan import Plan, params_source, solver_method
from nst_exp.transfer.colour import Colours
from nst_exp.transfer.methods import Method
from nst_exp.transfer.objective import Objective
from nst_exp.transfer.stylize import BatchEntry, Schedule, Stop, coarse_to_fine
from nst_exp.transfer.terms import LossWeights
from nst_exp.types import Image, NetworkParams, StyleImage

_REMEMBERED_BYTES = 256e6  # of pictures that are kept on the device, enough for 80 pictures of 512 px
_LEAST_SIDE = 16  # px, the shortest side that a picture may have
_COARSEST = 128  # px, the size of the coarsest scale ...
_SINGLE_SCALE = 256  # px, ... of pictures larger than this; smaller ones have a single scale


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything that a run needs, read and checked.

    Attributes:
        plan: the checked settings.
        weights: the weights of the loss.
        content_image: the photograph, or the first frame of a video or a camera, at the size of the run.
        style_image: the painting, at the size of the run times `style_zoom`, as the solver sees it: `colour` may have
            given it the colours of `content_image`.
        params: the params of all layers in use.
    """

    plan: Plan
    weights: LossWeights
    content_image: Image
    style_image: StyleImage
    params: NetworkParams


def load(plan: Plan) -> Inputs:
    """Read the pictures and params of a run.

    Runs with the same pictures or params get the same objects, so that a batch stores them once.

    Raises:
        InputError: if a file cannot be read, or a picture is too small for the network.
    """
    config = plan.config
    style_scale = config.loss.style_scale * (config.network.style_scale or 1.0) * config.style_loss.scale
    scales = {"style": style_scale, "content": config.content_loss.scale}
    weights = plan.objective.weights(config.loss_weights, plan.style_layer_weights, scales)
    least = _least_side(plan.objective)
    style_size = round(config.size * config.style_zoom)
    style_image = _picture("style", plan.hashes["style"], plan.files["style"], style_size, config.aspect, least)

    def read_content(path: Path) -> Image:
        return _picture("content", plan.hashes["content"], path, config.size, config.aspect, least)

    content_image = plan.source.content_image(config, least, read_content)
    style_image = _in_colours(plan.colours, style_image, content_image)
    return Inputs(plan, weights, content_image, style_image, _load_params(plan))


def _in_colours(colours: Colours, style_image: StyleImage, content_image: Image) -> StyleImage:
    """Return the painting as the solver sees it, or the same object as an earlier call if that is equal."""
    painting = colours.painting(style_image, content_image)
    if painting is style_image:
        return style_image
    digest = hashlib.sha256(np.asarray(painting).tobytes()).hexdigest()
    return remembered(_pictures, ("painting", digest, painting.shape), lambda: painting)


def _picture(name: str, sha256: str, path: Path, size: int, aspect: str, least: int) -> Image:
    """Read a picture to the device, or return the same object as an earlier call.

    Args:
        name: the key that names the file, `content` or `style`, for messages.
        sha256: the hash of the file, because its contents may change while the process runs.
        path: the file.
        size: the longest side in px.
        aspect: the setting `aspect`.
        least: the shortest side that is allowed, in px.
    """
    return remembered(
        _pictures,
        (name, sha256, path, size, aspect, least),
        lambda: jnp.asarray(read_image(path, size=size, aspect=aspect, smallest_side=least, name=name)),
    )


_pictures: LRUCache[Hashable, Image] = LRUCache(_REMEMBERED_BYTES, getsizeof=lambda image: image.nbytes)


def _load_params(plan: Plan) -> NetworkParams:
    """Read the params of all layers in use to the device."""
    network = plan.objective.network
    layers = network.truncated(plan.objective.layers)
    return _params(
        plan.hashes["params"], params_source(plan.config), network, layers, cache_folder(plan.config.cache_dir)
    )


@functools.lru_cache(maxsize=2)
def _params(sha256: str, source: ParamsSource, network: Network, layers: tuple[str, ...], cache: Path) -> NetworkParams:
    """Read params to the device, or return the same object as an earlier call; `sha256` is as for `_picture`."""
    return jax.device_put(load_params(source, network, layers, cache).params)


def _least_side(objective: Objective) -> int:
    return max(objective.network.smallest_side(objective.layers), _LEAST_SIDE)


def entry_of(inputs: Inputs, content_image: Image) -> BatchEntry:
    """Return the entry of a batch for a photograph or a frame, without an initial picture.

    Args:
        inputs: the inputs of the run.
        content_image: the photograph or the frame, at the size of the run.
    """
    plan = inputs.plan
    return BatchEntry(
        inputs.weights,
        content_image,
        inputs.style_image,
        seed=plan.config.seed,
        colours=plan.colours,
        averaging=plan.config.averaging,
    )


# --- how pictures are solved -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SolverSetup:
    """The settings that pictures must have in common to be solved in one batch.

    Attributes:
        objective: the static part of the problem.
        method: the optimisation method.
        schedule: the scales and steps.
        params_sha256: the hash of the network's params, which a batch shares.
    """

    objective: Objective
    method: Method
    schedule: Schedule
    params_sha256: str

    @classmethod
    def of(cls, inputs: Inputs) -> SolverSetup:
        """Return the setup for a picture, or for a frame of a video that does not start from another frame."""
        plan = inputs.plan
        return cls(plan.objective, plan.method, schedule_of(inputs), plan.hashes["params"])

    @classmethod
    def following(cls, inputs: Inputs) -> SolverSetup:
        """Return the setup for a frame that starts from an earlier frame.

        Such a frame is solved at full size only, until it hardly improves any more: `video.steps`,
        `video.improvement` and `video.window` take the place of `steps` and `stop`.
        """
        plan, video = inputs.plan, inputs.plan.config.video
        assert video.steps is not None
        assert video.improvement is not None
        assert video.window is not None
        _, height, width, _ = inputs.content_image.shape
        stop = Stop(video.improvement, video.window)
        schedule = dataclasses.replace(schedule_of(inputs), sizes=((height, width),), steps=video.steps, stop=stop)
        # such a frame starts close to its optimum, so its first step has another length, if the solver has that option
        first_step = None if plan.config.solver.first_step is None else video.first_step
        method = solver_method(dataclasses.replace(plan.config.solver, first_step=first_step))
        return cls(plan.objective, method, schedule, plan.hashes["params"])


def schedule_of(inputs: Inputs) -> Schedule:
    """Return the scales and steps of a picture."""
    config, objective = inputs.plan.config, inputs.plan.objective
    _, height, width, _ = inputs.content_image.shape
    coarsest = config.coarsest_size or (_COARSEST if config.size > _SINGLE_SCALE else config.size)
    sizes = coarse_to_fine(height, width, coarsest, _least_side(objective))
    stop = Stop(config.stop.improvement, config.stop.window)
    return Schedule(sizes[-config.steps :], config.steps, config.init, stop, config.steps_ratio)


@contextlib.contextmanager
def out_of_memory_as_input_error(config: RunConfig) -> Iterator[None]:
    """Report that the device is out of memory as an error that the user can fix.

    Args:
        config: the settings, for the message.

    Raises:
        OutOfMemoryError: in place of JAX's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemoryError(f"size={config.size}: the device is out of memory, give a smaller one") from error
