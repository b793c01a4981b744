"""Versions of packages and of FFmpeg's libraries, and the processor.

With the same code, results may still differ by these.
"""

from __future__ import annotations

import functools
import platform
import re
from importlib import metadata
from pathlib import Path

_PROCESSORS = Path("/proc/cpuinfo")
_NAMES = re.compile(r"^(?:model name|Processor|cpu model|cpu)\s*:\s*(.+)$", re.MULTILINE)


def installed_version(package: str) -> str:
    """Return the version of a package, or `unknown` if it has no metadata, as in a folder that was copied."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def ffmpeg_version() -> str:
    """Return the versions of the FFmpeg libraries that PyAV uses.

    They may differ from those that PyAV was published with.
    """
    import av  # imported here because images do not need it

    libraries = sorted(av.library_versions.items())
    return ", ".join(f"{name} {'.'.join(map(str, version))}" for name, version in libraries)


def decoders_version() -> str:
    """Return the versions of everything that decodes videos and animations and resizes their frames."""
    return f"av {installed_version('av')}, {ffmpeg_version()}, pillow {installed_version('pillow')}"


@functools.cache
def processor() -> str:
    """Return the processor's name and instruction sets, on which rounding in XLA and NumPy depends."""
    import numpy as np  # imported here because help and completion do not need it

    try:
        found = _NAMES.search(_PROCESSORS.read_text(errors="replace"))
    except OSError:  # not Linux
        found = None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    sets = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return f"{name} ({', '.join([*sets.get('baseline', ()), *sets.get('found', ())])})"
