"""Measures of a video over time, beside those of its single pictures: does it flicker, does it drift?

Frame by frame, so that a video of any length takes no memory. Everything is seen at the size of the run, as levels in
files; each measure of the pastiche comes with the source's own, the floor under it. `catalogue.VIDEO_MEASURES`
documents them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from nst_exp.motion.flow import Flow, Levels, Mask, warp

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class FramePair:
    """One frame of a video: the source's levels, and the pastiche's."""

    content: Levels
    pastiche: Levels


@dataclass
class Steadiness:
    """Collects frame after frame; `measures` may be asked for at any time."""

    _of_pairs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, before: FramePair, after: FramePair, backward: Flow, held: Mask, still: Mask) -> None:
        """Take in the frame `after`, which follows `before`.

        Args:
            backward: flow of the source from `after` to `before`.
            held: where that can be trusted.
            still: where nothing moves.
        """
        for name, earlier, later in self._both(before, after):
            carried, pixels = warp(_pixels(earlier), backward), _pixels(later)
            self._append(f"warping_error{name}", np.sum(np.square(pixels - carried), axis=-1), held)
            self._append(f"flicker{name}", np.abs(pixels @ _LUMA - _pixels(earlier) @ _LUMA), held & still)
            self._append(f"brightness_drift{name}", pixels @ _LUMA - carried @ _LUMA, held)

    def measures(self) -> dict[str, float]:
        """As far as they are known: a video of one frame has none, and flicker needs places that stand still."""
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
