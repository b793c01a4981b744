"""Compare the runs of a sweep: a table here, and a page with pictures, plots and every command.

    python -m nst_exp.compare                                 # the latest sweep below ./outputs
    python -m nst_exp.compare outputs/DATE/TIME               # a sweep's folder, also while it runs
    python -m nst_exp.compare RUN_ID                          # a sweep's parent run in MLflow
    python -m nst_exp.compare EXPERIMENT                      # all runs of an MLflow experiment
    python -m nst_exp.compare --filter "content_weight == 4 and lpips < 0.3" --sort style_distance,-ssim

Filters and sort keys are the names of settings, measures and costs. A filter compares them with numbers and with
texts in quotes (== != < <= > >= in) and joins conditions by and, or, not and parentheses; any other word is searched
for in a run's command and settings. The filter of the page has the same language.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from nst_exp.commands.process import program, run_command
from nst_exp.errors import InputError
from nst_exp.files import home_expanded
from nst_exp.records.folder import RunFolder, run_folders
from nst_exp.records.sweep import SWEEP_RECORD, is_sweep

_OUTPUTS = Path("outputs")
_DOWNLOADS = "compare"  # below outputs: runs that were fetched from MLflow
_SELECTION = "selection"  # below a sweep's folder: the report of some of its runs
_WIDE = 1000  # letters in a line of a table that goes to a file


def _compare(arguments: argparse.Namespace) -> int:
    folder = _folder(arguments)
    from nst_exp import report
    from nst_exp.console import OutputConsole

    sweep = report.select(report.read_sweep(folder), arguments.filter, arguments.sort)
    if not sweep.points:
        what = f"no run meets --filter={arguments.filter!r}" if arguments.filter else "no run has begun yet"
        raise InputError(f"{str(folder)!r}: {what}")
    is_all = not arguments.filter and not arguments.sort
    into = arguments.output or (folder if is_all else folder / _SELECTION)
    foreign = [] if is_sweep(into) else report.foreign_files(into)
    if foreign:
        raise InputError(
            f"{str(into)!r} holds {', '.join(foreign)}, which no report has written: give another --output"
        )
    written = report.write_report(folder, into, sweep=sweep)
    width = None if sys.stdout.isatty() else _WIDE
    report.print_table(sweep, report.lay_out(sweep), OutputConsole(highlight=False, width=width))
    counts = ", ".join(f"{count} {status}" for status, count in written.counts.items() if count)
    print(f"\n{counts}; side by side: {shlex.quote(str(written.page))}")
    if arguments.open and written.page:
        webbrowser.open(written.page.absolute().as_uri())
    return 0


# --- the folder to compare -------------------------------------------------------------------------------------


def _folder(arguments: argparse.Namespace) -> Path:
    """Return the folder with the runs: the one that is named, the latest, or one to which MLflow's runs are fetched.

    Raises:
        InputError: if there are no such runs.
    """
    if arguments.what is None:
        return _latest()
    folder = home_expanded(arguments.what)
    if folder.is_dir():
        return _checked(folder)
    from nst_exp.records import tracking

    try:
        store = tracking.existing_store(arguments.tracking_uri)
    except InputError as error:
        raise InputError(f"{arguments.what!r} is no folder, and {error}") from error
    return tracking.fetch_runs(store, arguments.what, _OUTPUTS / _DOWNLOADS)


def _latest() -> Path:
    """Return the folder of the sweep that began last, or was resumed last, below ./outputs."""
    sweeps = list(_sweeps(_OUTPUTS))
    if not sweeps:
        raise InputError(f"no sweep below {str(_OUTPUTS.absolute())!r}: give a sweep's folder or an MLflow run id")
    return max(sweeps, key=lambda folder: (folder / SWEEP_RECORD).stat().st_mtime)


def _sweeps(outputs: Path) -> Iterator[Path]:
    """Yield the folders of sweeps below `outputs`, without those of downloads."""
    for folder, inner, files in os.walk(outputs):
        if SWEEP_RECORD in files:
            yield Path(folder)
            inner.clear()  # the folders of runs need not be walked through
        elif Path(folder) == outputs:
            inner[:] = [name for name in inner if name not in (_DOWNLOADS, "mlartifacts")]


def _checked(folder: Path) -> Path:
    """Return `folder` if it is a sweep's.

    Raises:
        InputError: if it is not.
    """
    if RunFolder(folder).finished:
        raise InputError(f"{str(folder)!r} is a single run: give the folder of a sweep")
    if not is_sweep(folder) and not run_folders(folder):
        raise InputError(f"{str(folder)!r} holds no sweep: neither {SWEEP_RECORD} nor numbered folders of runs")
    return folder


# --- command line ------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"nst_exp: {message}; see {self.prog} --help\n")


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; it exits on wrong usage."""
    parser = _Parser(
        prog=program("compare"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", metavar="WHAT", help="default: the latest sweep below ./outputs")
    parser.add_argument(
        "--filter", default="", metavar="EXPR", help="which runs: comparisons with and, or, not; or words to look for"
    )
    parser.add_argument(
        "--sort", default="", metavar="KEY,-KEY", help="by settings, measures or costs; - for descending"
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, else outputs/mlflow.db")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"default: the sweep's folder, or its folder {_SELECTION}/ with --filter or --sort",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    # argparse takes -KEY for an option, unless it is one word with --sort
    glued = re.sub(r"(^|\0)--sort\0(?=-)", r"\1--sort=", "\0".join(arguments)).split("\0") if arguments else []
    found = parser.parse_args(glued)
    found.sort = [key for key in found.sort.split(",") if key]
    return found


def main() -> None:
    """Run the command and exit: 0 done, 1 refused, 2 wrong usage."""
    run_command(_compare, lambda: _arguments(sys.argv[1:]))
