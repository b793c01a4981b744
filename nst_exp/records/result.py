"""The result of a run: its losses, measures and costs. Only this module writes and reads result.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nst_exp.files import read_json, write_json

_COSTS = (
    *("total_loss", "evaluations", "restarts", "seconds", "evaluations_per_second", "peak_memory_mb"),
    *("frames", "frames_per_second", "dropped", "latency_ms"),
)
_MISSING: Mapping[str, Any] = {  # the values of fields that results of earlier versions may lack
    **{"identity": "", "losses": {}, "measures": {}, "sha256": {}, "steps": 0, "evaluations": None, "restarts": None},
    **dict.fromkeys(("total_loss", "seconds", "evaluations_per_second", "peak_memory_mb"), math.nan),
}
_OLD_NAMES = {"clip": "video", "lanes": "batch_size"}  # the names of fields in results up to version 5


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a finished run.

    The costs of a video or a camera are sums over its frames. The losses and measures of a video are means over
    frames; those of a camera are those of its last frame. Fields that do not apply to a kind of run are None.

    Attributes:
        identity: the hash of everything that determines the result; see `nst_exp.records.record.identity`.
        pastiche: the file name of the picture. Of a video, it is a frame from the middle; of a camera, the last frame.
        total_loss: the weighted sum of all terms of the loss.
        losses: the terms of the loss by name, before their weights, and the distance of each style layer as
            `style.LAYER`.
        measures: the measures by name; see `nst_exp.evaluation.catalogue`.
        steps: the number of steps of the solver.
        evaluations: how often loss and gradient were computed; None if an earlier version did not record it.
        restarts: how often a step went wrong and the solver's memory was emptied; None if an earlier version did not
            record it.
        seconds: the time spent solving, in s; of a run that was solved in a batch, its share of that time. Of a
            camera, the time that it was live.
        evaluations_per_second: `evaluations / seconds`.
        peak_memory_mb: the peak memory of the process or the device, in 10^6 bytes.
        sha256: the SHA-256 of each input and each product by its name.
        batch_size: the number of pictures that were solved together; None for a camera.
        video: the file name of the painted video.
        side_by_side: the file name of the video that shows the source and the painting side by side.
        frames: the number of painted frames.
        frames_per_second: `frames / seconds`.
        dropped: the number of frames of a camera that were not painted.
        latency_ms: the median time from the capture of a camera's frame until it is shown, in ms.
        reused_from: the folder of the run whose result was copied.
    """

    identity: str
    pastiche: str
    total_loss: float
    losses: Mapping[str, float]
    measures: Mapping[str, float]
    steps: int
    evaluations: int | None
    restarts: int | None
    seconds: float
    evaluations_per_second: float
    peak_memory_mb: float
    sha256: Mapping[str, str]
    batch_size: int | None = None
    video: str | None = None
    side_by_side: str | None = None
    frames: int | None = None
    frames_per_second: float | None = None
    dropped: int | None = None
    latency_ms: float | None = None
    reused_from: str | None = None

    @property
    def products(self) -> dict[str, str]:
        """The file names of the picture and videos, by product: `pastiche`, `video` and `side_by_side`."""
        named = {"pastiche": self.pastiche, "video": self.video, "side_by_side": self.side_by_side}
        return {what: name for what, name in named.items() if name is not None}

    @property
    def costs(self) -> dict[str, float]:
        """The total loss and all costs that this kind of run has, by name."""
        costs = {name: getattr(self, name) for name in _COSTS}
        return {name: cost for name, cost in costs.items() if cost is not None and not math.isnan(cost)}

    def write(self, path: Path) -> None:
        """Write the result as JSON, atomically and without fields that are None.

        Args:
            path: the file.

        Raises:
            InputError: if the file cannot be written.
        """
        write_json(path, {name: value for name, value in dataclasses.asdict(self).items() if value is not None})

    @classmethod
    def read(cls, path: Path) -> Result | None:
        """Read a result, also one of an earlier version.

        Costs that an earlier version did not record become NaN or None.

        Args:
            path: the file.

        Returns:
            The result; None if the file does not exist or is damaged.
        """
        found = {_OLD_NAMES.get(name, name): value for name, value in read_json(path).items()}
        if isinstance(hashes := found.get("sha256"), dict):
            found["sha256"] = {_OLD_NAMES.get(name, name): digest for name, digest in hashes.items()}
        if "pastiche" not in found:
            return None
        known: dict[str, Any] = dict(_MISSING)
        try:
            for field in dataclasses.fields(cls):
                if field.name in found:
                    value = found[field.name]
                    known[field.name] = float(value) if field.type == "float" else value
        except (TypeError, ValueError):
            return None
        result = cls(**known)
        return result if result._is_sound() else None

    def _is_sound(self) -> bool:
        tables: tuple[Any, ...] = (self.losses, self.measures, self.sha256)
        texts = (self.identity, *self.products.values())
        return all(isinstance(table, dict) for table in tables) and all(isinstance(text, str) for text in texts)
