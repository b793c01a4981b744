"""One run in MLflow behind a small context manager, and a tracker with the same interface that does nothing.

Runs are made through `MlflowClient`, never the fluent API: that one keeps a global active run and is not
safe with several threads. A run's folder comes first and MLflow mirrors it, so whatever MLflow lost or never
heard of can be uploaded later.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from nst_exp.errors import InputError
from nst_exp.records.folder import CONFIG, RunFolder, Table, Tracked
from nst_exp.records.tracking.process import process_tag, signals_held
from nst_exp.records.tracking.store import (
    Store,
    as_input_error,
    check_server,
    connect,
    experiment_id,
    failures,
    fit_command,
    fit_key,
    fit_name,
    fit_param,
    fit_tag,
    reason,
)
from nst_exp.records.tracking.view import shown_params

_log = logging.getLogger(__name__)

_RECORD = "record.json"
PARENT = "mlflow.parentRunId"
PROCESS = "process"  # the tag that tells which process makes a run
_PARAMS_A_REQUEST = 100  # MLflow's limits
_METRICS_A_REQUEST = 1000
_SECONDS_BETWEEN_FLUSHES = 10.0  # a batch costs 20 to 200 ms: well below 2% of the time it covers


@runtime_checkable
class TrackedRun(Protocol):
    """What a run can say of itself while it goes on."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params once, each under its readable name."""

    def log_trace(self, trace: Table) -> None:
        """Log columns of numbers, a row for each of the column `step`; sent in batches, at the latest at the end."""

    def log_picture(self, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Log a picture (H, W, 3) into the UI's image grid."""

    def log_result(self, folder: RunFolder) -> None:
        """Log the final numbers, the picture and all files of a finished run."""


class NullRun:
    """Tracks nothing."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_trace(self, trace: Table) -> None:
        """Do nothing."""

    def log_picture(self, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Do nothing."""

    def log_result(self, folder: RunFolder) -> None:
        """Do nothing."""


_Action = Callable[[Any, str], object]  # of a client and a run's id

# MLflow is slow to import, and a request may take long: one thread for it, in which requests never cross
_DESK = ThreadPoolExecutor(1, "mlflow")


class MlflowRun:
    """A run in an MLflow store, in a thread of its own from MLflow's import on: the run does not wait for it.

    If the store is lost on the way, that is logged, and the run goes on without it.
    """

    def __init__(self, store: Store, folder: RunFolder, parent: str | None) -> None:
        self._folder = folder
        self._optional = parent is not None
        self._begun: Future[tuple[Any, str]] = _DESK.submit(_begin, store, folder, parent, _now())
        self._sent: list[Future[None]] = []
        self._lost: str | None = None
        self._warned = False
        self._pending: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log the settings that matter most as params, and all of them in files."""
        shown = shown_params(params, self._folder.record.overrides)
        entries = [(fit_key(name), fit_param(str(value))) for name, value in shown.items()]
        for start in range(0, len(entries), _PARAMS_A_REQUEST):
            self._send(partial(_log_params, entries[start : start + _PARAMS_A_REQUEST]))
        for name in (CONFIG, _RECORD):  # now, for a run that fails is to be compared, too
            self._send(partial(_log_artifact, str(self._folder.path / name), None))

    def log_trace(self, trace: Table) -> None:
        """Log columns of numbers, a row for each of the column `step`; sent in batches, at the latest at the end.

        Raises:
            InputError: if the store could not be reached to begin with, and the run is no point of a sweep.
        """
        self._check()
        columns = {name: column for name, column in trace.items() if name != "step"}
        for name, column in columns.items():
            numbers = zip(column, trace["step"], strict=True)
            self._pending += [(fit_key(name), float(value), _now(), int(step)) for value, step in numbers]
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def log_picture(self, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Log a picture (H, W, 3) into the UI's image grid."""
        self._send(lambda client, run_id: client.log_image(run_id, picture, key="pastiche", step=step))

    def log_result(self, folder: RunFolder) -> None:
        """Log the final numbers, the picture and all files of a finished run."""
        result = folder.result
        final = {f"final/{name}": value for name, value in result.costs.items()}
        final |= {f"measure/{name}": value for name, value in result.measures.items()}
        # at step 0, for MLflow draws bars, run beside run, of what has no later step
        self.log_trace({"step": np.array([0])} | {name: np.array([value]) for name, value in final.items()})
        if result.frames is None:  # of a video there are sample frames already
            with Image.open(folder.path / result.pastiche) as picture:
                self.log_picture(np.asarray(picture), result.steps)
        for path in folder.artifacts:
            inside = path.parent.relative_to(folder.path).as_posix()
            self._send(partial(_log_artifact, str(path), None if inside == "." else inside))

    def close(self, status: str) -> str | None:
        """Send what waits and end the run as FINISHED, FAILED or KILLED.

        Returns:
            The run's id; None if MLflow does not have all of it.
        """
        self._flush()
        self._send(lambda client, run_id: client.set_terminated(run_id, status))
        with signals_held():
            for sent in self._sent:
                sent.result()
        self._warn()
        return None if self._missed else self._begun.result()[1]

    @property
    def _missed(self) -> str | None:
        """Why MLflow does not have all, as far as is known."""
        failure = self._begun.exception() if self._begun.done() else None
        return self._lost if failure is None else str(failure)

    def _check(self) -> None:
        """Wait until the run has begun in MLflow."""
        failure = self._begun.exception()
        if failure is not None and not (self._optional and isinstance(failure, InputError)):
            self._warned = True  # it is the run's own end
            raise failure
        self._warn()

    def _warn(self) -> None:
        """Say once if MLflow does not have all, in the thread whose log is the run's."""
        if self._missed and not self._warned:
            self._warned = True
            _log.warning("%s; the run goes on; %s", self._missed, upload_hint(self._folder.path))

    def _flush(self) -> None:
        for start in range(0, len(self._pending), _METRICS_A_REQUEST):
            self._send(partial(_log_metrics, self._pending[start : start + _METRICS_A_REQUEST]))
        self._pending = []
        self._flushed = time.monotonic()

    def _send(self, action: _Action) -> None:
        self._sent.append(_DESK.submit(self._act, action))

    def _act(self, action: _Action) -> None:
        """In the desk's thread: what comes after a request that failed is not tried."""
        if self._missed:
            return
        try:
            action(*self._begun.result())
        except failures() as error:
            self._lost = f"tracking is lost: {reason(error)}"


def _log_params(entries: Sequence[tuple[str, str]], client: Any, run_id: str) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(*entry) for entry in entries])


def _log_metrics(entries: Sequence[tuple[str, float, int, int]], client: Any, run_id: str) -> None:
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(*entry) for entry in entries])


def _log_artifact(path: str, inside: str | None, client: Any, run_id: str) -> None:
    client.log_artifact(run_id, path, inside)


def _now() -> int:
    """Milliseconds, as MLflow counts them."""
    return time.time_ns() // 1_000_000


@contextlib.contextmanager
def track(store: Store, folder: RunFolder, parent: str | None = None) -> Iterator[TrackedRun]:
    """A run in `store` that ends FINISHED, FAILED on an error, or KILLED on Ctrl-C, and truly so.

    What an earlier try in the same folder has left unfinished in MLflow is deleted (MLflow can restore it).

    Args:
        folder: has begun: its record says what the run is.
        parent: the run id of the sweep that this run is a point of. A sweep has found its store before, so
            one that is gone by now costs its points only the tracking.

    Raises:
        InputError: if the store cannot be reached and there is no parent.
    """
    if not store.tracks:
        yield NullRun()
        return
    if parent is None and store.is_server:
        check_server(store)
    run, run_id, status = None, None, "FAILED"
    try:
        with signals_held():  # which come out of it when `run` is known
            run = MlflowRun(store, folder, parent)
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        run_id = run and run.close(status)
    if run_id:
        folder.mark_tracked(Tracked(store.uri, run_id))


def _begin(store: Store, folder: RunFolder, parent: str | None, start_time: int) -> tuple[Any, str]:
    """A client, and the id of a new run, from `start_time` in ms on."""
    client, record = connect(store), folder.record
    with as_input_error(store):
        for run in runs_of(client, store, folder, parent):
            if run.info.status != "FINISHED":
                client.delete_run(run.info.run_id)
        own = {
            "identity": record.identity,
            "folder": str(folder.path),
            "overrides": fit_command(record.overrides),
        }
        if parent is not None:
            own["point"] = folder.path.name
        return client, start_run(client, store, record.name, {**record.tags, **own}, parent, start_time)


def start_run(
    client: Any, store: Store, name: str, tags: Mapping[str, str], parent: str | None, start_time: int | None = None
) -> str:
    """A new RUNNING run's id; the experiment is made if it is new."""
    from mlflow.tracking.context import registry

    family = {PROCESS: process_tag()}
    if parent is not None:
        family[PARENT] = parent
    # user, source and what else MLflow's UI shows
    resolved = registry.resolve_tags(dict(tags) | family)
    fitting = {fit_key(key): fit_tag(value) for key, value in resolved.items()}
    experiment = experiment_id(client, store)
    run = client.create_run(experiment, start_time=start_time, run_name=fit_name(name), tags=fitting)
    return str(run.info.run_id)


# --- uploading what MLflow does not have -------------------------------------------------------------------------


def upload(store: Store, folder: RunFolder, parent: str | None = None) -> None:
    """Bring the finished run in `folder` into `store`, unless the store has all of it.

    The store is asked, not the folder: the database may have been deleted, and runs deleted in the UI. A run that
    was deleted there is restored. A run whose files are lost is deleted and logged again.

    Args:
        parent: the run id of the sweep that the run is a point of; a run that is there already is put below it.

    Raises:
        InputError: if the store cannot be reached, or does not have all of the run afterwards.
    """
    client = connect(store)
    with as_input_error(store):
        whole = _whole_run(client, store, folder, parent)
        if whole is not None:
            client.set_tag(whole, "folder", fit_tag(str(folder.path)))
            if parent is not None:
                client.set_tag(whole, PARENT, parent)
            folder.mark_tracked(Tracked(store.uri, whole))
            return
    stale = folder.tracked
    with track(store, folder, parent) as tracked:
        tracked.log_params(folder.record.params)
        tracked.log_trace(folder.trace)
        for step, path in folder.progress:
            with Image.open(path) as picture:
                tracked.log_picture(np.asarray(picture), step)
        tracked.log_result(folder)
    if folder.tracked in (None, stale):
        raise InputError(f"{str(folder.path)!r} could not be uploaded completely: tracking was lost on the way")


def try_upload(store: Store, folder: RunFolder, parent: str | None = None) -> None:
    """As `upload`, but a store that is gone only causes a warning: the run itself is finished."""
    try:
        upload(store, folder, parent)
    except InputError as error:
        _log.warning("%s; %s", error, upload_hint(folder.path))


def upload_hint(folder: Path) -> str:
    """What to do once the store is back."""
    return f"when the store is there again: python -m nst_exp.upload {shlex.quote(str(folder))}"


def _whole_run(client: Any, store: Store, folder: RunFolder, parent: str | None) -> str | None:
    """The id of the store's finished run that holds all of `folder`, active from now on; None if there is none."""
    noted = _noted_run(client, store, folder)
    found = [noted] if noted is not None else []
    for run in found + runs_of(client, store, folder, parent):
        if run.info.status != "FINISHED":
            continue
        run_id = str(run.info.run_id)
        if run.info.lifecycle_stage == "deleted":
            client.restore_run(run_id)
        if _has_files(client, run_id, folder):
            return run_id
        client.delete_run(run_id)
    return None


def _noted_run(client: Any, store: Store, folder: RunFolder) -> Any:
    """The run that mlflow.json names, deleted or not; None if this store's experiment has no such run.

    Ids are unique, so the id tells more than the store's address: that changes when the store is moved.
    """
    return None if folder.tracked is None else find_run(client, store, folder.tracked.run_id)


def find_run(client: Any, store: Store, run_id: str) -> Any:
    """The run with this id, deleted or not; None if the store's experiment has none."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.experiment_id == experiment_id(client, store) else None


def runs_of(client: Any, store: Store, folder: RunFolder, parent: str | None) -> list[Any]:
    """The active runs in MLflow of the run in `folder`, finished or not."""
    experiment = experiment_id(client, store)
    found = client.search_runs([experiment], f"tags.identity = '{folder.record.identity}'")
    return [run for run in found if _is_of(run.data.tags, folder.path, parent)]


def _is_of(tags: Mapping[str, str], path: Path, parent: str | None) -> bool:
    """Whether a run with these tags is that of the folder `path`, which may have been moved with its sweep."""
    noted = tags.get("folder", "")
    return noted == fit_tag(str(path)) or (
        parent is not None and tags.get(PARENT) == parent and Path(noted).name == path.name
    )


def _has_files(client: Any, run_id: str, folder: RunFolder) -> bool:
    """Whether MLflow has the run's files, as far as one request tells."""
    there = {file.path for file in client.list_artifacts(run_id)}
    return there >= {path.relative_to(folder.path).parts[0] for path in folder.artifacts}
