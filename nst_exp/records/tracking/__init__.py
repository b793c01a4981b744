"""MLflow: the store, one run in it, a sweep with its points, and how they look in MLflow's pages."""

from __future__ import annotations

from nst_exp.records.tracking.run import NullRun, TrackedRun, start_run, track, try_upload, upload
from nst_exp.records.tracking.store import Store, connect, database_of, existing_store, sqlite_uri
from nst_exp.records.tracking.sweep import (
    delete_sweep,
    end_sweep,
    end_the_dead,
    known_parent,
    start_sweep,
    sweep_command,
)
from nst_exp.records.tracking.view import how_to_open, point_name

__all__ = [
    "NullRun",
    "Store",
    "TrackedRun",
    "connect",
    "database_of",
    "delete_sweep",
    "end_sweep",
    "end_the_dead",
    "existing_store",
    "how_to_open",
    "known_parent",
    "point_name",
    "sqlite_uri",
    "start_run",
    "start_sweep",
    "sweep_command",
    "track",
    "try_upload",
    "upload",
]
