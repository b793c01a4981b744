"""Atomic writing of files, and other operations on files and folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from nst_exp.errors import InputError

TEMPORARY = f".{'[0-9a-f]' * 32}.tmp"  # the pattern for names of files that are being written


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that `path` has either all of the new content or the old content.

    Raises:
        InputError: If the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # it still exists only if something failed
            temporary.unlink()


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as indented JSON, atomically.

    Raises:
        InputError: As with `write_atomically`.
    """
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def missing_folders(path: Path) -> list[Path]:
    """Return the folder and its parents, as far as they do not exist, from the inside out."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_folders(folders: Iterable[Path]) -> None:
    """Remove those folders that are empty, inner ones first."""
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()


def digest(path: Path) -> str | None:
    """Return the SHA-256 of a file's bytes, in hexadecimal; None if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def home_expanded(address: str | Path) -> Path:
    """Replace a leading `~` by the home folder.

    Raises:
        InputError: If the home folder is unknown.
    """
    try:
        return Path(address).expanduser()
    except RuntimeError as error:
        raise InputError(f"{str(address)!r}: {error}") from error


def cache_folder(address: str | None) -> Path:
    """Return the folder for downloads, converted params and compiled code.

    Args:
        address: The folder's path, which may begin with `~`; None for the platform's cache folder.

    Raises:
        InputError: As with `home_expanded`.
    """
    return home_expanded(address) if address else platformdirs.user_cache_path("nst_exp")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; {} if the file cannot be read or holds something else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
