"""MLflow behind a small context manager, and a tracker of the same face that does nothing.

Runs are made through `MlflowClient`, never the fluent API: that one keeps a global active run and is not
safe with several threads. A run's folder comes first and MLflow mirrors it, so whatever MLflow lost or never
heard of can be uploaded later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import psutil
from PIL import Image

from nst_exp.config import TrackingConfig
from nst_exp.errors import InputError
from nst_exp.results import RunFolder, Table, Tracked

_log = logging.getLogger(__name__)

_KIND = {"mlflow.experimentKind": "custom_model_development"}  # so that the UI shows runs, not chat traces
_PROCESS = "process"  # the tag that tells which one makes a run
_FINAL = ("total_loss", "evaluations", "restarts", "seconds", "evaluations_per_second", "peak_memory_mb")
_OF_CLIPS = ("frames", "frames_per_second", "dropped", "latency_ms")
_PARAMS_A_REQUEST = 100  # MLflow's limits
_METRICS_A_REQUEST = 1000
_SECONDS_BETWEEN_FLUSHES = 10.0  # a batch costs 20 to 200 ms: well below 2% of the time it covers


@dataclass(frozen=True)
class Store:
    """Where runs are logged.

    Attributes:
        backend: `sqlite`, `server` or `none`.
        uri: address of the server, or `sqlite:////...`.
        artifacts: folder of pictures and files; None with a server, which keeps its own.
        experiment: the MLflow experiment's name.
    """

    backend: str
    uri: str
    artifacts: Path | None
    experiment: str

    @classmethod
    def at(cls, uri: str, experiment: str) -> Store:
        """The store with this address; artifacts of an sqlite file lie beside it."""
        if not uri.startswith("sqlite:///"):
            return cls("server", uri, None, experiment)
        return cls("sqlite", uri, Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts", experiment)

    @classmethod
    def of(cls, config: TrackingConfig) -> Store:
        """The store that conf/tracking's keys name; a relative folder counts from the current directory."""
        if config.backend != "sqlite":
            return cls(config.backend, config.uri or "", None, config.experiment)
        root = Path(config.store or "outputs").absolute()
        return cls.at(f"sqlite:///{root / 'mlflow.db'}", config.experiment)


def existing_store(uri: str | None) -> Store:
    """The store named, else that of the environment, else the one that runs write to by default.

    Raises:
        InputError: if it is an sqlite file that is not there.
    """
    default = Store.of(TrackingConfig("sqlite", None, None, "nst_exp", 0))
    store = Store.at(uri or os.environ.get("MLFLOW_TRACKING_URI") or default.uri, default.experiment)
    if store.backend == "sqlite" and not Path(store.uri.removeprefix("sqlite:///")).is_file():
        raise InputError(f"no MLflow store is at {store.uri}: give --tracking-uri")
    return store


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until this is left: a write to sqlite that they break off leaves the file locked.

    A second one does not wait. Signals reach the main thread only, and there is nothing to hold in others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            raise KeyboardInterrupt
        held.append(number)

    handlers = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if held:
            signal.raise_signal(held[0])


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
        self._folder = folder.path
        self._optional = parent is not None
        self._begun: Future[tuple[Any, str]] = _DESK.submit(_begin, store, folder, parent, _now())
        self._sent: list[Future[None]] = []
        self._lost: str | None = None
        self._warned = False
        self._pending: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params once, each under its readable name."""
        entries = [(name, str(value)) for name, value in params.items()]
        for start in range(0, len(entries), _PARAMS_A_REQUEST):
            self._send(partial(_log_params, entries[start : start + _PARAMS_A_REQUEST]))

    def log_trace(self, trace: Table) -> None:
        """Log columns of numbers, a row for each of the column `step`; sent in batches, at the latest at the end.

        Raises:
            InputError: if the store could not be reached to begin with, and the run is no point of a sweep.
        """
        self._check()
        columns = {name: column for name, column in trace.items() if name != "step"}
        for name, column in columns.items():
            numbers = zip(column, trace["step"], strict=True)
            self._pending += [(name, float(value), _now(), int(step)) for value, step in numbers]
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def log_picture(self, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Log a picture (H, W, 3) into the UI's image grid."""
        self._send(lambda client, run_id: client.log_image(run_id, picture, key="pastiche", step=step))

    def log_result(self, folder: RunFolder) -> None:
        """Log the final numbers, the picture and all files of a finished run."""
        result = folder.result
        final = {f"final/{name}": result[name] for name in (*_FINAL, *_OF_CLIPS) if name in result}
        final |= {f"measure/{name}": value for name, value in result["measures"].items()}
        # at step 0, for MLflow draws bars, run beside run, of what has no later step
        self.log_trace({"step": np.array([0])} | {name: np.array([value]) for name, value in final.items()})
        if "frames" not in result:  # of a clip there are sample frames already
            with Image.open(folder.path / result["pastiche"]) as picture:
                self.log_picture(np.asarray(picture), int(result["steps"]))
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
        with _interrupts_held():
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
            _log.warning("%s; the run goes on; %s", self._missed, _upload_hint(self._folder))

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
        from mlflow.exceptions import MlflowException

        try:
            action(*self._begun.result())
        except (OSError, MlflowException) as error:
            self._lost = f"tracking is lost: {_reason(error)}"


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
    if store.backend == "none":
        yield NullRun()
        return
    if parent is None and store.backend == "server":
        _check_server(store.uri)
    run, run_id, status = None, None, "FAILED"
    try:
        with _interrupts_held():  # which come out of it when `run` is known
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
    with _answering(store):
        for run in _runs_of(client, store, folder):
            if run.info.status != "FINISHED":
                client.delete_run(run.info.run_id)
        own = {"identity": record.identity, "folder": str(folder.path), "overrides": shlex.join(record.overrides)}
        return client, start_run(client, store, record.name, {**record.tags, **own}, parent, start_time)


def _runs_of(client: Any, store: Store, folder: RunFolder) -> list[Any]:
    """What MLflow has of the run in `folder`, finished or not."""
    experiment = _experiment_id(client, store)
    found = client.search_runs([experiment], f"tags.identity = '{folder.record.identity}'")
    return [run for run in found if run.data.tags.get("folder") == str(folder.path)]


def upload(store: Store, folder: RunFolder, parent: str | None = None) -> None:
    """Bring the finished run in `folder` into `store`, unless all of it is there.

    Raises:
        InputError: if the store cannot be reached.
    """
    if folder.tracked is not None and folder.tracked.tracking_uri == store.uri:
        return
    client = connect(store)
    for run in _runs_of(client, store, folder):
        if run.info.status == "FINISHED":  # killed before that was written down
            folder.mark_tracked(Tracked(store.uri, run.info.run_id))
            return
    with track(store, folder, parent) as tracked:
        tracked.log_params(folder.record.params)
        tracked.log_trace(folder.trace)
        for step, path in folder.progress:
            with Image.open(path) as picture:
                tracked.log_picture(np.asarray(picture), step)
        tracked.log_result(folder)


def _upload_hint(folder: Path) -> str:
    return f"when there is a server again: python -m nst_exp.upload {shlex.quote(str(folder))}"


def connect(store: Store) -> Any:
    """An `MlflowClient` on `store`, known to answer.

    Raises:
        InputError: if the store cannot be reached.
    """
    _quiet_mlflow()
    from mlflow import MlflowClient

    with _answering(store):
        if store.backend == "server":
            _check_server(store.uri)
        else:
            _make_database(store)
        client = MlflowClient(tracking_uri=store.uri)
        client.get_experiment_by_name(store.experiment)
    return client


@contextlib.contextmanager
def _answering(store: Store) -> Iterator[None]:
    """Makes a store that does not answer, or no longer, something that a user can put right."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # of a file that is opened; MLflow wraps later ones

    try:
        yield
    except (OSError, MlflowException, SQLAlchemyError) as error:
        raise InputError(f"the tracking store {store.uri} cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What is wrong, in one line; SQLAlchemy adds statements to what the database says."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:200]


def start_run(
    client: Any, store: Store, name: str, tags: Mapping[str, str], parent: str | None, start_time: int | None = None
) -> str:
    """A new RUNNING run's id; the experiment is made if it is new."""
    from mlflow.tracking.context import registry

    family = {_PROCESS: _process(os.getpid())}
    if parent is not None:
        family["mlflow.parentRunId"] = parent
    # user, source and what else MLflow's UI shows
    resolved = registry.resolve_tags(dict(tags) | family)
    experiment = _experiment_id(client, store)
    return str(client.create_run(experiment, start_time=start_time, run_name=name, tags=resolved).info.run_id)


@_interrupts_held()
def start_sweep(client: Any, store: Store, folder: Path, overrides: Sequence[str], earlier: str | None) -> str:
    """The RUNNING run that a sweep's points hang below: the `earlier` one if it is still there, else a new one."""
    command = shlex.join(overrides)
    tags = {"overrides": command, "folder": str(folder), "mlflow.note.content": f"Sweep `{command}`"}
    with _answering(store):
        if earlier is not None and _resume(client, earlier):
            return earlier
        return start_run(client, store, f"{folder.name} sweep {command}", tags, parent=None)


def _resume(client: Any, run_id: str) -> bool:
    """Whether the run is there and, from now on, RUNNING again."""
    from mlflow.exceptions import MlflowException

    try:
        if client.get_run(run_id).info.lifecycle_stage != "active":
            return False
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, _PROCESS, _process(os.getpid()))
    except MlflowException:
        return False
    return True


@_interrupts_held()
def end_sweep(
    client: Any, run_id: str, folder: Path, files: Sequence[Path], best: RunFolder | None, status: str
) -> None:
    """Log a sweep's report and its best child to its parent run, and end that; a lost store costs only this."""
    from mlflow.exceptions import MlflowException

    try:
        for path in files:
            client.log_artifact(run_id, str(path))
        if best is not None:
            for name, value in best.result["measures"].items():
                client.log_metric(run_id, f"best/{name}", value)
            client.set_tag(run_id, "best", " ".join(best.overrides))
            client.set_tag(run_id, "best.folder", str(best.path))
            if best.tracked is not None:
                client.set_tag(run_id, "best.run_id", best.tracked.run_id)
        client.set_terminated(run_id, status)
    except (OSError, MlflowException) as error:
        _log.warning("tracking is lost; %s: %s", _upload_hint(folder), _reason(error))


@_interrupts_held()
def end_the_dead(client: Any, store: Store) -> None:
    """Mark runs as KILLED that are still RUNNING for MLflow, but whose process on this machine is gone."""
    with _answering(store):
        for run in client.search_runs([_experiment_id(client, store)], "attributes.status = 'RUNNING'"):
            host, _, rest = run.data.tags.get(_PROCESS, "").partition(" ")
            pid = rest.partition(" ")[0]
            if host == platform.node() and pid.isdigit() and run.data.tags[_PROCESS] != _process(int(pid)):
                client.set_terminated(run.info.run_id, "KILLED")


def _process(pid: int) -> str:
    """Host, id and start time of a process: the same id may be given again; the time is 0 if there is none."""
    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        started = 0.0
    return f"{platform.node()} {pid} {started:.2f}"


def _experiment_id(client: Any, store: Store) -> str:
    from mlflow.exceptions import MlflowException

    location = store.artifacts.as_uri() if store.artifacts else None
    experiment = client.get_experiment_by_name(store.experiment)
    if experiment is None:
        try:
            return str(client.create_experiment(store.experiment, artifact_location=location, tags=_KIND))
        except MlflowException:  # another process was quicker
            experiment = client.get_experiment_by_name(store.experiment)
    return str(experiment.experiment_id)


def _make_database(store: Store) -> None:
    """Make the tables once: several processes that open a fresh sqlite store together would corrupt it."""
    from filelock import FileLock
    from mlflow.tracking._tracking_service.utils import _get_store

    path = Path(store.uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        _get_store(store_uri=store.uri)


def _check_server(uri: str) -> None:
    """Ask once and briefly: MLflow's own client would retry for minutes."""
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=10).raise_for_status()
    except (requests.RequestException, ValueError) as error:
        reason = "nobody answers" if isinstance(error, requests.ConnectionError) else str(error)
        raise InputError(f"tracking.uri={uri}: no MLflow server there: {reason}") from error


def _quiet_mlflow() -> None:
    """No database migrations in a run's log, no telemetry on the network, retries below a minute, no bars."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one for each file
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
