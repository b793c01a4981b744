"""MLflow behind a small context manager, and a tracker of the same face that does nothing.

Runs are made through `MlflowClient`, never the fluent API: that one keeps a global active run and is not
safe with several threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from nst_exp.config import TrackingConfig
from nst_exp.errors import InputError

Table = Mapping[str, npt.NDArray[Any]]

_log = logging.getLogger(__name__)

_KIND = {"mlflow.experimentKind": "custom_model_development"}  # so that the UI shows runs, not chat traces
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
    def of(cls, config: TrackingConfig) -> Store:
        """The store that conf/tracking's keys name; a relative folder counts from the current directory."""
        if config.backend != "sqlite":
            return cls(config.backend, config.uri or "", None, config.experiment)
        root = Path(config.store or "outputs").absolute()
        return cls("sqlite", f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts", config.experiment)


@runtime_checkable
class TrackedRun(Protocol):
    """What a run can say of itself while it goes on."""

    run_id: str | None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params once, each under its readable name."""

    def log_metrics(self, table: Table, steps: npt.NDArray[np.int64]) -> None:
        """Log columns of numbers, a row for each of `steps`; sent in batches, at the latest at the end."""

    def log_picture(self, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Log a picture (H, W, 3) into the UI's image grid."""

    def log_files(self, folder: Path) -> None:
        """Log all files of `folder` as artifacts."""


class NullRun:
    """Tracks nothing."""

    run_id: str | None = None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_metrics(self, table: Table, steps: npt.NDArray[np.int64]) -> None:
        """Do nothing."""

    def log_picture(self, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Do nothing."""

    def log_files(self, folder: Path) -> None:
        """Do nothing."""


class MlflowRun:
    """A run in an MLflow store. If the store is lost on the way, that is logged, and the run goes on without it."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.run_id: str | None = run_id
        self._client = client
        self._pending: list[Any] = []
        self._flushed = time.monotonic()
        self._lost = False

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params once, each under its readable name."""
        from mlflow.entities import Param

        entries = [Param(name, str(value)) for name, value in params.items()]
        for start in range(0, len(entries), _PARAMS_A_REQUEST):
            self._send("log_batch", params=entries[start : start + _PARAMS_A_REQUEST])

    def log_metrics(self, table: Table, steps: npt.NDArray[np.int64]) -> None:
        """Log columns of numbers, a row for each of `steps`; sent in batches, at the latest at the end."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        for name, column in table.items():
            self._pending += [
                Metric(name, float(value), now, int(step)) for value, step in zip(column, steps, strict=True)
            ]
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def log_picture(self, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Log a picture (H, W, 3) into the UI's image grid."""
        self._send("log_image", picture, key="pastiche", step=step)

    def log_files(self, folder: Path) -> None:
        """Log all files of `folder` as artifacts."""
        self._send("log_artifacts", str(folder))

    def close(self, status: str) -> None:
        """Send what waits and end the run as FINISHED, FAILED or KILLED."""
        self._flush()
        self._send("set_terminated", status)

    def _flush(self) -> None:
        for start in range(0, len(self._pending), _METRICS_A_REQUEST):
            self._send("log_batch", metrics=self._pending[start : start + _METRICS_A_REQUEST])
        self._pending = []
        self._flushed = time.monotonic()

    def _send(self, verb: str, *arguments: Any, **options: Any) -> None:
        from mlflow.exceptions import MlflowException

        if self._lost:
            return
        try:
            getattr(self._client, verb)(self.run_id, *arguments, **options)
        except (OSError, MlflowException) as error:
            self._lost = True
            reason = " ".join(str(error).split())[:200]
            _log.warning("tracking is lost, the run goes on and its files are kept: %s", reason)


@contextlib.contextmanager
def track(store: Store, *, name: str, tags: Mapping[str, str], parent: str | None = None) -> Iterator[TrackedRun]:
    """A run in `store` that ends FINISHED, FAILED on an error, or KILLED on Ctrl-C, and truly so.

    Args:
        parent: the run id of the sweep that this run is a point of.

    Raises:
        InputError: if the store cannot be reached.
    """
    if store.backend == "none":
        yield NullRun()
        return
    client = connect(store)
    run_id = start_run(client, store, name, tags, parent)
    run = MlflowRun(client, run_id)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        run.close(status)


def connect(store: Store) -> Any:
    """An `MlflowClient` on `store`, known to answer.

    Raises:
        InputError: if the store cannot be reached.
    """
    _quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        if store.backend == "server":
            _check_server(store.uri)
        else:
            _make_database(store)
        client = MlflowClient(tracking_uri=store.uri)
        client.get_experiment_by_name(store.experiment)
    except (OSError, MlflowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the tracking store {store.uri} cannot be used: {reason}") from error
    return client


def start_run(client: Any, store: Store, name: str, tags: Mapping[str, str], parent: str | None) -> str:
    """A new RUNNING run's id; the experiment is made if it is new."""
    from mlflow.tracking.context import registry

    family = {} if parent is None else {"mlflow.parentRunId": parent}
    # user, source and what else MLflow's UI shows
    resolved = registry.resolve_tags(dict(tags) | family)
    return str(client.create_run(_experiment_id(client, store), run_name=name, tags=resolved).info.run_id)


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
    """Keep database migrations out of a run's log, telemetry off the network, and retries below a minute."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
