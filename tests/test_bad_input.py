"""A command with a mistake ends with one line that names it, the right exit code, and no unfinished files."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pictures
import pytest
import test_weights as params_files
from command import OUT, Outcome, run_in_process, run_process
from PIL import Image

from nst_exp.networks.vgg import TINY

ALL_LAYERS = ", ".join(TINY.layers)
STYLE_LAYERS = "block1_conv1, block2_conv1, block3_conv1, block4_conv1, block5_conv1"


def assert_refused(outcome: Outcome, saying: Sequence[str], folder: Path) -> None:
    """The command ended with 1 and one line that contains all of `saying`, and left no results."""
    for part in saying:
        assert part in outcome.stderr
    assert outcome.code == 1
    assert_nothing_half_written(folder)
    assert "Traceback" not in outcome.stdout + outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert outcome.stderr.startswith("nst_exp: ")
    line = outcome.stderr.strip()
    end = " ".join(line.split(" ")[-3:])
    assert line.count(end) == 1, f"says it twice: {line}"


def assert_nothing_half_written(folder: Path) -> None:
    left = [path.name for path in folder.rglob("*") if path.is_file()]
    assert not [name for name in left if name in ("pastiche.png", "result.json") or name.endswith(".tmp")]


def statuses(store: Path) -> dict[str, str]:
    """The status of every MLflow run in the folder `store`, by the run's name."""
    database = sqlite3.connect(store / "mlflow.db")
    try:
        return dict(database.execute("select name, status from runs"))
    finally:
        database.close()


def closed_port() -> str:
    """The address of a server that does not run."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


# --- values ------------------------------------------------------------------------------------------------

# arguments of the command, and texts that its message must contain
VALUES: dict[str, tuple[str, ...]] = {
    # unknown names
    "bogus=1": ("bogus",),
    "+bogus=1": ("bogus",),
    "+network.bogus=1": ("bogus",),
    "stop.bogus=1": ("stop.bogus",),
    "solver=foo": ("solver=foo", "adam", "lbfgs", "optax_lbfgs"),
    "params=foo": ("params=foo", "bundled", "keras", "torchvision", "safetensors", "random"),
    "experiment=foo": ("experiment=foo", "article", "quick"),
    "network=foo": ("network=foo", "tiny", "vgg16"),
    "network.name=foo": ("network.name='foo'", "vgg16, vgg19, alexnet"),
    # wrong types
    "bad": ("bad", "KEY=VALUE"),
    "size=abc": ("size", "abc", "Integer"),
    "steps=1.5": ("steps", "1.5", "Integer"),
    "style_weight=abc": ("style_weight", "abc", "Float"),
    "content=null": ("content",),
    "~seed": ("seed", "missing"),
    # values out of range
    "steps=0": ("steps=0: must be at least 1",),
    "steps=-1": ("steps=-1: must be at least 1",),
    "size=15": ("size=15: must be from 16 to 8192",),
    "size=8193": ("size=8193: must be from 16 to 8192",),
    "style_zoom=0": ("style_zoom=0.0: must be from 0.1 to 10",),
    "coarsest_size=8": ("coarsest_size=8: must be from 16 to 8192",),
    "seed=-1": ("seed=-1: must be from 0 to 4294967295",),
    "stop.window=0": ("stop.window=0: must be at least 1",),
    "tracking.snapshots=-1": ("tracking.snapshots=-1: must be at least 0",),
    "content_weight=-1": ("content_weight=-1.0: must be a finite number, 0 or above",),
    "style_weight=nan": ("style_weight=nan: must be a finite number, 0 or above",),
    "tv_weight=inf": ("tv_weight=inf: must be a finite number, 0 or above",),
    "range_weight=-inf": ("range_weight=-inf: must be a finite number, 0 or above",),
    "content_weight=1e39": ("content_weight=1e+39",),  # beyond float32
    "style_weight=1e36": ("style_weight=1e+36: must be at most 1e+30",),
    "content_weight=0 style_weight=0": ("content_weight and style_weight are both 0",),
    # unknown choices
    "init=foo": ("init=foo: choose one of content, colours, noise, style",),
    "pooling=foo": ("pooling=foo: choose one of average, max",),
    "aspect=foo": ("aspect=foo: choose one of keep, stretch",),
    "padding=foo": ("padding=foo: choose one of zeros, replicate",),
    "precision=foo": ("precision=foo: choose one of auto, float32, tf32, bfloat16",),
    # layers
    "content_layer=conv9": ("content_layer", "'conv9'", ALL_LAYERS),
    "content_layer=3": ("content_layer=3",),
    "style_layers=[block1_conv1,relu9_9]": ("style_layers", "'relu9_9'", ALL_LAYERS),
    "style_layers=[]": ("style_layers=[]: must be",),
    "style_layers=[block1_conv1,block1_conv1]": ("style_layers", "block1_conv1", "named twice"),
    "style_layers=[relu1_1,block1_conv1]": ("style_layers", "block1_conv1", "named twice"),
    "content_layer=[relu1_1,block1_conv1]": ("content_layer", "block1_conv1", "named twice"),
    "style_layer_weights=[1,2]": ("style_layer_weights=[1, 2] has 2 entries", "style_layers has 5", STYLE_LAYERS),
    "style_layer_weights=1": ("style_layer_weights=1: must be a list of numbers",),
    "style_layer_weights=[0,0,0,0,0]": ("all weights of style_layers are 0",),
    "style_layer_weights=[1,1,1,1,-1]": ("style_layer_weights of block5_conv1=-1", "0 or above"),
    "style_layer_weights=[1,1,1,1,nan]": ("style_layer_weights of block5_conv1=nan", "finite"),
    "style_layer_weights=[1,1,1,1,a]": ("style_layer_weights of block5_conv1=a", "number"),
    "style_layer_weight.block3_conv1=-1": ("style_layer_weight.block3_conv1=-1.0", "0 or above"),
    "style_layer_weight.block3_conv2=1": ("style_layer_weight.block3_conv2=1 has no effect", STYLE_LAYERS),
    "style_layer_weight.foo=1": ("style_layer_weight.foo",),
    "style_layer_weight.block3_conv1=1 style_layer_weights=[1,1,1,1,1]": ("style_layer_weight.block3_conv1=1 has no",),
    # values that contradict each other
    "solver=adam solver.history_size=5": ("solver.history_size=5", "solver=adam", "no meaning"),
    "solver=lbfgs solver.learning_rate=1": ("solver.learning_rate=1.0", "solver=lbfgs", "no meaning"),
    "solver=lbfgs solver.history_size=0": ("solver.history_size=0: must be",),
    "solver=optax_lbfgs solver.linesearch=hager-zhang": ("solver.linesearch=hager-zhang: choose one of none, zoom",),
    "params=safetensors": ("params=safetensors", "params.path=FILE"),
    "params=keras": ("params.source=keras", "network tiny", "params.path=FILE"),
    "params=keras params.path=absent.h5": ("params.path=absent.h5: no such file",),
    "params=random params.path=absent.h5": ("params.path=absent.h5: params.source=random takes no file",),
    "tracking=server": ("tracking=server", "tracking.uri=http://HOST:PORT"),
    "tracking=server tracking.uri=foo": ("tracking.uri=foo",),
    # folders that cannot be created
    "hydra.run.dir=/dev/null/run": ("/dev/null/run",),
    "hydra.run.dir=/proc/run": ("/proc/run",),
    "tracking=sqlite tracking.store=/dev/null/store": ("/dev/null/store",),
    # a sweep as a whole
    "-m bogus=1,2": ("bogus",),
    "-m size=abc,32": ("size", "abc", "Integer"),
    "-m content_weight=1,2 tracking=server": ("tracking=server", "tracking.uri=http://HOST:PORT"),
    "-m content_weight=1,2 tracking=sqlite tracking.store=/dev/null/store": ("/dev/null/store",),
    "-m content_weight=1,2 hydra.sweep.dir=/dev/null/sweep": ("/dev/null/sweep",),
}


@pytest.mark.parametrize("arguments", VALUES)
def test_wrong_values(arguments: str, tmp_path: Path) -> None:
    outcome = run_in_process(*arguments.split(), folder=tmp_path)
    assert_refused(outcome, VALUES[arguments], tmp_path)


def test_unknown_keys_are_never_to_be_forced(tmp_path: Path) -> None:
    """Kind: an error that repeats Hydra's advice to type `+bogus=1`."""
    assert "+bogus" not in run_in_process("bogus=1", folder=tmp_path).stderr


@pytest.mark.parametrize("arguments", ["--bogus", "--cfg", "--run --multirun"])
def test_wrong_usage(arguments: str, tmp_path: Path) -> None:
    outcome = run_in_process(*arguments.split(), folder=tmp_path)
    assert outcome.code == 2
    assert arguments.split()[-1] in outcome.stderr.splitlines()[-1]
    assert_nothing_half_written(tmp_path)


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1,2")])
def test_server_that_is_not_there(sweep: tuple[str, ...], tmp_path: Path) -> None:
    started, uri = time.monotonic(), closed_port()
    outcome = run_in_process(*sweep, "tracking=server", f"tracking.uri={uri}", folder=tmp_path)
    assert time.monotonic() - started < 15
    assert_refused(outcome, (f"tracking.uri={uri}", "no MLflow server there"), tmp_path)
    assert "HTTPConnection" not in outcome.stderr


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1,2")])
def test_database_that_is_none(sweep: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mlflow.db").write_text("no database at all\n" * 100)
    outcome = run_in_process(*sweep, "tracking=sqlite", "tracking.store=store", folder=tmp_path)
    assert_refused(outcome, ("store/mlflow.db", "file is not a database"), tmp_path)


# --- pictures ----------------------------------------------------------------------------------------------

PICTURES = {
    "missing": "No such file or directory",
    "directory": "it is a directory",
    "empty": "it is empty",
    "text": "not a picture of a known kind",
    "truncated_jpeg": "truncated",
    "truncated_png": "cannot be read",
    "one_pixel": "is 1x1 px",
    "strip": "is 5x5000 px",
    "bomb": "10000 megapixels, at most 200",
}


@pytest.mark.parametrize("key", ["content", "style"])
@pytest.mark.parametrize("name", PICTURES)
def test_refused_pictures(name: str, key: str, tmp_path: Path) -> None:
    path = pictures.make(name, tmp_path)
    outcome = run_in_process(f"{key}={path}", folder=tmp_path)
    assert_refused(outcome, (f"{key}='{path}'", PICTURES[name]), tmp_path)


def painted(outcome: Outcome, folder: Path) -> np.ndarray:
    """The picture (H, W, 3), in levels, of a run that succeeded."""
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr == ""
    result = json.loads((folder / OUT / "result.json").read_text())
    assert result["steps"] == 2
    assert np.isfinite(result["total_loss"])
    with Image.open(folder / OUT / result["pastiche"]) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


@pytest.mark.parametrize(
    ("content", "style"), [("grey", "rgba"), ("grey_alpha", "palette"), ("grey16", "cmyk"), ("exif6", "exif8")]
)
def test_odd_pictures_are_painted(content: str, style: str, tmp_path: Path) -> None:
    paths = {"content": pictures.make(content, tmp_path), "style": pictures.make(style, tmp_path)}
    outcome = run_in_process(*(f"{key}={path}" for key, path in paths.items()), folder=tmp_path)
    picture = painted(outcome, tmp_path)
    assert picture.shape == (21, 32, 3)
    if content == "exif6":  # the colours are in their quadrants only if the picture is upright
        corners = picture[5, 8], picture[5, 24], picture[16, 8]
        assert [int(corner.argmax()) for corner in corners] == [0, 1, 2]


THIN = {
    (2000, 30): "",  # thinner than 2 px at the evaluator's size
    (500, 1): "is 500x1 px: its short side is 1 px, at least 16 px needed",
    (15, 500): "is 15x500 px: its short side is 15 px, at least 16 px needed",
}


@pytest.mark.parametrize("stored", THIN)
def test_thin_pictures_are_painted_or_refused_at_once(stored: tuple[int, int], tmp_path: Path) -> None:
    """Kind: an input that the run accepts, but that a later part, such as the evaluator, refuses after the painting."""
    levels = np.random.default_rng(0).integers(0, 256, (*stored[::-1], 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "thin.png")
    outcome = run_in_process("style=thin.png", "aspect=stretch", folder=tmp_path)
    if THIN[stored]:
        assert_refused(outcome, ("style='thin.png'", THIN[stored]), tmp_path)
    else:
        assert painted(outcome, tmp_path).shape == (32, 32, 3)


def test_sixty_megapixels_are_painted(tmp_path: Path) -> None:
    path = pictures.make("sixty_megapixels_jpeg", tmp_path)
    outcome = run_process(f"content={path}", folder=tmp_path)
    assert painted(outcome, tmp_path).shape == (19, 32, 3)


# --- params files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["bundled", "keras2", "torchvision zip", "torchvision legacy", "safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "another shape", "not finite"])
def test_damaged_params(case: str, damage: str, tmp_path: Path) -> None:
    arrays = params_files.tiny_arrays()
    tampered: dict[str, params_files.Arrays] = {
        "truncated": {},
        "another shape": {"block3_conv1/kernel": np.zeros((3, 3, 8, 4), np.float32)},
        "not finite": {"block3_conv1/bias": np.full(8, np.inf, np.float32)},
    }
    source = params_files.written(case, tmp_path, arrays | tampered[damage])
    assert source.path is not None
    if damage == "truncated":
        whole = source.path.read_bytes()
        source.path.write_bytes(whole[: len(whole) // 2])
    outcome = run_in_process(f"params={source.source}", f"params.path={source.path}", folder=tmp_path)
    said = {"truncated": "damaged", "another shape": "tiny needs (3, 3, 8, 8)", "not finite": "not finite"}[damage]
    assert_refused(outcome, (f"params.path={source.path}: ", said), tmp_path)


def test_pickle_runs_no_code(tmp_path: Path) -> None:
    marker, path = tmp_path / "was_here", tmp_path / "params.ckpt"
    hostile = params_files.Hostile(f"touch '{marker}'")
    params_files.write_pickle(path, params_files.tiny_arrays(), extra=hostile)
    outcome = run_process("params=bundled", f"params.path={path}", folder=tmp_path)
    assert not marker.exists()
    assert_refused(outcome, (f"params.path={path}: refused", "posix.system"), tmp_path)


@pytest.mark.filterwarnings("ignore:Error .* persistent compilation cache:UserWarning")  # JAX's
def test_cache_that_cannot_be_written_only_warns(tmp_path: Path) -> None:
    path = tmp_path / "params.ckpt"
    params_files.write_pickle(path, params_files.tiny_arrays())
    paths = [f"{key}={pictures.make('png', tmp_path)}" for key in ("content", "style")]
    arguments = ("params=bundled", f"params.path={path}", f"cache_dir={path}/cache", *paths)
    outcome = run_in_process(*arguments, folder=tmp_path)
    assert painted(outcome, tmp_path).shape == (21, 32, 3)
    assert "warning: params are not cached" in outcome.stdout
    assert str(path / "cache") in outcome.stdout


# --- sweeps ------------------------------------------------------------------------------------------------


def test_bad_points_do_not_stop_a_sweep(tmp_path: Path) -> None:
    """Three of four points fail: before, at and after the beginning of their runs. Each is named, also in MLflow."""
    (tmp_path / OUT / "1" / "pastiche.png").mkdir(parents=True)  # a folder in the place of the picture
    sweep = ("-m", "style_weight=-1,0.3,1e30,0.1", "loss.style_scale=1e20")
    outcome = run_process(*sweep, "tracking=sqlite", "tracking.store=store", folder=tmp_path)
    assert outcome.code == 1
    assert "Traceback" not in outcome.stdout + outcome.stderr
    in_the_way = tmp_path / OUT / "1"
    assert outcome.stderr.splitlines()[-3:] == [
        "nst_exp: point 0 (style_weight=-1) failed: style_weight=-1.0: must be a finite number, 0 or above",
        f"nst_exp: point 1 (style_weight=0.3) failed: '{in_the_way}' holds pastiche.png, which no run has written: "
        "give a folder without files of these names",
        "nst_exp: point 2 (style_weight=1e+30) failed: the loss of the initial picture is inf: "
        "weights are too large for float32",
    ]
    assert sorted(path.parent.name for path in (tmp_path / OUT).rglob("result.json")) == ["3"]
    assert not list(tmp_path.rglob("*.tmp"))
    assert sorted(statuses(tmp_path / "store").values()) == ["FAILED", "FAILED", "FINISHED"]


# --- the command in a process of its own -------------------------------------------------------------------

PROCESSES: dict[str, tuple[str, ...]] = {
    "content_weight=-1": ("content_weight=-1.0: must be",),
    "bogus=1": ("bogus",),
    "content=absent.jpg": ("content='absent.jpg'", "No such file or directory"),
    "hydra.run.dir=/dev/null/run": ("/dev/null/run",),
}


@pytest.mark.parametrize("arguments", PROCESSES)
def test_processes(arguments: str, tmp_path: Path) -> None:
    assert_refused(run_process(*arguments.split(), folder=tmp_path), PROCESSES[arguments], tmp_path)


def test_wrong_usage_of_a_process(tmp_path: Path) -> None:
    outcome = run_process("--bogus", folder=tmp_path)
    assert outcome.code == 2
    assert "unrecognized arguments: --bogus" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_traceback_on_demand(tmp_path: Path) -> None:
    outcome = run_process("size=1", folder=tmp_path, environment={"HYDRA_FULL_ERROR": "1"})
    assert outcome.code == 1
    assert "Traceback" in outcome.stderr
    assert outcome.stderr.splitlines()[-1].endswith("InputError: size=1: must be from 16 to 8192")
    assert_nothing_half_written(tmp_path)
