"""Runs are ranked only within a case, which holds the runs that are measured against the same references.

The kind of fault: a best run, a star, a front or a bar that is chosen among numbers that cannot be compared, because
the photograph, the painting, the evaluator, the cut of a video or the noise at the start differ from run to run.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import test_report as sweeps
from matplotlib.colors import to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from nst_exp.records.folder import Record, RunFolder
from nst_exp.report import Sweep, points, read_sweep, write_report
from nst_exp.report.cases import cases_of
from nst_exp.report.fonts import Letters
from nst_exp.report.plots import pareto_plot
from nst_exp.report.sheet import BEST, _winners


def add(folder: Path, number: int, score: float, settings: Mapping[str, Any], tags: Mapping[str, str] = {}) -> None:
    """Add a finished run with this score, and with an LPIPS and a style distance that follow from it."""
    run = RunFolder(folder / str(number))
    run.path.mkdir(parents=True)
    plain = {"content": "a.png", "style": "p.png", "evaluator": "vgg16", "init": "content", "seed": 0, **settings}
    overrides = [f"{name}={value}" for name, value in settings.items()]
    run.begin({}, Record(f"{number}", f"{number}", overrides, plain, dict(tags), None))
    numbers = {"score": score, "lpips": score / 10, "style_distance": 1 - score / 20}
    sweeps.picture(number, (48, 32)).save(run.path / "pastiche.png")
    result = {"pastiche": "pastiche.png", "measures": numbers, "total_loss": 1.0}
    (run.path / "result.json").write_text(json.dumps(result))


def made(folder: Path, runs: Sequence[tuple[float, Mapping[str, Any]]]) -> Sweep:
    for number, (score, settings) in enumerate(runs):
        add(folder, number, score, settings)
    return read_sweep(folder)


REFERENCES = [
    {"content": "b.png"},
    {"style": "q.png"},
    {"aspect": "stretch"},
    {"evaluator": "other"},
    {"source": "video"},
    {"video.start": 5},
    {"video.end": 9},
    {"video.every": 2},
]


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: next(iter(reference)))
def test_what_the_score_is_compared_with_makes_a_case(reference: Mapping[str, Any], tmp_path: Path) -> None:
    plain = [(3.0, {"style_weight": 1}), (2.0, {"style_weight": 2})]
    sweep = made(tmp_path, [*plain, *((score / 2, {**settings, **reference}) for score, settings in plain)])
    assert [len(case.runs) for case in sweep.cases] == [2, 2]
    assert sorted(point.number for point in sweep.bests.values()) == [1, 3]
    assert len(set(sweep.bests)) == 2
    assert all(str(value).partition(".")[0] in list(sweep.bests)[1] for value in reference.values())
    assert sweep.starred == {1, 3}
    assert len(_winners(sweep)) == 2


def test_settings_of_the_painter_make_no_case(tmp_path: Path) -> None:
    settings = ("size", 64), ("style_weight", 3), ("seed", 1), ("solver", "adam"), ("style_zoom", 2)
    sweep = made(tmp_path, [(3.0 - index, {name: value}) for index, (name, value) in enumerate(settings)])
    assert len(sweep.cases) == 1
    assert sweep.bests[""].number == 4


def test_the_seed_is_a_case_where_runs_start_from_noise(tmp_path: Path) -> None:
    runs = [{"init": "noise", "seed": seed, "style_weight": weight} for seed in (0, 1) for weight in (1, 2)]
    assert made(tmp_path, [(1.0 + index, one) for index, one in enumerate(runs)]).starred == {0, 2}


def test_contents_of_files_count_where_they_are_known(tmp_path: Path) -> None:
    for number, (address, digest) in enumerate([("a.png", "1"), ("copy/a.png", "1"), ("a.png", "2")]):
        add(tmp_path, number, 2.0 + number, {"content": address}, {"sha256.content": digest})
    sweep = read_sweep(tmp_path)
    assert [[run.number for run in case.runs] for case in sweep.cases] == [[0, 1], [2]]
    assert [case.title for case in sweep.cases] == ["a", "a (2)"]


def test_measures_of_different_versions_are_not_compared(tmp_path: Path) -> None:
    for number, version in enumerate("34"):
        add(tmp_path, number, 2.0, {"style_weight": number}, {"version.results": version})
    assert len(read_sweep(tmp_path).cases) == 2


def test_a_random_evaluator_crowns_nothing_beside_a_real_one(tmp_path: Path) -> None:
    runs = [(3.0, {"evaluator": "vgg16"}), (2.9, {}), (1.0, {"evaluator": "tiny"}), (1.1, {"evaluator": "tiny"})]
    sweep = made(tmp_path / "both", runs)
    assert sweep.starred == {1}
    assert "evaluator=tiny are not ranked" in sweep.ranking_note
    assert list(write_report(tmp_path / "both").bests.values()) == [RunFolder(tmp_path / "both" / "1")]
    assert made(tmp_path / "dry", runs[2:]).starred == {0}  # a sweep with only random evaluators is still ranked


def test_a_run_that_never_began_makes_no_case(tmp_path: Path) -> None:
    RunFolder(tmp_path / "0").path.mkdir(parents=True)
    RunFolder(tmp_path / "0").fail("style_weight=-1: must be 0 or above", ["style_weight=-1"])
    for number in (1, 2):
        add(tmp_path, number, 2.0 + number, {"style_weight": number})
    sweep = read_sweep(tmp_path)
    assert [[run.number for run in case.runs] for case in sweep.cases] == [[0, 1, 2]]
    assert sweep.starred == {1}


def test_several_cases_have_a_best_each_in_every_output(tmp_path: Path) -> None:
    runs = [{"content": f"{c}.png", "style": f"{s}.png", "style_weight": w} for c in "ab" for s in "pq" for w in (1, 2)]
    made(tmp_path, [(8.0 - index, one) for index, one in enumerate(runs)])
    report = write_report(tmp_path)
    assert {title: run.path.name for title, run in report.bests.items()} == {
        "a × p": "1",  # noqa: RUF001
        "a × q": "3",  # noqa: RUF001
        "b × p": "5",  # noqa: RUF001
        "b × q": "7",  # noqa: RUF001
    }
    data = sweeps.data_of(sweeps.page_of(tmp_path))
    assert [run["number"] for run in data["runs"] if run["best"]] == [1, 3, 5, 7]
    assert [run["case"] for run in data["runs"]] == [0, 0, 1, 1, 2, 2, 3, 3]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert sorted(row["run"] for row in rows if row["best"] == "True") == ["1", "3", "5", "7"]
    assert rows[0]["case"] == "a × p"  # noqa: RUF001
    assert "lower is better" in sweeps.page_of(tmp_path)


def test_a_mark_on_every_run_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    sweep = made(tmp_path, [(1.0 + index, {"style_weight": index}) for index in range(4)])
    assert sweep.front == {0, 1, 2, 3}
    assert not sweep.marked_front
    assert "Every run is on the Pareto front" in sweep.ranking_note
    write_report(tmp_path)
    assert not any(run["front"] for run in sweeps.data_of(sweeps.page_of(tmp_path))["runs"])
    assert "Every run is on the Pareto front" in sweeps.page_of(tmp_path)


@pytest.mark.parametrize("cases", [1, 3])
def test_the_legend_of_the_sheet_says_everything_once(
    cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kinds of fault: words that are repeated, and words that are cut off at the sheet's edge."""
    written: list[str] = []
    write = Letters.write

    def noted(letters: Letters, draw: Any, at: tuple[float, float], text: str, colour: str) -> None:
        written.append(text)
        assert at[0] + letters.getlength(text) <= draw.im.size[0], text
        write(letters, draw, at, text, colour)

    monkeypatch.setattr(Letters, "write", noted)
    runs = [(1.0 + index, {"content": f"{index % cases}.png", "style_weight": index}) for index in range(6)]
    made(tmp_path, runs)
    write_report(tmp_path)
    legend = " ".join(written[written.index("best by score" + (" of its case" if cases > 1 else "")) :])
    assert legend.count("best") == 1
    assert legend.count("Every run is on the Pareto front, so none is marked.") == 1
    assert legend.count("lower is better") == 3  # score and goals


@pytest.mark.parametrize("count", range(2, 11))
def test_colours_of_cases_are_told_apart_and_none_is_that_of_the_best(count: int, tmp_path: Path) -> None:
    sweep = made(tmp_path, [(2.0 + index, {"content": f"{index}.png"}) for index in range(count)])
    lines = pareto_plot(sweep).axes[0].lines
    edges = [line.get_markeredgecolor() for line in lines if str(line.get_gid()).startswith("point-")]
    assert len(edges) == count
    colours = rgb2lab([to_rgb(colour) for colour in (BEST, *edges)])
    distances = [deltaE_ciede2000(a, b) for a, b in itertools.combinations(colours, 2)]
    assert min(distances) > 15


def test_a_report_ranks_its_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind of fault: a result about the whole sweep is computed again for each of its runs."""
    calls: list[int] = []

    def counted(runs: Sequence[Any], goals: tuple[str, str]) -> Any:
        calls.append(len(runs))
        return original(runs, goals)

    original = cases_of
    monkeypatch.setattr(points, "cases_of", counted)
    made(tmp_path, [(1.0 + index, {"style_weight": index % 5, "content_weight": index // 5}) for index in range(20)])
    write_report(tmp_path)
    assert calls == [20]
