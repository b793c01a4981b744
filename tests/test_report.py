"""The report of a sweep and the command `compare`: layouts, pictures, plots, tables, and errors."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote

import numpy as np
import pytest
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning
from PIL import Image
from rich.console import Console

from nst_exp.errors import InputError
from nst_exp.records.folder import Record, RunFolder, Tracked
from nst_exp.report import Report, lay_out, print_table, read_sweep, select, write_report
from nst_exp.report.axes import Layout
from nst_exp.report.fonts import Letters
from nst_exp.report.page import render_page
from nst_exp.report.pictures import read_gallery
from nst_exp.report.plots import pareto_plot, svg

with warnings.catch_warnings():  # so that pytest's filters do not apply to these imports later
    warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)  # OmegaConf's DictConfig
    from nst_exp.commands import compare
    from nst_exp.records import tracking
    from nst_exp.records.tracking import search

CONTENT, STYLE = "photo.png", "painting.png"
FILES = {"report.html", "contact_sheet.png", "pareto.png", "convergence.png", "table.csv"}


# --- sweeps to look at


def make_inputs(folder: Path) -> dict[str, str]:
    """Write a photograph and a painting; returns them as settings."""
    for name, seed in ((CONTENT, 1), (STYLE, 2)):
        picture(seed, (96, 64)).save(folder / name)
    return {"content": str(folder / CONTENT), "style": str(folder / STYLE)}


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Soft clouds of colour."""
    levels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def measures_of(number: int) -> dict[str, float]:
    """Measures of a run; every third run is worse than its neighbour in all of them."""
    lpips = 0.1 + 0.05 * number
    style = 0.9 - 0.05 * number + (0.2 if number % 3 == 2 else 0)
    return {"score": (1 + lpips) * (1 + style), "lpips": lpips, "ssim": 1 - lpips, "style_distance": style}


def add_run(
    sweep: Path,
    number: int,
    overrides: Sequence[str],
    params: Mapping[str, Any] = {},
    size: tuple[int, int] = (96, 64),
    **result: Any,
) -> RunFolder:
    """Add a finished run."""
    run = begin_run(sweep, number, overrides, params)
    picture(number + 10, size).save(run.path / "pastiche.png")
    steps = np.arange(1, 9)
    run.write_trace({"step": steps, "loss/total": 9.0 / steps + number, "solver/evaluations": steps + 1})
    costs = {"total_loss": 1.0 + number, "evaluations": 9, "seconds": 1.5, "losses": {"content": 0.5}}
    found = {"pastiche": "pastiche.png", "measures": measures_of(number), **costs, **result}
    (run.path / "result.json").write_text(json.dumps(found))
    return run


def begin_run(sweep: Path, number: int, overrides: Sequence[str], params: Mapping[str, Any] = {}) -> RunFolder:
    """Add a run that has begun."""
    run = RunFolder(sweep / str(number))
    run.path.mkdir(parents=True)
    settings = {"content": str(sweep / CONTENT), "style": str(sweep / STYLE), "size": 96, **params}
    run.begin({"size": 96}, Record(f"identity {number}", str(number), overrides, settings, {}, None))
    return run


def make_grid(folder: Path, count: int | None = None, **axes: Sequence[Any]) -> Path:
    """Make a sweep over all combinations of `axes`, or the first `count` runs of it."""
    folder.mkdir(exist_ok=True)
    make_inputs(folder)
    command = ["size=96", *(f"{name}={','.join(map(str, values))}" for name, values in axes.items())]
    (folder / "sweep.json").write_text(json.dumps({"key": "k", "overrides": command, "mlflow_run_id": None}))
    for number, values in enumerate(itertools.islice(itertools.product(*axes.values()), count)):
        overrides = ["size=96", *(f"{name}={value}" for name, value in zip(axes, values, strict=True))]
        add_run(folder, number, overrides)
    return folder


def make_troubled(folder: Path) -> Path:
    """Make a grid of 2x3 runs, of which one failed, one is not finished, and one has not begun."""
    make_grid(folder, 3, content_weight=(1, 4), style_weight=(0.03, 0.1, 0.3))
    failed = begin_run(folder, 3, ["size=96", "content_weight=4", "style_weight=0.03"])
    failed.fail("size=8192: the device is out of <memory>", ["size=96", "content_weight=4", "style_weight=0.03"])
    going = begin_run(folder, 4, ["size=96", "content_weight=4", "style_weight=0.1"])
    for step in (10, 20):
        picture(step, (96, 64)).save(going.progress_file(step))
    (folder / "5").mkdir()  # Hydra creates it a moment before the run begins
    return folder


def numbers_of(layout: Layout) -> list[list[list[int | None]]]:
    """The runs' numbers by block, row and column."""
    return [[[cell.number if cell else None for cell in line] for line in block.cells] for block in layout.blocks]


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text()


def data_of(page: str) -> dict[str, Any]:
    """The data of the page's script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


# --- layouts


def test_the_last_axis_runs_across_the_one_before_down_and_others_make_blocks(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, pooling=("average", "max"), content_weight=(4, 1), style_weight=(0.03, 0.1, 0.3))
    layout = lay_out(read_sweep(folder))
    assert [axis.name for axis in layout.axes] == ["pooling", "content_weight", "style_weight"]
    assert (layout.is_grid, layout.row_axis, layout.column_axis) == (True, "content_weight", "style_weight")
    assert [block.title for block in layout.blocks] == ["pooling = average", "pooling = max"]
    assert layout.blocks[0].rows == ("1", "4")  # numbers ascend, whatever their order in the command
    assert layout.blocks[0].columns == ("0.03", "0.1", "0.3")
    assert numbers_of(layout) == [[[3, 4, 5], [0, 1, 2]], [[9, 10, 11], [6, 7, 8]]]


@pytest.mark.parametrize("count", [3, 4, 7, 8, 11])
def test_a_sweep_that_is_going_has_its_grid(count: int, tmp_path: Path) -> None:
    folder = make_grid(tmp_path, count, content_weight=(1, 2, 3, 4), style_weight=(0.03, 0.1, 0.3))
    layout = lay_out(read_sweep(folder))
    assert layout.is_grid == (count > 3)  # with one row there is one axis
    assert [point.number for point in layout.points] == list(range(count))


def test_one_axis_is_a_row_by_value(tmp_path: Path) -> None:
    layout = lay_out(read_sweep(make_grid(tmp_path, content_weight=(16, 1, 4))))
    assert not layout.is_grid
    assert numbers_of(layout) == [[[1, 2, 0]]]


def test_a_search_is_sorted_by_score(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    generator = np.random.default_rng(0)
    for number in range(7):
        content, style = generator.uniform(size=2)
        add_run(tmp_path, number, [f"content_weight={content}", f"style_weight={style}"])
    begin_run(tmp_path, 7, ["content_weight=1", "style_weight=1"])
    sweep = read_sweep(tmp_path)
    layout = lay_out(sweep)
    assert not layout.is_grid
    scores = [point.numbers.get("score", math.inf) for point in layout.points]
    assert scores == sorted(scores)
    assert layout.points[0] == sweep.bests[""]
    assert layout.points[-1].number == 7


def test_a_key_that_a_run_was_not_given_has_the_value_of_its_settings(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    add_run(tmp_path, 0, ["solver=adam", "+note=x"], {"solver": "adam", "steps": 60})
    add_run(tmp_path, 1, ["steps=120"], {"solver": "lbfgs", "steps": 120})
    layout = lay_out(read_sweep(tmp_path))
    assert {axis.name: axis.values for axis in layout.axes} == {
        "solver": ("adam", "lbfgs"),
        "note": ("x", None),
        "steps": (60, 120),
    }


def test_labels_are_short(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, style=("/pictures/of/mine/night.jpg", "day.jpg"), layers=("[a,b]", "[c]"))
    layout = lay_out(read_sweep(folder))
    assert layout.blocks[0].rows == ("night", "day")
    assert layout.blocks[0].columns == ("a, b", "c")


def test_labels_are_as_long_as_it_takes_to_tell_values_apart(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, style=("a/night.jpg", "b/night.jpg"), weight=(0.123456, 0.123457, 0.5))
    layout = lay_out(read_sweep(folder))
    assert layout.blocks[0].rows == ("a/night.jpg", "b/night.jpg")
    assert layout.blocks[0].columns == ("0.123456", "0.123457", "0.5")


def test_runs_of_an_earlier_version_without_a_record_are_read(tmp_path: Path) -> None:
    for number, weight in enumerate((1, 4)):
        run = RunFolder(tmp_path / str(number))
        (run.path / ".hydra").mkdir(parents=True)
        (run.path / ".hydra" / "overrides.yaml").write_text(f"- content_weight={weight}\n")
        (run.path / "config.yaml").write_text(f"content_weight: {weight}\nsolver:\n  name: lbfgs\n")
        (run.path / "pastiche.png").write_bytes(b"")
        result = {"pastiche": "pastiche.png", "measures": {"content_distance": 0.3, "style_distance": 0.5}}
        (run.path / "result.json").write_text(json.dumps(result))
    sweep = read_sweep(tmp_path)
    assert [point.settings["solver.name"] for point in sweep.points] == ["lbfgs", "lbfgs"]
    assert sweep.goals == ("content_distance", "style_distance")
    assert not sweep.bests
    assert sweep.front == {0, 1}


# --- what is written


def test_a_report_is_five_files_and_names_the_best(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, content_weight=(1, 4), style_weight=(0.03, 0.1, 0.3))
    report = write_report(folder)
    assert {path.name for path in report.files} == FILES
    assert all(path.parent == folder for path in report.files)
    assert report.counts == {"done": 6, "failed": 0, "unfinished": 0}
    scores = {number: measures_of(number)["score"] for number in range(6)}
    assert report.bests == {"": RunFolder(folder / str(min(scores, key=scores.__getitem__)))}
    for name in ("contact_sheet.png", "pareto.png", "convergence.png"):
        with Image.open(folder / name) as image:
            image.load()
            assert min(image.size) > 400, name
    assert not list(folder.glob(".*.tmp"))


def test_the_report_can_lie_elsewhere_and_links_to_the_pictures(tmp_path: Path) -> None:
    folder = make_grid(tmp_path / "sweep", content_weight=(1, 4))
    write_report(folder, tmp_path / "new" / "place")
    runs = data_of(page_of(tmp_path / "new" / "place"))["runs"]
    for run in runs:
        assert (tmp_path / "new" / "place" / unquote(run["file"]["address"])).is_file()
    assert not (folder / "report.html").exists()


def test_failed_and_unfinished_runs_are_told_apart(tmp_path: Path) -> None:
    folder = make_troubled(tmp_path)
    report = write_report(folder)
    assert report.counts == {"done": 3, "failed": 1, "unfinished": 1}
    data = data_of(page_of(folder))
    runs = {run["number"]: run for run in data["runs"]}
    assert [run["status"] for run in runs.values()] == ["done", "done", "done", "failed", "unfinished"]
    assert runs[3]["error"] == "size=8192: the device is out of <memory>"
    assert runs[3]["size"] is None
    assert (runs[4]["step"], runs[4]["size"]) == (20, [96, 64])
    assert data["blocks"][0]["cells"] == [[0, 1, 2], [3, 4, None]]


def test_a_sweep_without_any_result_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"overrides": ["size=32,64"]}')
    report = write_report(tmp_path)
    assert report.bests == {}
    assert "no run has begun yet" in page_of(tmp_path)
    begin_run(tmp_path, 0, ["size=32"])
    assert write_report(tmp_path).counts["unfinished"] == 1


def test_pictures_of_any_size_damaged_and_missing_ones(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, 0, seed=())
    add_run(folder, 0, ["seed=0"], size=(300, 40))
    add_run(folder, 1, ["seed=1"], size=(20, 200))
    (add_run(folder, 2, ["seed=2"]).path / "pastiche.png").write_bytes(b"no picture")
    (add_run(folder, 3, ["seed=3"]).path / "pastiche.png").unlink()
    (folder / CONTENT).unlink()
    write_report(folder)
    data = data_of(page_of(folder))
    assert [run["size"] for run in data["runs"]] == [[300, 40], [20, 200], None, None]
    assert [one["there"] for one in data["inputs"]] == [False, True]


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, 0, seed=())
    add_run(folder, 0, ["seed=0"], measures={"score": math.nan, "lpips": 0.2})
    add_run(folder, 1, ["seed=1"], measures={}, total_loss=math.inf)
    report = write_report(folder)
    assert report.bests == {}
    assert [run["numbers"].get("lpips") for run in data_of(page_of(folder))["runs"]] == [0.2, None]


def test_large_pictures_are_in_the_page_once_and_not_too_large(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, 0, seed=())
    add_run(folder, 0, ["seed=0"], size=(3000, 200))
    write_report(folder)
    page = page_of(folder)
    assert data_of(page)["runs"][0]["size"] == [2048, 137]
    assert page.count('id="picture-run-0"') == 1
    assert page.count("/9j/") == 3  # the first letters of a JPEG, for the run and both inputs


def test_the_sheet_of_a_hundred_runs_keeps_its_size(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, content_weight=range(10), style_weight=range(10))
    write_report(folder)
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert max(sheet.size) < 5000


def test_the_table_for_spreadsheets(tmp_path: Path) -> None:
    folder = make_troubled(tmp_path)
    write_report(folder)
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    assert [row["run"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[1]["content_weight"] == "1"
    assert float(rows[1]["lpips"]) == pytest.approx(measures_of(1)["lpips"])
    assert rows[3]["error"] == "size=8192: the device is out of <memory>"
    assert rows[0]["command"] == "python -m nst_exp.run size=96 content_weight=1 style_weight=0.03"
    assert "content" not in rows[0]  # the same for all runs


@pytest.mark.parametrize(("width", "seen"), [(200, "seconds"), (80, "LPIPS"), (20, "run")])
def test_the_table_in_a_terminal_has_what_fits(width: int, seen: str, tmp_path: Path) -> None:
    sweep = read_sweep(make_troubled(tmp_path))
    out = io.StringIO()
    print_table(sweep, lay_out(sweep), Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert seen in lines[0]
    assert "…" not in out.getvalue()
    assert lines[6].startswith("run 3 failed: size=8192")


# --- the page as a text; what it does is in test_page.py


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = page_of_report(make_grid(tmp_path, content_weight=(1, 4), style_weight=(0.03, 0.1)))
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", page)


def page_of_report(folder: Path) -> str:
    write_report(folder)
    return page_of(folder)


def test_the_page_has_what_each_number_means(tmp_path: Path) -> None:
    page = page_of_report(make_grid(tmp_path, seed=(0, 1)))
    for name in measures_of(0):
        assert f"<code>{name}</code>" in page


def test_commands_are_exact(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, 0, seed=())
    add_run(folder, 0, ["style=my painting.jpg", "style_layers=[a,b]"]).mark_tracked(Tracked("http://host:5000", "abc"))
    add_run(folder, 1, ["seed=1"]).mark_tracked(Tracked("sqlite:////home/me/outputs/mlflow.db", "def"))
    add_run(folder, 2, ["seed=2"]).mark_tracked(Tracked("http://me:secret@host", "ghi"))
    page = page_of_report(folder)
    runs = data_of(page)["runs"]
    assert runs[0]["command"] == "python -m nst_exp.run 'style=my painting.jpg' 'style_layers=[a,b]'"
    assert [run["reproduce"] for run in runs] == [
        "python -m nst_exp.reproduce abc --tracking-uri http://host:5000",
        "python -m nst_exp.reproduce def",
        "python -m nst_exp.reproduce ghi",
    ]
    assert "secret" not in page


def test_nothing_in_a_setting_gets_out_of_its_place(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    folder = make_grid(tmp_path, 0, seed=())
    (folder / "sweep.json").write_text(json.dumps({"overrides": [f"note={evil}"]}))
    add_run(folder, 0, [f"note={evil}"], {"content": evil})
    add_run(folder, 1, ["note={{ 1 + 1 }}"])
    page = page_of_report(folder)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert data_of(page)["runs"][0]["command"].count(evil) == 1
    assert "{{ 1 + 1 }}" in page


def test_the_same_sweep_gives_the_same_plots(tmp_path: Path) -> None:
    sweep = read_sweep(make_grid(tmp_path, content_weight=(1, 4), style_weight=(0.03, 0.1)))
    plots = [svg(pareto_plot(sweep), "pareto") for _ in range(2)]
    assert plots[0] == plots[1]
    for number in range(4):
        assert f'id="pareto-point-{number}"' in plots[0]


@pytest.mark.parametrize("count", [2, 12, 60])
@pytest.mark.parametrize(("first", "gap"), [(0.5, 0.0), (0.5, 0.001), (0.5, 0.01), (0.9, 0.0)])
def test_no_number_in_the_plot_hides_another(count: int, first: float, gap: float, tmp_path: Path) -> None:
    """The kind of fault: a choice among runs that are alike, whose discs lie on each other."""
    folder = make_grid(tmp_path, 0, seed=())
    corners = [(0.1, 0.9), (0.9, 0.1)]
    for number, (lpips, style) in enumerate(
        [*corners, *((first + gap * i, 1 - first - gap * i) for i in range(count))]
    ):
        add_run(folder, number, [f"seed={number}"], measures={"lpips": lpips, "style_distance": style})
    figure = pareto_plot(read_sweep(folder))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    discs = {str(disc.get_gid()): disc.get_window_extent() for disc in axes.lines if disc.get_gid()}
    assert discs.keys() == {f"point-{number}" for number in range(count + 2)}
    numbers = {f"point-{text.get_text()}": text.get_window_extent() for text in axes.texts if text.get_text()}
    for (one, disc), (other, label) in itertools.product(discs.items(), numbers.items()):
        middle = np.array([(disc.x0 + disc.x1) / 2, (disc.y0 + disc.y1) / 2])
        nearest = np.clip(middle, label.min, label.max)
        apart = np.hypot(*(nearest - middle))
        assert (apart < 1) if one == other else (apart > disc.width / 2 - 1), (one, other)
    page = figure.bbox
    assert all(disc.x0 >= 0 and disc.y0 >= 0 and disc.x1 <= page.x1 and disc.y1 <= page.y1 for disc in discs.values())


def test_a_number_that_is_alone_stands_on_its_point(tmp_path: Path) -> None:
    sweep = read_sweep(make_grid(tmp_path, content_weight=(1, 4), style_weight=(0.03, 0.1)))
    figure = pareto_plot(sweep)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for point in sweep.points:
        place = axes.transData.transform([point.numbers[name] for name in sweep.goals])
        (disc,) = (line for line in axes.lines if line.get_gid() == f"point-{point.number}")
        box = disc.get_window_extent()
        assert np.add(box.min, box.max) / 2 == pytest.approx(place, abs=0.1)


def test_a_command_too_long_for_the_sheet_is_cut_visibly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_grid(tmp_path, seed=(0, 1))
    (folder / "sweep.json").write_text(json.dumps({"overrides": [f"key{index}=value" for index in range(100)]}))
    written: list[str] = []
    monkeypatch.setattr(Letters, "write", lambda letters, draw, corner, text, colour: written.append(text))
    write_report(folder)
    first = next(index for index, text in enumerate(written) if text.startswith("python -m nst_exp.run"))
    assert [text.endswith("…") for text in written[first : first + 4]] == [False, False, False, True]
    assert not written[first + 4].startswith("key")


def test_a_low_picture_stands_in_the_middle_of_a_tall_cell(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, 0, seed=())
    for number, (size, colour) in enumerate((((40, 64), "#ff0000"), ((64, 40), "#0000ff"))):
        run = add_run(folder, number, [f"seed={number}"])
        Image.new("RGB", size, colour).save(run.path / "pastiche.png")
    write_report(folder)
    with Image.open(folder / "contact_sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    tall, low = (
        np.flatnonzero((pixels == colour).all(axis=2).sum(axis=1) > 200) for colour in ([255, 0, 0], [0, 0, 255])
    )
    assert len(low) < 0.5 * len(tall)
    assert (low[0] + low[-1]) / 2 == pytest.approx((tall[0] + tall[-1]) / 2, abs=1)


# --- a choice of runs


def chosen(folder: Path, condition: str = "", *sort: str) -> list[int]:
    return [point.number for point in select(read_sweep(folder), condition, sort).points]


def test_filters_and_sort_keys(tmp_path: Path) -> None:
    folder = make_troubled(tmp_path)
    assert chosen(folder, "content_weight == 4") == [3, 4]
    assert chosen(folder, "content_weight == 1 and lpips < 0.2") == [0, 1]
    assert chosen(folder, "status == 'done' and `style_weight` > 0.05 and run != 2") == [1]
    assert chosen(folder, "on_front") == [0, 1]
    assert chosen(folder, "", "-lpips") == [2, 1, 0, 3, 4]
    assert chosen(folder, "", "content_weight", "-style_weight") == [2, 1, 0, 4, 3]
    assert chosen(folder, "", "error") == [3, 0, 1, 2, 4]


def test_an_order_that_was_asked_for_is_kept_everywhere(tmp_path: Path) -> None:
    folder = make_grid(tmp_path, content_weight=(1, 4), style_weight=(0.03, 0.1))
    sweep = select(read_sweep(folder), "style_weight > 0", ["-lpips"])
    layout = lay_out(sweep)
    assert numbers_of(layout) == [[[3, 2, 1, 0]]]
    data = data_of(render_page("title", sweep, layout, read_gallery(sweep), folder))
    assert (data["isGrid"], data["ordered"]) == (False, True)


# --- the command


def command(*arguments: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of the command started in `folder`."""
    with mock.patch.object(sys, "argv", ["compare", *arguments]), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(SystemExit) as end:
            compare.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_the_latest_sweep_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older, newer = tmp_path / "outputs" / "2026-01-02" / "b", tmp_path / "outputs" / "2026-01-02" / "a"
    older.parent.mkdir(parents=True)
    for folder, modified in ((older, 1000), (newer, 2000)):
        make_grid(folder, content_weight=(1, 4))
        os.utime(folder / "sweep.json", (modified, modified))
    copied = tmp_path / "outputs" / "compare" / "x"
    copied.mkdir(parents=True)
    (copied / "sweep.json").write_text("{}")
    code, out, err = command(folder=tmp_path, capsys=capsys)
    assert (code, err) == (0, "")
    assert f"side by side: {newer.relative_to(tmp_path)}/report.html" in out
    assert "content_weight" in out.splitlines()[0]
    assert (newer / "report.html").is_file()
    assert not (older / "report.html").exists()


def test_a_choice_does_not_overwrite_the_report_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_grid(tmp_path / "sweep", content_weight=(1, 4), style_weight=(0.03, 0.1))
    code, out, _ = command(
        str(folder), "--filter", "content_weight == 4", "--sort", "-lpips", folder=tmp_path, capsys=capsys
    )
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["3", "2"]
    assert [run["number"] for run in data_of(page_of(folder / "selection"))["runs"]] == [3, 2]
    assert not (folder / "report.html").exists()


def test_the_page_is_opened_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_grid(tmp_path / "sweep", content_weight=(1, 4))
    with mock.patch("webbrowser.open") as opened:
        code, _, _ = command(str(folder), "--open", "--output", "new/place", folder=tmp_path, capsys=capsys)
    assert code == 0
    opened.assert_called_once_with((tmp_path / "new" / "place" / "report.html").as_uri())


@pytest.mark.parametrize(
    ("arguments", "code", "saying"),
    [
        ([], 1, "no sweep below"),
        (["nowhere"], 1, "'nowhere' is no folder, and no MLflow store"),
        (["empty"], 1, "holds no sweep"),
        (["sweep/0"], 1, "is a single run"),
        (["sweep", "--sort", "beauty"], 1, "--sort=beauty: no such key; choose run, status, size, content_weight"),
        (["sweep", "--sort=-beauty"], 1, "--sort=-beauty: no such key"),
        (["sweep", "--filter", "lpip < 1"], 1, "'lpip' is no key of these runs; did you mean 'lpips'?"),
        (["sweep", "--filter", "lpips <"], 1, "--filter='lpips <'"),
        (["sweep", "--filter", "lpips + 1"], 1, "lpips + 1 is no condition"),
        (["sweep", "--filter", "lpips > 9"], 1, "no run meets --filter='lpips > 9'"),
        (["sweep", "--output", "sweep/sweep.json"], 1, "cannot be made"),
        (["sweep", "other"], 2, "unrecognized arguments: other"),
        (["--colour"], 2, "unrecognized arguments: --colour"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], code: int, saying: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_grid(tmp_path / "sweep", content_weight=(1, 4))
    (tmp_path / "empty").mkdir()
    found, out, err = command(*arguments, folder=tmp_path, capsys=capsys)
    assert found == code, err
    assert saying in err
    assert err.startswith("nst_exp: ")
    assert len(err.splitlines()) == 1
    assert out == ""


def test_help_comes_at_once_and_without_jax() -> None:
    code = "import sys; from nst_exp import compare; print('jax' in sys.modules, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# --- what MLflow has


class Logged:
    """An MLflow store with a sweep of four runs, of which two are finished, one failed, and one is running."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder / 'outputs' / 'mlflow.db'}"
        self.folder = make_grid(folder / "sweep", content_weight=(1, 4), style_weight=(0.03, 0.1))
        (folder / "outputs").mkdir()
        self.client = tracking.connect(tracking.Store.at(self.uri, "paintings"))
        self.experiment = self.client.create_experiment("paintings", (folder / "outputs" / "mlartifacts").as_uri())
        command = "size=96 content_weight=1,4 style_weight=0.03,0.1"
        self.parent = self.start("sweep", {"overrides": command, "folder": str(self.folder)})
        self.children = [self.log(number) for number in range(4)]
        (self.folder / "sweep.json").write_text(
            json.dumps({"overrides": command.split(), "mlflow_run_id": self.parent})
        )

    def start(self, name: str, tags: Mapping[str, str]) -> str:
        return str(self.client.create_run(self.experiment, run_name=name, tags=dict(tags)).info.run_id)

    def log(self, number: int) -> str:
        run = RunFolder(self.folder / str(number))
        tags = {"mlflow.parentRunId": self.parent, "overrides": " ".join(run.overrides), "identity": str(number)}
        run_id = self.start(f"{number}: a, b", tags)
        for name, value in run.record.params.items():
            self.client.log_param(run_id, name, value)
        if number < 2:
            self.client.log_artifacts(run_id, str(run.path))
        if number < 3:
            self.client.set_terminated(run_id, "FAILED" if number == 2 else "FINISHED")
        return run_id


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    return Logged(tmp_path_factory.mktemp("logged"))


def moved(logged: Logged) -> Path:
    """A folder to start the command in, on a machine that has the store but not the sweep's folder."""
    hidden = logged.folder.with_name("hidden")
    if logged.folder.exists():
        logged.folder.rename(hidden)
        for name in (CONTENT, STYLE):
            (hidden / name).rename(hidden.parent / name)
    return hidden.parent


def test_a_parent_run_whose_folder_is_here_is_read_from_it(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    if not logged.folder.exists():
        logged.folder.with_name("hidden").rename(logged.folder)
    code, out, err = command(logged.children[1], folder=logged.folder.parent, capsys=capsys)
    assert (code, err) == (0, "")
    assert f"4 done; side by side: {logged.folder}/report.html" in out


@pytest.mark.parametrize("what", ["parent", "experiment"])
def test_what_only_mlflow_has_is_fetched(what: str, logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    folder = moved(logged)
    name = logged.parent if what == "parent" else "paintings"
    code, out, err = command(name, folder=folder, capsys=capsys)
    assert (code, err) == (0, "")
    assert f"2 done, 1 failed, 1 unfinished; side by side: outputs/compare/{name}/report.html" in out
    data = data_of(page_of(folder / "outputs" / "compare" / name))
    assert [(run["number"], run["status"]) for run in data["runs"]] == [
        (0, "done"),
        (1, "done"),
        (2, "failed"),
        (3, "unfinished"),
    ]
    assert data["isGrid"]
    assert data["blocks"][0]["cells"] == [[0, 1], [2, 3]]
    assert data["runs"][1]["size"] == [96, 64]
    assert data["runs"][0]["reproduce"] == f"python -m nst_exp.reproduce {logged.children[0]}"
    assert data["runs"][2]["error"] == "MLflow says FAILED"
    assert ("content_weight=1,4" in page_of(folder / "outputs" / "compare" / name)) == (what == "parent")


def test_what_was_fetched_is_not_fetched_again(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    folder = moved(logged)
    assert command(logged.parent, folder=folder, capsys=capsys)[0] == 0
    fetched = folder / "outputs" / "compare" / logged.parent / "0" / "pastiche.png"
    before = fetched.stat().st_mtime_ns
    assert command(logged.parent, folder=folder, capsys=capsys)[0] == 0
    assert fetched.stat().st_mtime_ns == before


def test_more_runs_than_mlflow_gives_at_once(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_PAGE", 2)
    found = [run.info.run_id for run in search.search_all(logged.client, logged.experiment)]
    assert found == [logged.parent, *logged.children]


@pytest.mark.parametrize("uri", [False, True])
def test_what_mlflow_does_not_have(uri: bool, logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tracking-uri", logged.uri] if uri else []
    code, _, err = command("0" * 32, *arguments, folder=logged.folder.parent, capsys=capsys)
    assert code == 1
    assert "is no folder, and no run or experiment in sqlite:///" in err
    assert "experiments there: paintings" in err
    assert len(err.splitlines()) == 1


def test_nothing_was_written_is_a_report_too() -> None:
    assert (Report.empty().files, Report.empty().bests) == ((), {})


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no sweep"):
        write_report(tmp_path / "nowhere")
