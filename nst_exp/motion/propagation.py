"""Propagation of painted frames along optical flow to the next frame of a video.

Earlier frames are given as 8-bit levels, as they are stored in files, so that an interrupted video resumes to exactly
the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from nst_exp.motion.flow import Flow, Levels, Mask, Pixels, hidden, motion_edges, warp

FlowBetween = Callable[[tuple[int, Levels], tuple[int, Levels]], Flow]  # each frame as (index, levels)

_FEATHER = 2.0  # px: standard deviation of the blurred seam between propagated and new parts
_SHARE_OF_NEIGHBOUR = 0.5  # Ruder et al. 2016, section 4.4: delta, in passes after the first


@dataclass(frozen=True, eq=False)
class PreviousFrame:
    """A frame that has been painted.

    Attributes:
        frame_index: Index of the frame in the source.
        content: The frame of the source.
        pastiche: The painted frame.
    """

    frame_index: int
    content: Levels
    pastiche: Levels


@dataclass(frozen=True, eq=False)
class Propagated:
    """What a frame takes over from earlier painted frames.

    Attributes:
        init: The image that the solver starts from.
        anchor: The image that the frame is held to where `mask` is True.
        mask: Where the frame is held to `anchor`.
    """

    init: Pixels
    anchor: Pixels
    mask: Mask


def propagate(
    flow_between: FlowBetween,
    frame_index: int,
    content: Levels,
    previous: Sequence[PreviousFrame],
    reach: Sequence[int],
) -> Propagated:
    """Propagate painted frames to the frame that is painted next.

    Each pixel is held to the nearest frame that shows it. Pixels that none of the frames shows start from the content
    image, recoloured as the last painted frame recoloured its own content. Without the recolouring, they would need
    more steps than a frame has.

    Args:
        flow_between: Returns the source's optical flow from one frame to another.
        frame_index: Index of the frame in the source.
        content: The frame of the source.
        previous: Painted frames, the nearest first; at least one.
        reach: Distances of the frames to propagate, counted in painted frames; each at least 1. Distances beyond the
            first frame of the video are ignored.

    References:
        Ruder, Dosovitskiy, Brox (2016), Artistic Style Transfer for Videos, sections 4.1 to 4.3.
    """
    fresh = _recoloured(content, previous[0])
    anchor, carried = fresh, np.zeros(content.shape[:2], bool)
    held = carried.copy()
    for earlier in (previous[back - 1] for back in sorted(reach) if back <= len(previous)):
        now, then = (frame_index, content), (earlier.frame_index, earlier.content)
        backward, forward = flow_between(now, then), flow_between(then, now)
        shown = ~hidden(backward, forward)
        trusted = shown & ~motion_edges(backward)
        warped = warp(earlier.pastiche.astype(np.float32) / 255, backward)
        # take what no nearer frame shows, and what is trusted where no nearer frame is trusted
        new = (trusted & ~held) | (shown & ~carried)
        anchor = np.where(new[..., None], warped, anchor)
        carried, held = carried | shown, held | trusted
    return Propagated(_feathered(anchor, fresh, carried), anchor, held)


def blended(propagated: Propagated, own: Levels) -> Propagated:
    """Blend what was propagated with the frame's own result from the previous pass, for passes after the first.

    Where the frame is held to the propagated image, the solver starts from the mean of both; elsewhere, it starts from
    `own`.

    Args:
        propagated: What `propagate` returned for the frame.
        own: The frame as the previous pass painted it.

    References:
        Ruder, Dosovitskiy, Brox (2016), Artistic Style Transfer for Videos, section 4.4, equation 10.
    """
    share = _SHARE_OF_NEIGHBOUR * propagated.mask[..., None].astype(np.float32)
    return Propagated(
        share * propagated.anchor + (1 - share) * own.astype(np.float32) / 255, propagated.anchor, propagated.mask
    )


def _recoloured(content: Levels, last: PreviousFrame) -> Pixels:
    """Apply to `content` the affine map of colours that best describes how `last` was painted from its content."""
    before, after = _colours(last.content), last.pastiche.reshape(-1, 3) / np.float32(255)
    mapping, *_ = np.linalg.lstsq(before, after, rcond=None)
    return np.clip(_colours(content) @ mapping, 0, 1).reshape(content.shape).astype(np.float32)


def _colours(levels: Levels) -> Float32[np.ndarray, "pixels 4"]:
    """Return colours in [0, 1], each followed by a 1 for the constant of an affine map."""
    colours = levels.reshape(-1, 3) / np.float32(255)
    return np.concatenate([colours, np.ones((len(colours), 1), np.float32)], axis=1).astype(np.float32)


def _feathered(anchor: Pixels, fresh: Pixels, carried: Mask) -> Pixels:
    """Return `anchor` where `carried` is True, else `fresh`, with a soft seam on the anchor's side."""
    share = cv2.GaussianBlur(carried.astype(np.float32), (0, 0), _FEATHER)
    share = np.where(carried, np.clip(2 * share - 1, 0, 1), 0)[..., None].astype(np.float32)
    return share * anchor + (1 - share) * fresh
