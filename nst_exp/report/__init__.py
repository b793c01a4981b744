"""A sweep to look at: a page, a contact sheet, plots and a table, from the folders of its runs.

It can be made at any time, also while the sweep is going, and with runs that failed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from nst_exp.errors import InputError
from nst_exp.files import write_atomically
from nst_exp.records.folder import RunFolder
from nst_exp.report.axes import Layout, label, lay_out
from nst_exp.report.page import render_page
from nst_exp.report.pictures import input_addresses, read_gallery
from nst_exp.report.plots import convergence_plot, has_curves, pareto_sheet, png
from nst_exp.report.points import Sweep, read_sweep, select
from nst_exp.report.sheet import draw_sheet
from nst_exp.report.table import csv_of, print_table

__all__ = ["PAGE", "Layout", "Report", "Sweep", "lay_out", "print_table", "read_sweep", "select", "write_report"]

PAGE = "report.html"
SHEET = "contact_sheet.png"
PARETO = "pareto.png"
CONVERGENCE = "convergence.png"
TABLE = "table.csv"
FILES = (PAGE, SHEET, PARETO, CONVERGENCE, TABLE)
_MARKS = ('<meta name="generator" content="nst_exp">', '<header class="head">')  # of a page; the latter of older ones


@dataclass(frozen=True)
class Report:
    """What was written of a sweep.

    Attributes:
        files: all of them; the page is `page`.
        page: the page.
        bests: the run with the best score of each case, by the title of the case: "" if there is one case.
        counts: how many runs are done, failed and unfinished.
    """

    files: Sequence[Path]
    page: Path | None
    bests: Mapping[str, RunFolder]
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Report:
        """Of what could not be written."""
        return cls((), None, {})


def write_report(folder: Path, into: Path | None = None, *, sweep: Sweep | None = None) -> Report:
    """Write page, contact sheet, plots and table of a sweep, as far as it has come; each file is whole.

    Args:
        folder: of the sweep.
        into: where to write to; the sweep's folder if None. It is made if it is not there.
        sweep: some of the runs, or all in another order: see `select`.

    Raises:
        InputError: if there is no such sweep or `into` cannot be written.
    """
    sweep, into = sweep or read_sweep(folder), into or folder
    layout, gallery, title = lay_out(sweep), read_gallery(sweep), title_of(sweep)
    sheet = io.BytesIO()
    draw_sheet(title, sweep, layout, gallery).save(sheet, "PNG")
    contents = {
        PAGE: render_page(title, sweep, layout, gallery, into).encode("utf-8", "replace"),
        SHEET: sheet.getvalue(),
        PARETO: png(pareto_sheet(sweep, layout, gallery)),
        TABLE: csv_of(sweep, layout).encode("utf-8", "replace"),
    }
    if has_curves(sweep):
        contents[CONVERGENCE] = png(convergence_plot(sweep, layout))
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{str(into)!r} cannot be made: {error.strerror}") from error
    for name, content in contents.items():
        write_atomically(into / name, content)
    bests = {title: point.folder for title, point in sweep.bests.items()}
    return Report([into / name for name in contents], into / PAGE, bests, sweep.counts)


def foreign_files(folder: Path) -> list[str]:
    """Names of files in `folder` that a report would overwrite; none if a report's page is among them."""
    names = [name for name in FILES if (folder / name).exists()]
    try:
        page = (folder / PAGE).read_text("utf-8", "replace")
    except OSError:
        return names
    return [] if any(mark in page for mark in _MARKS) else names


def title_of(sweep: Sweep) -> str:
    """Photographs by paintings, or the folder's name if the runs do not say."""
    inputs = input_addresses(sweep)
    names = [
        ", ".join(label(PurePath(address).stem) for address, name in inputs.items() if name == kind)
        for kind in ("content", "style")
    ]
    return " × ".join(names) if all(names) else sweep.folder.name  # noqa: RUF001
