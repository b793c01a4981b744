"""A sweep in MLflow: a parent run whose children are the sweep's points.

Hydra calls `ParentRun` in the process that was started. Points may run in others, so the parent's id lies in
the sweep's folder for them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nst_exp.errors import InputError
from nst_exp.files import write_json

_FILE = "sweep.json"
_open_runs: list[tuple[Any, str]] = []  # (MLflow client, run id): none, or this process's sweep


class ParentRun(Callback):
    """Opens the parent run before a sweep's first point.

    Hydra skips `on_multirun_end` when a point failed, so whoever started the sweep ends it: `close_sweep`.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the sweep's folder and, unless tracking=none, its run."""
        folder = Path(config.hydra.sweep.dir)
        try:
            OmegaConf.to_object(config.tracking)  # checks it
            folder.mkdir(parents=True, exist_ok=True)
            self._open(config, folder)
        except (InputError, OSError) as error:
            # a plain exception would only become one of Hydra's warnings, and every point would fail alone
            sys.exit(f"nst_exp: {error}")

    def _open(self, config: DictConfig, folder: Path) -> None:
        from nst_exp import tracking

        store = tracking.Store.of(
            config.tracking.backend,
            folder=config.tracking.store,
            uri=config.tracking.uri,
            experiment=config.tracking.experiment,
        )
        if store.backend == "none":
            return
        client = tracking.connect(store)
        overrides = " ".join(config.hydra.overrides.task)
        run_id = tracking.start_run(client, store, f"sweep {overrides}", {"overrides": overrides}, parent=None)
        write_json(folder / _FILE, {"mlflow_run_id": run_id})
        _open_runs.append((client, run_id))


def parent_run_id(sweep_folder: Path) -> str | None:
    """The MLflow run of the sweep in `sweep_folder`; None if it is not tracked."""
    path = sweep_folder / _FILE
    return str(json.loads(path.read_text())["mlflow_run_id"]) if path.exists() else None


def close_sweep(status: str) -> None:
    """End the parent run, if this process opened one: FINISHED, FAILED (a point did) or KILLED."""
    while _open_runs:
        client, run_id = _open_runs.pop()
        client.set_terminated(run_id, status)
