"""Measures of a video over time, in addition to those of its single frames: how much it flickers and drifts.

Frames are taken one by one, so that a video of any length takes little memory. They have the size of the run and
the levels of files, 0 to 255. Each measure is also computed for the source, whose value is the lowest that can be
expected. `catalogue.VIDEO_MEASURES` documents the measures.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from nst_exp.motion.flow import Flow, Levels, Mask, warp

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class FramePair:
    """One frame of a video, as the source and the pastiche have it.

    Attributes:
        content: the source's frame, in levels from 0 to 255.
        pastiche: the pastiche's frame of the same size.
    """

    content: Levels
    pastiche: Levels


@dataclass
class Steadiness:
    """Collects the changes from frame to frame; `measures` can be read at any time.

    Example:
        >>> import numpy as np
        >>> from nst_exp.evaluation.temporal import FramePair, Steadiness
        >>> dark, bright = np.full((2, 2, 3), 51, np.uint8), np.full((2, 2, 3), 102, np.uint8)
        >>> no_motion, everywhere = np.zeros((2, 2, 2), np.float32), np.ones((2, 2), bool)
        >>> steadiness = Steadiness()
        >>> steadiness.add(FramePair(dark, dark), FramePair(dark, bright), no_motion, everywhere, everywhere)
        >>> round(steadiness.measures()["flicker"], 3), steadiness.measures()["flicker_source"]
        (0.2, 0.0)
    """

    _of_pairs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, before: FramePair, after: FramePair, backward: Flow, held: Mask, still: Mask) -> None:
        """Add the change between two consecutive frames.

        Args:
            before: the earlier frame.
            after: the frame that follows it.
            backward: the optical flow of the source from `after` to `before`, in px.
            held: where the flow can be trusted.
            still: where nothing moves.
        """
        for name, earlier, later in self._both(before, after):
            carried, pixels = warp(_pixels(earlier), backward), _pixels(later)
            self._append(f"warping_error{name}", np.sum(np.square(pixels - carried), axis=-1), held)
            self._append(f"flicker{name}", np.abs(pixels @ _LUMA - _pixels(earlier) @ _LUMA), held & still)
            self._append(f"brightness_drift{name}", pixels @ _LUMA - carried @ _LUMA, held)

    def measures(self) -> dict[str, float]:
        """Return the measures that are known so far.

        Returns:
            The value of each measure by its name. A measure is missing where no pixel could be measured: a video of
            one frame has none, and flicker needs pixels where nothing moves.
        """
        return {
            name: abs(sum(values)) if name.startswith("brightness_drift") else float(np.mean(values))
            for name, values in self._of_pairs.items()
        }

    def _both(self, before: FramePair, after: FramePair) -> list[tuple[str, Levels, Levels]]:
        return [("", before.pastiche, after.pastiche), ("_source", before.content, after.content)]

    def _append(self, name: str, values: Float32[np.ndarray, "height width"], where: Mask) -> None:
        if where.any():
            self._of_pairs.setdefault(name, []).append(float(np.mean(values[where])))


def _pixels(levels: Levels) -> Float32[np.ndarray, "height width 3"]:
    return levels.astype(np.float32) / 255
