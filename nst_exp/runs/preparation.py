"""What a run needs before it begins: its plan, checked, and then its inputs, read."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import platformdirs
from cachetools import LRUCache

from nst_exp.config import RunConfig, SolverConfig
from nst_exp.devices import backend
from nst_exp.errors import InputError, OutOfMemoryError
from nst_exp.files import home_expanded
from nst_exp.media.image import from_uint8, locate, read_image, sha256_of
from nst_exp.media.kind import kind_of
from nst_exp.memory import remembered
from nst_exp.networks import Network, get_network
from nst_exp.params.sources import ParamsSource, load_params, params_sha256
from nst_exp.records import record
from nst_exp.transfer.objective import LossWeights, Objective, loss_weights
from nst_exp.transfer.solver import Adam, Lbfgs, Method, OptaxLbfgs
from nst_exp.transfer.stylize import Schedule, Stop, coarse_to_fine
from nst_exp.types import Image, NetworkParams, StyleImage

if TYPE_CHECKING:
    from nst_exp.media.camera import Device
    from nst_exp.media.video import Clip, Cut  # which pictures need not wait for

_METHODS: dict[str, Callable[..., Method]] = {"lbfgs": Lbfgs, "optax_lbfgs": OptaxLbfgs, "adam": Adam}

_REMEMBERED_BYTES = 256e6  # of pictures on the device: 80 of 512 px
_LEAST_SIDE = 16  # px; below, there is no picture to speak of
_COARSEST = 128  # px; where coarse-to-fine begins ...
_SINGLE_SCALE = 256  # px; ... for pictures larger than this


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that determines the result, checked, but nothing read yet that costs time.

    Attributes:
        kind: `image`, `video` or `camera`.
        clip: what a video says of itself.
        camera: the device.
        files: content (but for a camera's) and style.
        hashes: SHA-256 of these and of the params.
    """

    config: RunConfig
    kind: str
    clip: Clip | None
    camera: Device | None
    objective: Objective
    style_layer_weights: Mapping[str, float]
    files: Mapping[str, Path]
    hashes: Mapping[str, str]

    @property
    def repeatable(self) -> bool:
        """Whether the same plan gives the same result: what a camera saw does not come again."""
        return self.camera is None

    @property
    def params(self) -> dict[str, Any]:
        """Every setting under its readable name."""
        return record.params(self.config, self.kind, self.objective.content_layers, self.style_layer_weights)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything a run needs, read and checked.

    Attributes:
        content_image: the photograph, or the first frame of a clip or a camera.
    """

    plan: Plan
    weights: LossWeights
    content_image: Image
    style_image: StyleImage
    params: NetworkParams


def make_plan(config: RunConfig, overrides: Sequence[str]) -> Plan:
    """Check all that can be checked without reading pixels, and hash what will be read.

    Args:
        config: of the right types and ranges.
        overrides: Hydra's; those that would have no effect are refused.

    Raises:
        InputError: on a layer that is not there, layer weights that do not fit, a file that cannot be read.
    """
    config = _of_this_device(config)
    network = get_network(
        config.network.name,
        pooling=config.pooling,
        padding=config.padding,
        precision=config.precision,
        smoothing=config.network.smoothing,
    )
    content_layers = _canonical(network, "content_layer", config.content_layers)
    style_layer_weights = _style_layer_weights(config, network)
    _refuse_idle_weights(overrides, config, network, style_layer_weights)
    objective = Objective(network, content_layers, tuple(style_layer_weights), config.loss.name)
    files = _files(config)
    kind = kind_of(files["content"]) if config.source == "auto" else config.source
    _refuse_idle(overrides, kind)
    clip = _probed(files["content"]) if kind == "video" else None
    camera = _found_camera(config) if kind == "camera" else None
    hashes = {name: sha256_of(path) for name, path in files.items()}
    layers = network.truncated(objective.layers)
    hashes["params"] = params_sha256(_params_source(config), network, layers, cache_folder(config))
    return Plan(config, kind, clip, camera, objective, style_layer_weights, files, hashes)


def load(plan: Plan) -> Inputs:
    """Read pictures and params.

    Raises:
        InputError: if one of them cannot be read, or is too small.
    """
    config = plan.config
    weights = loss_weights(
        content_weight=config.content_weight,
        style_weight=config.style_weight,
        style_scale=config.loss.style_scale * (config.network.style_scale or 1.0),
        style_layer_weights=plan.style_layer_weights,
        tv_weight=config.tv_weight,
        range_weight=config.range_weight,
        temporal_weight=config.temporal_weight,
        normalise=config.loss.name == "relative",
    )
    content_image, style_image = _read_images(plan)
    return Inputs(plan, weights, content_image, style_image, _load_params(plan))


def _of_this_device(config: RunConfig) -> RunConfig:
    """With the precision that `auto` stands for here; a device that JAX cannot use is refused whatever is given."""
    automatic = "float32" if backend() == "cpu" else "tf32"
    return dataclasses.replace(config, precision=automatic) if config.precision == "auto" else config


def _canonical(network: Network, name: str, layers: Iterable[str]) -> tuple[str, ...]:
    try:
        canonical = tuple(network.canonical_layer(layer) for layer in layers)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    twice = {layer for layer in canonical if canonical.count(layer) > 1}
    if twice:
        raise InputError(f"{name}: {', '.join(sorted(twice))} is named twice")
    return canonical


def _style_layer_weights(config: RunConfig, network: Network) -> dict[str, float]:
    """The weight of each style layer by its canonical name, in the order of `style_layers`."""
    layers = _canonical(network, "style_layers", config.style_layers)
    if config.style_layer_weights is not None:
        weights = dict(zip(layers, config.style_layer_weights, strict=True))
    else:
        table = config.style_layer_weight
        named = dict(zip(_canonical(network, "style_layer_weight", table), table.values(), strict=True))
        missing = [layer for layer in layers if layer not in named]
        if missing:
            raise InputError(f"style_layer_weight names no weight for {', '.join(missing)}, among style_layers")
        weights = {layer: named[layer] for layer in layers}
    if sum(weights.values()) == 0:
        raise InputError(f"all weights of style_layers are 0 ({', '.join(layers)}): use style_weight=0")
    return weights


def _refuse_idle(overrides: Sequence[str], kind: str) -> None:
    """Refuse what says nothing of this kind of source; a group's choice may stand."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if record.is_idle(key, kind):
            raise InputError(f"{override} has no effect: the source is {kind}")


def _refuse_idle_weights(
    overrides: Sequence[str], config: RunConfig, network: Network, style_layer_weights: Mapping[str, float]
) -> None:
    """Refuse a weight for a layer that is not in use: a sweep over it would be the same run many times."""
    for override in overrides:
        table, _, layer = override.lstrip("+").partition("=")[0].partition(".")
        if table != "style_layer_weight":
            continue
        if network.canonical_layer(layer) not in style_layer_weights:
            used = ", ".join(style_layer_weights)
            raise InputError(f"{override} has no effect: {layer} is not among style_layers ({used})")
        if config.style_layer_weights is not None:
            raise InputError(f"{override} has no effect: style_layer_weights={config.style_layer_weights} is given")


def _read_images(plan: Plan) -> tuple[Image, StyleImage]:
    """Content and style image at their sizes."""
    config = plan.config
    least = max(plan.objective.network.smallest_side(plan.objective.layers), _LEAST_SIDE)
    style = _image(
        "style", plan.hashes["style"], plan.files["style"], round(config.size * config.style_zoom), config.aspect, least
    )
    return _content(plan, least), style


def _image(name: str, sha256: str, path: Path, size: int, aspect: str, least: int) -> Image:
    """A picture on the device, the same object for all runs that read it: lanes then hold it once.

    Args:
        sha256: of the file, for the contents behind a path may change.
    """
    return remembered(
        _images,
        (name, sha256, path, size, aspect, least),
        lambda: jnp.asarray(read_image(path, size=size, aspect=aspect, smallest_side=least, name=name)),
    )


_images: LRUCache[Hashable, Image] = LRUCache(_REMEMBERED_BYTES, getsizeof=lambda image: image.nbytes)


def _content(plan: Plan, least: int) -> Image:
    """The photograph, or the first frame that there is."""
    config = plan.config
    if plan.kind == "image":
        path = plan.files["content"]
        return _image("content", plan.hashes["content"], path, config.size, config.aspect, least)
    from nst_exp.media.frame_conversion import resize
    from nst_exp.media.video import read_frames

    width, height = frame_size(plan)
    _check_frame_size(plan, (width, height), least)
    if plan.camera is not None:
        return jnp.asarray(from_uint8(resize(plan.camera.first, (width, height))))
    assert plan.clip is not None
    first = next(read_frames(plan.clip, cut_of(config), on_corrupt=config.video.on_corrupt, name="content"), None)
    if first is None:
        raise InputError(f"video.start={config.video.start}: content={str(plan.clip.path)!r} has no frame there")
    return jnp.asarray(from_uint8(resize(first.levels, (width, height))))


def frame_size(plan: Plan) -> tuple[int, int]:
    """(width, height) in px of a clip's or a camera's frames; even where the codec wants that."""
    from nst_exp.media.video_writer import CODECS, fitted_size

    config, source = plan.config, plan.clip or plan.camera
    assert source is not None
    even = (plan.kind == "camera" or "clip" in config.video.write) and CODECS[config.video.codec].even
    return fitted_size(source.size, config.size, config.aspect, even=even)


def _check_frame_size(plan: Plan, size: tuple[int, int], least: int) -> None:
    from nst_exp.media.video_writer import CODECS, check_writable

    codec, frames = plan.config.video.codec, f"{size[0]}x{size[1]} px"
    if min(size) < least:
        source = f"camera.device={plan.camera.name!r}" if plan.camera else f"content={str(plan.files['content'])!r}"
        raise InputError(
            f"{source}: at size={plan.config.size} its frames would be {frames}, "
            f"at least {least} px needed on the short side"
        )
    if min(size) < CODECS[codec].least:
        raise InputError(f"video.codec={codec}: frames of {frames}, at least {CODECS[codec].least} px needed")
    sides = 2 if "side_by_side" in plan.config.video.write and plan.clip is not None else 1
    check_writable(codec, (sides * size[0], size[1]))


def cut_of(config: RunConfig) -> Cut:
    """Which frames of a clip are taken."""
    from nst_exp.media.video import Cut

    return Cut(config.video.start, config.video.end, config.video.every)


def _probed(path: Path) -> Clip:
    from nst_exp.media.video import probe

    return probe(path, "content")


def _found_camera(config: RunConfig) -> Device:
    from nst_exp.media.camera import find_camera

    return find_camera(config.camera.device, config.camera.format)


def _files(config: RunConfig) -> dict[str, Path]:
    """What will be read; a camera stands in for `content`."""
    addresses = {"content": config.content, "style": config.style}
    if config.source == "camera":
        del addresses["content"]
    return {name: _locate(name, address) for name, address in addresses.items()}


def _locate(name: str, address: str) -> Path:
    try:
        return locate(address)
    except InputError as error:
        raise InputError(f"{name}={error}") from error


def _load_params(plan: Plan) -> NetworkParams:
    """The params of all layers in use, on the device; compiled code is cached beside them."""
    cache, network = cache_folder(plan.config), plan.objective.network
    jax.config.update("jax_compilation_cache_dir", str(cache / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small functions add up to seconds
    layers = network.truncated(plan.objective.layers)
    return _params(plan.hashes["params"], _params_source(plan.config), network, layers, cache)


@functools.lru_cache(maxsize=2)
def _params(sha256: str, source: ParamsSource, network: Network, layers: tuple[str, ...], cache: Path) -> NetworkParams:
    """A network's params on the device, the same object for all runs that have these; `sha256` as of `_image`."""
    return jax.device_put(load_params(source, network, layers, cache).params)


def cache_folder(config: RunConfig) -> Path:
    """Where downloads, converted params and compiled code are kept."""
    return home_expanded(config.cache_dir) if config.cache_dir else platformdirs.user_cache_path("nst_exp")


def _params_source(config: RunConfig) -> ParamsSource:
    path = home_expanded(config.params.path) if config.params.path else None
    return ParamsSource(config.params.source, path, config.params.preprocessing, config.params.seed)


def solver_method(solver: SolverConfig) -> Method:
    """The solver's method; the configuration has checked that its options are those the method has."""
    options = dataclasses.asdict(solver)
    method = _METHODS[options.pop("name")]
    return method(**{name: value for name, value in options.items() if value is not None})


def schedule_of(inputs: Inputs) -> Schedule:
    """How a picture's work is laid out, coarse to fine."""
    config, objective = inputs.plan.config, inputs.plan.objective
    _, height, width, _ = inputs.content_image.shape
    coarsest = config.coarsest_size or (_COARSEST if config.size > _SINGLE_SCALE else config.size)
    smallest = max(objective.network.smallest_side(objective.layers), _LEAST_SIDE)
    sizes = coarse_to_fine(height, width, coarsest, smallest)
    stop = Stop(config.stop.improvement, config.stop.window)
    return Schedule(sizes[-config.steps :], config.steps, config.init, stop)


@dataclasses.dataclass(frozen=True)
class Static:
    """What lanes must have in common to be solved side by side: what is compiled in, and the network's params."""

    objective: Objective
    method: Method
    schedule: Schedule
    params_sha256: str

    @classmethod
    def of(cls, inputs: Inputs) -> Static:
        """That of the picture, or of a clip's frame that stands alone, with these inputs."""
        plan = inputs.plan
        return cls(plan.objective, solver_method(plan.config.solver), schedule_of(inputs), plan.hashes["params"])


def following_schedule(inputs: Inputs) -> Schedule:
    """The work on a frame that has a picture to set out from: at full size only, until it improves no more."""
    video, (_, height, width, _) = inputs.plan.config.video, inputs.content_image.shape
    assert video.steps is not None
    assert video.improvement is not None
    assert video.window is not None
    stop = Stop(video.improvement, video.window)
    return dataclasses.replace(schedule_of(inputs), sizes=((height, width),), steps=video.steps, stop=stop)


def following_method(config: RunConfig) -> Method:
    """The solver of a frame that sets out from near its end, where its first step has a length."""
    first_step = None if config.solver.first_step is None else config.video.first_step
    return solver_method(dataclasses.replace(config.solver, first_step=first_step))


@contextlib.contextmanager
def memory_explained(config: RunConfig) -> Iterator[None]:
    """Makes the device's lack of memory something that a user can put right."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemoryError(f"size={config.size}: the device is out of memory, give a smaller one") from error
