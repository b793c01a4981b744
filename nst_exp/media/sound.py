"""The sound of a video, as it is copied into another one."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av

from nst_exp.media.video import Clip


class Sound:
    """Copies the audio packets of a clip into another as time goes on."""

    def __init__(self, output: Any, source: Clip) -> None:
        self._output = output
        self._source = av.open(str(source.path))
        streams = self._source.streams.audio
        self._copies = {stream.index: output.add_stream_from_template(stream) for stream in streams}
        self._packets = self._source.demux(streams)
        self._next: Any = None
        picture = self._source.streams.video[0]
        self._begin = (picture.start_time or 0) * (picture.time_base or 1)
        self._from: Fraction | None = None

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def copy_until(self, time: Fraction | None) -> None:
        """Copy what begins before `time`, in s, or all that is left; the first call says where the pictures begin."""
        if self._from is None:
            whole = time is None or time <= self._begin  # with what encoders put before the first picture
            self._from = Fraction(-(10**9)) if whole else time
        while (packet := self._peek()) is not None and (time is None or packet.pts * packet.time_base <= time):
            self._next = None
            if (packet.pts + (packet.duration or 0)) * packet.time_base > self._from:
                packet.stream = self._copies[packet.stream_index]
                self._output.mux(packet)

    def _peek(self) -> Any:
        while self._next is None:
            self._next = next(self._packets, None)
            if self._next is None:
                return None
            if self._next.pts is None:  # the last packet, empty
                self._next = None
        return self._next
