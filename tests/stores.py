"""New SQLite stores for MLflow with a copy of its empty tables, which its migrations take seconds to make."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import mlflow.store.db.utils
from filelock import FileLock
from sqlalchemy import create_engine

_EMPTY = Path(os.environ["NST_EXP_CACHE"]) / "empty.db"  # shared by all workers
_make_tables = mlflow.store.db.utils._initialize_tables  # conftest replaces it


def write_tables(database: Path) -> None:
    """Write the empty tables to `database`, whose folder is made if need be."""
    with FileLock(_EMPTY.with_suffix(".lock")):
        if not _EMPTY.exists():
            unfinished = _EMPTY.with_suffix(".tmp")
            engine = create_engine(f"sqlite:///{unfinished}")
            _make_tables(engine)
            engine.dispose()
            unfinished.rename(_EMPTY)
    database.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(_EMPTY)) as empty, contextlib.closing(sqlite3.connect(database)) as new:
        empty.backup(new)
