"""MLflow: the store, one run in it, a sweep with its points, and how they look in MLflow's pages."""

from __future__ import annotations

from nst_exp.records.tracking.download import download_repeatable, fetch_runs
from nst_exp.records.tracking.run import NullRun, TrackedRun, start_run, track
from nst_exp.records.tracking.store import Store, connect, database_of, existing_store, sqlite_uri
from nst_exp.records.tracking.sweep import SweepRun, mark_stale_runs_killed, sweep_command
from nst_exp.records.tracking.upload import try_upload, upload
from nst_exp.records.tracking.view import how_to_open, point_name

__all__ = [
    "NullRun",
    "Store",
    "SweepRun",
    "TrackedRun",
    "connect",
    "database_of",
    "download_repeatable",
    "existing_store",
    "fetch_runs",
    "how_to_open",
    "mark_stale_runs_killed",
    "point_name",
    "sqlite_uri",
    "start_run",
    "sweep_command",
    "track",
    "try_upload",
    "upload",
]
