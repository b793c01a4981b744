"""The command line: names of files with any letters, folders, globs, flags in any order, help and versions.

Files: a name that exists is accepted as it is, whatever its letters mean to Hydra's grammar or to OmegaConf,
alone and in a list of a sweep, and it is the same name in every record and in every command that is printed.
Mistakes: where the program knows the possible names, one line suggests the nearest to what was typed.
Sweeps: a sweep without any point is refused, whatever the reason.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import videos
import yaml
from command import DEFAULTS, OUT, Outcome, run_in_process
from omegaconf import OmegaConf
from PIL import Image
from test_bad_input import assert_refused

from nst_exp.commands.overrides import prepared
from nst_exp.commands.process import program
from nst_exp.commands.usage import default_options, group_keys, sections
from nst_exp.config import run_config
from nst_exp.errors import InputError
from nst_exp.grammar import escape_all, literal, parsed, plain_value
from nst_exp.keys import run_keys
from nst_exp.report.points import read_sweep

NAMES = [
    "café.png", "my photo (1).png", "a,b=c.png", "it's.png", 'say "x".png', "[x].png", "{a:b}.png", "${x}.png",
    "$y.png",     "日本語.png", "Ω ё.png", "100%#1.png", "a;b&c|d.png", "back\\slash.png", "ends\\",
    "null", "1_000", " lead.png", "choice(1,2)", "*?.png", "!x~.png", "line\nbreak.png",
]  # fmt: skip


def paint(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def prepared_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, multirun: bool) -> list[str]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "home"))
    return prepared(overrides, multirun=multirun)


def values_of(override: str) -> list[str]:
    """The texts that Hydra and OmegaConf read from an override, also through the points of a sweep."""
    found = parsed(override)
    assert found is not None, override
    key = found.get_key_element()
    points = [f"{key}={text}" for text in found.sweep_string_iterator()] if found.is_sweep_override() else [override]
    read = (parsed(point) for point in points)
    return [str(OmegaConf.create({"key": one.value()}).key) for one in read if one is not None]


# --- names of files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "~/x.png", "~/café.png", "sub/a, b.png"])
def test_a_file_that_exists_is_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / name.replace("~", "home", 1) if name.startswith("~/") else tmp_path / name)
    paint(tmp_path / "plain.png")
    for key in ("content", "style", "params.path"):
        (single,) = prepared_in(tmp_path, monkeypatch, f"{key}={name}", multirun=False)
        assert values_of(single) == [name]
        (listed,) = prepared_in(tmp_path, monkeypatch, f"{key}=plain.png,{name}", multirun=True)
        assert values_of(listed) == ["plain.png", name]
    assert plain_value(f"content={literal(name)}") == name


@pytest.mark.parametrize("key", ["hydra.run.dir", "registry", "cache_dir", "tracking.store", "tracking.experiment"])
@pytest.mark.parametrize("text", ["out (1)", "out#1", "ü b", "~/out", "out [x]"])
def test_folders_and_titles_need_not_exist(
    key: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (single,) = prepared_in(tmp_path, monkeypatch, f"{key}={text}", multirun=False)
    assert values_of(single) == [text]


def test_names_go_through_a_sweep_and_into_its_records(tmp_path: Path) -> None:
    """Five awkward names are painted and recorded, and the printed commands paint the same again."""
    names = ["café.png", "my photo (1).png", "a,b=c.png", "it's.png", "${x}.png"]
    for name in (*names, "sty le.png"):
        paint(tmp_path / name)
    done = run_in_process(f"content={','.join(names)}", "-m", "style=sty le.png", folder=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    for number, name in enumerate(names):
        config = yaml.safe_load((tmp_path / OUT / str(number) / "config.yaml").read_text())
        assert (config["content"], config["style"]) == (name, "sty le.png")
        assert run_config(OmegaConf.create(escape_all(config))).content == name
        record = json.loads((tmp_path / OUT / str(number) / "record.json").read_text())
        assert record["name"] == f"content={name}"
    points = read_sweep(tmp_path / OUT).points
    for point, name in zip(points, names, strict=True):
        overrides = shlex.split(point.command)[3:]
        assert f"content={name}" in [f"content={plain_value(one)}" for one in overrides if one.startswith("content=")]
    again = run_in_process(*overrides, "hydra.run.dir=again", folder=tmp_path)
    assert (again.code, again.stderr) == (0, "")


def test_names_that_mean_two_things_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "a,b"):
        paint(tmp_path / name)
    with pytest.raises(InputError, match="could be 1 and 2 files"):
        prepared_in(tmp_path, monkeypatch, "content=a,b", multirun=True)
    assert prepared_in(tmp_path, monkeypatch, "content=a,b", multirun=False) == ["content='a,b'"]


MISSING = {
    "content=café.png": ("content='café.png': No such file", "did you mean 'cafe.png'?"),
    "content=my photo (2).png": ("'my photo (2).png': No such file",),
    "-m content=cafe.png,nö.png": ("content='nö.png': No such file",),
    "style=\udcff.png": ("not valid UTF-8",),
}


@pytest.mark.parametrize("arguments", MISSING)
def test_files_that_do_not_exist(arguments: str, tmp_path: Path) -> None:
    paint(tmp_path / "cafe.png")
    flags, _, override = arguments.rpartition(" ") if arguments.startswith("-m") else ("", "", arguments)
    outcome = run_in_process(*flags.split(), override, folder=tmp_path)
    assert_refused(outcome, MISSING[arguments], tmp_path)


# --- folders and globs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["my paintings", "my paintings/", "glob(my paintings/*)", "glob('my paintings/*.*')"])
def test_a_folder_or_a_glob_is_its_pictures(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["p1 (a, b).png", "p2.png", "p10.png"]
    for name in names:
        paint(tmp_path / "my paintings" / name)
    (tmp_path / "my paintings" / "notes.txt").write_text("no picture")
    (tmp_path / "my paintings" / ".hidden").write_text("")
    for key in ("style", "content"):
        (override,) = prepared_in(tmp_path, monkeypatch, f"{key}={value}", multirun=True)
        assert [Path(name).name for name in values_of(override)] == names
        assert "notes.txt" in capsys.readouterr().out
        with pytest.raises(InputError, match="add -m"):
            prepared_in(tmp_path, monkeypatch, f"{key}={value}", multirun=False)


def test_a_glob_excludes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        paint(tmp_path / name)
    (override,) = prepared_in(tmp_path, monkeypatch, "style=glob(*.png,exclude=a*)", multirun=True)
    assert values_of(override) == ["b.png"]


# --- refusals --------------------------------------------------------------------------------------------------------

TYPOS = {
    "sytle_weight=1": "'style_weight'",
    "improvment=1": "'stop.improvement'",
    "stop.windw=1": "'stop.window'",
    "style_layer_weights.block1_conv1=1": "'style_layer_weight.block1_conv1'",
    "slover=adam": "'solver'",
    "solver=lbgfs": "'lbfgs'",
    "network=vgg17": "'vgg1",
    "params=tochvision": "'torchvision'",
    "hydra/lancher=basic": "'hydra/launcher'",
    "hydra.run.dirr=x": "'hydra.run.dir'",
    "hydra.launcher.max_batch_sise=2": "'hydra.launcher.max_batch_size'",
    "+network.styl_scale=1": "'network.style_scale'",
    "++sead=1": "'seed'",
    "~sead": "'seed'",
    "init=contnet": "'content'",
    "video.codec=h246": "'h26",
    "tracking.backend=sqlit": "'sqlite'",
    "video.write=[vidoe]": "'video'",
    "content_layer=block4_conv9": "'block4_conv",
    "optimized_metric=lpisp": "'lpips'",
    "comapre": "'compare'",
    "sytle=café.png": "'style'",
    "-m sytle=glob(*)": "'style'",
    "-m sytle=1,2": "'style'",
}


@pytest.mark.parametrize("arguments", TYPOS)
def test_typos_get_the_nearest_name(arguments: str, tmp_path: Path) -> None:
    outcome = run_in_process(*arguments.split(), folder=tmp_path)
    assert_refused(outcome, (f"did you mean {TYPOS[arguments]}",), tmp_path)


REFUSED: dict[str, tuple[str, ...]] = {
    "-m solver=glob(zz*)": ("matches none of adam, lbfgs, optax_lbfgs",),
    "-m seed=range(5,5)": ("no points",),
    "-m style=glob(absent/*)": ("no picture found",),
    "content_weight=interval(0.5,8)": ("interval needs a search",),
    "-m content_weight=interval(0.5,8)": ("interval needs a search",),
    "content_weight=1,4": ("add -m",),
    "content_weight=choice(1,4)": ("add -m",),
    "style_weight=é": ("cannot be read", "'style_weight=\"é\"'"),
    "hydra/launcher=joblib": ("pip install 'nst-exp[joblib]'",),
    "hydra/launcher=submitit_slurm": ("pip install 'nst-exp[slurm]'",),
    "hydra/launcher=ray_cluster": ("pip install 'nst-exp[ray]'",),
    "=3": ("KEY=VALUE",),
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_refused_in_a_line_of_our_own(arguments: str, tmp_path: Path) -> None:
    assert_refused(run_in_process(*arguments.split(), folder=tmp_path), REFUSED[arguments], tmp_path)


# --- flags, help, versions ------------------------------------------------------------------------------------------


def test_flags_stand_anywhere(tmp_path: Path) -> None:
    outcome = run_in_process("content_weight=1", "--cfg", "job", "seed=7", "-p", "stop", folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert "improvement: 0.0" in outcome.stdout


@pytest.mark.parametrize("flags", ["--mulitrun", "--cfg", "--cfg jbo", "--run seed=1 -m", "--run --multirun"])
def test_wrong_flags_are_one_line(flags: str, tmp_path: Path) -> None:
    outcome = run_in_process(*flags.split(), folder=tmp_path)
    assert outcome.code == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert outcome.stdout == ""


def answered(tmp_path: Path, *arguments: str) -> Outcome:
    outcome = run_in_process(*arguments, folder=tmp_path)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
    return outcome


def test_help_explains_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The help lists each key that a user may set with its comment from conf/, within 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    text = answered(tmp_path, "--help").stdout
    assert max(map(len, text.splitlines())) < 80
    explained = {key.name for section in sections() for key in section.keys if key.comment}
    for group, (option, _) in default_options().items():
        if group not in ("hydra", "experiment", "search"):
            explained |= {key.name for key in group_keys(group, option) if key.comment}
    chosen_by_groups = {
        "network.name",
        "params.source",
        "loss.name",
        "style_loss.name",
        "content_loss.name",
        "colour.name",
        "layer_weights.name",
        "solver.name",
        "video.mode",
        "tracking.backend",
    }
    groups = {key.partition(".")[0] for key in run_keys() if "." in key}
    weights = {key for key in run_keys() if key.startswith("style_layer_weight.")}
    assert set(run_keys()) - explained - chosen_by_groups - groups - weights == set()
    for key in explained:
        assert key in text


def test_versions(tmp_path: Path) -> None:
    text = answered(tmp_path, "--version").stdout
    assert text.startswith("nst-exp ")
    for library in ("jax", "hydra-core", "mlflow"):
        assert f"{library} " in text


@pytest.mark.parametrize("command", [["compare"], ["reproduce"], ["upload"]])
def test_commands_have_help(command: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nst_exp", *command, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "usage" in done.stdout


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        ("bin/nst-exp", "nst-exp compare"),
        ("nst_exp/__main__.py", "python -m nst_exp compare"),
        ("nst_exp/commands/compare.py", "python -m nst_exp.compare"),
    ],
)
def test_help_names_the_command_as_it_was_typed(started: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert program("compare") == shown


# --- keys of earlier versions ------------------------------------------------------------------------------------


def test_keys_of_earlier_versions_work_and_say_their_new_names(tmp_path: Path) -> None:
    old = ("judge=tiny", "ledger=null", "video.lanes=1", "hydra.launcher.lanes=1")
    defaults = {name: value for name, value in DEFAULTS.items() if name != "evaluator"}
    done = run_in_process("-m", *old, "content=video.mp4", "seed=0", folder=_with_video(tmp_path), defaults=defaults)
    assert done.code == 0, done.stderr
    for name in ("evaluator", "registry", "video.max_batch_size", "hydra.launcher.max_batch_size"):
        assert f" is now called {name}; the old name will be removed" in done.stderr
    config = yaml.safe_load((tmp_path / OUT / "0" / "config.yaml").read_text())
    assert (config["evaluator"], config["registry"], config["video"]["max_batch_size"]) == ("tiny", None, 1)


def test_the_configuration_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    assert run_in_process(folder=tmp_path).code == 0
    config = yaml.safe_load((tmp_path / OUT / "config.yaml").read_text())
    config["judge"], config["ledger"] = config.pop("evaluator"), config.pop("registry")
    config["video"]["lanes"] = config["video"].pop("max_batch_size")
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(config))
    done = run_in_process(
        "--config-dir", ".", "--config-name", "old", "hydra.run.dir=again", folder=tmp_path, defaults={}
    )
    assert done.code == 0, done.stderr


def _with_video(folder: Path) -> Path:
    videos.write(folder / "video.mp4", frames=2)
    return folder
