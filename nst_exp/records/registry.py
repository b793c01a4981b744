"""The registry, which finds the folder of a finished run by its identity and the folder of a sweep by its command.

Every entry is a small file that is written atomically, so any number of processes can share a registry. Folders are
stored relative to the registry, so they are still found after they and the registry have been moved together.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from nst_exp.errors import InputError
from nst_exp.files import home_expanded, remove_folders, write_json
from nst_exp.records.folder import RunFolder

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResultRegistry:
    """A registry of finished runs, sweeps and painted frames.

    Entries are best effort: an entry that cannot be written costs a repetition at most, so it causes only a warning.

    Attributes:
        folder: the folder of the registry; None for a registry that is always empty.
    """

    folder: Path | None

    @classmethod
    def at(cls, address: str | None) -> ResultRegistry:
        """Return the registry that the setting `registry` names.

        Args:
            address: a path, relative to the current directory unless it is absolute or begins with `~`; None for a
                registry that is always empty.

        Raises:
            InputError: if the path begins with `~` and there is no such home folder.
        """
        return cls(home_expanded(address).absolute() if address else None)

    def finished(self, identity: str) -> RunFolder | None:
        """Return the finished run with this identity; None if there is none, or its files have been changed."""
        found = self._find("runs", identity)
        if found is None:
            return None
        run = RunFolder(found)
        return run if run.sound and run.result.identity == identity else None

    def add_run(self, identity: str, folder: Path) -> None:
        """Add the finished run with this identity, whose files are in `folder`."""
        self._add("runs", identity, folder)

    def sweep(self, key: str) -> Path | None:
        """Return the folder of the latest sweep with this key; None if there is none, or it has been removed."""
        return self._find("sweeps", key)

    def add_sweep(self, key: str, folder: Path) -> None:
        """Add the sweep with this key, which writes to `folder`."""
        self._add("sweeps", key, folder)

    def remove_sweep(self, key: str) -> None:
        """Remove the entry and the lock of the sweep with this key."""
        if self.folder is None:
            return
        for suffix in (".json", ".lock"):
            with contextlib.suppress(OSError):
                (self.folder / "sweeps" / f"{key}{suffix}").unlink()
        remove_folders([self.folder / "sweeps"])

    def frames(self, key: str) -> Path | None:
        """Return the folder of the latest run, finished or not, that painted frames of a video with this key.

        Args:
            key: see `nst_exp.records.record.frames_key`.
        """
        return self._find("clips", key)

    def add_frames(self, key: str, folder: Path) -> None:
        """Add the run in `folder`, which paints the frames with this key."""
        self._add("clips", key, folder)

    def claim(self, key: str) -> BaseFileLock | None:
        """Lock the sweep with this key, so that no other process runs it at the same time.

        Returns:
            The acquired lock, which is released at the latest when the process ends. None if another process has the
            lock, or locks are not available.
        """
        if self.folder is None:
            return None
        path = self.folder / "sweeps" / f"{key}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            lock.acquire(blocking=False)
        except (Timeout, OSError, NotImplementedError) as error:  # NotImplementedError: the file system has no locks
            _log.debug("the sweep is not claimed: %s", error)
            return None
        return lock

    def _find(self, kind: str, key: str) -> Path | None:
        if self.folder is None:
            return None
        try:
            entry = json.loads((self.folder / kind / f"{key}.json").read_text())
            found = Path(os.path.normpath(self.folder / entry["folder"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if found.is_dir() else None

    def _add(self, kind: str, key: str, folder: Path) -> None:
        """Write an entry, or warn if that is not possible: a missing entry only costs a repetition."""
        if self.folder is None:
            return
        try:
            (self.folder / kind).mkdir(parents=True, exist_ok=True)
            write_json(self.folder / kind / f"{key}.json", {"folder": os.path.relpath(folder, self.folder)})
        except (OSError, InputError) as error:
            _log.warning("the registry %s cannot be written: %s", self.folder, error)
