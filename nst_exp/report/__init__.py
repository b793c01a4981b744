"""Reports on sweeps: a page, a contact sheet, plots and a table, made from the folders of the runs.

A report can be written at any time: also while the sweep is running, and with runs that failed.
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
# Text that identifies a report's page; older pages have only the latter.
_MARKS = ('<meta name="generator" content="nst_exp">', '<header class="head">')


@dataclass(frozen=True)
class Report:
    """The files of a report that was written, and a summary of the sweep.

    Attributes:
        files: all files that were written, the page among them.
        page: the page; None if no report could be written.
        bests: the run with the best score of each case, by the title of the case, which is empty if there is one case.
        counts: the number of runs that are done, failed and unfinished, by status.
    """

    files: Sequence[Path]
    page: Path | None
    bests: Mapping[str, RunFolder]
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Report:
        """Return the report that stands for one that could not be written."""
        return cls((), None, {})


def write_report(folder: Path, into: Path | None = None, *, sweep: Sweep | None = None) -> Report:
    """Write the page, contact sheet, plots and table of a sweep, with all its runs so far.

    Files are replaced atomically, so that a reader never sees half a file.

    Args:
        folder: the folder of the sweep.
        into: the folder to write to, which is created if necessary; the sweep's folder if None.
        sweep: the runs to report on, if not all of them or in another order; see `select`.

    Returns:
        The files that were written, and the best runs.

    Raises:
        InputError: if `folder` does not exist, or `into` cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from nst_exp.report import write_report
        >>> Path("multirun").mkdir()  # a sweep whose first run has not begun yet
        >>> report = write_report(Path("multirun"))
        >>> [file.name for file in report.files]
        ['report.html', 'contact_sheet.png', 'pareto.png', 'table.csv']
        >>> report.counts
        {'done': 0, 'failed': 0, 'unfinished': 0}
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
    """Return the names of files in `folder` that a report would overwrite although no report has written them.

    If the page among them is a report's, all files are taken to be of that report, and no names are returned.
    """
    names = [name for name in FILES if (folder / name).exists()]
    try:
        page = (folder / PAGE).read_text("utf-8", "replace")
    except OSError:
        return names
    return [] if any(mark in page for mark in _MARKS) else names


def title_of(sweep: Sweep) -> str:
    """Return the title of a report: photographs × paintings, or the folder's name if the runs do not name both."""  # noqa: RUF002
    inputs = input_addresses(sweep)
    names = [
        ", ".join(label(PurePath(address).stem) for address, name in inputs.items() if name == kind)
        for kind in ("content", "style")
    ]
    return " × ".join(names) if all(names) else sweep.folder.name  # noqa: RUF001
