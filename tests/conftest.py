"""Fixtures that keep the suite fast and small: MLflow's tables made once, memory freed from file to file."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import matplotlib.pyplot as plt
import mlflow.store.db.utils
import psutil
import pytest
import yaml
from cachetools import LRUCache
from sqlalchemy.engine import Engine
from xdist.scheduler import LoadFileScheduling

# Commands that tests start have their output in a buffer, as a user's have where it goes to a pipe or a file.
os.environ.pop("PYTHONUNBUFFERED", None)
# A suite in the background (nohup, &) ignores signals, and so would the commands that its tests interrupt.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
# Most of the suite's time is the compiler's: pictures of 32 px are compiled for seconds and computed in milliseconds.
# So all workers and commands share one folder of compiled code, and the code is not optimised. XLA's older code
# generator takes half the time of its fusion emitters.
_COMPILED = tempfile.TemporaryDirectory() if "PYTEST_XDIST_WORKER" not in os.environ else None
if _COMPILED is not None:
    os.environ["NST_EXP_CACHE"] = _COMPILED.name
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
gc.disable()  # until the tests are collected
jax.config.update("jax_disable_most_optimizations", True)

# OmegaConf parses conf/ for every run, with the parser of PyYAML that is written in Python.
yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[assignment,misc]  # of the same behaviour

from stores import write_tables  # noqa: E402  # it needs NST_EXP_CACHE

_MOST_MEMORY = 1e9  # bytes that a worker may keep from file to file, with its compiled code


@pytest.hookimpl(optionalhook=True)  # -p no:xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """All tests of a file go to one worker: what they share is made once, and its code is compiled once."""
    return LoadFileScheduling(config, log)


def pytest_collection_finish() -> None:
    """Collect garbage again, but pass over what the imports of all test files have made, which stays."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _forget_at_the_end_of_a_file() -> Iterator[None]:
    """Free compiled code, cached pictures and params: without this a worker grows to 4 GB."""
    yield
    plt.close("all")
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "nst_exp":
            for value in vars(module).values():
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
                elif isinstance(value, LRUCache):
                    value.clear()
    gc.collect()
    if psutil.Process().memory_info().rss > _MOST_MEMORY:
        jax.clear_caches()
        gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed unless it is told not to
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(autouse=True, scope="session")
def _tables_made_once() -> Iterator[None]:
    """Give each new SQLite store a copy of the empty tables."""
    make_tables = mlflow.store.db.utils._initialize_tables

    def copy_tables(engine: Engine) -> None:
        database = engine.url.database
        if engine.dialect.name == "sqlite" and database:
            write_tables(Path(database))
        else:
            make_tables(engine)

    with mock.patch.object(mlflow.store.db.utils, "_initialize_tables", copy_tables):
        yield
