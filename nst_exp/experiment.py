"""One run, from its configuration to files on disk and a record in MLflow."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nst_exp import record
from nst_exp.config import RunConfig
from nst_exp.errors import InputError
from nst_exp.ledger import Ledger
from nst_exp.preparation import Inputs, Plan, load, make_plan
from nst_exp.results import PICTURE, Record, RunFolder
from nst_exp.tracking import Store, TrackedRun, track, upload

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a run comes from.

    Attributes:
        name: for people.
        overrides: Hydra's.
        in_sweep: the run is a point of a sweep, which skips what is done.
        parent: the sweep's MLflow run.
    """

    name: str
    overrides: Sequence[str] = ()
    in_sweep: bool = False
    parent: str | None = None


def run_experiment(config: RunConfig, folder: Path, origin: Origin) -> dict[str, Any]:
    """Do one run: load, stylise, measure, save, track. A sweep's point that is done already is not done again.

    Args:
        config: a checked configuration.
        folder: exists; gets config.yaml, pastiche.png and result.json, each whole or not at all.

    Returns:
        What result.json holds.

    Raises:
        InputError: on anything that the user can put right.
    """
    plan = make_plan(config, origin.overrides)
    store, ledger, run_folder = Store.of(config.tracking), Ledger.at(config.ledger), RunFolder(folder)
    description = _describe(plan, origin, store)
    if origin.in_sweep and plan.repeatable and _is_done(description, run_folder, ledger, force=config.force):
        if store.backend != "none":
            upload(store, run_folder, origin.parent)
        return run_folder.result
    inputs = load(plan)
    run_folder.begin(record.plain(config), description)
    with track(store, run_folder, origin.parent) as run:
        run.log_params(description.params)
        result = _painter(plan.kind)(inputs, run_folder, run)
        if plan.repeatable:
            ledger.add_run(description.identity, folder)
        run.log_result(run_folder)
    _log.info("%s: %s", "clip" if "clip" in result else "picture", folder / result.get("clip", PICTURE))
    if store.backend == "sqlite" and not origin.in_sweep:
        _log.info("all runs side by side: mlflow ui --backend-store-uri %s", store.uri)
    return result


def _painter(kind: str) -> Callable[[Inputs, RunFolder, TrackedRun], dict[str, Any]]:
    """What does the work for a kind of source; pictures need not wait for what reads video."""
    if kind == "image":
        from nst_exp.picture_run import paint_picture

        return paint_picture
    if kind == "camera":
        from nst_exp.camera_run import paint_camera

        return paint_camera
    from nst_exp.clip_run import paint_clip

    return paint_clip


def input_hashes(config: RunConfig) -> Mapping[str, str]:
    """SHA-256 of content, style and params that a run of `config` would read.

    Raises:
        InputError: as `run_experiment`.
    """
    return make_plan(config, ()).hashes


def _is_done(description: Record, folder: RunFolder, ledger: Ledger, *, force: bool) -> bool:
    """Whether `folder` holds this result, be it that an earlier sweep's was copied to it just now."""
    if folder.finished:
        if folder.result.get("identity") == description.identity:
            _log.info("done already: %s", folder.path)
            return True
        raise InputError(
            f"{str(folder.path)!r} holds the finished picture of other settings, inputs or params; "
            "force=true begins a new sweep"
        )
    earlier = None if force else ledger.finished(description.identity)
    if earlier is None:
        return False
    folder.adopt(earlier, description)
    _log.info("done already, copied from %s", earlier.path)
    return True


def _describe(plan: Plan, origin: Origin, store: Store) -> Record:
    params = plan.params
    identity = record.identity(params, plan.hashes)
    uri = None if store.backend == "none" else store.uri
    return Record(identity, origin.name, list(origin.overrides), params, record.tags(plan.hashes), uri)
