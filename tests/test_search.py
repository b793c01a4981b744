"""Searches: sweeps whose points Optuna chooses, and Hydra's own ranges, choices and globs."""

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import OUT, Outcome, arguments_of, run_in_process
from mlflow import MlflowClient
from mlflow_server import runs_of

from nst_exp.records.folder import run_folders
from nst_exp.records.result import Result
from nst_exp.sweeps import search

with warnings.catch_warnings():  # Optuna 2 on SQLAlchemy 2; what is imported here need not be imported later
    warnings.simplefilter("ignore", DeprecationWarning)
    import hydra_plugins.hydra_optuna_sweeper._impl  # noqa: F401

CHINA = "pkg://sklearn/datasets/images/china.jpg"
STARTUP = "hydra.sweeper.sampler.n_startup_trials=2"


def seek(name: str, *arguments: str, folder: Path, code: int = 0) -> Outcome:
    done = run_in_process("-m", f"search={name}", *arguments, folder=folder)
    assert done.code == code, done.stderr
    return done


def found_in(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "optimization_results.yaml").read_text())


def measures_in(folder: Path) -> list[Mapping[str, float]]:
    return [point.result.measures for point in run_folders(folder)]


def test_a_search_finds_the_best_of_its_runs_and_goes_on_where_it_was(tmp_path: Path) -> None:
    arguments = ("tracking=sqlite", "tracking.snapshots=0", STARTUP)
    seek("optuna", *arguments, "hydra.sweeper.n_trials=3", folder=tmp_path)  # as if killed after three of five
    done = seek("optuna", *arguments, "hydra.sweeper.n_trials=5", "hydra.sweep.dir=more", folder=tmp_path)
    assert "Best value" in done.stdout
    assert done.stderr == ""
    points = run_folders(tmp_path / "more")
    assert [point.result.reused_from for point in points] == [
        *(str(tmp_path / OUT / str(number)) for number in range(3)),
        None,
        None,
    ]
    scores = [measures["score"] for measures in measures_in(tmp_path / "more")]
    assert len(set(scores)) == 5
    assert found_in(tmp_path / "more")["best_value"] == min(scores)
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    runs = runs_of(client)
    parents = {run.info.run_id: run for run in runs if "mlflow.parentRunId" not in run.data.tags}
    children = [run.data.tags["mlflow.parentRunId"] for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert sorted(map(children.count, parents)) == [3, 5]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for parent in parents:
        assert "optimization_results.yaml" in {file.path for file in client.list_artifacts(parent)}
    names = [point.record.name for point in points]
    assert all(len(name) <= len("0: 0.01234, 0.01234") for name in names), names


def test_two_metrics_give_a_pareto_set(tmp_path: Path) -> None:
    seek("optuna_pareto", "hydra.sweeper.n_trials=4", STARTUP, folder=tmp_path)
    results = [(measures["lpips"], measures["style_distance"]) for measures in measures_in(tmp_path / OUT)]
    best = {
        one
        for one in results
        if not any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in results)
    }
    assert {tuple(solution["values"]) for solution in found_in(tmp_path / OUT)["solutions"]} == best
    assert len(results) == 4


def test_random_search_over_ranges_of_one_s_own(tmp_path: Path) -> None:
    ranges = ("content_weight=interval(0.5,8)", "style_weight=0.1", "tv_weight=choice(0,10)", "seed=range(0,3)")
    seek("random", *ranges, "optimized_metric=ssim", "hydra.sweeper.n_trials=3", folder=tmp_path)
    settings = [point.config for point in run_folders(tmp_path / OUT)]
    assert len({setting["content_weight"] for setting in settings}) == 3
    assert all(0.5 <= setting["content_weight"] <= 8 for setting in settings)
    assert {setting["style_weight"] for setting in settings} == {0.1}
    assert {setting["tv_weight"] for setting in settings} <= {0, 10}
    # a similarity: Optuna is told to maximise it
    best = max(measures["ssim"] for measures in measures_in(tmp_path / OUT))
    assert found_in(tmp_path / OUT)["best_value"] == best


def test_a_failed_run_costs_only_itself(tmp_path: Path) -> None:
    contents = f"content=choice({CHINA},nowhere.jpg)"
    done = seek("random", contents, "style_weight=0.1", "hydra.sweeper.n_trials=4", folder=tmp_path, code=1)
    points = run_folders(tmp_path / OUT)
    assert {point.finished for point in points} == {True, False}
    failures = [line for line in done.stderr.splitlines() if line.startswith("nst_exp: point")]
    assert len(failures) == sum(not point.finished for point in points)
    assert "content='nowhere.jpg': No such file or directory" in failures[0]
    assert found_in(tmp_path / OUT)["best_params"]["content"] == CHINA


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimized_metric=nice"], "optimized_metric=nice: choose among score, lpips, content_distance, ssim,"),
        (["optimized_metric=[lpips,lpips]"], "optimized_metric: lpips is named twice"),
        (["optimized_metric=[]"], "optimized_metric=[]: must be a name, or a list of names"),
        (
            ["search=optuna", "optimized_metric=[lpips,ssim]", "hydra.sweeper.direction=minimize"],
            "optimized_metric=lpips,ssim: give hydra.sweeper.direction=[minimize,maximize]",
        ),
    ],
)
@pytest.mark.parametrize("flag", [["-m"], []])
def test_what_cannot_be_sought_is_refused_before_the_first_run(
    flag: list[str], arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = run_in_process(*flag, *arguments, folder=tmp_path)
    assert done.code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("nst_exp: ")
    assert message in line
    assert not list(tmp_path.rglob("result.json"))


def test_what_a_run_returns(tmp_path: Path) -> None:
    written = {"pastiche": "a.png", "seconds": 2, "total_loss": 3.5, "measures": {"lpips": 0.5, "seconds": -1}}
    (tmp_path / "result.json").write_text(json.dumps(written))
    result = Result.read(tmp_path / "result.json")
    assert result is not None
    assert search.returned(result, ["lpips"]) == 0.5
    assert search.returned(result, ["total_loss", "seconds", "lpips"]) == (3.5, 2.0, 0.5)


def test_without_optuna_one_line_names_the_extra(tmp_path: Path) -> None:
    program = "import hydra_plugins; hydra_plugins.__path__ = []; from nst_exp.commands.run import main; main()"
    command = [sys.executable, "-c", program, *arguments_of("-m", "search=optuna")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "nst_exp: this search needs Optuna: pip install 'nst-exp[optuna]'\n"


def test_optuna_keeps_quiet(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nst_exp.run", *arguments_of("-m", "search=optuna", "hydra.sweeper.n_trials=1")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "alembic" not in done.stdout


@pytest.mark.parametrize(
    ("axis", "key", "values"),
    [
        ("style_weight=range(0.03,0.1,0.03)", "style_weight", [0.03, 0.06, 0.09]),
        ("content_weight=choice(1,4)", "content_weight", [1, 4]),
        ("seed=shuffle(range(3,5))", "seed", [3, 4]),
        ("content_weight=sort(4,1)", "content_weight", [1, 4]),
    ],
)
def test_ranges_and_choices_need_no_extra(axis: str, key: str, values: list[float], tmp_path: Path) -> None:
    done = run_in_process("-m", axis, folder=tmp_path)
    assert done.code == 0, done.stderr
    settings = [point.config[key] for point in run_folders(tmp_path / OUT)]
    found = sorted(settings) if "shuffle" in axis else settings
    assert found == pytest.approx(values)


def test_a_glob_sweeps_a_group(tmp_path: Path) -> None:
    done = run_in_process("-m", "solver=glob(*lbfgs)", folder=tmp_path)
    assert done.code == 0, done.stderr
    names = [point.config["solver"]["name"] for point in run_folders(tmp_path / OUT)]
    assert names == ["lbfgs", "optax_lbfgs"]
