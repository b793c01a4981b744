"""Optical flow between frames, warping along it, and masks of where it is unreliable.

A flow from frame a to frame b is a float32 array (H, W, 2) in px: the pixel at (x, y) of a is found at (x + flow[y, x,
0], y + flow[y, x, 1]) of b. The estimator needs no learnt weights; it is dense inverse search (Kroeger et al. 2016)
from OpenCV. Another estimator is a function in `ESTIMATORS`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

Levels = UInt8[np.ndarray, "height width 3"]
Pixels = Float32[np.ndarray, "height width 3"]
Flow = Float32[np.ndarray, "height width 2"]
Mask = Bool[np.ndarray, "height width"]
Estimator = Callable[[Levels, Levels], Flow]

STILL = 0.25  # px: estimators cannot tell shorter motion from none


def dense_inverse_search(before: Levels, after: Levels) -> Flow:
    """Estimate the flow between two frames by OpenCV's DIS optical flow, at its medium preset.

    Args:
        before: The frame at which the flow starts.
        after: The frame to which the flow leads.

    References:
        Kroeger, Timofte, Dai, Van Gool (2016), Fast Optical Flow using Dense Inverse Search.
    """
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    first, second = (cv2.cvtColor(np.ascontiguousarray(levels), cv2.COLOR_RGB2GRAY) for levels in (before, after))
    with _one_thread():
        return np.asarray(estimator.calc(first, second, np.zeros((*first.shape, 2), np.float32)), np.float32)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Limit OpenCV to one thread, because DIS splits images by the number of threads and its result depends on that."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


ESTIMATORS: dict[str, Estimator] = {"dis": dense_inverse_search}


def warp(image: Pixels, flow: Flow) -> Pixels:
    """Warp an image along a flow.

    The result at (x, y) is the value of `image` at (x + u, y + v), where (u, v) is `flow[y, x]`. Beyond its edges, the
    image is continued by its outermost pixels.

    Values are interpolated by Lanczos resampling: in a video, each frame is made of the previous one warped, so that
    the blur of bilinear interpolation would build up from frame to frame.

    Args:
        image: Pixels in [0, 1].
        flow: Flow from the frame of the result to the frame of `image`.

    Returns:
        Pixels, clipped to [0, 1].
    """
    rows, columns = _grid(flow.shape[0], flow.shape[1])
    warped = cv2.remap(
        image, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE
    )
    return np.clip(warped, 0, 1)


def hidden(backward: Flow, forward: Flow) -> Mask:
    """Find the pixels of a frame that were not visible in an earlier frame.

    Such a pixel was either covered in the earlier frame or outside of it.

    Args:
        backward: Flow from the frame to the earlier one.
        forward: Flow from the earlier frame to the frame.

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
    """Find the edges of moving objects, where neighbouring pixels move apart and a flow is least accurate.

    References:
        Ruder, Dosovitskiy, Brox (2016), Artistic Style Transfer for Videos, section 4.2.
    """
    slopes = [_squares(np.stack(np.gradient(flow[..., axis]), axis=-1)) for axis in (0, 1)]
    return np.asarray(slopes[0] + slopes[1] > 0.01 * _squares(flow) + 0.002)


def still(flow: Flow) -> Mask:
    """Find the pixels that move by less than `STILL`."""
    return np.asarray(_squares(flow) < STILL**2)


def _squares(vectors: Flow) -> Float32[np.ndarray, "height width"]:
    return np.sum(np.square(vectors), axis=-1)


@functools.lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return rows, columns


def estimator_version(estimator: str) -> str:
    """Return the version of the library behind an estimator, since flows of another version may differ.

    Args:
        estimator: A key of `ESTIMATORS`.
    """
    assert estimator in ESTIMATORS
    return f"opencv{cv2.__version__}"
