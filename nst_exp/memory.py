"""Free memory, peak memory, and caches of limited size."""

from __future__ import annotations

import contextlib
import math
import resource
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import jax
import psutil
from cachetools import LRUCache

Value = TypeVar("Value")

_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def remembered(cache: LRUCache[Hashable, Value], key: Hashable, make: Callable[[], Value]) -> Value:
    """Return a value from a cache, or make it and keep it there.

    Args:
        cache: The cache. A value that is too large for it is returned but not kept.
        key: The key of the value.
        make: Makes the value.
    """
    if key in cache:
        return cache[key]
    made = make()
    with contextlib.suppress(ValueError):  # "value too large"
        cache[key] = made
    return made


def reset_peak() -> None:
    """Start a new measurement of peak memory.

    This works for a process's own memory on Linux. Elsewhere, peaks are measured from the start of the process.
    """
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5")  # proc(5): resets the peak resident set size


def peak_mb() -> float:
    """Return the peak of memory in use, in MB (10^6 bytes).

    It is the peak of the device if the device reports it, else of this process since `reset_peak`.
    """
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return float(statistics["peak_bytes_in_use"]) / 1e6
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def free_bytes() -> float:
    """Return how much more memory may be used, in bytes.

    If all devices report their memory, this is their free memory, as if each had no more than the fullest one.
    Otherwise, it is the host's free memory, within the limits of the container.
    """
    statistics = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in of_one for of_one in statistics):
        least = min(int(of_one["bytes_limit"]) - int(of_one.get("bytes_in_use", 0)) for of_one in statistics)
        return least * len(statistics)
    return min(int(psutil.virtual_memory().available), _free_in_container())


def _free_in_container(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> float:
    """Return the memory that the control groups of this process leave free, in bytes; infinity without control groups.

    psutil knows only the whole machine. Both versions of Linux' control groups are read. File pages that can be dropped
    do not count as used.

    Args:
        root: Folder in which the control groups are mounted.
        own: File that names the control groups of this process.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return math.inf
    free = math.inf
    for _, controllers, path in lines:
        if not controllers:
            free = min(free, _free_below(root, path, "memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            free = min(free, _free_below(root / "memory", path, *names))
    return free


def _free_below(root: Path, path: str, limit: str, usage: str, droppable: str) -> float:
    """Return the least that a control group and its parents leave free; inside a container, `path` may be missing."""
    folder, free = root / path.lstrip("/"), math.inf
    for group in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):  # "max" is not a number, and means no limit
            used = int((group / usage).read_text())
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            free = min(free, int((group / limit).read_text()) - used + int(statistics.get(droppable, 0)))
        if group == root:
            return max(free, 0)
    return free
