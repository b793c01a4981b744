"""Runs, from their configurations to files on disk and records in MLflow: one, or a batch of them in lanes.

A run is prepared, begun, solved and finished. Runs that are `Static` alike are solved together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
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
from nst_exp.networks import Vgg, get_network
from nst_exp.objective import LossWeights, Objective, loss_weights
from nst_exp.progress import progress
from nst_exp.results import PICTURE, Record, RunFolder, Table
from nst_exp.solver import Adam, Lbfgs, Method, OptaxLbfgs
from nst_exp.stylize import Lane, Progress, Schedule, Solution, Stop, coarse_to_fine, initial_image, stylize
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


@dataclasses.dataclass(frozen=True)
class Static:
    """What runs must have in common to be solved together: what is compiled in, and the network's params."""

    objective: Objective
    method: Method
    schedule: Schedule
    params_sha256: str


@dataclasses.dataclass(frozen=True)
class ReadyRun:
    """A run that is to be done, with all that it needs."""

    inputs: _Inputs
    description: Record
    folder: RunFolder
    store: Store
    parent: str | None

    @property
    def static(self) -> Static:
        """What makes it one of a batch."""
        plan = self.inputs.plan
        return Static(plan.objective, _method(plan.config.solver), _schedule(self.inputs), plan.hashes["params"])

    @property
    def lane(self) -> Lane:
        """Its place in a batch."""
        inputs = self.inputs
        return Lane(inputs.weights, inputs.content_image, inputs.style_image, seed=inputs.plan.config.seed)


@dataclasses.dataclass(frozen=True)
class BegunRun:
    """A run under way."""

    ready: ReadyRun
    tracked: TrackedRun


@dataclasses.dataclass(frozen=True)
class Solved:
    """What solving brought a run, and cost it.

    Attributes:
        trace: a row for each step.
        seconds: the run's share of the time that the batch took.
        peak_memory_mb: of the whole batch.
        lanes: runs in the batch.
    """

    solution: Solution
    trace: Table
    seconds: float
    peak_memory_mb: float
    lanes: int


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
    ready = prepare(config, folder, origin)
    if ready is None:
        return RunFolder(folder).result
    with begin(ready) as run:
        (solved,) = solve([run])
        result = finish(run, solved)
    if ready.store.backend == "sqlite" and not origin.in_sweep:
        _log.info("all runs side by side: mlflow ui --backend-store-uri %s", ready.store.uri)
    return result


def prepare(config: RunConfig, folder: Path, origin: Origin) -> ReadyRun | None:
    """Check and read all that a run needs; None if it is a sweep's point, and done already.

    Raises:
        InputError: on anything that the user can put right.
    """
    plan = _plan(config, origin.overrides)
    store, run_folder = Store.of(config.tracking), RunFolder(folder)
    description = _describe(plan, origin, store)
    if origin.in_sweep and _is_done(description, run_folder, Ledger.at(config.ledger), force=config.force):
        if store.backend != "none":
            upload(store, run_folder, origin.parent)
        return None
    return ReadyRun(_load(plan), description, run_folder, store, origin.parent)


@contextlib.contextmanager
def begin(ready: ReadyRun) -> Iterator[BegunRun]:
    """The run is under way, in its folder and in MLflow, until the context ends.

    Raises:
        InputError: if the folder cannot be written, or the store cannot be reached.
    """
    ready.folder.begin(record.plain(ready.inputs.plan.config), ready.description)
    with track(ready.store, ready.folder, ready.parent) as tracked:
        tracked.log_params(ready.description.params)
        yield BegunRun(ready, tracked)


def solve(
    runs: Sequence[BegunRun],
    within: Callable[[int], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> list[Solved | InputError]:
    """Solve runs that are `Static` alike, side by side; what happens on the way is written down run by run.

    Args:
        within: entered, with a run's index, around what is written for that run alone.

    Returns:
        For each run what solving brought, or why there is nothing.

    Raises:
        InputError: if the device is out of memory, or a file cannot be written.
    """
    static, inputs = runs[0].ready.static, runs[0].ready.inputs
    diaries = []
    for index, run in enumerate(runs):
        with within(index):
            diaries.append(_Diary(run, static.schedule))
    evaluations = np.zeros(len(runs), int)
    forget_peak()
    started = time.monotonic()
    with progress(static.schedule.steps, len(runs)) as shown, _memory_explained(inputs.plan.config):

        def on_chunk(chunk: Progress) -> None:
            with within(chunk.lane):
                diaries[chunk.lane].add(chunk)
            evaluations[chunk.lane] = chunk.trace.evaluations[-1]
            loss = float(chunk.trace.totals[-1])
            shown.update(steps_done=chunk.steps_done, loss=loss, evaluations=int(evaluations.sum()))

        lanes = [run.ready.lane for run in runs]
        solutions = stylize(static.objective, static.method, inputs.params, lanes, static.schedule, on_chunk)
    seconds, peak = (time.monotonic() - started) / len(runs), peak_mb()
    return [
        solution if isinstance(solution, InputError) else Solved(solution, diary.trace, seconds, peak, len(runs))
        for diary, solution in zip(diaries, solutions, strict=True)
    ]


def finish(run: BegunRun, solved: Solved | InputError) -> dict[str, Any]:
    """Measure and write everything down.

    Returns:
        What result.json holds.

    Raises:
        InputError: if there is no solution, or a file cannot be written.
    """
    if isinstance(solved, InputError):
        raise solved
    inputs, folder, solution = run.ready.inputs, run.ready.folder, solved.solution
    folder.write_trace(solved.trace)
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
        "seconds": solved.seconds,
        "evaluations_per_second": solution.evaluations / solved.seconds,
        "peak_memory_mb": solved.peak_memory_mb,
        "lanes": solved.lanes,
        "sha256": {**inputs.plan.hashes, "pastiche": sha256_of(folder.path / PICTURE)},
    }
    folder.finish(result)
    Ledger.at(inputs.plan.config.ledger).add_run(run.ready.description.identity, folder.path)
    run.tracked.log_result(folder)
    _log.info("picture: %s", folder.path / PICTURE)
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
        config.network.name, pooling=config.pooling, padding=config.padding, precision=config.precision
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
        style_scale=config.loss.style_scale,
        style_layer_weights=plan.style_layer_weights,
        tv_weight=config.tv_weight,
        range_weight=config.range_weight,
        normalise=config.loss.name == "relative",
    )
    content_image, style_image = _read_images(plan)
    return _Inputs(plan, weights, content_image, style_image, _load_params(plan))


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


def _refuse_idle(
    overrides: Sequence[str], config: RunConfig, network: Vgg, style_layer_weights: Mapping[str, float]
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
        _image(plan.hashes[name], plan.files[name], size, config.aspect, least, name) for name, size in sizes.items()
    )
    return content, style


@functools.lru_cache(maxsize=32)
def _image(sha256: str, path: Path, size: int, aspect: str, smallest_side: int, name: str) -> AnyImage:
    """A picture on the device, the same object for all runs that read it: lanes then hold it once.

    Args:
        sha256: of the file, for the contents behind a path may change.
    """
    return jnp.asarray(read_image(path, size=size, aspect=aspect, smallest_side=smallest_side, name=name))


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
    return _params(plan.hashes["params"], _params_source(plan.config), network, layers, cache)


@functools.lru_cache(maxsize=2)
def _params(sha256: str, source: ParamsSource, network: Vgg, layers: tuple[str, ...], cache: Path) -> NetworkParams:
    """A network's params on the device, the same object for all runs with these; `sha256` as for `_image`."""
    return jax.device_put(load_params(source, network, layers, cache).params)


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
    return Schedule(sizes[-config.steps :], config.steps, config.init, stop)


def _measures(inputs: _Inputs, solution: Solution) -> dict[str, float]:
    """What the judge says of the picture as it is written: clipped and rounded to 8 bits."""
    plan, written = inputs.plan, jnp.asarray(to_uint8(solution.pastiche)[None], jnp.float32) / 255
    hashes = (plan.hashes["content"], plan.hashes["style"])
    pair = Pair(plan.files["content"], plan.files["style"], hashes, plan.config.aspect)
    return measure(plan.config.judge, pair, inputs.content_image, written, _cache(plan.config))


class _Diary:
    """What a run writes while it is solved: its trace, and pictures on the way."""

    def __init__(self, run: BegunRun, schedule: Schedule) -> None:
        snapshots = run.ready.inputs.plan.config.tracking.snapshots
        self._run = run
        self._tables: list[Table] = []
        self._snapshots = _snapshot_steps(schedule.steps, snapshots)
        self._keep(initial_image(schedule, run.ready.lane), 0)  # where MLflow's image grid opens

    def add(self, chunk: Progress) -> None:
        """Write down what a chunk brought."""
        self._tables.append(_table(chunk))
        self._run.tracked.log_trace(self._tables[-1])
        while self._snapshots and chunk.steps_done >= self._snapshots[0]:
            self._keep(chunk.best_image, self._snapshots.pop(0))

    @property
    def trace(self) -> Table:
        """A row for each step so far."""
        return {name: np.concatenate([table[name] for table in self._tables]) for name in self._tables[0]}

    def _keep(self, image: AnyImage, step: int) -> None:
        write_image(self._run.ready.folder.progress_file(step), image)
        self._run.tracked.log_picture(to_uint8(image), step)


@contextlib.contextmanager
def _memory_explained(config: RunConfig) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"size={config.size}: the device is out of memory, give a smaller one") from error


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
