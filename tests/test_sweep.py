"""Sweeps that survive: resumed, reordered, killed, with failing points, beside each other, without their server."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command import OUT, Outcome, arguments_of, run_in_process
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_server import Server, running_server, runs_of, wait_for
from PIL import Image
from stores import write_tables

import nst_exp
from nst_exp.config import RunConfig
from nst_exp.records.folder import RunFolder, run_folders
from nst_exp.runs import image
from nst_exp.transfer.stylize import stylize

SQLITE = ("tracking=sqlite", "tracking.snapshots=1")


def sweep(folder: Path, *arguments: str, code: int = 0) -> Outcome:
    done = run_in_process("-m", *arguments, folder=folder)
    assert done.code == code, done.stderr
    return done


def client_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'outputs' / 'mlflow.db'}")


def family(client: MlflowClient) -> tuple[list[Run], list[Run]]:
    """Parents and children."""
    runs = runs_of(client)
    return (
        [run for run in runs if "mlflow.parentRunId" not in run.data.tags],
        [run for run in runs if "mlflow.parentRunId" in run.data.tags],
    )


def pictures(folder: Path) -> dict[tuple[str, ...], bytes]:
    return {point.overrides: (point.path / "pastiche.png").read_bytes() for point in run_folders(folder)}


def ages(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(folder.glob("*/result.json"))]


def test_the_same_command_again_does_nothing_again(tmp_path: Path) -> None:
    sweep(tmp_path, "seed=0,1", *SQLITE)
    before = ages(tmp_path / OUT)
    done = sweep(tmp_path, "seed=0,1", *SQLITE)
    assert "2 of 2 points done" in done.stdout
    assert ages(tmp_path / OUT) == before
    parents, children = family(client_of(tmp_path))
    assert len(parents) == 1
    assert len(children) == 2
    assert {run.info.status for run in parents + children} == {"FINISHED"}


def test_a_larger_grid_in_another_order_does_only_what_is_missing(tmp_path: Path) -> None:
    sweep(tmp_path, "content_weight=1,4", "style_weight=0.1", *SQLITE)
    sweep(tmp_path, "style_weight=0.3,0.1", "content_weight=4,1", *SQLITE, "hydra.sweep.dir=larger")
    points = run_folders(tmp_path / "larger")
    assert len(points) == 4
    reused = [point for point in points if point.result.reused_from]
    assert len(reused) == 2
    assert all(point.result.identity == point.record.identity for point in points)
    earlier = {point.record.identity: point for point in run_folders(tmp_path / OUT)}
    for point in reused:
        origin = earlier[point.record.identity]
        assert (point.path / "pastiche.png").read_bytes() == (origin.path / "pastiche.png").read_bytes()
        assert list(point.trace) == list(origin.trace)
    parents, children = family(client_of(tmp_path))
    count = [sum(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children) for parent in parents]
    assert sorted(count) == [2, 4]  # each sweep is whole by itself


def test_force_does_all_again_in_a_new_folder(tmp_path: Path) -> None:
    sweep(tmp_path, "seed=0,1")
    sweep(tmp_path, "seed=0,1", "force=true")
    assert len(run_folders(tmp_path / OUT)) == 2
    again = run_folders(tmp_path / f"{OUT}-2")
    assert len(again) == 2
    assert not any(point.result.reused_from for point in again)


def test_a_single_run_is_a_deliberate_act(tmp_path: Path) -> None:
    run_in_process(folder=tmp_path)
    before = (tmp_path / OUT / "result.json").stat().st_mtime_ns
    assert f"{OUT} holds a finished run; this one is written to " in run_in_process(folder=tmp_path).stdout
    assert (tmp_path / OUT / "result.json").stat().st_mtime_ns == before
    assert (tmp_path / f"{OUT}-2" / "result.json").is_file()


def test_another_sweep_does_not_write_over_this_one(tmp_path: Path) -> None:
    sweep(tmp_path, "seed=0,1")
    before = ages(tmp_path / OUT)
    sweep(tmp_path, "seed=2,3")
    assert ages(tmp_path / OUT) == before
    assert len(run_folders(tmp_path / f"{OUT}-2")) == 2


def test_a_changed_photograph_is_another_sweep(tmp_path: Path) -> None:
    for shade in (50, 200):
        Image.new("RGB", (40, 30), (shade, 100, 0)).save(tmp_path / "photo.png")
        sweep(tmp_path, "content=photo.png", "seed=0,1", "init=noise")
    first, second = pictures(tmp_path / OUT), pictures(tmp_path / f"{OUT}-2")
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


def test_a_failing_point_is_named_and_done_when_it_can_be(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    grid = (f"content={photo},pkg://nst_exp/samples/night_harbour.jpg", "seed=0,1", *SQLITE)
    done = sweep(tmp_path, *grid, code=1)
    assert "2 of 4 points done" in done.stdout
    lines = done.stderr.splitlines()
    assert [line.split("(")[0] for line in lines if line.startswith("nst_exp:")] == [
        "nst_exp: point 0 ",
        "nst_exp: point 1 ",
    ]
    assert "No such file" in done.stderr
    assert family(client_of(tmp_path))[0][0].info.status == "FAILED"
    before = ages(tmp_path / OUT)
    Image.new("RGB", (40, 30), "teal").save(photo)
    done = sweep(tmp_path, *grid)  # the photograph is there now: another sweep, which takes over what is done
    assert "4 of 4 points done" in done.stdout
    assert ages(tmp_path / OUT) == before
    reused = [point.path.name for point in run_folders(tmp_path / f"{OUT}-2") if point.result.reused_from]
    assert reused == ["2", "3"]


def test_a_bug_in_one_point_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> object:
        if arguments[3][0].seed == 1:
            raise ArithmeticError("out of\nluck")
        return stylize(*arguments)

    monkeypatch.setattr(image, "stylize", failing)
    done = sweep(tmp_path, "seed=0,1,2", *SQLITE, code=1)
    assert "2 of 3 points done" in done.stdout
    assert "point 1 (seed=1) failed: ArithmeticError: out of luck" in done.stderr
    parents, children = family(client_of(tmp_path))
    assert sorted(run.info.status for run in parents + children) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    monkeypatch.undo()
    sweep(tmp_path, "seed=0,1,2", *SQLITE)
    parents, children = family(client_of(tmp_path))
    assert [run.info.status for run in parents + children] == ["FINISHED"] * 4


def identity_of(folder: Path, *arguments: str) -> str:
    out = folder / uuid.uuid4().hex
    done = run_in_process(*arguments, f"hydra.run.dir={out}", folder=folder)
    assert done.code == 0, done.stderr
    return RunFolder(out).record.identity


def test_identity_is_what_determines_the_result_and_nothing_else(tmp_path: Path) -> None:
    shutil.copy(Path(nst_exp.__file__).parent / "samples" / "night_harbour.jpg", tmp_path / "copy.jpg")
    layers = "style_layers=[block1_conv1,block2_conv1]"
    first = identity_of(tmp_path, layers, "content_layer=block2_conv1")
    same = (
        ("registry=null",),
        ("force=true",),
        ("tracking=sqlite",),
        ("optimized_metric=noise",),
        ("style=copy.jpg",),
        (layers, "content_layer=relu2_1"),
        ("content_weight=1.00",),
    )
    assert {identity_of(tmp_path, *arguments) for arguments in same} == {first}
    other = (
        "content_weight=1.01",
        "seed=1",
        "content=copy.jpg",
        f"params.seed=1 {layers} content_layer=block2_conv1",
        "solver.history_size=9",
        "evaluator=tiny steps=3",
    )
    assert len({first, *(identity_of(tmp_path, *arguments.split(" ")) for arguments in other)}) == len(other) + 1


def test_every_setting_but_where_to_put_things_is_part_of_the_identity() -> None:
    where = {"content", "style", "cache_dir", "registry", "force", "optimized_metric", "tracking"}
    names = {field.name for field in dataclasses.fields(RunConfig)}
    from nst_exp.records import record

    assert where <= names
    ends_elsewhere = {"layer_weights"}  # in the weight of each layer, which is part of the identity
    assert {name for name in record._WHERE_ONLY if "." not in name} == (where | ends_elsewhere) - {"tracking"}


# --- killed --------------------------------------------------------------------------------------------------


def started(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    if not (folder / "outputs" / "mlflow.db").exists():
        write_tables(folder / "outputs" / "mlflow.db")
    command = [sys.executable, "-m", "nst_exp.run", *arguments_of("-m", *arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def has_finished(folder: Path, count: int) -> bool:
    """Whether a sweep has begun and has so many results."""
    return len(ages(folder)) >= count and (folder / "0").exists()


def test_killed_at_any_moment_a_sweep_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    grid = (*SQLITE, "steps=30", "init=noise", "seed=0,1", "content_weight=1,4")
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    sweep(undisturbed, *grid)
    moments = random.Random(0)
    for finished in (0, 1, 3):
        with started(disturbed, *grid) as process:
            wait_for(partial(has_finished, disturbed / OUT, finished))
            time.sleep(moments.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
    sweep(disturbed, *grid)
    assert pictures(disturbed / OUT) == pictures(undisturbed / OUT)
    for point in run_folders(disturbed / OUT):
        twin = RunFolder(undisturbed / OUT / point.path.name)
        assert point.result.losses == twin.result.losses
        assert point.result.measures == twin.result.measures
        assert not list(point.path.glob(".*.tmp"))
    for folder in (undisturbed, disturbed):
        parents, children = family(client_of(folder))
        assert [run.info.status for run in parents] == ["FINISHED"], folder
        assert [run.info.status for run in children] == ["FINISHED"] * 4, folder
        assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
        assert len({run.data.tags["overrides"] for run in children}) == 4
        for run in children:
            history = client_of(folder).get_metric_history(run.info.run_id, "loss/total")
            assert [metric.step for metric in history] == list(range(1, 31))


def test_killed_between_result_and_tracking_nothing_is_doubled(tmp_path: Path) -> None:
    sweep(tmp_path, "seed=0,1", *SQLITE)
    client = client_of(tmp_path)
    _, children = family(client)
    half, whole = (next(run for run in children if run.data.tags["point"] == name) for name in ("0", "1"))
    client.update_run(half.info.run_id, status="RUNNING")  # killed while files were sent
    for name in ("0", "1"):
        (tmp_path / OUT / name / "mlflow.json").unlink()  # killed before that was written down
    sweep(tmp_path, "seed=0,1", *SQLITE)
    _, children = family(client)
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert whole.info.run_id in {run.info.run_id for run in children}
    assert half.info.run_id not in {run.info.run_id for run in children}


def test_runs_of_dead_processes_do_not_stay_running(tmp_path: Path) -> None:
    grid = (*SQLITE, "steps=100000", "seed=0,1")
    with started(tmp_path, *grid) as process:
        wait_for(lambda: (tmp_path / OUT / "0" / "progress").exists())
        wait_for(lambda: (tmp_path / OUT / "0" / "record.json").exists())
        time.sleep(1)
        process.send_signal(signal.SIGKILL)
    client = client_of(tmp_path)
    assert {run.info.status for run in runs_of(client)} == {"RUNNING"}
    corpses = {run.info.run_id for run in runs_of(client)}
    sweep(tmp_path, "seed=5,6", *SQLITE)
    statuses = {run.info.run_id: run.info.status for run in runs_of(client)}
    assert {statuses[run_id] for run_id in corpses} == {"KILLED"}
    assert {status for run_id, status in statuses.items() if run_id not in corpses} == {"FINISHED"}


def test_two_sweeps_at_once_do_no_harm(tmp_path: Path) -> None:
    grid = (*SQLITE, "seed=0,1")
    with started(tmp_path, *grid) as first, started(tmp_path, *grid) as second:
        assert first.wait(timeout=180) == 0
        assert second.wait(timeout=180) == 0
    folders = [tmp_path / OUT, tmp_path / f"{OUT}-2"]
    assert pictures(folders[0]) == pictures(folders[1])
    parents, children = family(client_of(tmp_path))
    assert [run.info.status for run in parents + children] == ["FINISHED"] * 6


# --- without its server --------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "server") as server:
        yield server


def test_a_sweep_outlives_its_server_and_is_uploaded_later(server: Server, tmp_path: Path) -> None:
    grid = ("tracking=server", f"tracking.uri={server.uri}", "tracking.snapshots=1", "seed=0,1", "steps=200")
    command = [sys.executable, "-m", "nst_exp.run", *arguments_of("-m", *grid)]
    environment = os.environ | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: (tmp_path / OUT / "0" / "mlflow.json").exists())
        server.kill()
        stdout, _ = process.communicate(timeout=180)
    assert process.returncode == 0
    assert "2 of 2 points done" in stdout
    warnings = [line for line in stdout.splitlines() if "warning: " in line]
    assert len(warnings) == 2, stdout  # of the point and of the sweep, and none of each retry
    assert all("nst_exp.upload" in line for line in warnings)
    server.restart()
    upload = [sys.executable, "-m", "nst_exp.upload", OUT]
    for _ in range(2):  # the second finds nothing to do
        done = subprocess.run(upload, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        parents, children = family(MlflowClient(server.uri))
        assert [run.info.status for run in parents + children] == ["FINISHED"] * 3
        assert "best/score" in parents[0].data.metrics
        for run in children:
            history = MlflowClient(server.uri).get_metric_history(run.info.run_id, "loss/total")
            assert [metric.step for metric in history] == list(range(1, 201))
            assert run.data.params["steps"] == "200"
            assert "measure/score" in run.data.metrics


def test_upload_says_what_it_cannot_do(tmp_path: Path) -> None:
    run_in_process(folder=tmp_path)
    for argument, message in (("nowhere", "no such folder"), (".", "no finished run"), (OUT, "--tracking-uri")):
        command = [sys.executable, "-m", "nst_exp.upload", argument]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert message in done.stderr


def test_an_untracked_run_can_be_uploaded(tmp_path: Path) -> None:
    run_in_process("steps=12", folder=tmp_path)
    uri = f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"
    command = [sys.executable, "-m", "nst_exp.upload", OUT, "--tracking-uri", uri]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = runs_of(client_of(tmp_path))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["measure/score"] == pytest.approx(
        json.loads((tmp_path / OUT / "result.json").read_text())["measures"]["score"]
    )
