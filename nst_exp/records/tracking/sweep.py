"""A sweep in MLflow: the parent run of its points, with the best picture, a description and a ready view."""

from __future__ import annotations

import itertools
import logging
import platform
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from nst_exp.records.folder import RunFolder
from nst_exp.records.tracking.process import PROCESS, defer_signals, process_tag
from nst_exp.records.tracking.run import start_run, upload_hint
from nst_exp.records.tracking.search import PARENT, find_run, runs_of
from nst_exp.records.tracking.store import (
    Store,
    as_input_error,
    connect,
    experiment_id,
    failures,
    fit_command,
    fit_key,
    fit_tag,
    is_cut,
    reason,
)
from nst_exp.records.tracking.view import add_view, how_to_open, sweep_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_log = logging.getLogger(__name__)

_NOTE = "mlflow.note.content"
_COMMAND = "command.yaml"  # the artifact with a sweep's overrides, whatever their length
_SHEET = "contact_sheet.png"
_CASES_NAMED = 6  # whose best points a description names; the report has all


@dataclass(frozen=True)
class SweepRun:
    """The parent run of a sweep's points, RUNNING until `end`.

    Attributes:
        client: of the store.
        store: where the run is.
        run_id: the run's id in MLflow.

    Example:
        parent = SweepRun.start(connect(store), store, folder, ["content_weight=1,4"], None)
        ...
        parent.end(folder, [folder / "report.html"], {"": best}, "FINISHED")
    """

    client: MlflowClient
    store: Store
    run_id: str

    @classmethod
    @defer_signals()
    def start(
        cls, client: MlflowClient, store: Store, folder: Path, overrides: Sequence[str], earlier: str | None
    ) -> SweepRun:
        """Start the parent run of a sweep, or resume it; one that was deleted in MLflow's UI is restored.

        Args:
            folder: the sweep's folder.
            overrides: the overrides of the sweep's command.
            earlier: the id of the parent run that is resumed if the store has it; None for a new sweep.

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
            client.log_text(run_id, yaml.safe_dump(list(overrides)), _COMMAND)
        return cls(client, store, run_id)

    @classmethod
    def of_points(
        cls, store: Store, folder: Path, overrides: Sequence[str], points: Sequence[RunFolder], noted: str | None
    ) -> SweepRun:
        """Start or resume the parent run of a sweep whose points are uploaded.

        Args:
            points: the sweep's runs; the run that the store has as their parent is resumed.
            noted: the id of the parent run according to the sweep's folder, if the store knows none of the points.

        Raises:
            InputError: if the store cannot be used, or its experiment was deleted.
        """
        client = connect(store)
        return cls.start(client, store, folder, overrides, _known_parent(client, store, points) or noted)

    @defer_signals()
    def end(self, folder: Path, files: Sequence[Path], bests: Mapping[str, RunFolder], status: str) -> bool:
        """Log a sweep's report and its best point, end the run, and log how to open it in MLflow.

        A lost store only causes a warning.

        Args:
            folder: the sweep's folder.
            files: of the report.
            bests: the best point of each case by the case's title. The parent has the picture and the numbers of the
                best point if there is one case; several cases cannot be compared, so it names the best of each.
            status: FINISHED, FAILED or KILLED.

        Returns:
            Whether the store has all of it.
        """
        client, run_id = self.client, self.run_id
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
        _log.info("in MLflow: %s", how_to_open(self.store, run_id, is_sweep=True))
        return True

    @defer_signals()
    def delete(self) -> None:
        """Delete the run of a sweep in which no point has begun; a lost store only causes a warning."""
        try:
            self.client.delete_run(self.run_id)
        except failures() as error:
            _log.warning("the sweep's run %s cannot be deleted: %s", self.run_id, reason(error))


@defer_signals()
def mark_stale_runs_killed(client: MlflowClient, store: Store) -> None:
    """Mark runs as KILLED that are RUNNING according to MLflow, but whose process on this machine has ended.

    Raises:
        InputError: if the store cannot be used, or its experiment was deleted.
    """
    with as_input_error(store):
        for run in client.search_runs([experiment_id(client, store)], "attributes.status = 'RUNNING'"):
            host, _, rest = run.data.tags.get(PROCESS, "").partition(" ")
            pid = rest.partition(" ")[0]
            if host == platform.node() and pid.isdigit() and run.data.tags[PROCESS] != process_tag(int(pid)):
                client.set_terminated(run.info.run_id, "KILLED")


def swept_overrides(overrides: Sequence[str]) -> list[str]:
    """Return those of a command's overrides that sweep over something.

    Example:
        >>> swept_overrides(["content_weight=1,4", "size=96"])
        ['content_weight=1,4']
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [text for text, override in zip(overrides, parsed, strict=True) if override.is_sweep_override()]


def sweep_command(client: MlflowClient, parent: Run) -> list[str]:
    """Return the overrides of the command that began the sweep with this parent run."""
    noted = parent.data.tags.get("overrides", "")
    if is_cut(noted):
        with tempfile.TemporaryDirectory(prefix="nst_exp_") as folder:
            path = client.download_artifacts(parent.info.run_id, _COMMAND, folder)
            return [str(word) for word in yaml.safe_load(Path(path).read_text())]
    return shlex.split(noted)


def _known_parent(client: MlflowClient, store: Store, points: Sequence[RunFolder]) -> str | None:
    """Return the parent run that the store has for a sweep with these points; None if it knows none of them."""
    with as_input_error(store):
        for point in points:
            for run in runs_of(client, store, point, None):
                if PARENT in run.data.tags:
                    return str(run.data.tags[PARENT])
    return None


def _resume(client: MlflowClient, store: Store, run_id: str, folder: Path) -> bool:
    """Make a run RUNNING again, restored if it was deleted; returns False if the store does not have it."""
    run = find_run(client, store, run_id)
    if run is None:
        return False
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run_id)
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, PROCESS, process_tag())
    client.set_tag(run_id, "folder", fit_tag(str(folder)))
    return True


def _log_best(client: MlflowClient, run_id: str, best: RunFolder) -> None:
    """Log the numbers, the settings and the picture of the best point to the parent run."""
    result = best.result
    for name, value in result.measures.items():
        client.log_metric(run_id, fit_key(f"best/{name}"), value)
    client.set_tag(run_id, "best", fit_tag(" ".join(best.overrides)))
    client.set_tag(run_id, "best.folder", fit_tag(str(best.path)))
    if best.tracked is not None:
        client.set_tag(run_id, "best.run_id", best.tracked.run_id)
    with Image.open(best.path / result.pastiche) as picture:
        # MLflow's image grid shows it while the points below are folded up
        client.log_image(run_id, np.asarray(picture), key="pastiche", step=result.steps)


def _description(overrides: Sequence[str], sheet_of: str | None = None, bests: Mapping[str, RunFolder] = {}) -> str:
    """Return Markdown for the parent run's page.

    Args:
        overrides: the overrides of the sweep's command.
        sheet_of: the id of the run whose files hold the contact sheet; None if there is none.
        bests: the best point of each case by the case's title.
    """
    keys = {override.partition("=")[0] for override in swept_overrides(overrides)}
    parts = []
    for case, best in itertools.islice(bests.items(), _CASES_NAMED):
        setting = " ".join(override for override in best.overrides if override.partition("=")[0] in keys)
        score = best.result.measures.get("score", float("nan"))
        parts.append(f"Best{f' of {case}' if case else ''}: **{setting[:500]}** (score {score:.3g}, lower is better)")
    if sheet_of is not None:  # near the beginning, because MLflow folds up long texts
        parts.append(f"![contact sheet](get-artifact?path={_SHEET}&run_uuid={sheet_of})")
    parts.append(f"Sweep `{shlex.join(overrides)[:2000]}`")
    return fit_tag("\n\n".join(parts))
