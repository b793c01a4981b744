"""The batched launcher: what it makes of a sweep is what Hydra's basic launcher makes, but for rounding."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from command import OUT, Outcome, run_in_process, run_process
from compilations import compilations
from mlflow import MlflowClient
from mlflow_server import runs_of

from nst_exp.errors import InputError
from nst_exp.records.folder import RunFolder, run_folders
from nst_exp.runs import image
from nst_exp.sweeps.launcher import Limits
from nst_exp.transfer.stylize import BatchEntry, stylize

SHALLOW = ("content_layer=block2_conv1", "style_layers=[block1_conv1,block2_conv1]")  # soon compiled
ADAM = (*SHALLOW, "solver=adam")
GRID = (*SHALLOW, "content_weight=1,4", "seed=0,1", "init=noise", "steps=12")
SQLITE = ("tracking=sqlite", "tracking.snapshots=1")
BATCHED = "hydra.launcher.max_batch_size=8"


def sweep(folder: Path, *arguments: str, code: int = 0) -> Outcome:
    folder.mkdir(exist_ok=True)
    done = run_in_process("-m", *arguments, folder=folder)
    assert done.code == code, done.stderr
    return done


def client_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'outputs' / 'mlflow.db'}")


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_batched_and_basic_agree(tmp_path: Path) -> None:
    batched, basic = tmp_path / "batched", tmp_path / "basic"
    before = compilations()
    sweep(batched, *GRID, *SQLITE, BATCHED, "size=44")
    assert compilations() == before + 1
    sweep(basic, *GRID, *SQLITE, "hydra/launcher=basic", "size=44")
    assert files_of(batched / OUT) == files_of(basic / OUT)
    for ours, theirs in zip(run_folders(batched / OUT), run_folders(basic / OUT), strict=True):
        assert ours.record.identity == theirs.record.identity
        assert ours.overrides == theirs.overrides
        assert (ours.result.batch_size, theirs.result.batch_size) == (4, 1)
        assert ours.result.evaluations == theirs.result.evaluations
        np.testing.assert_allclose(ours.result.total_loss, theirs.result.total_loss, rtol=1e-3)
        for column, numbers in ours.trace.items():
            np.testing.assert_allclose(numbers, theirs.trace[column], rtol=1e-2, atol=1e-6)
        log = (ours.path / "run.log").read_text()
        assert [line.split()[-1] for line in log.splitlines() if "picture:" in line] == [
            str(ours.path / "pastiche.png")
        ]
    assert tracked(client_of(batched)) == tracked(client_of(basic))


def tracked(client: MlflowClient) -> list[tuple[str, str, list[str], list[int]]]:
    """Of each run: name, status, files, steps of its losses."""
    return sorted(
        (
            run.info.run_name.partition(" sweep ")[0],
            run.info.status,
            sorted(file.path for file in client.list_artifacts(run.info.run_id)),
            [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/total")],
        )
        for run in runs_of(client)
    )


def test_batches_are_shared_out_among_devices(tmp_path: Path) -> None:
    """Three batch entries and an idle one on two devices agree with one at a time on one device."""
    settings = (*SHALLOW, "content_weight=1,2,4", "init=noise", "steps=12", "size=44")
    two = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}  # conftest's
    spread, alone = tmp_path / "spread", tmp_path / "alone"
    spread.mkdir()
    done = run_process("-m", *settings, BATCHED, folder=spread, environment=two)
    assert done.code == 0, done.stderr
    sweep(alone, *settings)
    for ours, theirs in zip(run_folders(spread / OUT), run_folders(alone / OUT), strict=True):
        assert (ours.result.batch_size, theirs.result.batch_size) == (3, 1)
        assert ours.result.evaluations == theirs.result.evaluations
        np.testing.assert_allclose(ours.result.total_loss, theirs.result.total_loss, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_a_bad_point_fails_alone_and_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    grid = ("loss.style_scale=1e20", "style_weight=1e-20,1e30,1e-19", *ADAM, BATCHED, *SQLITE)
    done = sweep(tmp_path, *grid, code=1)
    assert "2 of 3 points done" in done.stdout
    assert "point 1 (style_weight=1e+30) failed: the loss of the initial picture is" in done.stderr
    assert [point.result.batch_size for point in run_folders(tmp_path / OUT) if point.finished] == [3, 3]
    assert "initial picture" in (tmp_path / OUT / "1" / "run.log").read_text()
    ages = [(tmp_path / OUT / number / "result.json").stat().st_mtime_ns for number in ("0", "2")]
    assert sorted(run.info.status for run in runs_of(client_of(tmp_path))) == [
        "FAILED",
        "FAILED",
        "FINISHED",
        "FINISHED",
    ]
    (tmp_path / OUT / "2" / "result.json").unlink()
    sweep(tmp_path, *grid, code=1)
    again = [(tmp_path / OUT / number / "result.json").stat().st_mtime_ns for number in ("0", "2")]
    assert again[0] == ages[0]
    assert again[1] > ages[1]
    assert RunFolder(tmp_path / OUT / "2").result.batch_size == 2


def test_a_batch_that_does_not_fit_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory after the first chunk of three; what MLflow heard of by then is not doubled."""
    tried: list[list[int]] = []

    def recorded(*arguments: Any) -> object:
        *others, on_chunk = arguments
        entries = others[3]
        tried.append([entry.seed for entry in entries])
        others.append(limited(entries, on_chunk))
        return stylize(*others)

    monkeypatch.setattr(image, "stylize", recorded)
    sweep(tmp_path, "seed=0,1,2,3,0", "steps=22", *ADAM, BATCHED, *SQLITE)
    assert tried == [[0, 1, 2, 3], [0, 1], [2, 3]]
    points = run_folders(tmp_path / OUT)
    assert [point.result.batch_size for point in points] == [2] * 5
    assert [point.path.name for point in points if point.result.reused_from] == ["4"]
    for _, status, _, steps in tracked(client_of(tmp_path)):
        assert status == "FINISHED"
        assert steps in ([], list(range(1, 23)))


def limited(entries: Sequence[BatchEntry], on_chunk: Callable[[object], None]) -> Callable[[object], None]:
    """`on_chunk`, but for a device that holds two batch entries."""

    def called(chunk: object) -> None:
        on_chunk(chunk)
        if len(entries) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    return called


def test_pictures_of_one_size_and_all_paintings_share_a_batch(tmp_path: Path) -> None:
    china, harbour = "pkg://sklearn/datasets/images/china.jpg", "pkg://nst_exp/samples/night_harbour.jpg"
    flower = "pkg://sklearn/datasets/images/flower.jpg"
    sweep(tmp_path, f"content={china},{flower}", f"style={harbour},{flower}", *ADAM, BATCHED)
    assert [point.result.batch_size for point in run_folders(tmp_path / OUT)] == [4] * 4


def test_batches_are_limited_by_memory_and_by_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("nst_exp.transfer.stylize.free_bytes", lambda: 1000)
    monkeypatch.setattr("nst_exp.transfer.stylize.bytes_per_entry", lambda *arguments: 99)
    sweep(tmp_path, "seed=0,1,2,3,4,5,6", *ADAM, "hydra.launcher.max_batch_size=20", "hydra.launcher.memory_share=0.4")
    assert {point.result.batch_size for point in run_folders(tmp_path / OUT)} == {3, 4}


@pytest.mark.parametrize(
    ("batch_size", "share", "message"),
    [
        (0, 0.5, r"hydra.launcher.max_batch_size=0: must be auto or a whole number of at least 1"),
        ("many", 0.5, r"hydra.launcher.max_batch_size=many"),
        ("auto", 1.5, r"hydra.launcher.memory_share=1.5: must be a number above 0, at most 1"),
    ],
)
def test_limits_out_of_range_are_refused(batch_size: int | str, share: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits.checked(batch_size, share)
