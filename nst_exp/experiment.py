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

from nst_exp import record
from nst_exp.config import RunConfig, SolverConfig
from nst_exp.errors import InputError
from nst_exp.judgement import Pair, measure
from nst_exp.ledger import Ledger
from nst_exp.media.image import locate, read_image, sha256_of, to_uint8, write_image
from nst_exp.memory import forget_peak, peak_mb
from nst_exp.networks import Network, get_network
from nst_exp.objective import LossWeights, Objective, loss_weights
from nst_exp.progress import progress
from nst_exp.results import PICTURE, Record, RunFolder, Table
from nst_exp.solver import Adam, Lbfgs, Method, OptaxLbfgs
from nst_exp.stylize import Progress, Schedule, Solution, Stop, coarse_to_fine, initial_image, stylize
from nst_exp.tracking import Store, TrackedRun, track, upload
from nst_exp.types import AnyImage, Image, NetworkParams, StyleImage
from nst_exp.weights import ParamsSource, load_params, params_sha256

_log = logging.getLogger(__name__)

_METHODS: dict[str, Callable[..., Method]] = {"lbfgs": Lbfgs, "optax_lbfgs": OptaxLbfgs, "adam": Adam}

_LEAST_SIDE = 16  # px; below, there is no picture to speak of
_COARSEST = 128  # px; where coarse-to-fine begins ...
_SINGLE_SCALE = 256  # px; ... for pictures larger than this


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a run comes from.

    Attributes:
        name: for people.
        overrides: Hydra's.
        in_sweep: the run is a point of a sweep, which skips what is done.
        parent: the sweep's MLflow run.
    """

    name: str
    overrides: Sequence[str] = ()
    in_sweep: bool = False
    parent: str | None = None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """All that determines the result, checked, but nothing read yet that costs time."""

    config: RunConfig
    objective: Objective
    style_layer_weights: Mapping[str, float]
    files: Mapping[str, Path]
    hashes: Mapping[str, str]

    @property
    def params(self) -> dict[str, Any]:
        """Every setting under its readable name."""
        return record.params(self.config, self.objective.content_layers, self.style_layer_weights)


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """Everything a run needs, read and checked."""

    plan: _Plan
    weights: LossWeights
    content_image: Image
    style_image: StyleImage
    params: NetworkParams


def run_experiment(config: RunConfig, folder: Path, origin: Origin) -> dict[str, Any]:
    """Do one run: load, stylise, measure, save, track. A sweep's point that is done already is not done again.

    Args:
        config: a checked configuration.
        folder: exists; gets config.yaml, pastiche.png and result.json, each whole or not at all.

    Returns:
        What result.json holds.

    Raises:
        InputError: on anything that the user can put right.
    """
    plan = _plan(config, origin.overrides)
    store, ledger, run_folder = Store.of(config.tracking), Ledger.at(config.ledger), RunFolder(folder)
    description = _describe(plan, origin, store)
    if origin.in_sweep and _is_done(description, run_folder, ledger, force=config.force):
        if store.backend != "none":
            upload(store, run_folder, origin.parent)
        return run_folder.result
    inputs = _load(plan)
    run_folder.begin(record.plain(config), description)
    with track(store, run_folder, origin.parent) as run:
        run.log_params(description.params)
        result = _run(inputs, run_folder, run)
        ledger.add_run(description.identity, folder)
        run.log_result(run_folder)
    _log.info("picture: %s", folder / PICTURE)
    if store.backend == "sqlite" and not origin.in_sweep:
        _log.info("all runs side by side: mlflow ui --backend-store-uri %s", store.uri)
    return result


def input_hashes(config: RunConfig) -> Mapping[str, str]:
    """SHA-256 of content, style and params that a run of `config` would read.

    Raises:
        InputError: as `run_experiment`.
    """
    return _plan(config, ()).hashes


def _is_done(description: Record, folder: RunFolder, ledger: Ledger, *, force: bool) -> bool:
    """Whether `folder` holds this result, be it that an earlier sweep's was copied to it just now."""
    if folder.finished:
        if folder.result.get("identity") == description.identity:
            _log.info("done already: %s", folder.path)
            return True
        raise InputError(
            f"{str(folder.path)!r} holds the finished picture of other settings, inputs or params; "
            "force=true begins a new sweep"
        )
    earlier = None if force else ledger.finished(description.identity)
    if earlier is None:
        return False
    folder.adopt(earlier, description)
    _log.info("done already, copied from %s", earlier.path)
    return True


def _describe(plan: _Plan, origin: Origin, store: Store) -> Record:
    params = plan.params
    identity = record.identity(params, plan.hashes)
    uri = None if store.backend == "none" else store.uri
    return Record(identity, origin.name, list(origin.overrides), params, record.tags(plan.hashes), uri)


def _plan(config: RunConfig, overrides: Sequence[str]) -> _Plan:
    network = get_network(
        config.network.name,
        pooling=config.pooling,
        padding=config.padding,
        precision=config.precision,
        smoothing=config.network.smoothing,
    )
    content_layers = _canonical(network, "content_layer", config.content_layers)
    style_layer_weights = _style_layer_weights(config, network)
    _refuse_idle(overrides, config, network, style_layer_weights)
    objective = Objective(network, content_layers, tuple(style_layer_weights), config.loss.name)
    files = {name: _locate(name, address) for name, address in (("content", config.content), ("style", config.style))}
    hashes = {name: sha256_of(path) for name, path in files.items()}
    layers = network.truncated(objective.layers)
    hashes["params"] = params_sha256(_params_source(config), network, layers, _cache(config))
    return _Plan(config, objective, style_layer_weights, files, hashes)


def _load(plan: _Plan) -> _Inputs:
    config = plan.config
    weights = loss_weights(
        content_weight=config.content_weight,
        style_weight=config.style_weight,
        style_scale=config.loss.style_scale * (config.network.style_scale or 1.0),
        style_layer_weights=plan.style_layer_weights,
        tv_weight=config.tv_weight,
        range_weight=config.range_weight,
        normalise=config.loss.name == "relative",
    )
    content_image, style_image = _read_images(plan)
    return _Inputs(plan, weights, content_image, style_image, _load_params(plan))


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


def _refuse_idle(
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


def _read_images(plan: _Plan) -> tuple[Image, StyleImage]:
    """Content and style image at their sizes."""
    config = plan.config
    least = max(plan.objective.network.smallest_side(plan.objective.layers), _LEAST_SIDE)
    sizes = {"content": config.size, "style": round(config.size * config.style_zoom)}
    content, style = (
        read_image(plan.files[name], size=size, aspect=config.aspect, smallest_side=least, name=name)
        for name, size in sizes.items()
    )
    return jnp.asarray(content), jnp.asarray(style)


def _locate(name: str, address: str) -> Path:
    try:
        return locate(address)
    except InputError as error:
        raise InputError(f"{name}={error}") from error


def _load_params(plan: _Plan) -> NetworkParams:
    """The params of all layers in use, on the device; compiled code is cached beside them."""
    cache, network = _cache(plan.config), plan.objective.network
    jax.config.update("jax_compilation_cache_dir", str(cache / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small functions add up to seconds
    layers = network.truncated(plan.objective.layers)
    return jax.device_put(load_params(_params_source(plan.config), network, layers, cache).params)


def _cache(config: RunConfig) -> Path:
    return Path(config.cache_dir).expanduser() if config.cache_dir else platformdirs.user_cache_path("nst_exp")


def _params_source(config: RunConfig) -> ParamsSource:
    path = Path(config.params.path).expanduser() if config.params.path else None
    return ParamsSource(config.params.source, path, config.params.preprocessing, config.params.seed)


def _method(solver: SolverConfig) -> Method:
    """The solver's method; the configuration has checked that its options are those the method has."""
    options = dataclasses.asdict(solver)
    method = _METHODS[options.pop("name")]
    return method(**{name: value for name, value in options.items() if value is not None})


def _schedule(inputs: _Inputs) -> Schedule:
    config, objective = inputs.plan.config, inputs.plan.objective
    _, height, width, _ = inputs.content_image.shape
    coarsest = config.coarsest_size or (_COARSEST if config.size > _SINGLE_SCALE else config.size)
    smallest = max(objective.network.smallest_side(objective.layers), _LEAST_SIDE)
    sizes = coarse_to_fine(height, width, coarsest, smallest)
    stop = Stop(config.stop.improvement, config.stop.window)
    return Schedule(sizes[-config.steps :], config.steps, config.init, config.seed, stop)


def _run(inputs: _Inputs, folder: RunFolder, run: TrackedRun) -> dict[str, Any]:
    """Solve, measure and write everything down."""
    forget_peak()
    started = time.monotonic()
    solution = _solve(inputs, folder, run)
    seconds = time.monotonic() - started
    write_image(folder.path / PICTURE, np.asarray(solution.pastiche))
    result = {
        "identity": folder.record.identity,
        "pastiche": PICTURE,
        "total_loss": solution.total_loss,
        "losses": solution.losses,
        "measures": _measures(inputs, solution),
        "steps": solution.steps,
        "evaluations": solution.evaluations,
        "restarts": solution.restarts,
        "seconds": seconds,
        "evaluations_per_second": solution.evaluations / seconds,
        "peak_memory_mb": peak_mb(),
        "sha256": {**inputs.plan.hashes, "pastiche": sha256_of(folder.path / PICTURE)},
    }
    folder.finish(result)
    return result


def _measures(inputs: _Inputs, solution: Solution) -> dict[str, float]:
    """What the judge says of the picture as it is written: clipped and rounded to 8 bits."""
    plan, written = inputs.plan, jnp.asarray(to_uint8(solution.pastiche)[None], jnp.float32) / 255
    hashes = (plan.hashes["content"], plan.hashes["style"])
    pair = Pair(plan.files["content"], plan.files["style"], hashes, plan.config.aspect)
    return measure(plan.config.judge, pair, inputs.content_image, written, _cache(plan.config))


def _solve(inputs: _Inputs, folder: RunFolder, run: TrackedRun) -> Solution:
    """The solution; its trace is written, and pictures on the way are kept and logged."""
    config, schedule = inputs.plan.config, _schedule(inputs)
    snapshots = _snapshot_steps(schedule.steps, config.tracking.snapshots)
    initial = initial_image(schedule, inputs.content_image, inputs.style_image)
    _keep(initial, 0, folder, run)  # where MLflow's image grid opens
    tables = []
    with progress(schedule.steps) as shown, _memory_explained(config):

        def on_chunk(chunk: Progress) -> None:
            tables.append(_table(chunk))
            run.log_trace(tables[-1])
            while snapshots and chunk.steps_done >= snapshots[0]:
                _keep(chunk.best_image, snapshots.pop(0), folder, run)
            loss, evaluations = float(chunk.trace.totals[-1]), int(chunk.trace.evaluations[-1])
            shown.update(steps_done=chunk.steps_done, loss=loss, evaluations=evaluations)

        solution = stylize(
            inputs.plan.objective,
            _method(config.solver),
            inputs.params,
            inputs.weights,
            inputs.content_image,
            inputs.style_image,
            schedule,
            on_chunk,
        )
    folder.write_trace({name: np.concatenate([table[name] for table in tables]) for name in tables[0]})
    return solution


@contextlib.contextmanager
def _memory_explained(config: RunConfig) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"size={config.size}: the device is out of memory, give a smaller one") from error


def _keep(image: AnyImage, step: int, folder: RunFolder, run: TrackedRun) -> None:
    write_image(folder.progress_file(step), image)
    run.log_picture(to_uint8(image), step)


def _table(chunk: Progress) -> Table:
    """The losses of every step of a chunk; MLflow makes a section of what stands before a slash."""
    trace, count = chunk.trace, len(chunk.trace.totals)
    table = {"step": chunk.steps_done - count + 1 + np.arange(count), "loss/total": trace.totals}
    table |= {
        name.replace("style.", "loss_of_layer/") if "." in name else f"loss/{name}": row
        for name, row in trace.losses.items()
    }
    table |= {"solver/evaluations": trace.evaluations, "solver/scale": np.full(count, chunk.scale)}
    return {name: np.asarray(column) for name, column in table.items()}


def _snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """`snapshots` steps spread evenly over a run, its end left out."""
    return [steps * (index + 1) // (snapshots + 1) for index in range(snapshots)]
