"""The life of a run, from its checked configuration to files on disk and records in MLflow.

A run is prepared, begun, solved and finished. Runs with equal batch keys are solved together; all other stages are
done for one run at a time. `run_alone` does a single run from beginning to end.
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
        name: a readable name, for MLflow.
        overrides: the Hydra overrides of the run.
        in_sweep: whether the run is a point of a sweep, which skips finished points.
        parent: the id of the MLflow run of the sweep, if there is one.
    """

    name: str
    overrides: Sequence[str] = ()
    in_sweep: bool = False
    parent: str | None = None


class Run:
    """One run, made by `Run.prepare`.

    A run is a context manager: entering it begins the run in its folder and in MLflow, and leaving it with an error
    marks the run as failed. `finish` completes the run, so nothing is left to do when the context is left after it.

    Example:
        run = Run.prepare(config, folder, origin)
        if run is not None:
            with run:
                (outcome,) = solve([run])
                result = run.finish(outcome)

    Attributes:
        description: the record that is written when the run begins.
        inputs: the inputs that were read.
        kind: the kind of the run, which solves and finishes it.
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
        """Check the settings and read the inputs of a run.

        Args:
            config: a checked configuration.
            folder: an existing folder for the files of the run.
            origin: where the run comes from.

        Returns:
            The run; None if it is a finished point of a sweep. If another run has the same result, its files are
            copied to `folder`, and None is returned as well.

        Raises:
            InputError: if a setting or an input is wrong, or the folder holds the result of another run.
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
        """A key that is equal for runs that can be solved in one batch."""
        return self.inputs.plan.source.kind, self.kind.batch_key(self.inputs)

    @property
    def active(self) -> ActiveRun:
        """The run after it has begun; only available within its context."""
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
            outcome: what `solve` returned for this run.

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
        """Log how to open the finished run in MLflow; do nothing if it is not tracked."""
        if self._folder.tracked is not None:
            _log.info("in MLflow: %s", how_to_open(self._store, self._folder.tracked.run_id))


@run_progress()
def run_alone(config: RunConfig, folder: Path, origin: Origin) -> Result:
    """Do one run: read its inputs, solve it, write and measure the result, and track it in MLflow.

    A point of a sweep that is finished already is not done again.

    Args:
        config: a checked configuration.
        folder: an existing folder. The run writes config.yaml, pastiche.png, result.json and other files to it, each of
            them atomically.
        origin: where the run comes from.

    Returns:
        The result, which is also in result.json.

    Raises:
        InputError: if a setting or an input is wrong, the device is out of memory, a file cannot be written, or the
            MLflow store cannot be reached.

    Example:
        >>> from pathlib import Path
        >>> from hydra import compose, initialize_config_dir
        >>> from hydra.core.config_store import ConfigStore
        >>> from nst_exp.conf_files import CONF
        >>> from nst_exp.config import RunConfig, run_config
        >>> from nst_exp.runs.run import Origin, run_alone
        >>> ConfigStore.instance().store("schema", RunConfig)  # the types that conf/run.yaml is checked against
        >>> overrides = ["network=tiny", "params=random", "evaluator=tiny", "size=64", "steps=20", "tracking=none"]
        >>> with initialize_config_dir(str(CONF), version_base=None):
        ...     config = run_config(compose("run", overrides))
        >>> folder = Path("outputs/example")
        >>> folder.mkdir(parents=True)
        >>> result = run_alone(config, folder, Origin("example", overrides))
        >>> result.steps, result.pastiche
        (20, 'pastiche.png')
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
        runs: at least one, each within its context.
        within: returns a context, given the index of a run. It is entered whenever something is logged or written for
            that run alone.

    Returns:
        The outcome of each run, for `Run.finish`.

    Raises:
        InputError: if all runs failed, such as when the device is out of memory.
    """
    return runs[0].kind.solve([run.active for run in runs], within)


def summary(measures: Mapping[str, float]) -> str:
    """Return the most important measures as one line of text.

    Args:
        measures: by name; missing ones are left out.
    """
    better = ALL_MEASURES["score"].direction
    named = [(ALL_MEASURES[name], measures[name]) for name in ("score", "lpips", "style_distance") if name in measures]
    return ", ".join(
        f"{measure.label} {value:.3f}" + (f" ({better} is better)" if measure.name == "score" else "")
        for measure, value in named
    )


def input_hashes(config: RunConfig) -> Mapping[str, str]:
    """Return the SHA-256 of the content, the style and the params that a run of `config` would read.

    Raises:
        InputError: if a setting is wrong, or a file cannot be read.
    """
    return make_plan(config, ()).hashes


def _is_done(description: Record, folder: RunFolder, registry: ResultRegistry, *, force: bool) -> bool:
    """Tell whether `folder` holds the described result, after copying it from another run if one has it."""
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
