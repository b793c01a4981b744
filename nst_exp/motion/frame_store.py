"""The painted frames of a video, stored as PNG files.

Each file also holds the numbers of its frame, such as its time stamp. An interrupted video resumes from these files.
"""

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
_NUMBERS = "nst_exp"  # key of the PNG text chunk that holds the numbers


@dataclass(frozen=True)
class Frames:
    """The stored frames of a video, with a folder for each pass over the video.

    Attributes:
        folder: The folder that holds the folders of the passes.
    """

    folder: Path

    def open(self, key: str) -> None:
        """Prepare the folder for frames: keep those that were stored with the same key, and remove all others.

        Args:
            key: Hash of everything that determines the frames.

        Raises:
            InputError: If the folder cannot be written.
        """
        if self.key != key:
            self.remove()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{str(self.folder)!r} cannot be made: {error.strerror}") from error
        write_atomically(self.folder / _KEY, key.encode())

    def take_over(self, other: Frames) -> None:
        """Add the frames of another store that are not in this one.

        Stored frames never change, so they are linked where the file system supports links, and copied otherwise.
        """
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
        """Hash of everything that determines the frames; None if there are no frames."""
        try:
            return (self.folder / _KEY).read_text()
        except OSError:
            return None

    def indices(self, pass_: int) -> list[int]:
        """Return the indices of the stored frames of a pass, in ascending order.

        Args:
            pass_: Number of the pass, from 1.
        """
        return sorted(int(path.stem) for path in self._pass(pass_).glob("*.png") if path.is_file())

    def has(self, pass_: int, index: int) -> bool:
        """Return whether a frame is stored."""
        return self.file(pass_, index).is_file()

    def write(self, pass_: int, index: int, levels: Levels, numbers: Mapping[str, float]) -> None:
        """Store a frame with its numbers, atomically.

        Args:
            pass_: Number of the pass, from 1.
            index: Index of the frame.
            levels: sRGB levels 0 to 255, uint8 (H, W, 3).
            numbers: Values to store with the frame.

        Raises:
            InputError: If the file cannot be written.
        """
        self._pass(pass_).mkdir(parents=True, exist_ok=True)
        write_levels(self.file(pass_, index), levels, text={_NUMBERS: json.dumps(dict(numbers))})

    def levels(self, pass_: int, index: int) -> Levels:
        """Return a stored frame as a read-only array, uint8 (H, W, 3)."""
        path = self.file(pass_, index)
        return _decoded(path, path.stat().st_mtime_ns)

    def numbers(self, pass_: int, index: int) -> dict[str, float]:
        """Return the numbers that are stored with a frame."""
        with PillowImage.open(self.file(pass_, index)) as image:  # reads the text without decoding the pixels
            found: dict[str, float] = json.loads(image.info[_NUMBERS])
            return found

    def file(self, pass_: int, index: int) -> Path:
        """Return the path of the file for a frame."""
        return self._pass(pass_) / f"{index:06d}.png"

    def remove(self) -> None:
        """Remove all frames and their folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pass(self, pass_: int) -> Path:
        return self.folder / f"pass{pass_}"


@functools.lru_cache(maxsize=4)
def _decoded(path: Path, modified_ns: int) -> Levels:
    """Decode a file; the last few frames are cached, since each is logged, followed by another frame, and measured."""
    with PillowImage.open(path) as image:
        levels = np.asarray(image.convert("RGB"))
    levels.setflags(write=False)
    return levels
