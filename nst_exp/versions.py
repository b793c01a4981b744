"""Versions of installed packages."""

from __future__ import annotations

from importlib import metadata


def installed_version(package: str) -> str:
    """The version of `package`, or `unknown` where its metadata is missing, as in a folder that was copied."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
