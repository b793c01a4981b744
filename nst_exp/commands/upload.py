"""Upload finished runs from their folders to MLflow, if it lost them or has never heard of them.

python -m nst_exp.upload outputs/DATE/TIME
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from nst_exp.commands.process import program, run_command
from nst_exp.errors import InputError
from nst_exp.files import home_expanded
from nst_exp.records import tracking
from nst_exp.records.folder import RunFolder, run_folders
from nst_exp.records.sweep import SweepRecord, is_sweep
from nst_exp.sweeps.closing import report_or_warn


def _upload(arguments: argparse.Namespace) -> int:
    folder = home_expanded(arguments.folder).absolute()
    if not folder.is_dir():
        raise InputError(f"{str(arguments.folder)!r}: no such folder")
    if is_sweep(folder.parent):  # a point goes below its sweep
        folder = folder.parent
    alone = RunFolder(folder)
    points = [alone] if alone.finished else [point for point in run_folders(folder) if point.finished]
    if not points:
        raise InputError(f"{str(arguments.folder)!r} holds no finished run: give a run's or a sweep's folder")
    store = _store(points[0], arguments.tracking_uri)
    problems = _upload_sweep(store, folder, points) if is_sweep(folder) else _upload_runs(store, points, None)
    if problems:
        there = f"{len(points) - len(problems)} of {len(points)} finished runs of {folder} are in {store.shown}"
        raise InputError(f"{there}, {len(problems)} not: {problems[0]}; the same command again tries only these")
    print(f"{len(points)} finished runs of {folder} are in {store.shown}")
    return 0


def _store(point: RunFolder, uri: str | None) -> tracking.Store:
    """Return the store with the address `uri` or, if that is None, the one that the run was meant for.

    Raises:
        InputError: if the run was not tracked, or the store's folder does not exist.
    """
    uri = uri or point.record.tracking_uri
    if uri is None:
        raise InputError(f"{str(point.path)!r} was not tracked: give --tracking-uri, such as http://HOST:PORT")
    database = tracking.database_of(uri)
    if database is not None and not database.parent.is_dir():
        raise InputError(
            f"the store {uri} is not there, it may have been moved: give --tracking-uri{_near(point.path)}"
        )
    experiment = point.config.get("tracking", {}).get("experiment", "nst_exp")
    return tracking.Store.at(uri, experiment, "--tracking-uri")


def _near(folder: Path) -> str:
    """Return a hint at the store above a run's folder; empty if there is none."""
    found = (parent / "mlflow.db" for parent in folder.parents if (parent / "mlflow.db").is_file())
    database = next(found, None)
    return f", such as {shlex.quote(tracking.sqlite_uri(database))}" if database else ""


def _upload_runs(store: tracking.Store, points: Sequence[RunFolder], parent: str | None) -> list[str]:
    """Upload each of the runs.

    Args:
        parent: the id of their sweep's parent run in MLflow; None for a single run.

    Returns:
        For each run that is not in the store afterwards, why.
    """
    problems = []
    for point in points:
        try:
            tracking.upload(store, point, parent)
        except InputError as error:
            problems.append(str(error))
    return problems


def _upload_sweep(store: tracking.Store, folder: Path, points: Sequence[RunFolder]) -> list[str]:
    """Upload a sweep: its parent run, the points, and the report.

    Returns:
        As `_upload_runs`; an entry also if only the parent run could not be completed.
    """
    sweep = SweepRecord.read(folder)
    parent = tracking.SweepRun.of_points(store, folder, sweep.overrides, points, sweep.mlflow_run_id)
    if store.uri == points[0].record.tracking_uri:  # the sweep's own store, in which it may be resumed
        dataclasses.replace(sweep, mlflow_run_id=parent.run_id).write(folder)
    try:
        problems = _upload_runs(store, points, parent.run_id)
    except KeyboardInterrupt:
        parent.end(folder, [], {}, "KILLED")
        raise
    report = report_or_warn(folder)
    complete = not problems and len(points) == len(run_folders(folder))
    ended = parent.end(folder, report.files, report.bests, "FINISHED" if complete else "FAILED")
    return problems if ended or problems else ["the sweep's own run could not be completed"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program("upload"), description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of a run or a sweep")
    parser.add_argument("--tracking-uri", help="the store; default: the one that the runs were meant for")
    return parser.parse_args()


def main() -> None:
    """Run the command and exit: 0 all of it is in MLflow, 1 refused or not all, 2 wrong usage."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command(_upload, _arguments)
