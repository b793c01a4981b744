"""Runs, from their configurations to files on disk and records in MLflow: one, or a batch of them.

A run is prepared, begun, worked on and finished. Only the work is done together, by runs of one `kinship`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from nst_exp.config import RunConfig
from nst_exp.errors import InputError
from nst_exp.evaluation.catalogue import ALL_MEASURES
from nst_exp.records import record
from nst_exp.records.folder import PICTURE, Record, RunFolder
from nst_exp.records.registry import Ledger
from nst_exp.records.tracking import Store, TrackedRun, how_to_open, track, try_upload
from nst_exp.runs.preparation import Inputs, Plan, Static, load, make_plan
from nst_exp.runs.progress import phase, run_progress

_log = logging.getLogger(__name__)


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
class ReadyRun:
    """A run that is to be done, with all that it needs."""

    inputs: Inputs
    description: Record
    folder: RunFolder
    store: Store
    parent: str | None

    @property
    def kinship(self) -> Hashable:
        """Runs that are equal in this can be worked on together; a camera's is alone."""
        if self.inputs.plan.kind == "image":
            return Static.of(self.inputs)
        if self.inputs.plan.kind == "camera":
            return self.description.identity
        from nst_exp.runs.video_files import Kin

        return Kin.of(self.inputs)


@dataclasses.dataclass(frozen=True)
class BegunRun:
    """A run under way."""

    ready: ReadyRun
    tracked: TrackedRun


Finish = Callable[[], dict[str, Any]]  # what is left to do for one run alone; returns what result.json holds


@run_progress()
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
        (finish,) = work([run])
        result = finish()
    tracked = RunFolder(folder).tracked
    if tracked is not None and not origin.in_sweep:
        _log.info("in MLflow: %s", how_to_open(ready.store, tracked.run_id))
    return result


def prepare(config: RunConfig, folder: Path, origin: Origin) -> ReadyRun | None:
    """Check and read all that a run needs; None if it is a sweep's point, and done already.

    Raises:
        InputError: on anything that the user can put right.
    """
    phase("reading", logged=False)
    plan = make_plan(config, origin.overrides)
    store, run_folder = Store.of(config.tracking), RunFolder(folder)
    description = _describe(plan, origin, store)
    may_be_done = origin.in_sweep and plan.repeatable
    if may_be_done and _is_done(description, run_folder, Ledger.at(config.ledger), force=config.force):
        if store.backend != "none":
            try_upload(store, run_folder, origin.parent)
        return None
    return ReadyRun(load(plan), description, run_folder, store, origin.parent)


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


def work(
    runs: Sequence[BegunRun], within: Callable[[int], AbstractContextManager[Any]] = contextlib.nullcontext
) -> list[Finish]:
    """Do what runs of one kinship have to do together.

    Args:
        within: entered, with a run's index, around what is done for that run alone.

    Returns:
        For each run, what is left to do.

    Raises:
        InputError: if the device is out of memory, or a file cannot be written.
    """
    return [partial(_finish, run, rest) for run, rest in zip(runs, _work(runs, within), strict=True)]


def _work(runs: Sequence[BegunRun], within: Callable[[int], AbstractContextManager[Any]]) -> list[Finish]:
    """As `work`, but for what all kinds of runs have left to do; pictures need not wait for what reads video."""
    kind = runs[0].ready.inputs.plan.kind
    parts = [(run.ready.inputs, run.ready.folder, run.tracked) for run in runs]
    if kind == "image":
        from nst_exp.runs.image import Canvas, finish_picture, paint

        canvases = [Canvas(*part) for part in parts]
        return [partial(finish_picture, *one) for one in zip(canvases, paint(canvases, within), strict=True)]
    if kind == "camera":
        from nst_exp.runs.camera import paint_camera

        return [partial(paint_camera, *part) for part in parts]
    from nst_exp.runs.video import paint_films
    from nst_exp.runs.video_files import Film, finish_film

    films = [Film(*part) for part in parts]
    return [partial(finish_film, *one) for one in zip(films, paint_films(films, within), strict=True)]


def _finish(run: BegunRun, rest: Finish) -> dict[str, Any]:
    """Do the rest; then the ledger and MLflow hear of it."""
    ready, result = run.ready, rest()
    folder = ready.folder
    if ready.inputs.plan.repeatable:
        Ledger.at(ready.inputs.plan.config.ledger).add_run(ready.description.identity, folder.path)
    phase("uploading", logged=ready.store.backend != "none")
    run.tracked.log_result(folder)
    _log.info("%s", summary(result["measures"]))
    _log.info("%s: %s", "clip" if "clip" in result else "picture", folder.path / result.get("clip", PICTURE))
    return result


def summary(measures: Mapping[str, float]) -> str:
    """The measures that matter most, in a line."""
    better = ALL_MEASURES["score"].direction
    named = [(ALL_MEASURES[name], measures[name]) for name in ("score", "lpips", "style_distance") if name in measures]
    return ", ".join(
        f"{measure.label} {value:.3f}" + (f" ({better} is better)" if measure.name == "score" else "")
        for measure, value in named
    )


def input_hashes(config: RunConfig) -> Mapping[str, str]:
    """SHA-256 of content, style and params that a run of `config` would read.

    Raises:
        InputError: as `run_experiment`.
    """
    return make_plan(config, ()).hashes


def _is_done(description: Record, folder: RunFolder, ledger: Ledger, *, force: bool) -> bool:
    """Whether `folder` holds this result; if another run has it, its files are copied to `folder`."""
    if folder.finished and folder.result.get("identity") != description.identity:
        raise InputError(
            f"{str(folder.path)!r} holds the finished picture of other settings, inputs or params; "
            "force=true begins a new sweep"
        )
    if folder.sound:
        _log.info("done already: %s", folder.path)
        return True
    earlier = None if force else ledger.finished(description.identity)
    if earlier is None:
        return False
    folder.adopt(earlier, description)
    _log.info("done already, copied from %s", earlier.path)
    return True


def _describe(plan: Plan, origin: Origin, store: Store) -> Record:
    params = plan.params
    identity = record.identity(params, plan.hashes)
    uri = None if store.backend == "none" else store.uri
    return Record(identity, origin.name, list(origin.overrides), params, record.tags(plan.hashes), uri)
