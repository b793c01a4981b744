"""The presets of layer weights, quality, and the division of steps, through the real command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import OUT, run_in_process
from mlflow import MlflowClient
from mlflow_server import runs_of
from test_bad_input import assert_refused

from nst_exp import conf_files
from nst_exp.networks import ARCHITECTURES
from nst_exp.transfer.stylize import Schedule

LAYERS = ("content_layer=block2_conv1", "style_layers=[block1_conv1,block1_conv2,block2_conv1]")


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def weights_of(folder: Path) -> list[float]:
    params = record_of(folder)["params"]
    return [value for name, value in params.items() if name.startswith("style_layer_weights.")]


def test_a_sweep_over_all_presets(tmp_path: Path) -> None:
    done = run_in_process("-m", "layer_weights=glob(*)", *LAYERS, "init=noise", "tracking=sqlite", folder=tmp_path)
    assert done.code == 0, done.stderr
    points = [tmp_path / OUT / str(number) for number in range(4)]
    names = [record_of(point)["params"]["layer_weights"] for point in points]
    assert names == list(conf_files.options("layer_weights"))
    weights = dict(zip(names, map(weights_of, points), strict=True))
    assert weights["even"] == pytest.approx([1 / 3] * 3)
    assert weights["early"] == pytest.approx([16 / 21, 4 / 21, 1 / 21])
    assert weights["deep"] == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert weights["table"] == [0.4, 0.4, 0.3]
    assert len({(point / "pastiche.png").read_bytes() for point in points}) == 4
    runs = runs_of(MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db"))
    assert {run.data.params["layer_weights"] for run in runs if "layer_weights" in run.data.params} == set(names)


def test_the_same_weights_are_the_same_run(tmp_path: Path) -> None:
    """A preset, and the list of weights that it stands for."""
    listed = "style_layer_weights=[0.25,0.25,0.25,0.25]"
    layers = ("content_layer=block2_conv1", "style_layers=[block1_conv1,block1_conv2,block2_conv1,block2_conv2]")
    for name, setting in (("preset", "layer_weights=even"), ("list", listed)):
        assert run_in_process(setting, *layers, f"hydra.run.dir={name}", folder=tmp_path).code == 0
    preset, other = (record_of(tmp_path / name) for name in ("preset", "list"))
    assert preset["identity"] == other["identity"]


def test_the_order_of_the_layers_does_not_matter(tmp_path: Path) -> None:
    layers = ("content_layer=block2_conv1", "style_layers=[relu2_1,relu1_1]")
    assert run_in_process("layer_weights=early", *layers, folder=tmp_path).code == 0
    assert weights_of(tmp_path / OUT) == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize("network", ARCHITECTURES)
def test_every_network_has_presets(network: str, tmp_path: Path) -> None:
    done = run_in_process(f"network={network}", "layer_weights=deep", "--cfg", "job", folder=tmp_path)
    assert done.code == 0, done.stderr
    assert yaml.safe_load(done.stdout)["layer_weights"] == {"name": "deep", "ratio": 2.0}


REFUSED = {
    "layer_weights=early style_layer_weights=[1,1,1,1,1]": (
        "layer_weights=early and style_layer_weights=[1, 1, 1, 1, 1]: give only one",
    ),
    "experiment=article layer_weights=early": (
        "layer_weights=early and style_layer_weights=[0.2, 0.4, 0.3, 0.5, 0.2]",
    ),
    "layer_weights=early style_layer_weight.block1_conv1=1": (
        "style_layer_weight.block1_conv1=1 has no effect: layer_weights=early is given",
    ),
    "layer_weights.ratio=2": ("layer_weights.ratio=2.0: with layer_weights=table it has no meaning",),
    "layer_weights=even layer_weights.ratio=null": ("layer_weights.ratio=None: with layer_weights=even it needs",),
    "layer_weights=even layer_weights.ratio=0": ("layer_weights.ratio=0.0: must be from 0.01 to 100",),
    "layer_weights=erly": ("layer_weights=erly", "did you mean 'early'?"),
    "quality=bset": ("quality=bset", "did you mean 'best'?"),
    "averaging=1": ("averaging=1.0: must be from 0 to below 1",),
    "averaging=-0.1": ("averaging=-0.1: must be from 0 to below 1",),
    "averaging=nan": ("averaging=nan: must be from 0 to below 1",),
    "pooling_gain=0": ("pooling_gain=0.0: must be from 0.01 to 100",),
    "steps_ratio=11": ("steps_ratio=11.0: must be from 0.1 to 10",),
    "source=camera steps_ratio=2": ("steps_ratio=2 has no effect: the source is camera",),
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_is_refused(arguments: str, tmp_path: Path) -> None:
    assert_refused(run_in_process(*arguments.split(), folder=tmp_path), REFUSED[arguments], tmp_path)


# --- quality, and steps ----------------------------------------------------------------------------------------------


def configured(folder: Path, *arguments: str) -> dict[str, Any]:
    done = run_in_process(*arguments, "--cfg", "job", folder=folder, defaults={"cache_dir": "null"})
    assert done.code == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_explicit_settings_win_over_a_quality(tmp_path: Path) -> None:
    assert configured(tmp_path, "quality=draft", "steps=61")["steps"] == 61
    assert configured(tmp_path, "steps=61", "quality=best")["steps"] == 61


def test_an_experiment_wins_over_a_quality(tmp_path: Path) -> None:
    quick = conf_files.option("experiment", "quick")
    assert configured(tmp_path, "experiment=quick", "quality=best")["steps"] == quick["steps"]


def test_good_is_the_default(tmp_path: Path) -> None:
    assert configured(tmp_path, "quality=good") == configured(tmp_path)


def test_more_quality_is_more_steps(tmp_path: Path) -> None:
    steps = [configured(tmp_path, f"quality={name}")["steps"] for name in ("draft", "good", "best")]
    assert steps == sorted(set(steps))
    assert set(conf_files.options("quality")) == {"draft", "good", "best"}


@pytest.mark.parametrize(
    ("steps", "ratio", "expected"),
    [
        (120, 1.0, (40, 40, 40)),
        (11, 1.0, (3, 3, 5)),
        (2003, 2.0, (1143, 572, 288)),
        (40, 0.5, (6, 11, 23)),
        (3, 10.0, (1, 1, 1)),
        (3, 0.1, (1, 1, 1)),
    ],
)
def test_steps_of_each_scale(steps: int, ratio: float, expected: tuple[int, ...]) -> None:
    schedule = Schedule(((8, 8), (12, 12), (16, 16)), steps, "content", steps_ratio=ratio)
    assert schedule.steps_by_scale == expected


def test_the_trace_has_the_steps_of_each_scale(tmp_path: Path) -> None:
    done = run_in_process("steps_ratio=2", "steps=9", "size=48", "coarsest_size=32", folder=tmp_path)
    assert done.code == 0, done.stderr
    head, *rows = (tmp_path / OUT / "trace.csv").read_text().splitlines()
    column = head.split(",").index("solver/scale")
    scales = [float(row.split(",")[column]) for row in rows]
    assert [scales.count(scale) for scale in (0, 1)] == [5, 4]
