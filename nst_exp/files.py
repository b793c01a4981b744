"""Writing files whole or not at all."""

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

TEMPORARY = f".{'[0-9a-f]' * 32}.tmp"  # the pattern of names that files have while they are written


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds all of it or is left as it was.

    Raises:
        InputError: if the folder cannot be written or the disk is full.
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
        with contextlib.suppress(OSError):  # gone already, unless something failed
            temporary.unlink()


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def missing_folders(path: Path) -> list[Path]:
    """The folder and those above it, as far as they do not exist."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_folders(folders: Iterable[Path]) -> None:
    """Remove folders, inner ones first, each only if it is empty."""
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()


def digest(path: Path) -> str | None:
    """SHA-256 of the file's bytes, in hexadecimal; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def home_expanded(address: str | Path) -> Path:
    """The path with `~` replaced by the home folder.

    Raises:
        InputError: if the path begins with `~` and there is no such home folder.
    """
    try:
        return Path(address).expanduser()
    except RuntimeError as error:
        raise InputError(f"{str(address)!r}: {error}") from error


def cache_folder(address: str | None) -> Path:
    """Where downloads, converted params and compiled code are kept.

    Args:
        address: of the folder; None for the platform's own place.

    Raises:
        InputError: as `home_expanded`.
    """
    return home_expanded(address) if address else platformdirs.user_cache_path("nst_exp")


def read_json(path: Path) -> dict[str, Any]:
    """What is in the file; {} if there is none, or it is no JSON object."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
