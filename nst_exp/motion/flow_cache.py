"""A cache on disk for the optical flows of a video.

All runs of a sweep over a video, and the measures of their results, need the same flows.
"""

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

_STEPS_PER_PX = 64  # flows are rounded to such steps, cached or not, so that the cache changes no result
_MAX_PX = 32767 / _STEPS_PER_PX


@dataclass(frozen=True)
class Flows:
    """Flows between the frames of one video, cached on disk by the indices of the frames.

    Attributes:
        estimator: A key of `flow.ESTIMATORS`.
        folder: The cache folder for this video at this size; None disables the cache.
        limit_mb: Size of the folder, in MB (10^6 bytes), beyond which no flows are added to it.

    Example:
        >>> before = np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8)
        >>> after = np.roll(before, 3, axis=1)  # three pixels to the right
        >>> flow = Flows("dis", folder=Path("flows"), limit_mb=100).between((0, before), (1, after))
        >>> flow.shape, float(np.median(flow[..., 0]))
        ((64, 96, 2), 3.0)
    """

    estimator: str
    folder: Path | None
    limit_mb: float

    def between(self, before: tuple[int, Levels], after: tuple[int, Levels]) -> Flow:
        """Return the flow from one frame to another, from the cache if it is there.

        Args:
            before: Index and levels of the frame at which the flow starts.
            after: Index and levels of the frame to which the flow leads.

        Returns:
            The flow in px, rounded to 1/64 px and limited to 512 px in each direction.
        """
        path = self.folder and self.folder / f"{before[0]}-{after[0]}.npy"
        steps = _read(path, before[1].shape[:2]) if path else None
        if steps is None:
            flow = ESTIMATORS[self.estimator](before[1], after[1])
            steps = np.rint(np.clip(flow, -_MAX_PX, _MAX_PX) * _STEPS_PER_PX).astype(np.int16)
            if path:
                self._write(path, steps)
        return steps.astype(np.float32) / _STEPS_PER_PX

    def _write(self, path: Path, steps: Int16[np.ndarray, "height width 2"]) -> None:
        """Cache a flow if there is room for it. Failing to do so only costs time, so errors are ignored."""
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


_used: dict[Path, float] = {}  # MB in each folder, so that files are counted only once


def _read(path: Path, size: tuple[int, ...]) -> Int16[np.ndarray, "height width 2"] | None:
    try:
        steps = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return steps if steps.dtype == np.int16 and steps.shape == (*size, 2) else None
