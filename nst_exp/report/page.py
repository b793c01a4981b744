"""Render a report as one HTML page with pictures, plots, a table and explanations, which needs no network.

`page.html` is the template of the page, `page.css` its style and `page.js` its script, which works on the JSON data
that this module adds. Each picture is stored in the page once, as text; the script shows it when it scrolls into view.
"""

from __future__ import annotations

import base64
import math
import os
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from nst_exp.evaluation.catalogue import ALL_MEASURES, MEASURES
from nst_exp.report.axes import Layout, label
from nst_exp.report.cases import SCORE
from nst_exp.report.pictures import Gallery, input_addresses
from nst_exp.report.plots import convergence_plot, has_curves, pareto_plot, svg
from nst_exp.report.points import COSTS, Point, Sweep, label_of, lower_is_better, rows_of


def render_page(title: str, sweep: Sweep, layout: Layout, gallery: Gallery, folder: Path) -> str:
    """Render the page.

    Args:
        title: the title of the page.
        sweep: the runs.
        layout: the place of each run.
        gallery: the pictures of the runs and their inputs.
        folder: the folder that the page will be written to, to which its links are relative.

    Returns:
        The HTML of the page.
    """
    inputs = input_addresses(sweep)
    pictures = {f"run-{number}": picture.jpeg for number, picture in gallery.runs.items()}
    for index, address in enumerate(inputs):
        picture = gallery.inputs.get(address)
        if picture is not None:
            pictures[f"input-{index}"] = picture.jpeg
    environment = Environment(loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        title=title,
        sweep=sweep,
        time=time.strftime("%Y-%m-%d %H:%M"),
        style=Markup(_source("page.css")),
        script=Markup(f"{_source('filter.js')}\n{_source('page.js')}"),
        data=_data(sweep, layout, gallery, folder),
        pictures={name: base64.b64encode(jpeg).decode() for name, jpeg in pictures.items()},
        pareto=Markup(svg(pareto_plot(sweep), "pareto")),
        convergence=Markup(svg(convergence_plot(sweep, layout), "convergence")) if has_curves(sweep) else None,
        measures=[ALL_MEASURES[name] for name in ALL_MEASURES if name in sweep.numbers] or list(MEASURES.values()),
        labels={"goals": [label_of(name) for name in sweep.goals], "score": label_of(SCORE)},
    )


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _data(sweep: Sweep, layout: Layout, gallery: Gallery, folder: Path) -> dict[str, Any]:
    """Return the data for the page's script."""
    places = {address: place for place, address in enumerate(input_addresses(sweep))}
    rows = rows_of(sweep)
    return {
        "axes": [{"name": axis.name, "values": [axis.label(value) for value in axis.values]} for axis in layout.axes],
        "isGrid": layout.is_grid,
        "ordered": sweep.ordered,
        "rowAxis": layout.row_axis,
        "columnAxis": layout.column_axis,
        "blocks": [
            {
                "title": block.title,
                "rows": block.rows,
                "columns": block.columns,
                "cells": [[cell and cell.number for cell in line] for line in block.cells],
            }
            for block in layout.blocks
        ],
        "numbers": [
            {"name": name, "label": label_of(name), "lower": lower_is_better(name), "isCost": name in COSTS}
            for name in sweep.numbers
        ],
        "goals": sweep.goals,
        "score": SCORE,
        "inputs": [
            {
                "name": name,
                "label": label(address, is_picture=True),
                "address": address,
                "there": gallery.inputs.get(address) is not None,
                "isVideo": name == "content" and _is_video(sweep, address),
            }
            for address, name in input_addresses(sweep).items()
        ],
        "cases": [{"title": case.title, "isRanked": case.is_ranked} for case in sweep.cases],
        "runs": [
            _run(point, sweep, layout, gallery, places, folder) | {"values": row.values, "text": row.text}
            for point, row in zip(sweep.points, rows, strict=True)
        ],
    }


def _is_video(sweep: Sweep, content: str) -> bool:
    """Tell whether a run read this content as a video."""
    settings = (point.settings for point in sweep.points)
    return any(one.get("source") == "video" and str(one.get("content")) == content for one in settings)


def _run(
    point: Point, sweep: Sweep, layout: Layout, gallery: Gallery, places: Mapping[str, int], folder: Path
) -> dict[str, Any]:
    picture = gallery.runs.get(point.number)
    swept = [point.settings.get(axis.name) for axis in layout.axes]
    return {
        "number": point.number,
        "status": point.status,
        "step": point.step,
        "error": point.error,
        "swept": list(layout.swept(point).values()),
        "order": [value if isinstance(value, int | float) else str(value) for value in swept],
        "settings": {name: label(value) for name, value in sorted(point.settings.items())},
        "case": sweep.case_of[point.number],
        "numbers": {name: value for name, value in point.numbers.items() if math.isfinite(value)},
        "losses": dict(point.losses),
        "best": point.number in sweep.starred,
        "front": point.number in sweep.marked_front,
        "size": picture and picture.size,
        "content": places.get(str(point.settings.get("content"))),
        "style": places.get(str(point.settings.get("style"))),
        "command": point.command,
        "reproduce": point.reproduce,
        "file": point.picture and _link(point.picture, folder),
        "video": point.video and _link(point.video, folder),
    }


def _link(path: Path, folder: Path) -> dict[str, Any]:
    """Return a link to a file: its relative address, percent-encoded, its readable name, and whether it exists."""
    relative = os.path.relpath(path, folder)
    name = os.fsencode(relative).decode("utf-8", "replace")
    return {"address": f"./{quote(os.fsencode(relative))}", "name": name, "isThere": path.is_file()}
