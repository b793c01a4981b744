"""The end of a sweep: its report, the end of its parent run in MLflow, and the summary that is printed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nst_exp.errors import InputError
from nst_exp.files import remove_folders
from nst_exp.records.folder import run_folders
from nst_exp.records.sweep import SweepRecord
from nst_exp.runs.progress import phase
from nst_exp.sweeps.active import ActiveSweep, started
from nst_exp.sweeps.folders import SEARCH_RESULTS, discard_sweep_files, remove_made_folders

if TYPE_CHECKING:
    from nst_exp.report import Report

_log = logging.getLogger(__name__)


def close_sweep(status: str) -> bool:
    """End the sweep that this process has started, if any: write and log its report, and print a summary.

    Hydra skips `on_multirun_end` when a point failed, so the command calls this. A signal may interrupt the call; the
    next call then closes the sweep.

    Args:
        status: FINISHED, FAILED or KILLED, as far as the caller knows.

    Returns:
        Whether points failed; their errors have been printed then.
    """
    if not started:
        return False
    sweep = started[-1]
    if not any(point.began for point in run_folders(sweep.folder)):
        failures = _failures(sweep.folder)
        _discard(sweep)
        started.clear()
        return _print_failures(failures)
    report = report_or_warn(sweep.folder)
    if sweep.parent is not None:
        sweep.parent.end(sweep.folder, [*report.files, *sweep.folder.glob(SEARCH_RESULTS)], report.bests, status)
    if sweep.claim is not None:
        sweep.claim.release()
    started.clear()
    return _print_summary(sweep)  # last: the output may be closed


def report_or_warn(folder: Path) -> Report:
    """Write the report of the sweep in `folder`; if that fails, log a warning and return an empty report.

    A report that cannot be written does not change how a sweep ends.
    """
    from nst_exp import report

    phase("writing the report")
    try:
        return report.write_report(folder)
    except InputError as error:
        _log.warning("no report: %s", error)
        return report.Report.empty()


def _discard(sweep: ActiveSweep) -> None:
    """Remove all traces of a sweep in which no point has begun: it was refused, or interrupted before its first run."""
    if sweep.parent is not None:
        sweep.parent.delete()
    for point in run_folders(sweep.folder):
        point.discard_unbegun()
        remove_folders([point.path])
    discard_sweep_files(sweep.folder)
    if sweep.claim is not None:
        sweep.claim.release()
    sweep.registry.remove_sweep(sweep.key)
    remove_made_folders()


def _print_summary(sweep: ActiveSweep) -> bool:
    """Print how many points are done, how to resume and, on stderr, what failed and why.

    Returns:
        Whether points failed.
    """
    points, failures = run_folders(sweep.folder), _failures(sweep.folder)
    done, total = sum(point.finished for point in points), max(sweep.points or 0, len(points))
    print(f"{done} of {total} points done, side by side: {sweep.folder / 'report.html'}")
    if sweep.resumable and done + len(failures) < total:
        print("The same command resumes the sweep; points that are done are not done again.")
    return _print_failures(failures)


def _failures(folder: Path) -> list[str]:
    """Return a line for each point that failed: its number, its settings, and why."""
    record = SweepRecord.read(folder)
    return [
        f"point {point.path.name} ({' '.join(record.swept(point.overrides))}) failed: {point.failure['error']}"
        for point in run_folders(folder)
        if point.failure
    ]


def _print_failures(failures: Sequence[str]) -> bool:
    """Print failures on stderr, a line each, and return whether there are any."""
    for failure in failures:
        print(f"nst_exp: {failure}", file=sys.stderr)
    return bool(failures)
