"""Finds runs in an MLflow store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nst_exp.records.folder import RunFolder
from nst_exp.records.tracking.store import Store, experiment_id, fit_tag

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"  # MLflow's tag of a run below another one
_PAGE = 1000  # runs in an answer of the store


def search_all(client: MlflowClient, experiment: str, condition: str = "") -> list[Run]:
    """Return all active runs of an experiment that meet a condition, the oldest first.

    `mlflow.search_runs` would do the same, but for the store of the whole process, which it keeps in an environment
    variable; here each client has its own store.

    Args:
        experiment: the experiment's id.
        condition: in MLflow's language of filters; empty for all runs.
    """
    from mlflow.entities import ViewType
    from mlflow.utils import get_results_from_paginated_fn

    order = ["attributes.start_time"]
    found: list[Run] = get_results_from_paginated_fn(
        lambda size, token: client.search_runs([experiment], condition, ViewType.ACTIVE_ONLY, size, order, token), _PAGE
    )
    return found


def find_run(client: MlflowClient, store: Store, run_id: str) -> Run | None:
    """Return the run with this id, deleted or not; None if the store's experiment has none."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.experiment_id == experiment_id(client, store) else None


def runs_of(client: MlflowClient, store: Store, folder: RunFolder, parent: str | None) -> list[Run]:
    """Return the active runs in MLflow of the run in `folder`, finished or not.

    Args:
        parent: the id of the sweep's parent run, whose points are recognised also after their folders were moved.
    """
    found = client.search_runs([experiment_id(client, store)], f"tags.identity = '{folder.record.identity}'")
    return [run for run in found if _is_of(run.data.tags, folder.path, parent)]


def _is_of(tags: Mapping[str, str], path: Path, parent: str | None) -> bool:
    """Return whether a run with these tags is that of the folder `path`, which may have been moved with its sweep."""
    noted = tags.get("folder", "")
    return noted == fit_tag(str(path)) or (
        parent is not None and tags.get(PARENT) == parent and Path(noted).name == path.name
    )
