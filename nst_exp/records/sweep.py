"""The record that a sweep keeps in its folder, `sweep.json`: which sweep the folder belongs to.

Points may run in other processes, or be compared on another machine; they learn about their sweep from this file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from nst_exp.errors import InputError
from nst_exp.files import write_json

SWEEP_RECORD = "sweep.json"


@dataclass(frozen=True)
class SweepRecord:
    """What a sweep's folder says about the sweep.

    Attributes:
        key: the hash of everything that makes two commands the same sweep; empty if the runs were downloaded.
        overrides: the overrides of the sweep's command.
        mlflow_run_id: the sweep's parent run in MLflow; None if it is not tracked.
    """

    key: str
    overrides: Sequence[str]
    mlflow_run_id: str | None

    @classmethod
    def read(cls, folder: Path) -> SweepRecord:
        """Read the record of the sweep that writes to `folder`.

        Raises:
            InputError: if there is no record, or it is damaged.
        """
        try:
            return cls(**json.loads((folder / SWEEP_RECORD).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{str(folder)!r} is not the folder of a sweep: {SWEEP_RECORD} is missing or damaged"
            ) from error

    def write(self, folder: Path) -> None:
        """Make this sweep the one that writes to `folder`.

        Raises:
            InputError: if the folder cannot be written.
        """
        write_json(folder / SWEEP_RECORD, asdict(self))

    def swept(self, overrides: Sequence[str]) -> list[str]:
        """Return those of a point's overrides that may differ from point to point.

        Example:
            >>> record = SweepRecord("", ["content_weight=1,4", "size=96"], None)
            >>> record.swept(["content_weight=1", "size=96"])
            ['content_weight=1']
        """
        command = OverridesParser.create().parse_overrides(list(self.overrides))
        fixed = {override.get_key_element() for override in command if not override.is_sweep_override()}
        return [override for override in overrides if override.partition("=")[0] not in fixed]


def is_sweep(folder: Path) -> bool:
    """Return whether a sweep writes, or wrote, to `folder`."""
    return (folder / SWEEP_RECORD).is_file()
