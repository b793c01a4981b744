"""Optical flow between frames, warping along it, and where it cannot be trusted.

A flow from frame a to frame b is float32 (H, W, 2): the pixel at (x, y) of a is found at (x + flow[y, x, 0],
y + flow[y, x, 1]) of b, in px. No learnt weights: dense inverse search (Kroeger et al. 2016) from OpenCV. Another
estimator is a function in `ESTIMATORS`.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from nst_exp.errors import InputError
from nst_exp.files import write_atomically

Levels = UInt8[np.ndarray, "height width 3"]
Pixels = Float32[np.ndarray, "height width 3"]
Flow = Float32[np.ndarray, "height width 2"]
Mask = Bool[np.ndarray, "height width"]
Estimator = Callable[[Levels, Levels], Flow]

STILL = 0.25  # px: what moves less stands still, for all that an estimator can tell
_STEPS_A_PX = 64  # flows are rounded to this, cached or not, so that both give the same bytes
_FARTHEST = 32767 / _STEPS_A_PX


def dense_inverse_search(before: Levels, after: Levels) -> Flow:
    """Flow from `before` to `after` by OpenCV's DIS at its medium preset.

    References:
        Kroeger, Timofte, Dai, Van Gool (2016), Fast Optical Flow using Dense Inverse Search.
    """
    cv2.setNumThreads(1)  # its stripes depend on the number of threads, and with them the result
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    first, second = (cv2.cvtColor(np.ascontiguousarray(levels), cv2.COLOR_RGB2GRAY) for levels in (before, after))
    return np.asarray(estimator.calc(first, second, np.zeros((*first.shape, 2), np.float32)), np.float32)


ESTIMATORS: dict[str, Estimator] = {"dis": dense_inverse_search}


@dataclass(frozen=True)
class Flows:
    """Flows between the frames of one clip, remembered on disk by their frames' indices.

    Attributes:
        estimator: a name in `ESTIMATORS`.
        folder: of this clip at this size; None remembers nothing.
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


def warp(image: Pixels, flow: Flow) -> Pixels:
    """`image` seen along `flow`: its value at (x + u, y + v) for each (x, y), by Lanczos, edges continued.

    Lanczos, since in a clip each picture is made of the last one warped, and bilinear weights would blur them all.
    """
    rows, columns = _grid(flow.shape[0], flow.shape[1])
    warped = cv2.remap(
        image, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE
    )
    return np.clip(warped, 0, 1)


def hidden(backward: Flow, forward: Flow) -> Mask:
    """Which of a frame's pixels were not to be seen in the earlier frame: covered there, or out of the picture.

    Args:
        backward: from the frame to the earlier one.
        forward: from the earlier frame to it.

    References:
        Ruder, Dosovitskiy, Brox (2016), Artistic Style Transfer for Videos, section 4.2, after Sundaram et al. (2010).
    """
    height, width, _ = backward.shape
    rows, columns = _grid(height, width)
    x, y = columns + backward[..., 0], rows + backward[..., 1]
    there = cv2.remap(forward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    covered = _squares(there + backward) > 0.01 * (_squares(there) + _squares(backward)) + 0.5
    outside = (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)
    return np.asarray(covered | outside)


def motion_edges(flow: Flow) -> Mask:
    """Where neighbouring pixels move apart, and a flow is least exact (Ruder et al. 2016, section 4.2)."""
    slopes = [_squares(np.stack(np.gradient(flow[..., axis]), axis=-1)) for axis in (0, 1)]
    return np.asarray(slopes[0] + slopes[1] > 0.01 * _squares(flow) + 0.002)


def still(flow: Flow) -> Mask:
    """Where nothing moves."""
    return np.asarray(_squares(flow) < STILL**2)


def _squares(vectors: Flow) -> Float32[np.ndarray, "height width"]:
    return np.sum(np.square(vectors), axis=-1)


@functools.lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return rows, columns
