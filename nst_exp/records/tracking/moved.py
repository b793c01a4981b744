"""Repairs an sqlite store that was moved or copied together with its artifacts: MLflow stores absolute paths in it."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

_log = logging.getLogger(__name__)


def repair_moved_store(database: Path, artifacts: Path) -> None:
    """Let a store whose folder has moved refer to the artifacts beside it instead of to their former place.

    Only locations of the layout that `Store` makes are changed: a folder `mlartifacts` that is not the one beside the
    database. Artifacts that somebody put elsewhere on purpose stay there.

    Args:
        database: the sqlite file, with MLflow's tables.
        artifacts: the folder of artifacts that belongs to it.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        locations = [row[0] or "" for row in connection.execute("SELECT artifact_location FROM experiments")]
        for location in dict.fromkeys(locations):
            old = _local_path(location)
            if old is not None and old.name == artifacts.name and old.resolve() != artifacts.resolve():
                _point_to(artifacts, location, old, connection)
                _log.warning("the MLflow store was moved: its files now belong into %s, not into %s", artifacts, old)


def _point_to(artifacts: Path, location: str, old: Path, connection: sqlite3.Connection) -> None:
    """Move experiments from `location`, which is the folder `old`; and their runs, except those whose files stayed."""
    update = "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?"
    connection.execute(update, (artifacts.as_uri(), location))
    beginning = f"{location}/"
    rows = connection.execute(
        "SELECT run_uuid, artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(beginning), beginning)
    ).fetchall()
    for run_id, uri in rows:
        inside = unquote(uri.removeprefix(beginning))
        if (artifacts / inside).exists() or not (old / inside).exists():
            moved = f"{artifacts.as_uri()}/{quote(inside)}"
            connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (moved, run_id))


def _local_path(location: str) -> Path | None:
    """Return the folder that an artifact location names; None if it is on a server or in a bucket."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    path = Path(unquote(parts.path)) if parts.scheme else Path(location)
    return path if path.is_absolute() else None
