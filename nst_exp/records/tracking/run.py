"""One run in MLflow behind a small context manager, and a tracker with the same interface that does nothing.

Runs are made through `MlflowClient`, never the fluent API, which keeps a global active run and is not safe with several
threads. A run's folder is written first and MLflow mirrors it, so everything that MLflow lost or never heard of can be
uploaded later.
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
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from nst_exp.errors import InputError
from nst_exp.records.folder import CONFIG, RunFolder, Table, Tracked
from nst_exp.records.tracking.process import PROCESS, defer_signals, process_tag
from nst_exp.records.tracking.search import PARENT, runs_of
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

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

_RECORD = "record.json"
_SECONDS_BETWEEN_FLUSHES = 10.0  # a batch costs 20 to 200 ms: well below 2% of the time it covers


@runtime_checkable
class TrackedRun(Protocol):
    """What a run logs while it is solved, and when it is finished.

    Example:
        with track(store, folder) as tracked:
            tracked.log_params({"content_weight": 1.0})
            tracked.log_trace({"step": np.array([1, 2]), "loss/total": np.array([0.5, 0.4])})
            tracked.log_result(folder)
    """

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log params once, each under its readable name."""

    def log_trace(self, trace: Table) -> None:
        """Log columns of numbers, a row for each of the column `step`; sent in batches, at the latest at the end."""

    def log_picture(self, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Log a picture (H, W, 3) into the UI's image grid."""

    def log_result(self, folder: RunFolder) -> None:
        """Log the final numbers, the picture and all files of a finished run."""


class NullRun:
    """Tracks nothing."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Do nothing."""

    def log_trace(self, trace: Table) -> None:
        """Do nothing."""

    def log_picture(self, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Do nothing."""

    def log_result(self, folder: RunFolder) -> None:
        """Do nothing."""


_REQUESTS = ThreadPoolExecutor(1, "mlflow")  # one thread for all requests of this process, which keeps their order


class MlflowRun:
    """A run in an MLflow store; a thread does everything, from MLflow's import on, so that the run does not wait.

    If the store is lost on the way, a warning is logged once, and the run continues without it.

    MLflow's own asynchronous logging (`synchronous=False`) does not replace the thread: it covers neither the import
    nor `create_run`, artifacts and `set_terminated`, writes batches in another order than they are given in, and tries
    again with each batch when a server is lost, and logs an error for each.
    """

    def __init__(self, store: Store, folder: RunFolder, parent: str | None) -> None:
        self._folder = folder
        self._optional = parent is not None
        self._begun: Future[tuple[MlflowClient, str]] = _REQUESTS.submit(_begin, store, folder, parent, _now())
        self._sent: list[Future[None]] = []
        self._lost: str | None = None
        self._warned = False
        self._pending: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log the settings that matter most as params, and all of them in files."""
        shown = shown_params(params, self._folder.record.overrides)
        self._send(partial(_log_params, [(fit_key(name), fit_param(str(value))) for name, value in shown.items()]))
        for name in (CONFIG, _RECORD):  # at once, so that a run that fails can be compared, too
            self._send(partial(_log_artifact, str(self._folder.path / name), None))

    def log_trace(self, trace: Table) -> None:
        """Log columns of numbers, a row for each of the column `step`; sent in batches, at the latest at the end.

        Raises:
            InputError: if the store could not be reached to begin with, and the run is no point of a sweep.
        """
        self._wait_until_begun()
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
        # at step 0: MLflow draws metrics without a later step as bars, the runs side by side
        self.log_trace({"step": np.array([0])} | {name: np.array([value]) for name, value in final.items()})
        if result.frames is None:  # of a video there are sample frames already
            with Image.open(folder.path / result.pastiche) as picture:
                self.log_picture(np.asarray(picture), result.steps)
        for path in folder.artifacts:
            inside = path.parent.relative_to(folder.path).as_posix()
            self._send(partial(_log_artifact, str(path), None if inside == "." else inside))

    def close(self, status: str) -> str | None:
        """Send everything that is pending, and end the run.

        Args:
            status: FINISHED, FAILED or KILLED.

        Returns:
            The run's id; None if MLflow does not have all of the run.
        """
        self._flush()
        self._send(lambda client, run_id: client.set_terminated(run_id, status))
        with defer_signals():
            for sent in self._sent:
                sent.result()
        self._warn_if_incomplete()
        return None if self._failure else self._begun.result()[1]

    @property
    def _failure(self) -> str | None:
        """Why MLflow does not have all of the run, as far as that is known by now."""
        error = self._begun.exception() if self._begun.done() else None
        return self._lost if error is None else str(error)

    def _wait_until_begun(self) -> None:
        """Wait until the run has begun in MLflow.

        Raises:
            InputError: if the store could not be reached, and the run is no point of a sweep.
        """
        error = self._begun.exception()
        if error is not None and not (self._optional and isinstance(error, InputError)):
            self._warned = True  # the error ends the run, which says enough
            raise error
        self._warn_if_incomplete()

    def _warn_if_incomplete(self) -> None:
        """Log a warning, once, if MLflow does not have all of the run; only the run's own thread has the run's log."""
        if self._failure and not self._warned:
            self._warned = True
            _log.warning("%s; the run continues; %s", self._failure, upload_hint(self._folder.path))

    def _flush(self) -> None:
        if self._pending:
            self._send(partial(_log_metrics, self._pending))
        self._pending = []
        self._flushed = time.monotonic()

    def _send(self, action: Callable[[MlflowClient, str], object]) -> None:
        self._sent.append(_REQUESTS.submit(self._act, action))

    def _act(self, action: Callable[[MlflowClient, str], object]) -> None:
        """Make a request, in the thread of requests; none is tried after one has failed."""
        if self._failure:
            return
        try:
            action(*self._begun.result())
        except failures() as error:
            self._lost = f"tracking is lost: {reason(error)}"


def _log_params(entries: Sequence[tuple[str, str]], client: MlflowClient, run_id: str) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(*entry) for entry in entries])


def _log_metrics(entries: Sequence[tuple[str, float, int, int]], client: MlflowClient, run_id: str) -> None:
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(*entry) for entry in entries])


def _log_artifact(path: str, inside: str | None, client: MlflowClient, run_id: str) -> None:
    client.log_artifact(run_id, path, inside)


def _now() -> int:
    """Return the time in ms since 1970, as MLflow counts it."""
    return time.time_ns() // 1_000_000


@contextlib.contextmanager
def track(store: Store, folder: RunFolder, parent: str | None = None) -> Iterator[TrackedRun]:
    """Track a run in `store`; it ends as FINISHED, as FAILED on an error, or as KILLED on Ctrl-C.

    A run that an earlier try in the same folder has left unfinished in MLflow is deleted (MLflow can restore it).

    Args:
        store: where to; with `tracking=none` nothing is tracked.
        folder: the run's folder, in which it has begun: the record there is what MLflow gets.
        parent: the run id of the sweep that this run is a point of; None for a single run. A sweep has reached its
            store before, so if the store is lost by now, its points are only not tracked.

    Yields:
        What the run logs to.

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
        with defer_signals():  # until `run` is assigned, so that it is closed in any case
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


def _begin(store: Store, folder: RunFolder, parent: str | None, start_time: int) -> tuple[MlflowClient, str]:
    """Begin a new run that has started at `start_time`, in ms; return a client and the run's id."""
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
    client: MlflowClient,
    store: Store,
    name: str,
    tags: Mapping[str, str],
    parent: str | None,
    start_time: int | None = None,
) -> str:
    """Start a run; the experiment is made if it is new.

    Args:
        name: cut if it is too long for a store, as keys and values of tags are.
        parent: the id of the run that the new run hangs below; None for none.
        start_time: in ms since 1970; None means now.

    Returns:
        The id of the run, whose status is RUNNING.
    """
    from mlflow.tracking.context import registry

    own = {PROCESS: process_tag()}
    if parent is not None:
        own[PARENT] = parent
    resolved = registry.resolve_tags(dict(tags) | own)  # adds the user, the source and more that MLflow's UI shows
    fitting = {fit_key(key): fit_tag(value) for key, value in resolved.items()}
    experiment = experiment_id(client, store)
    run = client.create_run(experiment, start_time=start_time, run_name=fit_name(name), tags=fitting)
    return run.info.run_id


def upload_hint(folder: Path) -> str:
    """Return what to do once the store can be reached again."""
    return f"when the store is there again: python -m nst_exp.upload {shlex.quote(str(folder))}"
