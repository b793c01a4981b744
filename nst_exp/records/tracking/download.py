"""Downloads runs from MLflow into folders of the form that runs and sweeps write themselves."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from nst_exp.errors import InputError
from nst_exp.files import read_json, write_atomically
from nst_exp.records.folder import CONFIG, PICTURE, RESULT, TRACE, Record, RunFolder, Tracked
from nst_exp.records.sweep import SWEEP_RECORD, SweepRecord
from nst_exp.records.tracking.search import PARENT, search_all
from nst_exp.records.tracking.store import Store, connect
from nst_exp.records.tracking.sweep import sweep_command

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_HYDRA = ".hydra"
_OVERRIDES = f"{_HYDRA}/overrides.yaml"
_COMPARED = (CONFIG, RESULT, TRACE, PICTURE, "record.json", "failure.json", _OVERRIDES)  # files that a report needs


@contextlib.contextmanager
def _failure_as_input_error(what: str) -> Iterator[None]:
    """Report, in one line that begins with `what`, that MLflow does not deliver something."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (OSError, MlflowException) as error:
        raise InputError(f"{what}: {' '.join(str(error).split())}") from error


# --- sweeps and experiments, to compare ------------------------------------------------------------------------


def fetch_runs(store: Store, name: str, downloads: Path) -> Path:
    """Fetch the runs of a sweep or of an experiment into a folder of their own.

    Args:
        name: the id of a sweep's parent run or of one of its points, or the name of an experiment.
        downloads: the folder below which a folder for the runs is made; runs that are there already are kept.

    Returns:
        The folder with the runs in numbered folders; the sweep's own one if it is on this machine.

    Raises:
        InputError: if the store cannot be reached or has neither, the run is no part of a sweep, or the experiment is
            empty.

    Example:
        >>> fetch_runs(existing_store(None), "paintings", Path("outputs/compare"))  # doctest: +SKIP
        PosixPath('outputs/compare/paintings')
    """
    client = connect(store)
    with _failure_as_input_error(name):
        parent = _find_sweep(client, name)
        if parent is None:
            folder = downloads / re.sub(r"[^\w.-]", "_", name)
            _download_all(client, store, _experiment_runs(client, store, name), folder)
            return folder
        sweep_id = parent.info.run_id
        local = Path(parent.data.tags.get("folder", ""))
        if read_json(local / SWEEP_RECORD).get("mlflow_run_id") == sweep_id:
            return local
        folder = downloads / sweep_id
        _download_all(client, store, _points(client, parent), folder)
        SweepRecord("", sweep_command(client, parent), sweep_id).write(folder)
    return folder


def _find_sweep(client: MlflowClient, run_id: str) -> Run | None:
    """Return the parent run of the sweep with this id, or with a point of this id; None if there is no such run.

    Raises:
        InputError: if the run is no part of a sweep.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    if PARENT in run.data.tags:
        return client.get_run(run.data.tags[PARENT])
    if not _points(client, run):
        raise InputError(f"run {run_id} is no sweep: it has no runs below it")
    return run


def _points(client: MlflowClient, parent: Run) -> list[Run]:
    return search_all(client, parent.info.experiment_id, f"tags.`{PARENT}` = '{parent.info.run_id}'")


def _experiment_runs(client: MlflowClient, store: Store, name: str) -> list[Run]:
    """Return all runs of an experiment except the parent runs of sweeps.

    Raises:
        InputError: if there is no such experiment, or it has no runs.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        names = ", ".join(other.name for other in client.search_experiments())
        raise InputError(f"{name!r} is no folder, and no run or experiment in {store.uri}; experiments there: {names}")
    runs = search_all(client, experiment.experiment_id)
    parents = {run.data.tags.get(PARENT) for run in runs}
    alone = [run for run in runs if run.data.params and run.info.run_id not in parents]
    if not alone:
        raise InputError(f"experiment {name!r} in {store.uri} has no runs")
    return alone


def _download_all(client: MlflowClient, store: Store, runs: Sequence[Run], folder: Path) -> None:
    """Download what a report needs of each run into a numbered folder; finished runs that are there are kept."""
    for number, run in zip(_numbers(runs), runs, strict=True):
        run_folder, tracked = RunFolder(folder / str(number)), Tracked(store.uri, run.info.run_id)
        if run_folder.finished and run_folder.tracked == tracked:
            continue
        run_folder.path.mkdir(parents=True, exist_ok=True)
        _begin(run_folder, run, store)
        _download_compared(client, run.info.run_id, run_folder)
        if run.info.status == "FINISHED":
            run_folder.mark_tracked(tracked)


def _numbers(runs: Sequence[Run]) -> list[int]:
    """Return the runs' numbers in their sweep, from a tag or, for older runs, from their names; else count them."""
    noted = [run.data.tags.get("point") or (run.info.run_name or "").partition(":")[0] for run in runs]
    numbers = [int(number) for number in noted if number.isdecimal()]
    return numbers if len(numbers) == len(set(numbers)) == len(runs) else list(range(len(runs)))


def _begin(folder: RunFolder, run: Run, store: Store) -> None:
    """Write what MLflow itself knows about a run, finished or not; files that it has replace this later."""
    overrides = shlex.split(run.data.tags.get("overrides", ""))
    identity, name = run.data.tags.get("identity", ""), run.info.run_name or ""
    folder.begin({}, Record(identity, name, overrides, run.data.params, run.data.tags, store.uri))
    (folder.path / _HYDRA).mkdir(exist_ok=True)
    write_atomically(folder.path / _OVERRIDES, yaml.safe_dump(overrides).encode())
    if run.info.status in ("FAILED", "KILLED"):
        folder.fail(f"MLflow says {run.info.status}", overrides)


def _download_compared(client: MlflowClient, run_id: str, folder: RunFolder) -> None:
    """Download the files that a report needs, as far as the run has them."""
    there = {file.path for inside in (None, _HYDRA) for file in client.list_artifacts(run_id, inside)}
    for file in _COMPARED:
        if file in there:
            client.download_artifacts(run_id, file, str(folder.path))
    result = folder.result_so_far
    if result is not None and result.video in there:
        client.download_artifacts(run_id, result.video, str(folder.path))


# --- one run, to reproduce -------------------------------------------------------------------------------------


def download_repeatable(store: Store, run_id: str, folder: Path) -> str:
    """Download the files of a finished run of a picture or video, which can be repeated.

    Args:
        folder: exists and is empty; gets the files at the top of the run's artifacts.

    Returns:
        The run's name in MLflow.

    Raises:
        InputError: if the store cannot be reached, has no finished run of this id or not all of its files, or the run
            is a sweep or of a camera.
    """
    client = connect(store)
    with _failure_as_input_error(f"run {run_id}"):
        run = client.get_run(run_id)
        files = [file.path for file in client.list_artifacts(run_id) if not file.is_dir]
        _check_repeatable(client, run, files)
        for file in files:
            client.download_artifacts(run_id, file, str(folder))
    return str(run.info.run_name)


def _check_repeatable(client: MlflowClient, run: Run, files: Sequence[str]) -> None:
    """Check that this is a finished run of a picture or video, with its settings, result and picture.

    Raises:
        InputError: if it is not.
    """
    run_id, status = run.info.run_id, run.info.status
    points = client.search_runs([run.info.experiment_id], f"tags.`{PARENT}` = '{run_id}'", max_results=3)
    if points:
        ids = ", ".join(point.info.run_id for point in points)
        raise InputError(f"run {run_id} is a sweep, not a picture: give the id of one of its points, such as {ids}")
    if status != "FINISHED":
        raise InputError(f"run {run_id} is {status}, not FINISHED: it has no result to compare with")
    if run.data.params.get("source") == "camera":
        raise InputError(f"run {run_id} is from a camera, whose input cannot be replayed, so it cannot be reproduced")
    missing = {CONFIG, RESULT, PICTURE} - set(files)
    if missing:
        raise InputError(f"run {run_id} lacks {', '.join(sorted(missing))}: no run of nst_exp, or files were lost")
