"""The main command from end to end: files, MLflow records, sweeps, repeats, interruptions."""

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import OUT, arguments_of, run_in_process, run_process
from compilations import compilations
from mlflow import MlflowClient
from mlflow_server import Server, running_server, runs_of, wait_for
from PIL import Image

from nst_exp.evaluation.catalogue import MEASURES
from nst_exp.records import record
from nst_exp.records.folder import Record, RunFolder, Tracked
from nst_exp.records.tracking import Store, track

REPOSITORY = Path(__file__).parent.parent
SQLITE = ("tracking=sqlite", "tracking.snapshots=2")
LAYERS = ("content_layer=block2_conv1", "style_layers=[block1_conv1,block2_conv1]")  # soon compiled


def client_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'outputs' / 'mlflow.db'}")


def result_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_one_run_leaves_its_files(tmp_path: Path) -> None:
    done = run_process("content_weight=2", folder=tmp_path)
    assert done.code == 0, done.stderr
    out = tmp_path / OUT
    files = {".hydra", "run.log", "config.yaml", "record.json", "progress", "trace.csv", "pastiche.png", "result.json"}
    assert {path.name for path in out.iterdir()} == files
    assert str(out / "pastiche.png") in (out / "run.log").read_text()
    with Image.open(out / "pastiche.png") as picture:
        assert picture.size == (32, 21)
    result = result_in(out)
    assert result["pastiche"] == "pastiche.png"
    assert result["evaluations"] == 3
    assert result["losses"].keys() >= {"content", "style", "tv", "range", "style.block1_conv1"}
    assert set(result["measures"]) == set(MEASURES)
    assert result["evaluations_per_second"] > 0
    assert result["peak_memory_mb"] > 100
    assert result["sha256"]["pastiche"] == hashlib.sha256((out / "pastiche.png").read_bytes()).hexdigest()
    assert yaml.safe_load((out / "config.yaml").read_text())["content_weight"] == 2.0


def test_a_grid_is_four_children_of_one_sweep(tmp_path: Path) -> None:
    grid = ("-m", *SQLITE, "steps=12", "content_weight=1,4", "style_weight=0.03,0.1")
    done = run_in_process(*grid, folder=tmp_path)
    assert done.code == 0, done.stderr
    assert [path.name for path in sorted((tmp_path / OUT).glob("*/"))] == ["0", "1", "2", "3"]
    client = client_of(tmp_path)
    parent, *children = runs_of(client)
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert {run.data.tags.get("mlflow.parentRunId") for run in children} == {parent.info.run_id}
    points = {(float(run.data.params["content_weight"]), float(run.data.params["style_weight"])) for run in children}
    assert points == {(1, 0.03), (1, 0.1), (4, 0.03), (4, 0.1)}
    assert len({run.data.metrics["final/total_loss"] for run in children}) == 4
    assert {run.info.run_name for run in children} == {"cw=1 sw=0.03", "cw=1 sw=0.1", "cw=4 sw=0.03", "cw=4 sw=0.1"}
    assert "contact_sheet.png" in {file.path for file in client.list_artifacts(parent.info.run_id)}
    with Image.open(tmp_path / OUT / "contact_sheet.png") as sheet:
        assert sheet.width > 800


def test_what_a_run_logs(tmp_path: Path) -> None:
    done = run_in_process(*SQLITE, "steps=12", "style_layer_weight.block3_conv1=0.7", folder=tmp_path)
    assert done.code == 0, done.stderr
    client = client_of(tmp_path)
    (run,) = runs_of(client)
    result = result_in(tmp_path / OUT)
    assert RunFolder(tmp_path / OUT).tracked == Tracked(client._tracking_client.tracking_uri, run.info.run_id)
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    assert params["style_layer_weights.block3_conv1"] == "0.7"
    assert params["params"] == "random"
    assert len(params) < 15  # MLflow's image grid prints all of them above the picture
    settings = RunFolder(tmp_path / OUT).record.params  # the rest is in a file that MLflow has, too
    assert (settings["solver"], settings["solver.history_size"]) == ("lbfgs", 20)
    assert "style_layer_weight.block3_conv1=0.7" in tags["overrides"]
    assert tags["version.nst_exp"] == record.code_version()
    assert {"device", "version.jax", "sha256.content", "sha256.style", "sha256.params"} <= tags.keys()
    assert metrics["final/evaluations"] == 13
    assert metrics["measure/style_distance"] == pytest.approx(result["measures"]["style_distance"])
    for name in ("loss/total", "loss/content", "loss/style", "loss_of_layer/block3_conv1", "solver/evaluations"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == list(range(1, 13)), name
    images = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")]
    steps = {name.split("+step+")[1].split("+")[0] for name in images}
    assert steps == {"0", "4", "8", "12"}
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files >= {"pastiche.png", "result.json", "config.yaml", "run.log", "record.json", ".hydra"}


def test_a_sweep_over_weights_compiles_once(tmp_path: Path) -> None:
    before = compilations()
    weights = (
        "content_weight=1,4",
        "tv_weight=0,5",
        "style_layer_weight.block2_conv1=0.1,0.5",
    )
    done = run_in_process("-m", "size=44", "steps=3", *LAYERS, *weights, folder=tmp_path)
    assert done.code == 0, done.stderr
    assert len(list((tmp_path / OUT).glob("*/result.json"))) == 8
    assert compilations() == before + 1


@pytest.fixture(scope="module")
def without_changes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The picture that every other setting must change."""
    return painted(tmp_path_factory.mktemp("same"))


def painted(folder: Path, *arguments: str) -> bytes:
    given = {argument.partition("=")[0] for argument in arguments}
    settings = [setting for setting in (*LAYERS, "init=noise", "size=40") if setting.partition("=")[0] not in given]
    done = run_in_process(*arguments, *settings, folder=folder)
    assert done.code == 0, done.stderr
    return (folder / OUT / "pastiche.png").read_bytes()


@pytest.mark.parametrize(
    "setting",
    [
        "content_layer=[block1_conv1,block2_conv1]",
        "style_layers=[block2_conv1]",
        "style_layer_weights=[0.2,0.4]",
        "style_layer_weight.block2_conv1=5",
        "tv_weight=100",
        "init=content",
        "init=style",
        "seed=1",
        "size=36",
        "steps=1",
        "pooling=max",
        "padding=zeros",
        "loss=article",
        "solver=adam",
        "solver=optax_lbfgs",
        "style_zoom=1",
        "coarsest_size=24",
        "params.seed=1",
    ],
)
def test_every_setting_changes_the_picture(setting: str, without_changes: bytes, tmp_path: Path) -> None:
    assert painted(tmp_path, setting) != without_changes


def test_axes_of_lists_are_swept(tmp_path: Path) -> None:
    layers = ("content_layer=relu2_1,[block1_conv1,block2_conv1]", "style_layers=[block1_conv1],[block1_conv1,relu2_1]")
    done = run_in_process("-m", *layers, "init=noise", "size=40", folder=tmp_path)
    assert done.code == 0, done.stderr
    pictures = {path.read_bytes() for path in (tmp_path / OUT).glob("*/pastiche.png")}
    assert len(pictures) == 4


def test_the_same_run_gives_the_same_bytes_also_from_its_own_record(tmp_path: Path) -> None:
    """Two processes: the second is given the configuration that the first has left."""
    outcome = run_process("init=noise", "seed=3", "size=48", "steps=12", "hydra.run.dir=0", folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    recorded = ("--config-dir", f"{tmp_path}/0/.hydra", "--config-name", "config", "hydra.run.dir=1")
    command = [sys.executable, "-m", "nst_exp.run", *recorded]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / number / "pastiche.png").read_bytes() for number in "01")
    assert first == second


@pytest.mark.parametrize("name", [path.stem for path in sorted((REPOSITORY / "conf" / "experiment").glob("*.yaml"))])
def test_every_experiment_runs(name: str, tmp_path: Path) -> None:
    done = run_in_process(f"experiment={name}", folder=tmp_path)
    assert done.code == 0, done.stderr
    assert (tmp_path / OUT / "pastiche.png").exists()


def test_the_article_s_setting_is_the_article_s(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nst_exp.run", "experiment=article", "--cfg", "job", "--resolve"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    config = yaml.safe_load(done.stdout)
    expected = {
        "size": 224,
        "aspect": "stretch",
        "init": "noise",
        "pooling": "average",
        "padding": "zeros",
        "content_layer": "block4_conv3",
        "content_weight": 4.0,
        "style_layers": [f"block{block}_conv1" for block in range(1, 6)],
        "style_layer_weights": [0.2, 0.4, 0.3, 0.5, 0.2],
        "style_weight": 0.03,
        "tv_weight": 0.0,
        "range_weight": 0.0,
    }
    assert {key: config[key] for key in expected} == expected
    assert (config["loss"]["name"], config["loss"]["style_scale"]) == ("article", 1.0)
    assert config["params"]["source"] == "keras"


def test_help_names_groups_and_commands(tmp_path: Path) -> None:
    done = run_process("--help", folder=tmp_path)
    assert done.code == 0
    for text in (
        "solver=lbfgs",
        "experiment=  several settings at once: quick, article",
        "-m content_weight=1,4",
        "size=320",
    ):
        assert text in done.stdout


def test_ctrl_c_ends_run_and_sweep_as_killed(tmp_path: Path) -> None:
    arguments = arguments_of("-m", *SQLITE, "steps=100000", "seed=0,1", "hydra.launcher.max_batch_size=2")
    command = [sys.executable, "-m", "nst_exp.run", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            database = tmp_path / "outputs" / "mlflow.db"
            wait_for(lambda: a_point_is_under_way(database))
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert {run.info.status for run in runs_of(client_of(tmp_path))} == {"KILLED"}
    assert not list(tmp_path.glob(f"{OUT}/*/pastiche.png"))


@pytest.mark.parametrize("verb", ["create_run", "log_batch"])
def test_ctrl_c_waits_until_mlflow_has_written(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt within a transaction would leave the database locked, and the run RUNNING."""
    folder, store = RunFolder(tmp_path / OUT), Store.at(f"sqlite:///{tmp_path / 'mlflow.db'}", "nst_exp")
    folder.path.mkdir()
    folder.begin({}, Record("identity", "name", ["seed=1"], {}, {}, store.uri))
    write, after = getattr(MlflowClient, verb), []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        written = write(*arguments, **options)
        after.append(verb)
        return written

    def begin() -> None:
        with track(store, folder) as tracked:
            tracked.log_params({"seed": 1})
            time.sleep(60)
            after.append("went on")

    monkeypatch.setattr(MlflowClient, verb, interrupted)
    with pytest.raises(KeyboardInterrupt):
        begin()
    assert after == [verb]
    monkeypatch.undo()
    (run,) = runs_of(MlflowClient(store.uri))
    assert run.info.status == "KILLED"
    assert run.data.params == {"seed": "1"}


def a_point_is_under_way(database: Path) -> bool:
    """Whether a run has logged its params; MLflow's own client would disturb the making of the tables."""
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection,
    ):
        return connection.execute("select count(*) from params").fetchone()[0] > 0
    return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "server") as server:
        yield server


def test_a_team_s_server_gets_params_metrics_and_pictures(server: Server, tmp_path: Path) -> None:
    done = run_in_process("tracking=server", f"tracking.uri={server.uri}", folder=tmp_path)
    assert done.code == 0, done.stderr
    client = MlflowClient(server.uri)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert run.data.params["content_weight"] == "1.0"
    folder = client.download_artifacts(run.info.run_id, "pastiche.png", str(tmp_path))
    assert Path(folder).read_bytes() == (tmp_path / OUT / "pastiche.png").read_bytes()
