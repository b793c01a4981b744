"""Bring finished runs into MLflow that it lost, or never heard of, from their folders.

python -m nst_exp.upload outputs/DATE/TIME
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from nst_exp import tracking
from nst_exp.command import run_command
from nst_exp.errors import InputError
from nst_exp.results import RunFolder, run_folders
from nst_exp.sweep import Sweep, is_sweep, written_report


def _upload(arguments: argparse.Namespace) -> int:
    folder = arguments.folder.expanduser().absolute()
    if not folder.is_dir():
        raise InputError(f"{str(arguments.folder)!r}: no such folder")
    if is_sweep(folder.parent):  # a point goes below its sweep
        folder = folder.parent
    alone = RunFolder(folder)
    points = [alone] if alone.finished else [point for point in run_folders(folder) if point.finished]
    if not points:
        raise InputError(f"{str(arguments.folder)!r} holds no finished run: give a run's or a sweep's folder")
    store = _store(points[0], arguments.tracking_uri)
    if points == [alone]:
        tracking.upload(store, alone)
    else:
        _upload_sweep(store, folder, points)
    print(f"{len(points)} finished runs of {folder} are in {store.uri}")
    return 0


def _store(point: RunFolder, uri: str | None) -> tracking.Store:
    """The store named, else the one that the run was meant for."""
    uri = uri or point.record.tracking_uri
    if uri is None:
        raise InputError(f"{str(point.path)!r} was not tracked: give --tracking-uri, such as http://HOST:PORT")
    return tracking.Store.at(uri, point.config["tracking"]["experiment"])


def _upload_sweep(store: tracking.Store, folder: Path, points: list[RunFolder]) -> None:
    sweep, client = Sweep.in_folder(folder), tracking.connect(store)
    parent = tracking.start_sweep(client, store, folder, sweep.overrides, sweep.mlflow_run_id)
    for point in points:
        tracking.upload(store, point, parent)
    report = written_report(folder)
    complete = len(points) == len(run_folders(folder))
    tracking.end_sweep(client, parent, folder, report.files, report.best, "FINISHED" if complete else "FAILED")


def main() -> None:
    """Run the command and exit: 0 done, 1 refused, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m nst_exp.upload", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of a run or a sweep")
    parser.add_argument("--tracking-uri", help="the store; default: the one that the runs were meant for")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command(_upload, parser.parse_args())


if __name__ == "__main__":
    main()
