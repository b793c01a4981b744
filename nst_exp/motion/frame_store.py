"""The painted frames of a video, each in a PNG with its own numbers: what a video that was interrupted goes on from."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from nst_exp.errors import InputError
from nst_exp.files import write_atomically
from nst_exp.media.image import write_levels

Levels = npt.NDArray[np.uint8]

_KEY = "key.txt"
_NUMBERS = "nst_exp"  # the PNG's text chunk


@dataclass(frozen=True)
class Frames:
    """The frames in `folder`, those of each pass over the video in a folder of its own."""

    folder: Path

    def open(self, key: str) -> None:
        """Begin, or go on: frames of another `key` are removed.

        Raises:
            InputError: if the folder cannot be written.
        """
        if self.key != key:
            self.remove()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{str(self.folder)!r} cannot be made: {error.strerror}") from error
        write_atomically(self.folder / _KEY, key.encode())

    def take_over(self, other: Frames) -> None:
        """Have the frames of `other`, too; links where the file system has them, for frames are never changed."""
        for path in filter(Path.is_file, other.folder.rglob("*.png")):
            target = self.folder / path.relative_to(other.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                try:
                    os.link(path, target)
                except FileExistsError:
                    raise
                except OSError:
                    shutil.copy2(path, target)

    @property
    def key(self) -> str | None:
        """Hash of all that determines the frames; None if there are none."""
        try:
            return (self.folder / _KEY).read_text()
        except OSError:
            return None

    def indices(self, pass_: int) -> list[int]:
        """The frames of a pass, counted from 1, that are there."""
        return sorted(int(path.stem) for path in self._pass(pass_).glob("*.png") if path.is_file())

    def has(self, pass_: int, index: int) -> bool:
        """Whether this frame is painted."""
        return self.file(pass_, index).is_file()

    def write(self, pass_: int, index: int, levels: Levels, numbers: Mapping[str, float]) -> None:
        """Keep a frame; it is there whole, with its numbers, or not at all.

        Raises:
            InputError: if it cannot be written.
        """
        self._pass(pass_).mkdir(parents=True, exist_ok=True)
        write_levels(self.file(pass_, index), levels, text={_NUMBERS: json.dumps(dict(numbers))})

    def levels(self, pass_: int, index: int) -> Levels:
        """The frame, (H, W, 3)."""
        path = self.file(pass_, index)
        return _decoded(path, path.stat().st_mtime_ns)

    def numbers(self, pass_: int, index: int) -> dict[str, float]:
        """Its numbers."""
        with PillowImage.open(self.file(pass_, index)) as image:  # text comes before pixels, which need no decoding
            found: dict[str, float] = json.loads(image.info[_NUMBERS])
            return found

    def file(self, pass_: int, index: int) -> Path:
        """Where a frame is."""
        return self._pass(pass_) / f"{index:06d}.png"

    def remove(self) -> None:
        """Have no frames."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pass(self, pass_: int) -> Path:
        return self.folder / f"pass{pass_}"


@functools.lru_cache(maxsize=4)
def _decoded(path: Path, modified_ns: int) -> Levels:
    """A frame's levels; each of the last few is asked for several times: to be logged, followed and measured."""
    with PillowImage.open(path) as image:
        levels = np.asarray(image.convert("RGB"))
    levels.setflags(write=False)
    return levels
