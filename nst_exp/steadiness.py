"""Measures of a clip over time, beside those of its single pictures: does it flicker, does it drift?

Frame by frame, so that a clip of any length takes no memory. Everything is seen at the size of the run, as levels in
files; each measure of the pastiche comes with the source's own, the floor under it. `ranking.MEASURES` documents them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from nst_exp.flow import Flow, Levels, Mask, warp

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class Seen:
    """One frame of a clip: the source's levels, and the pastiche's."""

    content: Levels
    pastiche: Levels


@dataclass
class Steadiness:
    """Collects frame after frame; `measures` may be asked for at any time."""

    _sums: dict[str, list[float]] = field(default_factory=dict)

    def add_first(self, seen: Seen) -> None:
        """The clip begins with this frame."""
        self._add_brightness(seen)

    def add(self, before: Seen, after: Seen, backward: Flow, held: Mask, still: Mask) -> None:
        """Take in the frame `after`, which follows `before`.

        Args:
            backward: flow of the source from `after` to `before`.
            held: where that can be trusted.
            still: where nothing moves.
        """
        self._add_brightness(after)
        for name, earlier, later in self._both(before, after):
            errors = np.sum(np.square(_pixels(later) - warp(_pixels(earlier), backward)), axis=-1)
            self._append(f"warping_error{name}", errors, held)
            changes = np.abs(_pixels(later) @ _LUMA - _pixels(earlier) @ _LUMA)
            self._append(f"flicker{name}", changes, held & still)

    def measures(self) -> dict[str, float]:
        """As far as they are known: flicker needs places that stand still, and all but drift a second frame."""
        means = {
            name: float(np.mean(values)) for name, values in self._sums.items() if not name.startswith("brightness")
        }
        return means | {"brightness_drift": self._drift()}

    def _drift(self) -> float:
        """Change of mean luma from first to last frame along a line fitted through all, less the source's own."""
        gains = np.subtract(self._sums["brightness"], self._sums["brightness_source"])
        if len(gains) < 2:
            return 0.0
        slope, _ = np.polyfit(np.linspace(0, 1, len(gains)), gains, 1)
        return float(abs(slope))

    def _both(self, before: Seen, after: Seen) -> list[tuple[str, Levels, Levels]]:
        return [("", before.pastiche, after.pastiche), ("_source", before.content, after.content)]

    def _add_brightness(self, seen: Seen) -> None:
        for name, levels in (("brightness", seen.pastiche), ("brightness_source", seen.content)):
            self._sums.setdefault(name, []).append(float(np.mean(_pixels(levels) @ _LUMA)))

    def _append(self, name: str, values: Float32[np.ndarray, "height width"], where: Mask) -> None:
        if where.any():
            self._sums.setdefault(name, []).append(float(np.mean(values[where])))


def _pixels(levels: Levels) -> Float32[np.ndarray, "height width 3"]:
    return levels.astype(np.float32) / 255
