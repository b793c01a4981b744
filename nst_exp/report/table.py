"""Tables of a sweep: for the terminal, and as CSV for spreadsheets."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nst_exp.report.axes import Layout
from nst_exp.report.cases import SCORE
from nst_exp.report.points import COSTS, DONE, Sweep, label_of, table

_PADDING = 2  # letters between columns


def print_table(sweep: Sweep, layout: Layout, console: Console) -> None:
    """Print the runs in the order of the layout, with as many columns as fit the terminal.

    The errors of failed runs and the meaning of the marks follow below the table.

    Args:
        sweep: the runs.
        layout: their order, and the settings that vary.
        console: where to print.
    """
    rows = _rows(sweep, layout)
    shown = Table(box=None, pad_edge=False, padding=(0, _PADDING, 0, 0), header_style="bold")
    names = _fitting(rows, console.width)
    texts = {"", "status", *(axis.name for axis in layout.axes)}
    for name in names:
        shown.add_column(name, justify="left" if name in texts else "right", no_wrap=True)
    for row in rows:
        style = "bold green" if "best" in row[""] else "dim" if row.get("status", DONE) != DONE else None
        shown.add_row(*(escape(row[name]) for name in names), style=style)
    console.print(shown)
    for point in sweep.points:
        if point.error:
            console.print(f"run {point.number} failed: {point.error}", style="red", markup=False, soft_wrap=True)
    if sweep.ranking_note:
        console.print(sweep.ranking_note, style="dim", markup=False, soft_wrap=True)


def csv_of(sweep: Sweep, layout: Layout) -> str:
    """Return CSV with a row for each run in the order of the layout: varied settings, measures, costs and command."""
    frame = table(sweep)
    varies = [axis.name for axis in layout.axes]
    columns = ["run", "status", "case", *varies, *sweep.numbers, "best", "on_front", "error", "folder"]
    frame = frame[[name for name in dict.fromkeys(columns) if name in frame]]
    commands = pd.Series([point.command for point in sweep.points], dtype=object, index=frame.index)
    order = {point.number: place for place, point in enumerate(layout.points)}
    frame = frame.assign(command=commands).sort_values("run", key=lambda runs: runs.map(order))
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _rows(sweep: Sweep, layout: Layout) -> list[dict[str, str]]:
    """Return the texts of each row by the names of the columns, the most important columns first."""
    is_mixed = any(point.status != DONE for point in sweep.points)
    costs = [name for name in sweep.numbers if name in COSTS]
    names = [name for name in sweep.numbers if name not in COSTS]
    names.sort(key=lambda name: name not in (SCORE, *sweep.goals))  # these first; the order of the others stays
    rows = []
    for point in layout.points:
        marks = ["best"] * (point.number in sweep.starred) + ["front"] * (point.number in sweep.marked_front)
        row = {"run": str(point.number), "": " ".join(marks)} | layout.swept(point)
        row |= {"status": point.status} if is_mixed else {}
        rows.append(row | {label_of(name): _number(point.numbers.get(name)) for name in (*names, *costs)})
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def _fitting(rows: Sequence[dict[str, str]], width: int) -> list[str]:
    """Return the leading columns that fit into `width` letters."""
    fitting: list[str] = []
    used = 0
    for name in rows[0] if rows else ():
        needed = max(len(name), *(len(row[name]) for row in rows)) + _PADDING
        used += needed
        if used > width:
            break
        fitting.append(name)
    return fitting
