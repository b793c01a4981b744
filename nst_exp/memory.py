"""Memory: what is free, and the peak of what runs between two calls."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import jax
import psutil

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def forget_peak() -> None:
    """Begin to count anew, where the system can (Linux, host memory); elsewhere the peak is the process's."""
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5")  # proc(5): resets the peak resident set size


def peak_mb() -> float:
    """The most memory in use so far, in MB (10^6 bytes): of the device if it tells, else of this process."""
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return float(statistics["peak_bytes_in_use"]) / 1e6
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def free_bytes() -> int:
    """Memory that may still be used: the devices', each as full as the fullest, if they tell, else the host's."""
    statistics = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in of_one for of_one in statistics):
        least = min(int(of_one["bytes_limit"]) - int(of_one.get("bytes_in_use", 0)) for of_one in statistics)
        return least * len(statistics)
    return int(psutil.virtual_memory().available)
