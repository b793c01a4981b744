"""Messages about MLflow are true: the store is asked, named by one rule, and given only what it accepts."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from command import OUT, run_in_process
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.tracking._tracking_service import utils
from mlflow_server import runs_of

from nst_exp.commands import upload
from nst_exp.config import TrackingConfig
from nst_exp.records import tracking
from nst_exp.records.folder import RunFolder
from nst_exp.records.tracking.store import database_of, fit_command, fit_key, fit_name, is_cut


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep of two points, tracked in outputs/."""
    folder = tmp_path_factory.mktemp("original")
    done = run_in_process("-m", "tracking=sqlite", "content_weight=1,4", "tracking.snapshots=0", folder=folder)
    assert done.code == 0, done.stderr
    assert "mlflow ui --backend-store-uri" in done.stdout  # the end tells how to open the store
    return folder


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of that folder, as if the store had been moved with its sweep; the original is hidden."""
    home = tmp_path / "home"
    shutil.copytree(original, home)
    hidden = original.with_name("hidden")
    original.rename(hidden)
    utils._artifact_repos_cache.clear()  # MLflow's cache of this process; users move stores between processes
    try:
        yield home
    finally:
        hidden.rename(original)


def client_of(folder: Path) -> MlflowClient:
    return tracking.connect(tracking.Store.at(f"sqlite:///{folder / 'outputs' / 'mlflow.db'}", "nst_exp"))


def family(client: MlflowClient) -> tuple[list[Run], list[Run]]:
    runs = runs_of(client)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    return [run for run in runs if run not in children], children


def give(*arguments: str) -> tuple[int, str, str]:
    """`nst_exp.upload` in this process: exit code, stdout, stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["upload", *arguments]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as end,
    ):
        upload.main()
    return int(end.value.code or 0), stdout.getvalue(), stderr.getvalue()


def give_home(home: Path) -> None:
    code, _, stderr = give(str(home / OUT), "--tracking-uri", f"sqlite:///{home / 'outputs' / 'mlflow.db'}")
    assert code == 0, stderr


def assert_complete(home: Path) -> None:
    """The store has one parent with both points below it, all active, with their files in the store's own folder."""
    client = client_of(home)
    parents, children = family(client)
    assert [run.info.status for run in parents + children] == ["FINISHED"] * 3
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.data.tags["point"] for run in children} == {"0", "1"}
    for run in parents + children:
        assert run.info.artifact_uri.startswith((home / "outputs" / "mlartifacts").as_uri())
    for run in children:
        assert {"result.json", "config.yaml", "record.json"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
    assert client.list_artifacts(parents[0].info.run_id, "images")
    assert "contact_sheet.png" in parents[0].data.tags["mlflow.note.content"]


def test_the_store_is_asked_and_not_a_file(home: Path) -> None:
    """A folder's notes about MLflow may be out of date: the store may have moved, or lost runs, files or everything.

    Each time, the same command completes the store again, and does nothing if it is repeated.
    """
    client = client_of(home)  # moved
    give_home(home)
    assert_complete(home)
    ids = {run.info.run_id for run in runs_of(client)}
    give_home(home)
    assert {run.info.run_id for run in runs_of(client)} == ids

    (parent,), (first, second) = family(client)
    client.delete_run(first.info.run_id)  # in the UI
    client.delete_run(parent.info.run_id)
    shutil.rmtree(home / "outputs" / "mlartifacts" / second.info.run_id)  # files are lost
    give_home(home)
    assert_complete(home)

    for number in ("0", "1"):  # killed before it was noted
        (home / OUT / number / "mlflow.json").unlink()
    give_home(home)
    assert_complete(home)


def test_a_database_that_was_deleted_is_filled_again(home: Path) -> None:
    (home / "outputs" / "mlflow.db").unlink()
    give_home(home)
    give_home(home)
    assert_complete(home)


def test_a_deleted_experiment_is_named_with_its_remedy(home: Path) -> None:
    """MLflow keeps the name of a deleted experiment and accepts no runs for it."""
    client = client_of(home)
    client.delete_experiment("1")
    code, stdout, stderr = give(str(home / OUT), "--tracking-uri", f"sqlite:///{home / 'outputs' / 'mlflow.db'}")
    assert (code, stdout) == (1, "")
    assert len(stderr.splitlines()) == 1
    assert "'nst_exp' was deleted" in stderr
    remedy = stderr.rpartition("restore it: ")[2]
    assert "tracking.experiment=NAME" in stderr
    assert shlex.split(remedy)[-4:] == ["experiments", "restore", "--experiment-id", "1"]
    done = run_in_process("tracking=sqlite", "hydra.run.dir=single", folder=home)
    assert done.code == 1
    assert "'nst_exp' was deleted" in done.stderr
    client.restore_experiment("1")
    give_home(home)
    assert_complete(home)


def test_a_store_lost_on_the_way_is_no_success(home: Path) -> None:
    """`upload` checks whether everything arrived; if not, it counts what is missing and exits with 1."""
    (home / "outputs" / "mlflow.db").unlink()
    real, sent = MlflowClient.log_artifact, []

    def gone(self: MlflowClient, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        sent.append(local_path)
        if len(sent) > 5:
            raise ConnectionError("the server is gone")
        real(self, run_id, local_path, artifact_path)

    uri = f"sqlite:///{home / 'outputs' / 'mlflow.db'}"
    with mock.patch.object(MlflowClient, "log_artifact", gone):
        code, stdout, stderr = give(str(home / OUT), "--tracking-uri", uri)
    assert (code, stdout) == (1, "")
    assert "0 of 2 finished runs" in stderr
    assert "2 not" in stderr
    give_home(home)
    assert_complete(home)


def test_a_finished_point_needs_no_store(home: Path) -> None:
    """If the store is gone, a finished point of a resumed sweep gets a warning and still succeeds."""
    point = RunFolder(home / OUT / "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = tracking.Store.at(f"http://127.0.0.1:{probe.getsockname()[1]}", "nst_exp")
    tracking.try_upload(dead, point, "parent")
    assert point.finished


# --- one rule for where it is --------------------------------------------------------------------------------


ODD = "100%25 a?b#c 'q' \"d\" é"


def test_odd_letters_and_every_way_to_name_the_store(tmp_path: Path) -> None:
    """Folders may have any letters. A key or variable that names the store is used or refused, but never ignored."""
    odd = tmp_path / ODD
    odd.mkdir()
    (tmp_path / "work").mkdir()
    quoted = str(odd).replace("'", "\\'")
    done = run_in_process("tracking=auto", f"tracking.store='{quoted}'", folder=tmp_path / "work")
    assert done.code == 0, done.stderr
    assert {path.name for path in odd.iterdir()} >= {"mlflow.db", "mlartifacts"}
    assert {path.name for path in tmp_path.iterdir()} == {ODD, "work"}
    hint = next(line for line in done.stdout.splitlines() if "--backend-store-uri" in line)
    uri = shlex.split(hint.partition("mlflow ui ")[2])[1]
    assert database_of(uri) == odd / "mlflow.db"
    (run,) = runs_of(tracking.connect(tracking.Store.at(uri, "nst_exp")))
    assert run.info.status == "FINISHED"


def test_a_key_decides_then_the_environment_then_the_default() -> None:
    """All commands find their store by one rule."""

    def of(backend: str, store: str | None, key: str | None) -> str:
        return tracking.Store.of(TrackingConfig(backend, store, key, "nst_exp", 0)).uri

    with mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": "sqlite:////x/env.db"}):
        assert of("auto", None, "sqlite:////x/key.db") == "sqlite:////x/key.db"
        assert of("auto", "/x", None) == "sqlite:////x/mlflow.db"
        assert of("auto", None, None) == "sqlite:////x/env.db"
        assert of("sqlite", None, None) == "sqlite:////x/env.db"
        assert of("none", None, None) == ""
    with mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": "http://h:1"}):
        assert of("auto", None, None) == of("server", None, None) == "http://h:1"
        assert of("sqlite", None, None).endswith("/outputs/mlflow.db")
        with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI=http://h:1: no MLflow"):
            tracking.connect(tracking.Store.of(TrackingConfig("auto", None, None, "nst_exp", 0)))


@pytest.mark.parametrize(
    "arguments",
    [
        ("tracking=none", "tracking.uri=http://h:1"),
        ("tracking=none", "tracking.store=x"),
        ("tracking=server", "tracking.store=x"),
        ("tracking=auto", "tracking.store=x", "tracking.uri=sqlite:///y.db"),
        ("tracking=sqlite", "tracking.uri=http://h:1"),
        ("tracking=server", "tracking.uri=sqlite:///y.db"),
        ("tracking=auto", "tracking.uri=sqlite://"),
        ("tracking=auto", f"tracking.experiment={'x' * 300}"),
    ],
)
def test_a_key_without_effect_is_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run_in_process(*arguments, folder=tmp_path)
    assert done.code == 1
    assert arguments[-1].split("=")[1][:20] in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- what a store accepts ------------------------------------------------------------------------------------


def test_texts_fit_into_every_store() -> None:
    """Databases refuse long texts and letters that are not UTF-8; a command that was shortened can still be parsed."""
    assert len(fit_name("x" * 1000)) == 250
    assert fit_name("a\udcffb\0") == "a?b?"
    assert fit_key("a(b)=c\u00e9/d" + "x" * 500) == ("a_b__c\u00e9/d" + "x" * 500)[:247] + "..."
    for command in (["seed=" + "1,'" * 4000], ["a=" + "x" * 300] * 40, ["it's"] * 2000):
        cut = fit_command(command)
        assert len(cut) <= 5000
        assert is_cut(cut)
        assert shlex.split(cut)
    assert shlex.split(fit_command(["a=1", "b='2 3'"])) == ["a=1", "b='2 3'"]


def _postgres() -> Path | None:
    found = shutil.which("pg_ctl")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """The URI of a PostgreSQL server of its own, on a socket."""
    programs, folder = _postgres(), Path(os.path.realpath("/tmp")) / f"nst_exp_pg_{os.getpid()}"
    assert programs is not None
    folder.mkdir(mode=0o700)
    owner = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
    if owner:
        shutil.chown(folder, owner, owner)

    def call(*command: str) -> None:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120, user=owner, group=owner)

    try:
        call(
            str(programs / "initdb"), "--no-sync", "--pgdata=data", "--username=nst", "--auth=trust", "--encoding=UTF8"
        )
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        call(str(programs / "pg_ctl"), "--pgdata=data", "--log=log", "--wait", "--options", options, "start")
        yield f"postgresql+psycopg://nst@/postgres?host={folder}"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            call(str(programs / "pg_ctl"), "--pgdata=data", "--mode=immediate", "stop")
        shutil.rmtree(folder)


@pytest.mark.skipif(_postgres() is None, reason="no PostgreSQL on this machine: apt-get install postgresql")
def test_postgres_takes_long_sweeps(postgres: str, tmp_path: Path) -> None:
    """A database with columns of fixed length refuses long names, keys and values; SQLite does not."""
    client = MlflowClient(postgres)
    store = tracking.Store(postgres, None, "long")
    client.create_experiment("long", artifact_location=(tmp_path / "artifacts").as_uri())
    overrides = [f"content_weight={','.join(map(str, range(2000)))}", f"style={'x' * 7000}.png,b.png"]
    folder = tmp_path / ("deep" * 50)
    parent = tracking.SweepRun.start(client, store, folder, overrides, None).run_id
    assert tracking.SweepRun.start(client, store, folder, overrides, parent).run_id == parent
    assert tracking.sweep_command(client, client.get_run(parent)) == overrides
    tags = {"k" * 400: "v" * 20000, "bytes": "a\udcff\0"}
    child = tracking.start_run(client, store, tracking.point_name(overrides, 0), tags, parent)
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == parent
