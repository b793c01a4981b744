"""Optical flows of one video, remembered on disk: the runs of a sweep over it, and its measures, need the same ones."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from nst_exp.errors import InputError
from nst_exp.files import write_atomically
from nst_exp.motion.flow import ESTIMATORS, Flow, Levels

_STEPS_A_PX = 64  # flows are rounded to this, remembered or not, so that both give the same bytes
_FARTHEST = 32767 / _STEPS_A_PX


@dataclass(frozen=True)
class Flows:
    """Flows between the frames of one video, remembered on disk by their frames' indices.

    Attributes:
        estimator: a name in `ESTIMATORS`.
        folder: of this video at this size; None remembers nothing.
        limit_mb: no more than this many MB (10^6 bytes) are written to the folder.
    """

    estimator: str
    folder: Path | None
    limit_mb: float

    def between(self, before: tuple[int, Levels], after: tuple[int, Levels]) -> Flow:
        """The flow from one frame, (index, levels), to another."""
        path = self.folder and self.folder / f"{before[0]}-{after[0]}.npy"
        steps = _read(path, before[1].shape[:2]) if path else None
        if steps is None:
            flow = ESTIMATORS[self.estimator](before[1], after[1])
            steps = np.rint(np.clip(flow, -_FARTHEST, _FARTHEST) * _STEPS_A_PX).astype(np.int16)
            if path:
                self._write(path, steps)
        return steps.astype(np.float32) / _STEPS_A_PX

    def _write(self, path: Path, steps: Int16[np.ndarray, "height width 2"]) -> None:
        """Failing costs only time, so it is no reason to stop."""
        if self._used_mb() + steps.nbytes / 1e6 > self.limit_mb:
            return
        content = io.BytesIO()
        np.save(content, steps, allow_pickle=False)
        with contextlib.suppress(OSError, InputError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getvalue())
            _used[path.parent] = _used.get(path.parent, 0) + steps.nbytes / 1e6

    def _used_mb(self) -> float:
        assert self.folder is not None
        if self.folder not in _used and self.folder.is_dir():
            _used[self.folder] = sum(file.stat().st_size for file in self.folder.iterdir()) / 1e6
        return _used.get(self.folder, 0.0)


_used: dict[Path, float] = {}  # MB in each folder, counted once


def _read(path: Path, size: tuple[int, ...]) -> Int16[np.ndarray, "height width 2"] | None:
    try:
        steps = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return steps if steps.dtype == np.int16 and steps.shape == (*size, 2) else None
