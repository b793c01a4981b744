"""The MLflow store: its address, a client for it, and the texts that it accepts."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nst_exp.config import TrackingConfig
from nst_exp.errors import InputError
from nst_exp.files import home_expanded
from nst_exp.records.tracking.moved import repair_moved_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

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

    Example:
        >>> Store.at("sqlite:////data/mlflow.db", "nst_exp").artifacts
        PosixPath('/data/mlartifacts')
    """

    uri: str
    artifacts: Path | None
    experiment: str
    named_by: str = "tracking.uri"

    @property
    def tracks(self) -> bool:
        """Whether anything is logged at all."""
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
        """Return the store with this address; the artifacts of an sqlite file lie beside it.

        Args:
            uri: http://HOST:PORT, or the URI of an sqlite file.

        Raises:
            InputError: if the address is an sqlite URI without a file.
        """
        database = database_of(uri)
        if database is None:
            return cls(uri, None, experiment, named_by)
        return cls(sqlite_uri(database), database.parent / "mlartifacts", experiment, named_by)

    @classmethod
    def of(cls, config: TrackingConfig) -> Store:
        """Return the store that a run writes to.

        The keys `tracking.uri` and `tracking.store` come first, then the environment variable MLFLOW_TRACKING_URI, then
        the default: mlflow.db in `outputs` below the current directory.

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
    """Return the URI that was given for the store, None if there is none, and the key or variable that gave it."""
    if config.uri:
        return config.uri, "tracking.uri"
    if config.store:
        return None, "tracking.store"
    variable = os.environ.get(URI_VARIABLE)
    if variable and config.backend == "sqlite" and not _is_sqlite(variable):
        return None, "tracking"  # tracking=sqlite asks for a file, so a server's address in the variable is ignored
    return variable or None, URI_VARIABLE


def existing_store(uri: str | None) -> Store:
    """Return the store for commands that read: the one given, else the one that runs write to.

    Args:
        uri: the store's address; None if none is given.

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
    """Return the URI of an sqlite file, in the form that SQLAlchemy and MLflow read back as the same file."""
    path = str(database)
    if "%" not in path and "?" not in path:
        return f"sqlite:///{path}"
    from sqlalchemy.engine import URL

    # With the driver named, MLflow does not make a folder of the quoted name beside the real one.
    return URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)


def database_of(uri: str) -> Path | None:
    """Return the file behind an sqlite URI as an absolute path; None for any other address.

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


def connect(store: Store) -> MlflowClient:
    """Return a client for `store`, which has answered once.

    The tables of an sqlite file are made if they are missing, and a file that was moved is repaired.

    Raises:
        InputError: if the store cannot be reached.

    Example:
        >>> connect(Store.at("http://127.0.0.1:5000", "nst_exp")).search_experiments()  # doctest: +SKIP
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


def experiment_id(client: MlflowClient, store: Store) -> str:
    """Return the id of the store's experiment, which is made if it is new.

    Raises:
        InputError: if the experiment was deleted: MLflow keeps its name, and takes no runs for it.
    """
    from mlflow.exceptions import MlflowException

    location = store.artifacts.as_uri() if store.artifacts else None
    experiment = client.get_experiment_by_name(store.experiment)
    if experiment is None:
        try:
            return client.create_experiment(store.experiment, artifact_location=location, tags=_KIND)
        except MlflowException:  # another process has made it meanwhile
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
    """Return the exceptions of a store that refuses a request, is full or does not answer."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # of a file that is opened; MLflow wraps later ones

    return (OSError, MlflowException, SQLAlchemyError)


@contextlib.contextmanager
def as_input_error(store: Store) -> Iterator[None]:
    """Raise an `InputError` in place of what a store raises that refuses a request, is full or does not answer."""
    try:
        yield
    except failures() as error:
        raise InputError(f"the tracking store {store.shown} cannot be used: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return what is wrong, in one line of at most 200 letters, without the statements that SQLAlchemy adds."""
    root: BaseException = error
    while root.__cause__ is not None:  # MLflow's own text repeats the statement
        root = root.__cause__
    return " ".join(str(getattr(error, "orig", None) or getattr(root, "orig", None) or error).split())[:200]


def _open_database(store: Store) -> None:
    """Make the tables of an sqlite file, one process at a time: several at once would corrupt the file.

    Raises:
        OSError: if the file cannot be opened or written.
    """
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
    """Open the file once, because MLflow would try for two minutes to open a file that it cannot open.

    Raises:
        OSError: if the file cannot be opened or written.
    """
    import sqlite3

    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
    if not os.access(path, os.W_OK):
        raise OSError(f"{str(path)!r} cannot be written")


def check_server(store: Store) -> None:
    """Ask a server once whether it is there; MLflow's own client would retry for minutes.

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
    """Keep MLflow's messages out of a run's log, its telemetry off, and its retries below a minute."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # there is one for each file
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # our own messages say how to open a run
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no page of advice where git is not installed
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # our own message says what went wrong
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of each retry


# --- what a store accepts ----------------------------------------------------------------------------------------

NAME_LENGTH = 250  # letters in a run's name: the least among the databases that MLflow supports
_KEY_LENGTH = 250
_TAG_LENGTH = 5000  # older servers refuse more; newer ones take 8000
_PARAM_LENGTH = 6000


def fit_name(text: str) -> str:
    """Return a run's name, cut to the length that every store accepts."""
    return _fit(text, NAME_LENGTH)


def fit_key(text: str) -> str:
    """Return the name of a param, a metric or a tag, cut, and with `_` for letters that MLflow refuses in it."""
    return _fit("".join(letter if letter.isalnum() or letter in "_-. :/" else "_" for letter in text), _KEY_LENGTH)


def fit_tag(text: str) -> str:
    """Return a tag's value, cut to the length that every store accepts."""
    return _fit(text, _TAG_LENGTH)


def fit_param(text: str) -> str:
    """Return a param's value, cut to the length that every store accepts."""
    return _fit(text, _PARAM_LENGTH)


def fit_command(words: Sequence[str]) -> str:
    """Return a command line as a tag's value that `shlex.split` can read again, even if it had to be cut.

    Example:
        >>> fit_command(["size=96", "style=my painting.jpg"])
        "size=96 'style=my painting.jpg'"
    """
    kept: list[str] = []
    for word in words:
        line = shlex.join([*kept, word])
        if len(line) <= _TAG_LENGTH - 4:
            kept.append(word)
            continue
        room = _TAG_LENGTH - 4 - len(shlex.join([*kept, ""]))
        part = word[: max(room, 0)]
        while part and len(shlex.quote(part)) > room:  # quotes inside are escaped, which takes more letters
            part = part[: len(part) * 9 // 10]
        return _fit(shlex.join([*kept, *([part] if part else [])]) + " ...", _TAG_LENGTH)
    return _fit(shlex.join(kept), _TAG_LENGTH)


def is_cut(command: str) -> bool:
    """Return whether `fit_command` had to leave something out."""
    return command.endswith(" ...")


def _fit(text: str, length: int) -> str:
    """Return `text` in letters that every database can store, cut to `length` of them."""
    clean = text.encode("utf-8", "replace").decode().replace("\0", "?")
    return clean if len(clean) <= length else clean[: length - 3] + "..."
