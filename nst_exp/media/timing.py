"""The end of a written video, as determined by its source."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error

from nst_exp.media.kind import open_animation
from nst_exp.media.video import VideoFile, shown_ms, video_stream


@dataclass(frozen=True)
class Ending:
    """The end of a written video.

    Attributes:
        pts: When the last frame stops being shown, in units of the source's `time_base`.
        of_source: Whether the source ends at the same time.
    """

    pts: int
    of_source: bool


def ending_of(video: VideoFile, pts: int, every: int) -> Ending:
    """Determine when a video that keeps every n-th frame of its source ends.

    The last frame is shown until the next frame that would have been kept, or until the source ends.

    Args:
        video: The source.
        pts: When the last written frame begins, in units of the source's `time_base`.
        every: The n of "every n-th frame", at least 1.
    """
    usual = max(1, round(1 / (video.rate * video.time_base)))
    later, end = [], pts + usual
    for stamp, duration in _spans(video):
        if stamp > pts:
            later.append(stamp)
        if stamp >= pts:
            end = max(end if stamp > pts else 0, stamp + (duration or usual))
    if len(later) >= every:
        return Ending(heapq.nsmallest(every, later)[-1], of_source=False)
    return Ending(end, of_source=True)


def _spans(video: VideoFile) -> Iterator[tuple[int, int]]:
    """Yield, in no particular order, when each frame begins and how long it is shown; 0 if the file does not say."""
    if video.animation:
        yield from _animated(video)
        return
    with av.open(str(video.path)) as container:
        stream: Any = video_stream(container)
        try:
            for packet in container.demux(stream):
                if packet.pts is not None:
                    yield packet.pts, packet.duration or 0
        except av.error.FFmpegError:  # a damaged file ends here
            return


def _animated(video: VideoFile) -> Iterator[tuple[int, int]]:
    stamp = 0
    with open_animation(video.path) as image:
        for index in range(video.frames or 0):
            image.seek(index)
            duration = shown_ms(image)
            yield stamp, duration
            stamp += duration
