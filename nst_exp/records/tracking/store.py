"""The MLflow store: where it is, whether it answers, and what it accepts."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nst_exp.config import TrackingConfig
from nst_exp.errors import InputError
from nst_exp.files import home_expanded
from nst_exp.records.tracking.moved import repair_moved_store

_log = logging.getLogger(__name__)

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_DEFAULT_FOLDER = "outputs"
_DEFAULT_EXPERIMENT = "nst_exp"
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # so that the UI shows runs, not chat traces


@dataclass(frozen=True)
class Store:
    """Where runs are logged.

    Attributes:
        uri: address of the server, or `sqlite:////...`; empty with `tracking=none`.
        artifacts: folder of pictures and files beside an sqlite file; None with a server, which keeps its own.
        experiment: the MLflow experiment's name.
        named_by: the key or the environment variable that named the store, for error messages.
    """

    uri: str
    artifacts: Path | None
    experiment: str
    named_by: str = "tracking.uri"

    @property
    def tracks(self) -> bool:
        """Whether anything is logged."""
        return bool(self.uri)

    @property
    def is_server(self) -> bool:
        """Whether the store is a server, not an sqlite file."""
        return self.tracks and self.artifacts is None

    @property
    def shown(self) -> str:
        """The address without user name and password, for messages and links."""
        parts = urlsplit(self.uri)
        return self.uri.replace(f"{parts.netloc.rpartition('@')[0]}@", "", 1) if "@" in parts.netloc else self.uri

    @classmethod
    def at(cls, uri: str, experiment: str, named_by: str = "tracking.uri") -> Store:
        """The store with this address; artifacts of an sqlite file lie beside it.

        Raises:
            InputError: if the address is an sqlite URI without a file.
        """
        database = database_of(uri)
        if database is None:
            return cls(uri, None, experiment, named_by)
        return cls(sqlite_uri(database), database.parent / "mlartifacts", experiment, named_by)

    @classmethod
    def of(cls, config: TrackingConfig) -> Store:
        """The store that a run writes to.

        A key that is given decides, then the environment variable MLFLOW_TRACKING_URI, then the default,
        mlflow.db in `outputs` below the current directory.

        Raises:
            InputError: if the backend needs another kind of address, or none is known.
        """
        if config.backend == "none":
            return cls("", None, config.experiment)
        uri, named_by = _address(config)
        if uri is None:
            if config.backend == "server":
                raise InputError("tracking=server needs an address: give tracking.uri=http://HOST:PORT")
            folder = home_expanded(config.store or _DEFAULT_FOLDER).absolute()
            return cls(sqlite_uri(folder / "mlflow.db"), folder / "mlartifacts", config.experiment)
        store = cls.at(uri, config.experiment, named_by)
        if config.backend == "sqlite" and store.is_server:
            raise InputError(f"{named_by}={uri}: tracking=sqlite needs sqlite:///FILE; for a server: tracking=server")
        if config.backend == "server" and not store.is_server:
            raise InputError(f"{named_by}={uri}: no MLflow server there: tracking=server needs http://HOST:PORT")
        return store


def _address(config: TrackingConfig) -> tuple[str | None, str]:
    """The URI that was given for the store, if any, and what gave it."""
    if config.uri:
        return config.uri, "tracking.uri"
    if config.store:
        return None, "tracking.store"
    variable = os.environ.get(URI_VARIABLE)
    if variable and config.backend == "sqlite" and not _is_sqlite(variable):
        return None, "tracking"  # tracking=sqlite was asked for, and a server's address is no answer to that
    return variable or None, URI_VARIABLE


def existing_store(uri: str | None) -> Store:
    """The store for commands that read: the one given, else the one that runs write to.

    Raises:
        InputError: if it is an sqlite file that is not there.
    """
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _DEFAULT_EXPERIMENT
    store = Store.of(TrackingConfig("auto", None, uri, experiment, 0))
    database = database_of(store.uri)
    if database is not None and not database.is_file():
        raise InputError(f"no MLflow store is at {uri or store.uri}: give --tracking-uri")
    return store


# --- addresses of sqlite files ---------------------------------------------------------------------------------


def sqlite_uri(database: Path) -> str:
    """The URI of an sqlite file, in the form that SQLAlchemy and MLflow read back as the same file."""
    path = str(database)
    if "%" not in path and "?" not in path:
        return f"sqlite:///{path}"
    from sqlalchemy.engine import URL

    # With the driver named, MLflow does not make a folder of the quoted name beside the real one.
    return URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)


def database_of(uri: str) -> Path | None:
    """The file behind an sqlite URI, absolute; None for any other address.

    Raises:
        InputError: if it is an sqlite URI that names no file.
    """
    if not _is_sqlite(uri):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        found = make_url(uri).database
    except ArgumentError:
        found = None
    if not found or found == ":memory:":
        raise InputError(f"{uri}: names no file: give sqlite:///FILE.db")
    return home_expanded(found).absolute()


def _is_sqlite(uri: str) -> bool:
    return uri.partition(":")[0].partition("+")[0] == "sqlite"


# --- opening -----------------------------------------------------------------------------------------------------


def connect(store: Store) -> Any:
    """An `MlflowClient` on `store`, known to answer.

    Raises:
        InputError: if the store cannot be reached.
    """
    _quiet_mlflow()
    from mlflow import MlflowClient

    with as_input_error(store):
        if store.is_server:
            check_server(store)
        else:
            _open_database(store)
        client = MlflowClient(tracking_uri=store.uri)
        client.get_experiment_by_name(store.experiment)
    return client


def experiment_id(client: Any, store: Store) -> str:
    """The id of the store's experiment, which is made if it is new.

    Raises:
        InputError: if the experiment was deleted: MLflow keeps its name, and takes no runs for it.
    """
    from mlflow.exceptions import MlflowException

    location = store.artifacts.as_uri() if store.artifacts else None
    experiment = client.get_experiment_by_name(store.experiment)
    if experiment is None:
        try:
            return str(client.create_experiment(store.experiment, artifact_location=location, tags=_KIND))
        except MlflowException:  # another process was quicker
            experiment = client.get_experiment_by_name(store.experiment)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise InputError(
            f"the experiment {store.experiment!r} was deleted from {store.shown}: give another name with "
            f"tracking.experiment=NAME, or restore it: {URI_VARIABLE}={shlex.quote(store.uri)} {restore}"
        )
    return str(experiment.experiment_id)


def failures() -> tuple[type[Exception], ...]:
    """What a store raises that refuses, is full or does not answer."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # of a file that is opened; MLflow wraps later ones

    return (OSError, MlflowException, SQLAlchemyError)


@contextlib.contextmanager
def as_input_error(store: Store) -> Iterator[None]:
    """Report a store that does not answer, or no longer does, as something that a user can put right."""
    try:
        yield
    except failures() as error:
        raise InputError(f"the tracking store {store.shown} cannot be used: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What is wrong, in one line; SQLAlchemy adds statements to what the database says."""
    root: BaseException = error
    while root.__cause__ is not None:  # MLflow's own text repeats the statement
        root = root.__cause__
    return " ".join(str(getattr(error, "orig", None) or getattr(root, "orig", None) or error).split())[:200]


def _open_database(store: Store) -> None:
    """Make the tables once: several processes that open a fresh sqlite store together would corrupt it."""
    from filelock import FileLock
    from mlflow.tracking._tracking_service.utils import _get_store

    path = database_of(store.uri)
    assert path is not None
    assert store.artifacts is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        _check_database(path)
        _get_store(store_uri=store.uri)
        repair_moved_store(path, store.artifacts)


def _check_database(path: Path) -> None:
    """Open the file once ourselves: MLflow retries for two minutes what cannot be opened."""
    import sqlite3

    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
    if not os.access(path, os.W_OK):
        raise OSError(f"{str(path)!r} cannot be written")


def check_server(store: Store) -> None:
    """Ask once and briefly: MLflow's own client would retry for minutes.

    Raises:
        InputError: if no MLflow server answers.
    """
    import requests

    try:
        requests.get(f"{store.uri.rstrip('/')}/health", timeout=10).raise_for_status()
    except (requests.RequestException, ValueError) as error:
        why = "nobody answers" if isinstance(error, requests.ConnectionError) else str(error)
        why = why.replace(store.uri, store.shown)
        raise InputError(f"{store.named_by}={store.shown}: no MLflow server there: {why}") from error


def _quiet_mlflow() -> None:
    """No database migrations in a run's log, no telemetry on the network, retries below a minute, no bars."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one for each file
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # our own lines say how to open a run
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no page of advice where git is not installed
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # our own line says what went wrong


# --- what a store accepts ----------------------------------------------------------------------------------------

NAME_LENGTH = 250  # letters in a run's name: the least among the databases that MLflow supports
_KEY_LENGTH = 250
_TAG_LENGTH = 5000  # older servers refuse more; newer ones take 8000
_PARAM_LENGTH = 6000


def fit_name(text: str) -> str:
    """A run's name, cut to what every store accepts."""
    return _fit(text, NAME_LENGTH)


def fit_key(text: str) -> str:
    """The name of a param, a metric or a tag, cut, and without letters that MLflow refuses in it."""
    return _fit("".join(letter if letter.isalnum() or letter in "_-. :/" else "_" for letter in text), _KEY_LENGTH)


def fit_tag(text: str) -> str:
    """A tag's value, cut to what every store accepts."""
    return _fit(text, _TAG_LENGTH)


def fit_param(text: str) -> str:
    """A param's value, cut to what every store accepts."""
    return _fit(text, _PARAM_LENGTH)


def fit_command(words: Sequence[str]) -> str:
    """A command line as a tag's value that `shlex.split` can read again, even if it had to be cut."""
    kept: list[str] = []
    for word in words:
        line = shlex.join([*kept, word])
        if len(line) <= _TAG_LENGTH - 4:
            kept.append(word)
            continue
        room = _TAG_LENGTH - 4 - len(shlex.join([*kept, ""]))
        part = word[: max(room, 0)]
        while part and len(shlex.quote(part)) > room:  # quotes inside take more letters
            part = part[: len(part) * 9 // 10]
        return _fit(shlex.join([*kept, *([part] if part else [])]) + " ...", _TAG_LENGTH)
    return _fit(shlex.join(kept), _TAG_LENGTH)


def is_cut(command: str) -> bool:
    """Whether `fit_command` had to leave something out."""
    return command.endswith(" ...")


def _fit(text: str, length: int) -> str:
    """`text` in letters that every database can store, cut to `length` of them."""
    clean = text.encode("utf-8", "replace").decode().replace("\0", "?")
    return clean if len(clean) <= length else clean[: length - 3] + "..."
