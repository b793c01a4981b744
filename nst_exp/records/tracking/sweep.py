"""A sweep in MLflow: the parent run of its points, with the best picture, a description and a ready view."""

from __future__ import annotations

import itertools
import logging
import platform
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from nst_exp.records.folder import RunFolder
from nst_exp.records.tracking.process import process_tag, signals_held
from nst_exp.records.tracking.run import PARENT, PROCESS, find_run, runs_of, start_run, upload_hint
from nst_exp.records.tracking.store import (
    Store,
    as_input_error,
    experiment_id,
    failures,
    fit_command,
    fit_key,
    fit_tag,
    is_cut,
    reason,
)
from nst_exp.records.tracking.view import add_view, how_to_open, sweep_name

_log = logging.getLogger(__name__)

_NOTE = "mlflow.note.content"
_COMMAND = "command.yaml"  # the artifact with a sweep's overrides, whatever their length
_SHEET = "contact_sheet.png"
_CASES_NAMED = 6  # whose best points a description names; the report has all


@signals_held()
def start_sweep(client: Any, store: Store, folder: Path, overrides: Sequence[str], earlier: str | None) -> str:
    """The RUNNING run that a sweep's points hang below: the `earlier` one if the store has it, else a new one.

    A run that was deleted in MLflow's UI is restored.

    Raises:
        InputError: if the store cannot be used, or its experiment was deleted.
    """
    swept = swept_overrides(overrides)
    tags = {"overrides": fit_command(overrides), "folder": str(folder), _NOTE: _description(overrides)}
    with as_input_error(store):
        if earlier is not None and _resume(client, store, earlier, folder):
            run_id = earlier
        else:
            run_id = start_run(client, store, sweep_name(swept), tags, parent=None)
        add_view(client, experiment_id(client, store), run_id, swept)
        _log_command(client, run_id, overrides)
    return run_id


def swept_overrides(overrides: Sequence[str]) -> list[str]:
    """Those of a command's overrides that sweep over something."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [text for text, override in zip(overrides, parsed, strict=True) if override.is_sweep_override()]


def sweep_command(client: Any, run: Any) -> list[str]:
    """The overrides of the command that began the sweep with this parent run."""
    noted = run.data.tags.get("overrides", "")
    if is_cut(noted):
        with tempfile.TemporaryDirectory(prefix="nst_exp_") as folder:
            path = client.download_artifacts(run.info.run_id, _COMMAND, folder)
            return [str(word) for word in yaml.safe_load(Path(path).read_text())]
    return shlex.split(noted)


def known_parent(client: Any, store: Store, points: Sequence[RunFolder]) -> str | None:
    """The parent run that the store has for a sweep with these points; None if it knows none of them.

    Raises:
        InputError: if the store cannot be used, or its experiment was deleted.
    """
    with as_input_error(store):
        for point in points:
            for run in runs_of(client, store, point, None):
                if PARENT in run.data.tags:
                    return str(run.data.tags[PARENT])
    return None


@signals_held()
def end_sweep(
    client: Any,
    store: Store,
    run_id: str,
    folder: Path,
    files: Sequence[Path],
    bests: Mapping[str, RunFolder],
    status: str,
) -> bool:
    """Log a sweep's report and its best child to its parent run, end that, and say how to see it in MLflow.

    A lost store costs only this, and is logged.

    Args:
        bests: the best point of each case by the case's title. The parent has the picture and the numbers of the best
            point if there is one case; several cases cannot be compared, so it names the best of each.

    Returns:
        Whether the store has all of it.
    """
    try:
        for path in files:
            client.log_artifact(run_id, str(path))
        if len(bests) == 1:
            _log_best(client, run_id, *bests.values())
        overrides = sweep_command(client, client.get_run(run_id))
        has_sheet = any(path.name == _SHEET for path in files)
        client.set_tag(run_id, _NOTE, _description(overrides, run_id if has_sheet else None, bests))
        client.set_terminated(run_id, status)
    except failures() as error:
        _log.warning("tracking is lost; %s: %s", upload_hint(folder), reason(error))
        return False
    _log.info("in MLflow: %s", how_to_open(store, run_id, is_sweep=True))
    return True


@signals_held()
def delete_sweep(client: Any, run_id: str) -> None:
    """Delete the parent run of a sweep in which no point has begun; a lost store costs only this, and is logged."""
    try:
        client.delete_run(run_id)
    except failures() as error:
        _log.warning("the sweep's run %s cannot be deleted: %s", run_id, reason(error))


def _log_best(client: Any, run_id: str, best: RunFolder) -> None:
    """The numbers, the settings and the picture of the best point, on the parent run."""
    result = best.result
    for name, value in result.measures.items():
        client.log_metric(run_id, fit_key(f"best/{name}"), value)
    client.set_tag(run_id, "best", fit_tag(" ".join(best.overrides)))
    client.set_tag(run_id, "best.folder", fit_tag(str(best.path)))
    if best.tracked is not None:
        client.set_tag(run_id, "best.run_id", best.tracked.run_id)
    with Image.open(best.path / result.pastiche) as picture:
        # MLflow's image grid shows this one while the points below are folded up
        client.log_image(run_id, np.asarray(picture), key="pastiche", step=result.steps)


def _description(overrides: Sequence[str], sheet_of: str | None = None, bests: Mapping[str, RunFolder] = {}) -> str:
    """Markdown for the parent run's page.

    Args:
        sheet_of: the run whose files hold the contact sheet.
    """
    keys = {override.partition("=")[0] for override in swept_overrides(overrides)}
    parts = []
    for case, best in itertools.islice(bests.items(), _CASES_NAMED):
        setting = " ".join(override for override in best.overrides if override.partition("=")[0] in keys)
        score = best.result.measures.get("score", float("nan"))
        parts.append(f"Best{f' of {case}' if case else ''}: **{setting[:500]}** (score {score:.3g}, lower is better)")
    if sheet_of is not None:  # near the beginning: MLflow folds up what is long
        parts.append(f"![contact sheet](get-artifact?path={_SHEET}&run_uuid={sheet_of})")
    parts.append(f"Sweep `{shlex.join(overrides)[:2000]}`")
    return fit_tag("\n\n".join(parts))


def _log_command(client: Any, run_id: str, overrides: Sequence[str]) -> None:
    client.log_text(run_id, yaml.safe_dump(list(overrides)), _COMMAND)


def _resume(client: Any, store: Store, run_id: str, folder: Path) -> bool:
    """Whether the store has the run and, from now on, it is RUNNING again."""
    run = find_run(client, store, run_id)
    if run is None:
        return False
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run_id)
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, PROCESS, process_tag())
    client.set_tag(run_id, "folder", fit_tag(str(folder)))
    return True


@signals_held()
def end_the_dead(client: Any, store: Store) -> None:
    """Mark runs as KILLED that are still RUNNING for MLflow, but whose process on this machine is gone."""
    with as_input_error(store):
        for run in client.search_runs([experiment_id(client, store)], "attributes.status = 'RUNNING'"):
            host, _, rest = run.data.tags.get(PROCESS, "").partition(" ")
            pid = rest.partition(" ")[0]
            if host == platform.node() and pid.isdigit() and run.data.tags[PROCESS] != process_tag(int(pid)):
                client.set_terminated(run.info.run_id, "KILLED")
