"""Frame policies, which say how a frame of a video or a camera follows from the painted frames before it.

They are the options of `video=`; `POLICIES` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp

from nst_exp.config import VideoConfig
from nst_exp.media.frame_conversion import Levels
from nst_exp.media.image import from_uint8
from nst_exp.motion.flow_cache import Flows
from nst_exp.motion.propagation import PreviousFrame, Propagated, blended, propagate
from nst_exp.transfer.stylize import BatchEntry
from nst_exp.transfer.terms import Anchor


@runtime_checkable
class FramePolicy(Protocol):
    """The interface of frame policies.

    Attributes:
        follows: whether frames start from earlier ones, so that they must be painted in order.
    """

    follows: ClassVar[bool]

    @classmethod
    def of(cls, flows: Flows, distances: tuple[int, ...]) -> FramePolicy:
        """Return the policy for a source; see `frame_policy`."""

    @property
    def reach(self) -> int:
        """The number of painted frames to remember for `start`; at least 1."""

    def start(
        self, entry: BatchEntry, index: int, content: Levels, previous: Sequence[PreviousFrame], own: Levels | None
    ) -> BatchEntry:
        """Return `entry` with the initial picture and the anchor of the frame.

        Args:
            entry: the frame without any relation to other frames.
            index: the index of the frame in the source.
            content: the frame at the size of the run, of shape (H, W, 3).
            previous: the painted frames before it, the nearest first; empty for the first frame.
            own: the result of the previous pass for this frame; None in the first pass.
        """


@dataclass(frozen=True)
class Independent:
    """Paint each frame independently, as in Dey (2019)."""

    follows: ClassVar[bool] = False
    reach: int = 1

    @classmethod
    def of(cls, flows: Flows, distances: tuple[int, ...]) -> Independent:
        """See `FramePolicy`."""
        return cls()

    def start(
        self, entry: BatchEntry, index: int, content: Levels, previous: Sequence[PreviousFrame], own: Levels | None
    ) -> BatchEntry:
        """See `FramePolicy`."""
        return entry


@dataclass(frozen=True)
class WarmStart:
    """Start each frame from the unchanged result of the previous frame."""

    follows: ClassVar[bool] = True
    reach: int = 1

    @classmethod
    def of(cls, flows: Flows, distances: tuple[int, ...]) -> WarmStart:
        """See `FramePolicy`."""
        return cls()

    def start(
        self, entry: BatchEntry, index: int, content: Levels, previous: Sequence[PreviousFrame], own: Levels | None
    ) -> BatchEntry:
        """See `FramePolicy`."""
        return _from_picture(entry, previous[0].pastiche) if previous else entry


@dataclass(frozen=True)
class FlowGuided:
    """Start each frame from painted frames that are propagated by optical flow, and keep it close to them.

    Attributes:
        flows: the optical flow between frames of the source.
        distances: how many painted frames back each of the propagated frames is; 1 is the previous frame.

    References:
        Ruder, Dosovitskiy, Brox (2016), Artistic Style Transfer for Videos.
    """

    follows: ClassVar[bool] = True

    flows: Flows
    distances: tuple[int, ...]

    @classmethod
    def of(cls, flows: Flows, distances: tuple[int, ...]) -> FlowGuided:
        """See `FramePolicy`."""
        return cls(flows, distances)

    @property
    def reach(self) -> int:
        """See `FramePolicy`."""
        return max(self.distances)

    def start(
        self, entry: BatchEntry, index: int, content: Levels, previous: Sequence[PreviousFrame], own: Levels | None
    ) -> BatchEntry:
        """See `FramePolicy`."""
        if not previous:
            return entry if own is None else _from_picture(entry, own)
        distances = self.distances if own is None else (1,)
        propagated = propagate(self.flows.between, index, content, previous, distances)
        return _from_propagated(entry, propagated if own is None else blended(propagated, own))


POLICIES: Mapping[str, type[FramePolicy]] = {"independent": Independent, "warm_start": WarmStart, "flow": FlowGuided}


def frames_follow(video: VideoConfig) -> bool:
    """Tell whether frames start from earlier ones, so that they must be painted in order."""
    return POLICIES[video.mode].follows


def frame_policy(video: VideoConfig, flows: Flows, distances: Sequence[int]) -> FramePolicy:
    """Return the policy that `video.mode` names.

    Args:
        video: the settings.
        flows: the optical flow between frames of the source.
        distances: for `video=flow`, how many painted frames back each of the propagated frames is, at least 1; one of
            them must be 1.
    """
    return POLICIES[video.mode].of(flows, tuple(distances))


def _from_picture(entry: BatchEntry, picture: Levels) -> BatchEntry:
    return replace(entry, init_image=jnp.asarray(from_uint8(picture)))


def _from_propagated(entry: BatchEntry, propagated: Propagated) -> BatchEntry:
    mask = jnp.asarray(propagated.mask, jnp.float32)[None, ..., None]
    anchor = Anchor(jnp.asarray(propagated.anchor)[None], mask)
    return replace(entry, init_image=jnp.asarray(propagated.init)[None], anchor=anchor)
