"""Videos through the real command: whole, in order, in every mode, tracked, and resumed after interruptions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos
from command import OUT, Outcome, arguments_of, run_in_process
from mlflow import MlflowClient
from mlflow_server import runs_of
from PIL import Image

QUICK = ("steps=3", "video.steps=2", "video.window=1")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames at 30000/1001 with sound."""
    return videos.write(tmp_path_factory.mktemp("video") / "video.mp4", frames=6, sound="aac")


def painted(*arguments: str, video: Path, folder: Path) -> Outcome:
    return run_in_process(*arguments, f"content={video}", *QUICK, folder=folder)


def result_of(folder: Path, out: str = OUT) -> dict[str, Any]:
    return json.loads((folder / out / "result.json").read_text())


def frames_of(folder: Path, pass_: int = 1) -> dict[str, np.ndarray]:
    """Levels by file name."""
    paths = sorted((folder / "frames" / f"pass{pass_}").glob("*.png"))
    return {path.name: np.asarray(Image.open(path)) for path in paths}


def test_a_video_goes_in_and_a_video_comes_out(video: Path, tmp_path: Path) -> None:
    settings = ("video.write=[video,frames,side_by_side]", "tracking=sqlite", "tracking.snapshots=2")
    outcome = painted(*settings, video=video, folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    out, result = tmp_path / OUT, result_of(tmp_path)
    assert videos.stamps_of(out / "pastiche.mp4") == videos.stamps_of(video)
    assert videos.sound_of(out / "pastiche.mp4") == videos.sound_of(video)
    assert videos.levels_of(out / "pastiche.mp4")[0].shape == (22, 32, 3)  # 48x32 at size=32, made even
    assert videos.levels_of(out / "side_by_side.mp4")[0].shape == (22, 64, 3)
    frames = frames_of(out)
    assert list(frames) == [f"{index:06d}.png" for index in range(6)]
    np.testing.assert_array_equal(Image.open(out / result["pastiche"]), frames["000003.png"])
    assert result["frames"] == 6
    assert {"temporal", "content", "style"} <= result["losses"].keys()
    assert {"warping_error", "flicker", "brightness_drift", "lpips", "style_distance"} <= result["measures"].keys()
    assert 6 < result["evaluations"] <= 4 + 5 * 3
    assert_tracked(tmp_path / "outputs")


def assert_tracked(store: Path) -> None:
    """MLflow has the numbers of each frame, sample frames, and files."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert (run.data.params["source"], run.data.params["video.mode"]) == ("video", "flow")
    for name in ("loss/total", "frame/evaluations", "frame/seconds"):
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, name)] == list(range(6))
    assert "measure/warping_error" in run.data.metrics
    assert {"pastiche.mp4", "trace.csv"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert {int(step) for picture in pictures for step in re.findall(r"\+step\+(\d+)\+", picture)} >= {0, 2, 4}


def test_modes_begin_alike_and_differ(video: Path, tmp_path: Path) -> None:
    outcome = painted(
        "-m", "video=independent,warm_start,flow", "video.write=[video,frames]", video=video, folder=tmp_path
    )
    assert outcome.code == 0, outcome.stderr
    independent, warm, flow = (frames_of(tmp_path / OUT / str(number)) for number in range(3))
    for other in (warm, flow):
        np.testing.assert_array_equal(independent["000000.png"], other["000000.png"])
        assert not np.array_equal(independent["000005.png"], other["000005.png"])
    assert (tmp_path / OUT / "report.html").is_file()
    table = (tmp_path / OUT / "table.csv").read_text()
    assert "warping_error" in table.splitlines()[0]
    evaluations = [result_of(tmp_path / OUT, str(number))["evaluations"] for number in range(3)]
    assert evaluations[0] == 6 * 4
    assert max(evaluations[1:]) < evaluations[0]


def test_an_independent_frame_is_the_picture_of_it(video: Path, tmp_path: Path) -> None:
    levels = videos.levels_of(video)[4]
    Image.fromarray(levels).resize((32, 22), Image.Resampling.LANCZOS, reducing_gap=3).save(tmp_path / "frame.png")
    arguments = ("video=independent", "video.start=4", "video.write=[video,frames]")
    assert painted(*arguments, video=video, folder=tmp_path).code == 0
    assert run_in_process("content=frame.png", "steps=3", "hydra.run.dir=picture", folder=tmp_path).code == 0
    picture = np.asarray(Image.open(tmp_path / "picture" / "pastiche.png"))
    np.testing.assert_array_equal(frames_of(tmp_path / OUT)["000004.png"], picture)


def test_independent_frames_side_by_side(video: Path, tmp_path: Path) -> None:
    """A batch of three frames and one of the two that are left agree with one frame at a time."""
    frames = {}
    for size in (1, 3):
        settings = ("video=independent", "video.end=5", f"video.max_batch_size={size}", "video.write=[video,frames]")
        outcome = painted(*settings, "registry=null", f"hydra.run.dir=of_{size}", video=video, folder=tmp_path)
        assert outcome.code == 0, outcome.stderr
        frames[size] = frames_of(tmp_path / f"of_{size}")
    for one, other in zip(frames[1].values(), frames[3].values(), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_a_part_of_a_video(video: Path, tmp_path: Path) -> None:
    outcome = painted("video.start=1", "video.end=6", "video.every=2", video=video, folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    stamps, source = videos.stamps_of(tmp_path / OUT / "pastiche.mp4"), videos.stamps_of(video)
    assert [stamp - stamps[0] for stamp in stamps] == [stamp - source[1] for stamp in source[1::2]]
    assert result_of(tmp_path)["frames"] == 3
    assert not (tmp_path / OUT / "frames").exists()  # only the video was asked for


def test_passes_back_and_forth(video: Path, tmp_path: Path) -> None:
    outcome = painted("video.passes=2", "video.write=[video,frames]", video=video, folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    first, second = (frames_of(tmp_path / OUT, pass_) for pass_ in (1, 2))
    assert list(first) == list(second)
    assert not np.array_equal(first["000000.png"], second["000000.png"])
    assert videos.stamps_of(tmp_path / OUT / "pastiche.mp4") == videos.stamps_of(video)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_in_and_out(suffix: str, tmp_path: Path) -> None:
    pictures = [Image.fromarray(videos.scene(index)) for index in range(3)]
    source = tmp_path / f"a.{suffix}"
    pictures[0].save(source, save_all=True, append_images=pictures[1:], duration=[50, 70, 90], loop=0)
    outcome = painted(f"video.codec={suffix}", video=source, folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    with Image.open(tmp_path / OUT / f"pastiche.{suffix}") as made:
        durations = []
        for index in range(getattr(made, "n_frames", 1)):
            made.seek(index)
            made.load()
            durations.append(made.info["duration"])
    assert durations[:2] == [50, 70]


# --- the videos of a sweep in a batch ----------------------------------------------------------------------------

BATCHED = "hydra.launcher.max_batch_size=8"
KEPT = ("video.write=[video,frames]", "content_layer=block2_conv1", "style_layers=[block1_conv1,block2_conv1]")


def test_frames_of_another_size_are_not_taken_over(video: Path, tmp_path: Path) -> None:
    """A key must hold all that determines what is kept under it: the codec decides whether sides must be even."""
    for codec, out, size in (("gif", "odd", (33, 22)), ("h264", "even", (32, 22))):
        settings = (
            f"video.codec={codec}",
            "video.end=2",
            "size=33",
            "video.write=[video,frames]",
            f"hydra.run.dir={out}",
        )
        outcome = painted(*settings, video=video, folder=tmp_path)
        assert outcome.code == 0, outcome.stderr
        found = {frame.shape[1::-1] for frame in frames_of(tmp_path / out).values()}
        assert found == {size}


@pytest.mark.parametrize(
    "mode", ["video=flow video.passes=2", "video=warm_start", "video=independent video.max_batch_size=2"]
)
def test_videos_in_a_batch_agree_with_one_at_a_time(mode: str, video: Path, tmp_path: Path) -> None:
    grid = ("-m", "content_weight=1,4", *mode.split(), "video.end=4", "registry=null", *KEPT)
    for size in (8, 1):
        settings = (f"hydra.launcher.max_batch_size={size}", f"hydra.sweep.dir=of_{size}", "tracking=sqlite")
        outcome = painted(*grid, *settings, video=video, folder=tmp_path)
        assert outcome.code == 0, outcome.stderr
    passes = 1 + ("passes" in mode)
    at_once = 2 if mode.endswith("size=2") else 1
    for number in ("0", "1"):
        ours, theirs = (tmp_path / f"of_{size}" / number for size in (8, 1))
        results = [result_of(folder.parent, folder.name) for folder in (ours, theirs)]
        assert [result["batch_size"] for result in results] == [2 * at_once, at_once]
        assert results[0]["evaluations"] == results[1]["evaluations"]
        assert results[0]["identity"] == results[1]["identity"]
        assert_pictures_agree(frames_of(ours, passes), frames_of(theirs, passes))
        assert videos.stamps_of(ours / "pastiche.mp4") == videos.stamps_of(video)[:4]
        made = [line.split()[-1] for line in (ours / "run.log").read_text().splitlines() if " video: " in line]
        assert made == [str(ours / "pastiche.mp4")]
    assert losses_in(tmp_path / "outputs") == [[0, 1, 2, 3]] * 4


def assert_pictures_agree(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """But for rounding, which may turn a level."""
    assert list(ours) == list(theirs) == [f"{index:06d}.png" for index in range(4)]
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def losses_in(store: Path) -> list[list[int]]:
    """The frames for which each run in MLflow has a loss; they are logged in the order of the last pass."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    runs = runs_of(client)
    histories = [client.get_metric_history(run.info.run_id, "loss/total") for run in runs]
    return [sorted(metric.step for metric in history) for history in histories if history]


def test_videos_in_a_batch_take_over_what_one_of_them_has(video: Path, tmp_path: Path) -> None:
    assert painted("content_weight=1", "video.end=3", *KEPT, video=video, folder=tmp_path).code == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / OUT / "frames/pass1").glob("*.png")}
    grid = ("-m", "content_weight=1,4", BATCHED, "hydra.sweep.dir=sweep", *KEPT)
    outcome = painted(*grid, video=video, folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    runs = [tmp_path / "sweep" / number for number in ("0", "1")]
    after = {path.name: path.stat().st_mtime_ns for path in (runs[0] / "frames/pass1").glob("*.png")}
    assert len(before) == 3
    assert before.items() <= after.items()
    assert [len(frames_of(run)) for run in runs] == [6, 6]
    assert [result_of(run.parent, run.name)["batch_size"] for run in runs] == [2, 2]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_a_video_that_fails_leaves_the_others_alone(video: Path, tmp_path: Path) -> None:
    grid = ("-m", "loss.style_scale=1e20", "style_weight=1e-20,1e30,1e-19", "solver=adam", BATCHED, *KEPT)
    outcome = painted(*grid, video=video, folder=tmp_path)
    assert outcome.code == 1
    assert "2 of 3 points done" in outcome.stdout
    assert "point 1 (style_weight=1e+30) failed: the loss of the initial picture is" in outcome.stderr
    assert [result_of(tmp_path / OUT, number)["batch_size"] for number in ("0", "2")] == [3, 3]
    assert not list((tmp_path / OUT / "1").rglob("*.mp4"))


# --- interruptions of a video ------------------------------------------------------------------------------------


def test_killed_at_any_frame_it_resumes_to_the_same_video(video: Path, tmp_path: Path) -> None:
    """SIGKILL after the first and after the fourth frame, each time the same command again; no frame is done twice."""
    arguments = [f"content={video}", *QUICK, "video.write=[video,frames]"]
    command = [sys.executable, "-m", "nst_exp.run", *arguments_of(*arguments)]
    seen: set[tuple[str, float]] = set()
    for count in (1, 4):
        out = f"killed{count}"
        process = subprocess.Popen([*command, f"hydra.run.dir={out}"], cwd=tmp_path, stdout=subprocess.DEVNULL)
        folder = tmp_path / out / "frames" / "pass1"
        deadline = time.monotonic() + 120
        while len(list(folder.glob("0*.png"))) < count and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        done = sorted(folder.glob("0*.png"))
        assert count <= len(done)
        seen |= {(path.name, path.stat().st_mtime_ns) for path in done}
    assert run_in_process(*arguments, "hydra.run.dir=whole", folder=tmp_path).code == 0
    after = {(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "whole/frames/pass1").glob("*.png")}
    assert seen <= after
    assert run_in_process(*arguments, "hydra.run.dir=undisturbed", "force=true", folder=tmp_path).code == 0
    for name in ("whole", "undisturbed"):
        assert len(frames_of(tmp_path / name)) == 6
    for one, other in zip(*(frames_of(tmp_path / name).values() for name in ("whole", "undisturbed")), strict=True):
        np.testing.assert_array_equal(one, other)
    hashes = [result_of(tmp_path, name)["sha256"]["video"] for name in ("whole", "undisturbed")]
    assert hashes[0] == hashes[1]


def test_a_torn_frame_leaves_a_playable_video_and_can_be_skipped(tmp_path: Path) -> None:
    data = bytearray(videos.write(tmp_path / "a.avi", frames=6, codec="mjpeg", pixels="yuvj420p").read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    data[starts[3] : starts[4] - 8] = bytes(starts[4] - 8 - starts[3])
    torn = tmp_path / "torn.avi"
    torn.write_bytes(data)
    outcome = painted(video=torn, folder=tmp_path)
    assert outcome.code == 1
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"nst_exp: content='{torn}': frame 3 cannot be decoded")
    assert "video.on_corrupt=skip" in line
    assert len(videos.levels_of(tmp_path / OUT / "pastiche.mp4")) == 3
    assert not (tmp_path / OUT / "result.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / OUT / "frames/pass1").glob("*.png")}
    shutil.move(tmp_path / OUT, tmp_path / "before")
    again = painted("video.on_corrupt=skip", "video.write=[video,frames]", video=torn, folder=tmp_path)
    assert again.code == 0, again.stderr
    assert len(videos.levels_of(tmp_path / OUT / "pastiche.mp4")) == result_of(tmp_path)["frames"] == 5
    assert len(kept) == 3


def test_what_cannot_be_written_costs_nothing_that_is_done(video: Path, tmp_path: Path) -> None:
    """Two frames are there, and where the third should go is a folder."""
    assert painted("video.end=2", "video.write=[video,frames]", video=video, folder=tmp_path).code == 0
    (tmp_path / OUT / "frames" / "pass1" / "000002.png").mkdir()
    (tmp_path / OUT / "result.json").unlink()  # a finished run would be left alone
    outcome = painted("video.write=[video,frames]", video=video, folder=tmp_path)
    assert outcome.code == 1
    (line,) = outcome.stderr.splitlines()
    assert line.endswith("000002.png' cannot be written: Is a directory")
    assert len(videos.levels_of(tmp_path / OUT / "pastiche.mp4")) == 2
    assert not list((tmp_path / OUT).rglob("*.tmp"))
    assert not (tmp_path / OUT / "result.json").exists()


REFUSED = {
    "video.start=6": "video.start=6: content='{video}' has no frame there",
    "video.end=0": "video.end=0: must be above video.start=0",
    "video.every=0": "video.every=0: must be at least 1",
    "video.codec=foo": "video.codec=foo: choose one of h264, h265, vp9, av1, ffv1, gif, webp",
    "video.codec=h265": "video.codec=h265: frames of 32x22 px, at least 64 px needed",
    "video.write=[]": "video.write=[]: must be a list of video, frames, side_by_side",
    "video.write=[film]": "video.write=film: choose one of video, frames, side_by_side",
    "video.reach=[2]": "video.reach=[2]: must have 1",
    "video.reach=[0]": "video.reach=[0]: must be a list of numbers of frames",
    "video=warm_start video.passes=2": "video.passes=2: more than one pass needs video=flow",
    "video=foo": "video=foo: choose one of flow, independent, warm_start",
    "source=foo": "source=foo: choose one of auto, image, video, camera",
    "video.max_batch_size=0": "video.max_batch_size=0: must be at least 1",
    "video.on_corrupt=foo": "video.on_corrupt=foo: choose one of error, skip",
    "temporal_weight=-1": "temporal_weight=-1.0: must be a finite number, 0 or above",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_refused(arguments: str, video: Path, tmp_path: Path) -> None:
    outcome = run_in_process(f"content={video}", *arguments.split(), folder=tmp_path)
    assert outcome.code == 1
    (line,) = outcome.stderr.splitlines()
    assert REFUSED[arguments].format(video=video) in line
    assert not list(tmp_path.rglob("*.mp4"))


def test_refused_files(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        audio = output.add_stream("aac", rate=48000, layout="mono")
        output.mux(videos._sine(audio, 0.2))
    (tmp_path / "empty.mp4").touch()
    whole = videos.write(tmp_path / "whole.mp4")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-400])
    said = {"sound.mp4": "has no video in it", "empty.mp4": "it is empty", "cut.mp4": "cannot be read"}
    for name, reason in said.items():
        outcome = run_in_process(f"content={name}", folder=tmp_path)
        assert outcome.code == 1
        (line,) = outcome.stderr.splitlines()
        assert line.startswith(f"nst_exp: content='{name}'")
        assert reason in line, line
        assert not list((tmp_path / OUT).rglob("*.mp4"))


@pytest.mark.parametrize("setting", ["video.steps=3", "temporal_weight=10", "camera.port=0"])
def test_what_says_nothing_of_a_picture(setting: str, tmp_path: Path) -> None:
    outcome = run_in_process(setting, folder=tmp_path)
    assert outcome.code == 1
    assert f"{setting} has no effect: the source is image" in outcome.stderr
