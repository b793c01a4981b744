"""One run, from its configuration to files on disk and a record in MLflow."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
import yaml

from nst_exp import metrics, record
from nst_exp.config import RunConfig, SolverConfig
from nst_exp.errors import InputError
from nst_exp.files import write_atomically, write_json
from nst_exp.media.image import locate, read_image, sha256_of, to_uint8, write_image
from nst_exp.networks import Vgg, get_network
from nst_exp.objective import LossWeights, Objective, loss_weights
from nst_exp.progress import progress
from nst_exp.solver import Adam, Lbfgs, Method, OptaxLbfgs
from nst_exp.stylize import Progress, Schedule, Solution, Stop, coarse_to_fine, initial_image, stylize
from nst_exp.tracking import Store, TrackedRun, track
from nst_exp.types import Image, StyleImage
from nst_exp.weights import LoadedParams, ParamsSource, load_params

_log = logging.getLogger(__name__)

PICTURE = "pastiche.png"

_METHODS: dict[str, Callable[..., Method]] = {"lbfgs": Lbfgs, "optax_lbfgs": OptaxLbfgs, "adam": Adam}

_LEAST_SIDE = 16  # px; below, there is no picture to speak of
_COARSEST = 128  # px; where coarse-to-fine begins ...
_SINGLE_SCALE = 256  # px; ... for pictures larger than this


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a run comes from, for its record: its name, Hydra's overrides, the MLflow run of its sweep."""

    name: str
    overrides: Sequence[str] = ()
    parent: str | None = None


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """Everything a run needs, read and checked."""

    config: RunConfig
    objective: Objective
    weights: LossWeights
    style_layer_weights: Mapping[str, float]
    content_image: Image
    style_image: StyleImage
    params: LoadedParams
    hashes: Mapping[str, str]


def run_experiment(config: RunConfig, folder: Path, origin: Origin) -> dict[str, Any]:
    """Do one run: load, stylise, measure, save, track.

    Args:
        config: a checked configuration.
        folder: exists; gets config.yaml, pastiche.png and result.json, each whole or not at all.

    Returns:
        What result.json holds.

    Raises:
        InputError: on anything that the user can put right.
    """
    inputs = _load(config)
    _refuse_idle(origin.overrides, config, inputs)
    write_atomically(folder / "config.yaml", yaml.safe_dump(record.plain(config), sort_keys=False).encode())
    store = Store.of(config.tracking)
    tags = record.tags(origin.overrides, inputs.hashes)
    with track(store, name=origin.name, tags=tags, parent=origin.parent) as run:
        run.log_params(record.params(config, inputs.objective.content_layers, inputs.style_layer_weights))
        started = time.monotonic()
        solution = _solve(inputs, run)
        seconds = time.monotonic() - started
        result = _save(inputs, solution, seconds, folder, run)
    _log.info("picture: %s", folder / PICTURE)
    if store.backend == "sqlite":
        _log.info("all runs side by side: mlflow ui --backend-store-uri %s", store.uri)
    return result


def _load(config: RunConfig) -> _Inputs:
    network = get_network(
        config.network.name, pooling=config.pooling, padding=config.padding, precision=config.precision
    )
    content_layers = _canonical(network, "content_layer", config.content_layers)
    style_layer_weights = _style_layer_weights(config, network)
    objective = Objective(network, content_layers, tuple(style_layer_weights), config.loss.name)
    content_image, style_image, hashes = _read_images(config, network.smallest_side(objective.layers))
    params = _load_params(config, network, objective.layers + metrics.LAYERS)
    weights = loss_weights(
        content_weight=config.content_weight,
        style_weight=config.style_weight,
        style_scale=config.loss.style_scale,
        style_layer_weights=style_layer_weights,
        tv_weight=config.tv_weight,
        range_weight=config.range_weight,
        normalise=config.loss.name == "relative",
    )
    hashes = hashes | {"params": params.sha256}
    return _Inputs(config, objective, weights, style_layer_weights, content_image, style_image, params, hashes)


def _canonical(network: Vgg, name: str, layers: Iterable[str]) -> tuple[str, ...]:
    try:
        canonical = tuple(network.canonical_layer(layer) for layer in layers)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    twice = {layer for layer in canonical if canonical.count(layer) > 1}
    if twice:
        raise InputError(f"{name}: {', '.join(sorted(twice))} is named twice")
    return canonical


def _style_layer_weights(config: RunConfig, network: Vgg) -> dict[str, float]:
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


def _refuse_idle(overrides: Sequence[str], config: RunConfig, inputs: _Inputs) -> None:
    """Refuse a weight for a layer that is not in use: a sweep over it would be the same run many times."""
    used = inputs.style_layer_weights
    for override in overrides:
        table, _, layer = override.lstrip("+").partition("=")[0].partition(".")
        if table != "style_layer_weight":
            continue
        if inputs.objective.network.canonical_layer(layer) not in used:
            raise InputError(f"{override} has no effect: {layer} is not among style_layers ({', '.join(used)})")
        if config.style_layer_weights is not None:
            raise InputError(f"{override} has no effect: style_layer_weights={config.style_layer_weights} is given")


def _read_images(config: RunConfig, smallest_side: int) -> tuple[Image, StyleImage, dict[str, str]]:
    """Content and style image at their sizes, and the SHA-256 of their files."""
    least = max(smallest_side, _LEAST_SIDE)
    images, hashes = [], {}
    for name, address, size in (
        ("content", config.content, config.size),
        ("style", config.style, round(config.size * config.style_zoom)),
    ):
        path = _locate(name, address)
        image = read_image(path, size=size, aspect=config.aspect, smallest_side=least, name=name)
        images.append(jnp.asarray(image))
        hashes[name] = sha256_of(path)
    return images[0], images[1], hashes


def _locate(name: str, address: str) -> Path:
    try:
        return locate(address)
    except InputError as error:
        raise InputError(f"{name}={error}") from error


def _load_params(config: RunConfig, network: Vgg, layers: Sequence[str]) -> LoadedParams:
    """The params of all layers in use, on the device; compiled code is cached beside them."""
    cache = Path(config.cache_dir).expanduser() if config.cache_dir else platformdirs.user_cache_path("nst_exp")
    jax.config.update("jax_compilation_cache_dir", str(cache / "jax"))
    source = ParamsSource(
        config.params.source,
        Path(config.params.path).expanduser() if config.params.path else None,
        config.params.preprocessing,
        config.params.seed,
    )
    loaded = load_params(source, network, network.truncated(layers), cache)
    return dataclasses.replace(loaded, params=jax.device_put(loaded.params))


def _method(solver: SolverConfig) -> Method:
    """The solver's method; the configuration has checked that its options are those the method has."""
    options = dataclasses.asdict(solver)
    method = _METHODS[options.pop("name")]
    return method(**{name: value for name, value in options.items() if value is not None})


def _schedule(inputs: _Inputs) -> Schedule:
    config = inputs.config
    _, height, width, _ = inputs.content_image.shape
    coarsest = config.coarsest_size or (_COARSEST if config.size > _SINGLE_SCALE else config.size)
    smallest = max(inputs.objective.network.smallest_side(inputs.objective.layers), _LEAST_SIDE)
    sizes = coarse_to_fine(height, width, coarsest, smallest)
    stop = Stop(config.stop.improvement, config.stop.window)
    return Schedule(sizes[-config.steps :], config.steps, config.init, config.seed, stop)


def _solve(inputs: _Inputs, run: TrackedRun) -> Solution:
    schedule = _schedule(inputs)
    snapshots = _snapshot_steps(schedule.steps, inputs.config.tracking.snapshots)
    initial = initial_image(schedule, inputs.content_image, inputs.style_image)
    run.log_picture(to_uint8(initial), 0)  # where MLflow's image grid opens
    with progress(schedule.steps) as shown, _memory_explained(inputs.config):

        def on_chunk(chunk: Progress) -> None:
            _log_chunk(chunk, run)
            while snapshots and chunk.steps_done >= snapshots[0]:
                run.log_picture(to_uint8(chunk.best_image), snapshots.pop(0))
            loss, evaluations = float(chunk.trace.totals[-1]), int(chunk.trace.evaluations[-1])
            shown.update(steps_done=chunk.steps_done, loss=loss, evaluations=evaluations)

        return stylize(
            inputs.objective,
            _method(inputs.config.solver),
            inputs.params.params,
            inputs.weights,
            inputs.content_image,
            inputs.style_image,
            schedule,
            on_chunk,
        )


@contextlib.contextmanager
def _memory_explained(config: RunConfig) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"size={config.size}: the device is out of memory, give a smaller one") from error


def _log_chunk(chunk: Progress, run: TrackedRun) -> None:
    """The losses of every step of a chunk; MLflow makes a section of what stands before a slash."""
    trace, count = chunk.trace, len(chunk.trace.totals)
    table = {"loss/total": trace.totals}
    table |= {
        name.replace("style.", "loss_of_layer/") if "." in name else f"loss/{name}": row
        for name, row in trace.losses.items()
    }
    table |= {"solver/evaluations": trace.evaluations, "solver/scale": np.full(count, chunk.scale)}
    columns = {name: np.asarray(column) for name, column in table.items()}
    run.log_metrics(columns, chunk.steps_done - count + 1 + np.arange(count))


def _snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """`snapshots` steps spread evenly over a run, its end left out."""
    return [steps * (index + 1) // (snapshots + 1) for index in range(snapshots)]


def _save(inputs: _Inputs, solution: Solution, seconds: float, folder: Path, run: TrackedRun) -> dict[str, Any]:
    """Files first, then their record: what is finished is never lost to a server that is gone."""
    picture = to_uint8(solution.pastiche)
    write_image(folder / PICTURE, np.asarray(solution.pastiche))
    written = jnp.asarray(picture[None], jnp.float32) / 255
    measures = metrics.measures(
        inputs.objective.network, inputs.params.params, written, inputs.content_image, inputs.style_image
    )
    result = {
        "pastiche": PICTURE,
        "total_loss": solution.total_loss,
        "losses": solution.losses,
        "measures": {name: float(value) for name, value in measures.items()},
        "steps": solution.steps,
        "evaluations": solution.evaluations,
        "restarts": solution.restarts,
        "seconds": seconds,
        "sha256": dict(inputs.hashes) | {"pastiche": sha256_of(folder / PICTURE)},
        "mlflow_run_id": run.run_id,
    }
    write_json(folder / "result.json", result)
    _log_result(result, picture, run)
    run.log_files(folder)
    return result


def _log_result(result: Mapping[str, Any], picture: np.ndarray, run: TrackedRun) -> None:
    final = {f"final/{name}": result[name] for name in ("total_loss", "evaluations", "restarts", "seconds")}
    final |= {f"measure/{name}": value for name, value in result["measures"].items()}
    steps = np.array([result["steps"]])
    run.log_metrics({name: np.array([value]) for name, value in final.items()}, steps)
    run.log_picture(picture, result["steps"])
