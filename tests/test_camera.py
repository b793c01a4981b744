"""A live camera through the real command, with FFmpeg's test picture as the camera: videos, the page, clean ends."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import videos
import yaml
from command import OUT, Outcome, arguments_of, run_in_process
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_server import runs_of
from playwright.sync_api import expect, sync_playwright
from test_page import CHROMIUM, FLAGS

import nst_exp.commands.reproduce
from nst_exp.errors import InputError
from nst_exp.evaluation.evaluator import measure
from nst_exp.media.camera import Camera, find_camera
from nst_exp.runs import camera
from nst_exp.runs.camera import Pace
from nst_exp.runs.preview import Preview, jpeg

TEST_PICTURE = "testsrc=size=48x32:rate=200"  # more frames a second than any machine paints
QUICK = (
    *("source=camera", "style=pkg://nst_exp/samples/night_harbour.jpg", f"camera.device='{TEST_PICTURE}'"),
    *("camera.format=lavfi", "camera.port=0", "camera.budget_ms=100"),
)


def recorded(*arguments: str, folder: Path) -> Outcome:
    return run_in_process(*QUICK, *arguments, folder=folder)


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def trace_of(folder: Path) -> list[dict[str, float]]:
    head, *rows = [line.split(",") for line in (folder / "trace.csv").read_text().splitlines()]
    return [dict(zip(head, map(float, row), strict=True)) for row in rows]


def assert_whole(folder: Path) -> None:
    """Video, trace and result agree, and time stamps increase."""
    result, stamps, rows = result_of(folder), videos.stamps_of(folder / "pastiche.mp4"), trace_of(folder)
    assert result["frames"] == len(stamps) == len(rows) >= 1
    assert stamps == sorted(set(stamps))
    indices = [row["step"] for row in rows]
    assert indices == sorted(set(indices))
    assert result["dropped"] == sum(row["frame/dropped"] for row in rows) == indices[-1] + 1 - len(rows)
    assert {"lpips", "style_distance"} <= result["measures"].keys()
    assert set(result["sha256"]) == {"style", "params", "pastiche", "video"}
    assert not list(folder.glob(".*.tmp"))


def test_for_some_seconds(tmp_path: Path) -> None:
    outcome = recorded("camera.seconds=0.5", folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert_whole(tmp_path / OUT)


@pytest.mark.parametrize("mode", ["warm_start", "independent"])
def test_other_modes_and_an_odd_size(mode: str, tmp_path: Path) -> None:
    outcome = recorded(f"video={mode}", "camera.seconds=0.3", "size=33", "video.codec=ffv1", folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert result_of(tmp_path / OUT)["video"] == "pastiche.mkv"
    assert videos.levels_of(tmp_path / OUT / "pastiche.mkv")[0].shape == (22, 33, 3)


def test_measures_compare_with_the_camera_s_own_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: measures whose reference was made from the run's resized frame, so that they depend on `size`."""
    measured = mock.Mock(wraps=measure)
    monkeypatch.setattr(camera, "measure", measured)
    outcome = recorded("camera.seconds=0.1", "size=24", "video=independent", folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    (call,) = measured.call_args_list
    pair = call.args[1]
    assert pair.frame is not None
    assert pair.frame.shape == (32, 48, 3)
    assert pair.hashes[0] == hashlib.sha256(pair.frame.tobytes()).hexdigest()


def test_a_sweep_records_each_point_anew(tmp_path: Path) -> None:
    for _ in range(2):  # the second time, no point counts as done
        points = ("style_weight=0.1,0.3", "camera.seconds=0.2", "registry=registry")
        outcome = run_in_process("-m", *QUICK, *points, folder=tmp_path)
        assert outcome.code == 0, outcome.stderr
    for folder in (OUT, f"{OUT}-2"):
        for point in ("0", "1"):
            assert_whole(tmp_path / folder / point)
            config = yaml.safe_load((tmp_path / folder / point / "config.yaml").read_text())
            assert config["style_weight"] == (0.1, 0.3)[int(point)]


# --- the end, and the page ---------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command without a time limit, in a process of its own, started in `tmp_path`."""
    command = [sys.executable, "-m", "nst_exp.run", *arguments_of(*QUICK, "tracking=sqlite")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    for line in process.stdout or ():
        if found := re.search(r"preview: (\S+)", line):
            return found[1]
    raise AssertionError(process.stderr and process.stderr.read())


def status_at(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/status") as response:
        return json.load(response)


def test_ctrl_c_leaves_everything_whole(
    running: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url_of(running)
    assert url.startswith("http://127.0.0.1:")
    while (status := status_at(url)).get("frames", 0) < 4 or not status["dropped"]:
        time.sleep(0.05)
    assert status.keys() == {"state", "fps", "latency_ms", "steps", "frames", "dropped", "video"}
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert_whole(tmp_path / OUT)
    assert result_of(tmp_path / OUT)["frames"] >= 4
    run = logged_in(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reproduce", run.info.run_id, "--tracking-uri", store_in(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        nst_exp.commands.reproduce.main()
    assert capsys.readouterr().err.startswith(f"nst_exp: run {run.info.run_id} is from a camera, ")


def store_in(folder: Path) -> str:
    return f"sqlite:///{folder}/outputs/mlflow.db"


def logged_in(folder: Path) -> Run:
    """The run in MLflow, after a check that everything was logged."""
    client = MlflowClient(store_in(folder))
    (run,) = runs_of(client)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "camera x night_harbour")
    assert "content" not in run.data.params
    assert run.data.params["source"] == "camera"
    for name in ("loss/total", "frame/evaluations", "frame/solver_ms", "frame/latency_ms", "frame/dropped"):
        assert len(client.get_metric_history(run.info.run_id, name)) == result_of(folder / OUT)["frames"]
    assert {"final/dropped", "final/latency_ms", "final/frames_per_second"} <= run.data.metrics.keys()
    return run


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_the_page_shows_what_comes() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        with Preview(0) as preview:
            page.goto(preview.url, wait_until="commit")
            expect(page.locator("#state")).to_have_text("waiting for the first picture")
            for number, level in enumerate((40, 120, 200), start=1):
                status = {
                    "fps": 2.06,
                    "latency_ms": 411.7,
                    "steps": 3,
                    "frames": number,
                    "dropped": 7,
                    "video": "a.mp4",
                }
                preview.show(jpeg(np.full((32, 64, 3), level, np.uint8)), {"state": "live"} | status)
                expect(page.locator("#frames")).to_have_text(str(number))
                page.locator("#stream").evaluate(SHOWS, level)  # the new picture, not the one before
            numbers = [page.inner_text(f"#{name}") for name in ("state", "fps", "latency_ms", "steps", "dropped")]
            assert numbers == ["live", "2.1", "412 ms", "3", "7"]
            expect(page.locator("#video")).to_have_text("is being written to a.mp4")
        expect(page.locator("#state")).to_have_text("ended")
        expect(page.locator("#video")).to_have_text("was written to a.mp4")
        browser.close()


# resolves as soon as the image shows only this level of grey
SHOWS = """async (image, level) => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  do {
    await new Promise(resolve => setTimeout(resolve, 20));
    pen.drawImage(image, 0, 0);
  } while (Math.abs(pen.getImageData(8, 8, 1, 1).data[0] - level) > 4);
}"""


def test_the_page_is_for_this_machine_only() -> None:
    with Preview(0) as preview:
        for path, host, code in (("/", "evil.example", 403), ("/stream", "evil.example:80", 403), ("/x", None, 404)):
            request = urllib.request.Request(preview.url + path, headers={"Host": host} if host else {})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            assert refused.value.code == code
            refused.value.close()


# --- what is refused ---------------------------------------------------------------------------------------------


def assert_refused(outcome: Outcome, *saying: str) -> None:
    assert outcome.code == 1
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    for part in saying:
        assert part in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["camera.device=/dev/video99", "camera.format=v4l2"], ["camera.device='/dev/video99'", "No such file"]),
        (["content=photo.jpg"], ["content=photo.jpg has no effect: the source is camera"]),
        (["size=16"], ["camera.device=", "at size=16", "short side"]),
    ],
)
def test_refusals(arguments: list[str], saying: list[str], tmp_path: Path) -> None:
    given = {argument.partition("=")[0] for argument in arguments}
    quick = [argument for argument in QUICK if argument.partition("=")[0] not in given]
    assert_refused(run_in_process(*quick, *arguments, folder=tmp_path), *saying)
    assert not (tmp_path / OUT / "result.json").exists()


def test_a_port_that_is_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        quick = [argument for argument in QUICK if not argument.startswith("camera.port")]
        outcome = run_in_process(*quick, f"camera.port={port}", folder=tmp_path)
    assert_refused(outcome, f"camera.port={port}", "in use")


# --- parts -------------------------------------------------------------------------------------------------------


def test_the_newest_frame_is_taken_and_late_ones_are_counted() -> None:
    with Camera(find_camera("testsrc=size=48x32:rate=100", "lavfi")) as camera:
        first = camera.newest()
        time.sleep(0.3)
        later = camera.newest(after=first.index)
        next_ = camera.newest(after=later.index)
    assert later.index > first.index + 1
    assert next_.index > later.index
    assert first.time < later.time < next_.time
    assert first.levels.shape == (32, 48, 3)


def test_a_camera_that_goes_away() -> None:
    with Camera(find_camera("testsrc=size=48x32:rate=100:duration=0.1", "lavfi")) as camera:
        assert camera.newest().index < 10
        with pytest.raises(InputError, match="gives no more frames"):
            camera.newest(after=9)


@pytest.mark.parametrize(
    ("device", "format", "saying"),
    [
        (__file__, "v4l2", rf"camera\.device='{re.escape(__file__)}' cannot be opened by v4l2: "),
        ("x", "nosuch", r"camera\.format=nosuch: FFmpeg here knows no such input"),
        ("nosuch=size=3", "lavfi", r"camera\.device='nosuch=size=3' cannot be opened by lavfi: "),
        ("anullsrc", "lavfi", r"camera\.device='anullsrc' gives no picture"),
        (None, "nosuch", r"camera\.format=nosuch: "),
    ],
)
def test_no_cameras(device: str | None, format: str, saying: str) -> None:
    with pytest.raises(InputError, match=saying):
        find_camera(device, format)


def test_no_camera_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    device = find_camera(None, None)
    assert (device.format, device.size) == ("lavfi", (320, 240))


def test_steps_follow_the_budget() -> None:
    pace = Pace(budget_ms=500, most=30)
    assert pace.steps == 1
    for _ in range(50):  # 20 ms for each step and 100 ms for the rest
        pace.learn(pace.steps, solver_ms=20 * (pace.steps + 1), frame_ms=20 * (pace.steps + 1) + 100)
    assert pace.steps in (18, 19)
    for _ in range(50):  # a step takes longer than the budget of a frame
        pace.learn(pace.steps, solver_ms=1000 * (pace.steps + 1), frame_ms=1000 * (pace.steps + 1))
    assert pace.steps == 1
    for _ in range(50):
        pace.learn(pace.steps, solver_ms=0.1 * (pace.steps + 1), frame_ms=1)
    assert pace.steps == 30
