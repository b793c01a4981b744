"""How a frame of a video or a camera follows from the painted frames before it: the options of `video=`."""

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
    """How a frame follows from those before it.

    Attributes:
        follows: whether frames start from earlier ones, so that they have to be painted in order.
        reach: how many painted frames have to be remembered.
    """

    follows: ClassVar[bool]

    @classmethod
    def of(cls, flows: Flows, distances: tuple[int, ...]) -> FramePolicy:
        """The policy for a source with these flows; see `frame_policy`."""

    @property
    def reach(self) -> int:
        """See above."""

    def start(
        self, entry: BatchEntry, index: int, content: Levels, previous: Sequence[PreviousFrame], own: Levels | None
    ) -> BatchEntry:
        """Say where the solver starts for a frame, and what it is held to.

        Args:
            entry: the frame by itself.
            index: of the frame in the source.
            content: the frame at the run's size, (H, W, 3).
            previous: painted frames, the nearest first; none for the first frame.
            own: what an earlier pass made of the frame; None in the first pass.
        """


@dataclass(frozen=True)
class Independent:
    """Each frame by itself, as in Dey (2019)."""

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
    """Each frame starts from the last picture as it is."""

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
    """Each frame starts from earlier pictures, carried along by optical flow, and is held to them.

    Attributes:
        flows: between the frames of the source.
        distances: of the frames that are carried along, in frames painted.

    References:
        Ruder, Dosovitskiy, Brox (2016), Artistic style transfer for videos.
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
        return _held(entry, propagated if own is None else blended(propagated, own))


POLICIES: Mapping[str, type[FramePolicy]] = {"independent": Independent, "warm_start": WarmStart, "flow": FlowGuided}


def frames_follow(video: VideoConfig) -> bool:
    """Whether frames start from earlier ones."""
    return POLICIES[video.mode].follows


def frame_policy(video: VideoConfig, flows: Flows, distances: Sequence[int]) -> FramePolicy:
    """The policy that `video.mode` names.

    Args:
        flows: between the frames of the source.
        distances: of the frames that `video=flow` carries along, in frames painted.
    """
    return POLICIES[video.mode].of(flows, tuple(distances))


def _from_picture(entry: BatchEntry, picture: Levels) -> BatchEntry:
    return replace(entry, init_image=jnp.asarray(from_uint8(picture)))


def _held(entry: BatchEntry, propagated: Propagated) -> BatchEntry:
    mask = jnp.asarray(propagated.mask, jnp.float32)[None, ..., None]
    anchor = Anchor(jnp.asarray(propagated.anchor)[None], mask)
    return replace(entry, init_image=jnp.asarray(propagated.init)[None], anchor=anchor)
