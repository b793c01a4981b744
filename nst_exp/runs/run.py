"""A run's life, from its checked configuration to files on disk and records in MLflow.

A run is prepared, begun, solved and finished. Only solving is done together, by runs with equal batch keys.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from nst_exp.config import RunConfig
from nst_exp.errors import InputError
from nst_exp.evaluation.catalogue import ALL_MEASURES
from nst_exp.outcome import Outcome
from nst_exp.records import record
from nst_exp.records.folder import Record, RunFolder
from nst_exp.records.registry import ResultRegistry
from nst_exp.records.result import Result
from nst_exp.records.tracking import Store, how_to_open, track, try_upload
from nst_exp.runs.inputs import Inputs, load
from nst_exp.runs.kind import ActiveRun, RunKind, Within, run_kind
from nst_exp.runs.plan import Plan, make_plan
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


class Run:
    """One run: `prepare` makes it, the context begins and ends it in its folder and in MLflow, `finish` finishes it.

    Example:
        run = Run.prepare(config, folder, origin)
        with run:
            (outcome,) = solve([run])
            result = run.finish(outcome)

    Attributes:
        description: the record that is written before the run begins.
        inputs: what was read.
        kind: how the run is solved and finished.
    """

    def __init__(
        self, inputs: Inputs, description: Record, folder: RunFolder, store: Store, parent: str | None
    ) -> None:
        self.description = description
        self.inputs = inputs
        self._folder, self._store, self._parent = folder, store, parent
        self.kind: RunKind = run_kind(inputs.plan.source.kind)
        self._context = contextlib.ExitStack()
        self._active: ActiveRun | None = None

    @classmethod
    def prepare(cls, config: RunConfig, folder: Path, origin: Origin) -> Run | None:
        """Check and read everything that the run needs.

        Args:
            config: a checked configuration.
            folder: exists; gets config.yaml, pastiche.png and result.json, each whole or not at all.

        Returns:
            The run; None if it is a point of a sweep that is finished already.

        Raises:
            InputError: on anything that the user can put right.
        """
        phase("reading", logged=False)
        plan = make_plan(config, origin.overrides)
        store, run_folder = Store.of(config.tracking), RunFolder(folder)
        description = _describe(plan, origin, store)
        may_be_done = origin.in_sweep and plan.source.repeatable
        if may_be_done and _is_done(description, run_folder, ResultRegistry.at(config.registry), force=config.force):
            if store.tracks:
                try_upload(store, run_folder, origin.parent)
            return None
        return cls(load(plan), description, run_folder, store, origin.parent)

    @property
    def batch_key(self) -> Hashable:
        """Runs with equal keys can be solved in one batch."""
        return self.inputs.plan.source.kind, self.kind.batch_key(self.inputs)

    @property
    def active(self) -> ActiveRun:
        """The run within its context."""
        assert self._active is not None
        return self._active

    def __enter__(self) -> Run:
        """Begin the run in its folder and in MLflow.

        Raises:
            InputError: if the folder cannot be written, or the store cannot be reached.
        """
        self._folder.begin(record.plain(self.inputs.plan.config), self.description)
        with contextlib.ExitStack() as context:
            tracked = context.enter_context(track(self._store, self._folder, self._parent))
            tracked.log_params(self.description.params)
            self._active = ActiveRun(self.inputs, self._folder, tracked)
            self._context = context.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, traceback)

    def finish(self, outcome: Outcome[Any]) -> Result:
        """Write and measure the picture or video, register the result, upload it, and end the run in MLflow.

        Args:
            outcome: of `solve`.

        Raises:
            InputError: if solving failed, or a file cannot be written.
        """
        with self._context.pop_all():
            result = self.kind.finish(self.active, outcome)
            plan = self.inputs.plan
            if plan.source.repeatable:
                ResultRegistry.at(plan.config.registry).add_run(self.description.identity, self._folder.path)
            phase("uploading", logged=self._store.tracks)
            self.active.tracked.log_result(self._folder)
            _log.info("%s", summary(result.measures))
            product = "video" if result.video else "picture"
            _log.info("%s: %s", product, self._folder.path / (result.video or result.pastiche))
        return result

    def log_link(self) -> None:
        """Log how to open the finished run in MLflow."""
        if self._folder.tracked is not None:
            _log.info("in MLflow: %s", how_to_open(self._store, self._folder.tracked.run_id))


@run_progress()
def run_alone(config: RunConfig, folder: Path, origin: Origin) -> Result:
    """Do one run: load, stylise, measure, save, track. A point of a sweep that is finished already is not done again.

    Args:
        config: a checked configuration.
        folder: exists; gets config.yaml, pastiche.png and result.json, each whole or not at all.

    Raises:
        InputError: on anything that the user can put right.
    """
    run = Run.prepare(config, folder, origin)
    if run is None:
        return RunFolder(folder).result
    with run:
        (outcome,) = solve([run])
        result = run.finish(outcome)
    if not origin.in_sweep:
        run.log_link()
    return result


def solve(runs: Sequence[Run], within: Within = contextlib.nullcontext) -> list[Outcome[Any]]:
    """Solve runs with equal batch keys together.

    Args:
        within: entered, with a run's index, around what is done for that run alone.

    Returns:
        For each run what `Run.finish` needs.

    Raises:
        InputError: if the device is out of memory, or a file cannot be written.
    """
    return runs[0].kind.solve([run.active for run in runs], within)


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
        InputError: as `run_alone`.
    """
    return make_plan(config, ()).hashes


def _is_done(description: Record, folder: RunFolder, registry: ResultRegistry, *, force: bool) -> bool:
    """Whether `folder` holds this result; if another run has it, its files are copied to `folder`."""
    if folder.finished and folder.result.identity != description.identity:
        raise InputError(
            f"{str(folder.path)!r} holds the finished picture of other settings, inputs or params; "
            "force=true begins a new sweep"
        )
    if folder.sound:
        _log.info("done already: %s", folder.path)
        return True
    earlier = None if force else registry.finished(description.identity)
    if earlier is None:
        return False
    folder.adopt(earlier, description)
    _log.info("done already, copied from %s", earlier.path)
    return True


def _describe(plan: Plan, origin: Origin, store: Store) -> Record:
    params = plan.params
    identity = record.identity(params, plan.hashes)
    uri = store.uri if store.tracks else None
    return Record(identity, origin.name, list(origin.overrides), params, record.tags(plan.hashes), uri)
