"""A sweep as a whole: its parent run in MLflow, whose children are its points, and its contact sheet.

Hydra calls `SweepCallback` in the process that was started. Points may run in others, so what they need to
know of the sweep lies in its folder, in sweep.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nst_exp.config import TrackingConfig
from nst_exp.errors import InputError
from nst_exp.files import write_json

SHEET = "contact_sheet.png"
_FILE = "sweep.json"


@dataclass(frozen=True)
class Sweep:
    """What a point knows of its sweep: the command's overrides and the MLflow run, None if not tracked."""

    overrides: Sequence[str]
    mlflow_run_id: str | None

    @classmethod
    def in_folder(cls, folder: Path) -> Sweep:
        """The sweep that writes to `folder`."""
        return cls(**json.loads((folder / _FILE).read_text()))

    def swept(self, overrides: Sequence[str]) -> list[str]:
        """Those of a point's overrides that differ from point to point."""
        return [override for override in overrides if override not in self.overrides]


class SweepCallback(Callback):
    """Opens the parent run before a sweep's first point.

    Hydra skips `on_multirun_end` when a point failed, so whoever started the sweep ends it: `close_sweep`.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the sweep's folder, its record and, unless tracking=none, its MLflow run."""
        try:
            _open_sweep(config)
        except (InputError, OSError) as error:
            # a plain exception would only become one of Hydra's warnings, and every point would fail alone
            sys.exit(f"nst_exp: {error}")


@dataclass(frozen=True)
class _Open:
    folder: Path
    client: Any
    run_id: str | None


_open: list[_Open] = []  # none, or the sweep that this process started


def _open_sweep(config: DictConfig) -> None:
    from nst_exp import tracking

    checked = OmegaConf.to_object(config.tracking)
    assert isinstance(checked, TrackingConfig)
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    overrides = list(config.hydra.overrides.task)
    store = tracking.Store.of(checked)
    client = run_id = None
    if store.backend != "none":
        client = tracking.connect(store)
        command = " ".join(overrides)
        tags = {"overrides": command, "mlflow.note.content": f"Sweep `{command}`, pictures side by side: {SHEET}"}
        run_id = tracking.start_run(client, store, f"{folder.name} sweep {command}", tags, parent=None)
    write_json(folder / _FILE, {"overrides": overrides, "mlflow_run_id": run_id})
    _open.append(_Open(folder, client, run_id))


def close_sweep(status: str) -> Path | None:
    """End the sweep that this process started, if any: FINISHED, FAILED (a point did) or KILLED.

    Returns:
        Its contact sheet, if any point finished.
    """
    if not _open:
        return None
    sweep = _open.pop()
    sheet = write_contact_sheet(sweep.folder)
    if sweep.client is not None:
        if sheet is not None:
            sweep.client.log_artifact(sweep.run_id, str(sheet))
        sweep.client.set_terminated(sweep.run_id, status)
    return sheet


def write_contact_sheet(folder: Path) -> Path | None:
    """Lay the finished points of the sweep in `folder` side by side; None if there are none.

    The last swept key runs across, all others down; a single swept key wraps after four.
    """
    points = sorted(
        (path.parent for path in folder.glob("*/result.json")), key=lambda path: (len(path.name), path.name)
    )
    if not points:
        return None
    from nst_exp import report
    from nst_exp.media.image import locate

    sweep = Sweep.in_folder(folder)
    swept = [sweep.swept(yaml.safe_load((point / ".hydra" / "overrides.yaml").read_text())) for point in points]
    cells = [_cell(point, values) for point, values in zip(points, swept, strict=True)]
    config = yaml.safe_load((points[0] / "config.yaml").read_text())
    inputs = [report.Cell(locate(config[name]), name) for name in ("content", "style")]
    columns = len({values[-1] for values in swept if values}) if max(map(len, swept)) > 1 else min(4, len(points))
    sheet = report.contact_sheet(" ".join(sweep.overrides), inputs, cells, columns)
    sheet.save(folder / SHEET)
    return folder / SHEET


def _cell(point: Path, values: Sequence[str]) -> Any:
    from nst_exp import report

    result = json.loads((point / "result.json").read_text())
    measures = "  ".join(f"{name.removesuffix('_distance')} {value:.2g}" for name, value in result["measures"].items())
    return report.Cell(point / result["pastiche"], "  ".join(values), measures)
