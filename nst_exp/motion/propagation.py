"""Propagation along optical flow: what a frame of a video takes over from the painted frames before it.

Earlier pictures come as levels, as they are in their files, so that a video that was interrupted is resumed to the very
same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from nst_exp.motion.flow import Flow, Levels, Mask, Pixels, hidden, motion_edges, warp

FlowBetween = Callable[[tuple[int, Levels], tuple[int, Levels]], Flow]  # frames as (index, levels)

_FEATHER = 2.0  # px: standard deviation of the seam between what is carried along and what is new
_SHARE_OF_NEIGHBOUR = 0.5  # Ruder et al. 2016, section 4.4: delta, in passes after the first


@dataclass(frozen=True, eq=False)
class PreviousFrame:
    """A frame that is painted already.

    Attributes:
        frame_index: in the source.
        content: the source's levels.
        pastiche: the picture's.
    """

    frame_index: int
    content: Levels
    pastiche: Levels


@dataclass(frozen=True, eq=False)
class Propagated:
    """What a frame takes over from those before it.

    Attributes:
        init: the picture that the solver starts from.
        anchor: the picture that the frame is held to ...
        mask: ... where this is True.
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
    """Carry the painted frames at the distances `reach` before a frame along to it.

    Each pixel is held to the nearest frame that shows it. Pixels that none of them shows start from the content image
    in the colours that the last picture gave to its own: without them, they would need more steps than a frame has.

    Args:
        flow_between: the source's optical flow from one frame to another.
        previous: the nearest frame first.
        reach: in frames painted, 1 or more each; distances beyond the video's beginning are left out.

    References:
        Ruder, Dosovitskiy, Brox (2016), sections 4.1 to 4.3.
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
        # a trusted place takes over from an untrusted one; both from what is not shown
        new = (trusted & ~held) | (shown & ~carried)
        anchor = np.where(new[..., None], warped, anchor)
        carried, held = carried | shown, held | trusted
    return Propagated(_feathered(anchor, fresh, carried), anchor, held)


def blended(propagated: Propagated, own: Levels) -> Propagated:
    """For passes after the first: start half from the neighbour, half from `own`, the last pass's picture.

    References:
        Ruder, Dosovitskiy, Brox (2016), section 4.4, equation 10.
    """
    share = _SHARE_OF_NEIGHBOUR * propagated.mask[..., None].astype(np.float32)
    return Propagated(
        share * propagated.anchor + (1 - share) * own.astype(np.float32) / 255, propagated.anchor, propagated.mask
    )


def _recoloured(content: Levels, last: PreviousFrame) -> Pixels:
    """`content` under the affine map of colours that comes closest to what `last` made of its own content."""
    before, after = _colours(last.content), last.pastiche.reshape(-1, 3) / np.float32(255)
    mapping, *_ = np.linalg.lstsq(before, after, rcond=None)
    return np.clip(_colours(content) @ mapping, 0, 1).reshape(content.shape).astype(np.float32)


def _colours(levels: Levels) -> Float32[np.ndarray, "pixels 4"]:
    """Colours in [0, 1], and a 1 for the constant of an affine map."""
    colours = levels.reshape(-1, 3) / np.float32(255)
    return np.concatenate([colours, np.ones((len(colours), 1), np.float32)], axis=1).astype(np.float32)


def _feathered(anchor: Pixels, fresh: Pixels, carried: Mask) -> Pixels:
    """`anchor` where it is carried along, else `fresh`, with a soft seam on the side of the anchor."""
    share = cv2.GaussianBlur(carried.astype(np.float32), (0, 0), _FEATHER)
    share = np.where(carried, np.clip(2 * share - 1, 0, 1), 0)[..., None].astype(np.float32)
    return share * anchor + (1 - share) * fresh
