"""`python -m nst_exp.reproduce` repeats a logged run from MLflow alone."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from command import DEFAULTS, Outcome, run_in_process
from mlflow import MlflowClient
from mlflow_server import runs_of, wait_for
from PIL import Image

from nst_exp.commands import reproduce
from nst_exp.media.image import locate

SAMPLES = {"content": "pkg://sklearn/datasets/images/china.jpg", "style": "pkg://nst_exp/samples/night_harbour.jpg"}


class Home(NamedTuple):
    """The folder and the store in which the run was made."""

    folder: Path
    uri: str
    parent: str
    run_id: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def point(self) -> Path:
        return self.folder / "out" / "0"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A sweep of one point, with pictures in its folder."""
    folder = tmp_path_factory.mktemp("home")
    for name, address in SAMPLES.items():
        shutil.copy(locate(address), folder / f"{name}.jpg")
    pictures = ("content=content.jpg", "style=style.jpg")
    done = run_in_process("-m", "tracking=sqlite", "init=noise", "seed=5", *pictures, folder=folder)
    assert done.code == 0, done.stderr
    uri = f"sqlite:///{folder}/outputs/mlflow.db"
    client = MlflowClient(uri)
    (point,) = (run for run in runs_of(client) if "identity" in run.data.tags)
    return Home(folder, uri, point.data.tags["mlflow.parentRunId"], point.info.run_id)


def repeat(*arguments: str, folder: Path) -> Outcome:
    """The command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "nst_exp.reproduce", *arguments],
        cwd=folder,
        env=os.environ | {"NST_EXP_CACHE": DEFAULTS["cache_dir"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def refusal(
    *arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int = 1
) -> str:
    """The line with which the command ends."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
    with pytest.raises(SystemExit) as end:
        reproduce.main()
    assert end.value.code == code
    (*_, line) = capsys.readouterr().err.splitlines()
    return line


def log_again(home: Home, files: Path, status: str = "FINISHED") -> str:
    """Log a new run with these files; returns its id."""
    client = home.client
    run_id = client.create_run(client.get_run(home.run_id).info.experiment_id).info.run_id
    client.log_artifacts(run_id, str(files))
    client.set_terminated(run_id, status)
    return run_id


def test_a_run_is_the_same_in_a_fresh_process_and_folder(home: Home, tmp_path: Path) -> None:
    done = repeat(home.run_id, f"--inputs={home.folder}", f"--tracking-uri={home.uri}", folder=tmp_path)
    assert done.code == 0, done.stderr
    digest = hashlib.sha256((home.point / "pastiche.png").read_bytes()).hexdigest()
    assert f"identical: the same file, SHA-256 {digest}" in done.stdout
    assert "device, processor, versions and code are the same" in done.stdout
    again = tmp_path / "outputs" / "reproduced" / home.run_id
    assert (again / "pastiche.png").read_bytes() == (home.point / "pastiche.png").read_bytes()
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


def test_another_seed_and_a_changed_picture_are_found_out(home: Home, tmp_path: Path) -> None:
    files, moved = tmp_path / "files", tmp_path / "album" / "deep"
    shutil.copytree(home.point, files)
    moved.mkdir(parents=True)
    for name in SAMPLES:  # found by hash, under other names in another folder
        shutil.copy(home.folder / f"{name}.jpg", moved / f"my {name}.jpeg")
    (moved / "content.jpg").write_bytes(b"of the same name, but no picture")
    config = yaml.safe_load((files / "config.yaml").read_text())
    (files / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 6}))
    record = json.loads((files / "record.json").read_text())
    record["tags"] |= {"device": "an abacus", "version.ffmpeg": "libavcodec 1.0.0"}
    del record["tags"]["processor"]  # runs of earlier versions have none
    (files / "record.json").write_text(json.dumps(record))
    with Image.open(files / "pastiche.png") as picture:
        brighter = picture.point(lambda level: min(255, level + 1))
    brighter.save(files / "pastiche.png")
    run_id = log_again(home, files)

    output = tmp_path / "again"
    done = repeat(run_id, f"--tracking-uri={home.uri}", f"--output={output}", folder=tmp_path)
    assert done.code == 1
    assert "MLflow's picture is not the one that the run made" in done.stdout
    assert "not identical: at most" in done.stdout
    assert "PSNR" in done.stdout
    rows = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert {"total_loss", "score", "style_distance", "device", "identity"} <= rows.keys()
    assert "an abacus" in rows["device"]
    assert "libavcodec 1.0.0" in rows["version.ffmpeg"]
    assert "not recorded" in rows["processor"]
    assert json.loads((output / "result.json").read_text())["total_loss"] == pytest.approx(
        float(rows["total_loss"].split()[2]), rel=1e-5
    )
    assert done.stderr == ""


def test_how_far_off() -> None:
    then = np.zeros((2, 2, 3), np.int16)
    now = then.copy()
    assert reproduce._verdict([then], [now]) == "identical pixels, in a file of other bytes"
    now[0, 0] = 51
    words = "at most 51 of 255 levels off, 25.0% of pixels differ, PSNR 20.0 dB"  # 20 log10(255 / 25.5)
    assert reproduce._verdict([then], [now]) == f"not identical: {words}"
    assert reproduce._verdict([then], [now[:1]]) == "not identical: it was 2x2 px and is 2x1 px"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{id}"], "content: 'content.jpg' is not there, and no picture below '.' has the run's, {content}"),
        (["{id}", "content={home}/style.jpg"], "is not what the run read: its SHA-256 is {style}, that was {content}"),
        (["{id}", "style=nothing.jpg", "--inputs={home}"], "it cannot be read, that was {style}"),
        (["{parent}"], "run {parent} is a sweep, not a picture: give the id of one of its points, such as {id}"),
        (["0123456789abcdef0123456789abcdef"], "Run with id=0123456789abcdef0123456789abcdef not found"),
        (["{id}", "--tracking-uri=sqlite:///none.db"], "no MLflow store is at sqlite:///none.db"),
        (["{id}", "--output=."], "--output='.' is not empty"),
    ],
)
def test_what_cannot_be_repeated(
    arguments: list[str],
    message: str,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home.uri)
    hashes = {name: hashlib.sha256((home.folder / f"{name}.jpg").read_bytes()).hexdigest() for name in SAMPLES}
    facts = {"id": home.run_id, "parent": home.parent, "home": str(home.folder), **hashes}
    given = [argument.format(**facts) for argument in arguments]
    line = refusal(*given, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert line.startswith("nst_exp: ")
    assert message.format(**facts) in line


def test_changed_inputs_and_params(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home.uri)
    monkeypatch.setenv("NST_EXP_CACHE", DEFAULTS["cache_dir"])
    for name in SAMPLES:
        shutil.copy(home.folder / f"{name}.jpg", tmp_path)
    with (tmp_path / "style.jpg").open("ab") as file:
        file.write(b"\0")
    changed = refusal(home.run_id, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert "style: 'style.jpg' has changed, its SHA-256 is" in changed
    files = tmp_path / "files"
    shutil.copytree(home.point, files)
    result = json.loads((files / "result.json").read_text())
    result["sha256"]["params"] = "0" * 64
    (files / "result.json").write_text(json.dumps(result))
    run_id = log_again(home, files)
    others = refusal(run_id, f"--inputs={home.folder}", folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert "params=random are not what the run read" in others
    assert not (tmp_path / "outputs").exists()


def test_unfinished_and_damaged_runs(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home.uri)

    def line_of(run_id: str) -> str:
        return refusal(run_id, folder=home.folder, monkeypatch=monkeypatch, capsys=capsys)

    killed = log_again(home, home.point, status="KILLED")
    assert line_of(killed) == f"nst_exp: run {killed} is KILLED, not FINISHED: it has no result to compare with"
    files = tmp_path / "files"
    shutil.copytree(home.point, files)
    (files / "config.yaml").write_text("content: content.jpg\nstyle: style.jpg\n")
    assert "this version cannot read its config.yaml" in line_of(log_again(home, files))
    (files / "result.json").write_text("{}")
    assert "its record or its result.json is damaged" in line_of(log_again(home, files))
    (files / "pastiche.png").unlink()
    assert "lacks pastiche.png: no run of nst_exp, or files were lost" in line_of(log_again(home, files))


def test_ctrl_c_leaves_a_folder_in_which_the_run_can_be_repeated(home: Home, tmp_path: Path) -> None:
    """Kind: an interrupted repetition says so in one line, leaves no half-written file, and does not block the next."""
    files, output, temporary = tmp_path / "files", tmp_path / "again", tmp_path / "temporary"
    shutil.copytree(home.point, files)
    temporary.mkdir()
    config = yaml.safe_load((files / "config.yaml").read_text())
    (files / "config.yaml").write_text(yaml.safe_dump({**config, "steps": 100000}))
    arguments = (f"--inputs={home.folder}", f"--tracking-uri={home.uri}", f"--output={output}")
    process = subprocess.Popen(
        [sys.executable, "-m", "nst_exp.reproduce", log_again(home, files), *arguments],
        cwd=tmp_path,
        env=os.environ | {"NST_EXP_CACHE": DEFAULTS["cache_dir"], "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        wait_for((output / "config.yaml").exists)  # the run has begun
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "nst_exp: interrupted\n")
    assert not list(temporary.glob("nst_exp_*"))  # what was downloaded
    assert not list(output.rglob("*.tmp"))
    assert not (output / "result.json").exists()
    done = repeat(home.run_id, *arguments, folder=tmp_path)
    assert done.code == 0, done.stderr
    assert "identical: the same file" in done.stdout
    assert "is not empty" in repeat(home.run_id, *arguments, folder=tmp_path).stderr


def test_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal("abc", "size=64", folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys, code=2)
    assert "only content=PATH, style=PATH and params.path=PATH can be given" in line
