"""What result.json holds: the losses, measures and costs of a finished run. Only this module writes and reads it."""

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
_MISSING: Mapping[str, Any] = {  # in results of earlier versions
    **{"identity": "", "losses": {}, "measures": {}, "sha256": {}, "steps": 0, "evaluations": None, "restarts": None},
    **dict.fromkeys(("total_loss", "seconds", "evaluations_per_second", "peak_memory_mb"), math.nan),
}
_OLD_NAMES = {"clip": "video", "lanes": "batch_size"}  # of fields, in results up to version 5


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a finished run. Of a video or a camera, losses and measures are means over frames, costs are sums.

    Attributes:
        identity: the hash of everything that determines the result.
        pastiche: the picture's file name; of a video, a frame from its middle; of a camera, the last frame.
        total_loss: the sum of all losses times their weights.
        losses: by name; style layers are named `style.LAYER`.
        measures: by name, see `nst_exp.evaluation.catalogue`.
        steps: of the solver.
        evaluations: how often loss and gradient were computed; None if an earlier version did not say.
        restarts: how often a step went wrong and the solver's memory was emptied; None as above.
        seconds: spent solving; the run's share if it was solved in a batch.
        evaluations_per_second: `evaluations / seconds`.
        peak_memory_mb: of the process or the device, in 10^6 bytes.
        sha256: by name, of the inputs and the products.
        batch_size: how many pictures were solved together; None for a camera.
        video: the file name of the painted video.
        side_by_side: the file name of the video that shows source and painting side by side.
        frames: how many frames were painted.
        frames_per_second: frames painted per second of solving.
        dropped: the frames of a camera that were not painted.
        latency_ms: the median time from a camera's frame to its painting on the page.
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
        """The names of the files that make up the result, by what they are: `pastiche`, `video`, `side_by_side`."""
        named = {"pastiche": self.pastiche, "video": self.video, "side_by_side": self.side_by_side}
        return {what: name for what, name in named.items() if name is not None}

    @property
    def costs(self) -> dict[str, float]:
        """The loss and all costs that this kind of run has, by name."""
        costs = {name: getattr(self, name) for name in _COSTS}
        return {name: cost for name, cost in costs.items() if cost is not None and not math.isnan(cost)}

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: if it cannot be written.
        """
        write_json(path, {name: value for name, value in dataclasses.asdict(self).items() if value is not None})

    @classmethod
    def read(cls, path: Path) -> Result | None:
        """Read the file, also of an earlier version, whose missing costs become NaN; None if there is no sound file."""
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
