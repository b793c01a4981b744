"""The sweep that this process has started: opened before its first point, and known until it is closed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import BaseFileLock
from omegaconf import DictConfig, OmegaConf

from nst_exp.config import TrackingConfig
from nst_exp.errors import InputError
from nst_exp.records import tracking
from nst_exp.records.registry import ResultRegistry
from nst_exp.records.sweep import SweepRecord
from nst_exp.sweeps.folders import claim_sweep_folder, remember_missing
from nst_exp.sweeps.key import sweep_key
from nst_exp.sweeps.search import number_of_points

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ActiveSweep:
    """The sweep that this process has started.

    Attributes:
        folder: where it writes to.
        key: its key in the registry.
        registry: knows the folder of each sweep.
        points: how many points it has; None if only its sweeper knows.
        parent: its parent run in MLflow; None if it is not tracked.
        claim: the lock that keeps other processes from resuming the same sweep; None without a registry, or if another
            process holds it.
        resumable: whether the same command resumes it.
    """

    folder: Path
    key: str
    registry: ResultRegistry
    points: int | None
    parent: tracking.SweepRun | None
    claim: BaseFileLock | None
    resumable: bool


started: list[ActiveSweep] = []  # empty, or with the sweep that this process has started and not closed yet


def open_sweep(config: DictConfig) -> None:
    """Make or resume the sweep's folder, its record and, unless tracking=none, its parent run in MLflow.

    Args:
        config: the composed configuration; its `hydra.sweep.dir` is set to the sweep's folder.

    Raises:
        InputError: if the MLflow store cannot be used, or the folder holds files that no sweep has written.
    """
    overrides = list(config.hydra.overrides.task)
    store, client = _connect(config)  # before anything is written: without its store the sweep is refused
    registry, key = ResultRegistry.at(OmegaConf.select(config, "registry")), sweep_key(config, overrides)
    remember_missing(registry.folder)
    claim = registry.claim(key)
    resumable = claim is not None and not config.force and _enumerates(config) and config.source != "camera"
    folder = claim_sweep_folder(config, registry.sweep(key) if resumable else None)
    parent = None
    if client is not None:
        parent = tracking.SweepRun.start(client, store, folder, overrides, _earlier_parent(folder))
    SweepRecord(key, overrides, parent.run_id if parent else None).write(folder)
    registry.add_sweep(key, folder)
    started.append(ActiveSweep(folder, key, registry, number_of_points(config), parent, claim, resumable))


def _connect(config: DictConfig) -> tuple[tracking.Store, MlflowClient | None]:
    """Return the store and a client for it; None as the client with tracking=none."""
    checked = OmegaConf.to_object(config.tracking)
    assert isinstance(checked, TrackingConfig)
    store = tracking.Store.of(checked)
    if not store.tracks:
        return store, None
    client = tracking.connect(store)
    tracking.mark_stale_runs_killed(client, store)
    return store, client


def _earlier_parent(folder: Path) -> str | None:
    """Return the id of the parent run that the folder's record names; a new sweep has no complete record yet."""
    with contextlib.suppress(InputError):
        return SweepRecord.read(folder).mlflow_run_id
    return None


def _enumerates(config: DictConfig) -> bool:
    """Return whether the same command means the same points under the same numbers."""
    return str(config.hydra.sweeper._target_).endswith(".BasicSweeper")
