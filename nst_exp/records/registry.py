"""The memory of finished work: which folder holds the result of an identity, and which the sweep of a command.

Every entry is a small file of its own, written whole, so that any number of processes may use one registry.
Folders are noted relative to it: moved together they stay found.
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
    """The registry in `folder`; one without a folder remembers nothing."""

    folder: Path | None

    @classmethod
    def at(cls, address: str | None) -> ResultRegistry:
        """The registry that the config key names; a relative path counts from the current directory."""
        return cls(home_expanded(address).absolute() if address else None)

    def finished(self, identity: str) -> RunFolder | None:
        """The finished run of this identity, if its files are still there and sound."""
        found = self._find("runs", identity)
        if found is None:
            return None
        run = RunFolder(found)
        return run if run.sound and run.result.identity == identity else None

    def add_run(self, identity: str, folder: Path) -> None:
        """Remember that `folder` holds the finished run of `identity`."""
        self._add("runs", identity, folder)

    def sweep(self, key: str) -> Path | None:
        """The folder of the latest sweep of this key, if it is still there."""
        return self._find("sweeps", key)

    def add_sweep(self, key: str, folder: Path) -> None:
        """Remember that `folder` is where the sweep of `key` writes to."""
        self._add("sweeps", key, folder)

    def remove_sweep(self, key: str) -> None:
        """Remove what is remembered of the sweep of `key`."""
        if self.folder is None:
            return
        for suffix in (".json", ".lock"):
            with contextlib.suppress(OSError):
                (self.folder / "sweeps" / f"{key}{suffix}").unlink()
        remove_folders([self.folder / "sweeps"])

    def frames(self, key: str) -> Path | None:
        """The folder of the latest run that painted a video's frames of this key, finished or not."""
        return self._find("clips", key)

    def add_frames(self, key: str, folder: Path) -> None:
        """Remember that the run in `folder` paints the frames of `key`."""
        self._add("clips", key, folder)

    def claim(self, key: str) -> BaseFileLock | None:
        """A lock held until this process ends or releases it; None if a living sweep of this key has it."""
        if self.folder is None:
            return None
        path = self.folder / "sweeps" / f"{key}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            lock.acquire(blocking=False)
        except (Timeout, OSError, NotImplementedError) as error:  # the last where the file system has no locks
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
        """Forgetting costs a repetition, so it is no reason to fail."""
        if self.folder is None:
            return
        try:
            (self.folder / kind).mkdir(parents=True, exist_ok=True)
            write_json(self.folder / kind / f"{key}.json", {"folder": os.path.relpath(folder, self.folder)})
        except (OSError, InputError) as error:
            _log.warning("the registry %s cannot be written: %s", self.folder, error)
