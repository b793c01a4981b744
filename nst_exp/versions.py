"""Versions of installed packages, of FFmpeg's libraries, and the processor: what the same code may differ by."""

from __future__ import annotations

import functools
import platform
import re
from importlib import metadata
from pathlib import Path

_PROCESSORS = Path("/proc/cpuinfo")
_NAMES = re.compile(r"^(?:model name|Processor|cpu model|cpu)\s*:\s*(.+)$", re.MULTILINE)


def installed_version(package: str) -> str:
    """The version of `package`, or `unknown` where its metadata is missing, as in a folder that was copied."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def ffmpeg_version() -> str:
    """The versions of FFmpeg's libraries that PyAV uses, which need not be those that PyAV was published with."""
    import av  # here, for pictures need none of it

    libraries = sorted(av.library_versions.items())
    return ", ".join(f"{name} {'.'.join(map(str, version))}" for name, version in libraries)


def decoders_version() -> str:
    """The versions of what turns videos and animations into frames, and brings these to a size."""
    return f"av {installed_version('av')}, {ffmpeg_version()}, pillow {installed_version('pillow')}"


@functools.cache
def processor() -> str:
    """The processor's name and the instruction sets that it has: XLA and NumPy compute by them, and round by them."""
    import numpy as np  # here, for help and completion need none of it

    try:
        found = _NAMES.search(_PROCESSORS.read_text(errors="replace"))
    except OSError:  # not Linux
        found = None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    sets = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return f"{name} ({', '.join([*sets.get('baseline', ()), *sets.get('found', ())])})"
