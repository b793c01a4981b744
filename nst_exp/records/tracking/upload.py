"""Uploads finished runs from their folders, if MLflow lost them or has never heard of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from nst_exp.errors import InputError
from nst_exp.records.folder import RunFolder, Tracked
from nst_exp.records.tracking.run import track, upload_hint
from nst_exp.records.tracking.search import PARENT, find_run, runs_of
from nst_exp.records.tracking.store import Store, as_input_error, connect, fit_tag

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_log = logging.getLogger(__name__)


def upload(store: Store, folder: RunFolder, parent: str | None = None) -> None:
    """Upload the finished run in `folder` to `store`, unless the store has all of it.

    The store is asked, not the folder: the database may have been deleted, and runs deleted in the UI. A run that
    was deleted there is restored. A run whose files are lost is deleted and logged again.

    Args:
        parent: the run id of the sweep that the run is a point of; a run that is in the store already is put below it.

    Raises:
        InputError: if the store cannot be reached, or does not have all of the run afterwards.

    Example:
        >>> store = Store.at("sqlite:////data/mlflow.db", "nst_exp")
        >>> upload(store, RunFolder(Path("outputs/2026-01-31/12-00-00")))  # doctest: +SKIP
    """
    client = connect(store)
    with as_input_error(store):
        complete = _complete_run(client, store, folder, parent)
        if complete is not None:
            client.set_tag(complete, "folder", fit_tag(str(folder.path)))
            if parent is not None:
                client.set_tag(complete, PARENT, parent)
            folder.mark_tracked(Tracked(store.uri, complete))
            return
    stale = folder.tracked
    with track(store, folder, parent) as tracked:
        tracked.log_params(folder.record.params)
        tracked.log_trace(folder.trace)
        for step, path in folder.progress:
            with Image.open(path) as picture:
                tracked.log_picture(np.asarray(picture), step)
        tracked.log_result(folder)
    if folder.tracked in (None, stale):
        raise InputError(f"{str(folder.path)!r} could not be uploaded completely: tracking was lost on the way")


def try_upload(store: Store, folder: RunFolder, parent: str | None = None) -> None:
    """As `upload`, but a store that cannot be reached only causes a warning: the run itself is finished."""
    try:
        upload(store, folder, parent)
    except InputError as error:
        _log.warning("%s; %s", error, upload_hint(folder.path))


def _complete_run(client: MlflowClient, store: Store, folder: RunFolder, parent: str | None) -> str | None:
    """Return the id of the store's finished run that holds all of `folder`, restored if it was deleted; else None."""
    noted = _noted_run(client, store, folder)
    found = [noted] if noted is not None else []
    for run in found + runs_of(client, store, folder, parent):
        if run.info.status != "FINISHED":
            continue
        run_id = run.info.run_id
        if run.info.lifecycle_stage == "deleted":
            client.restore_run(run_id)
        if _has_files(client, run_id, folder):
            return run_id
        client.delete_run(run_id)
    return None


def _noted_run(client: MlflowClient, store: Store, folder: RunFolder) -> Run | None:
    """Return the run that mlflow.json names, deleted or not; None if this store's experiment has no such run.

    Ids are unique, so the id tells more than the store's address, which changes when the store is moved.
    """
    return None if folder.tracked is None else find_run(client, store, folder.tracked.run_id)


def _has_files(client: MlflowClient, run_id: str, folder: RunFolder) -> bool:
    """Return whether MLflow has the run's files, as far as one request tells."""
    there = {file.path for file in client.list_artifacts(run_id)}
    return there >= {path.relative_to(folder.path).parts[0] for path in folder.artifacts}
