"""This process, as MLflow knows it: which process makes a run, and which signals wait while it writes."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import psutil

from nst_exp.signals import ENDING

PROCESS = "process"  # the tag that tells which process makes a run


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Defer signals that end a command until the block is left.

    A write to an sqlite file that is interrupted leaves the file locked. A second Ctrl-C is not deferred; other signals
    may be repeated by their sender. Signals reach the main thread only, so in other threads nothing is deferred.

    Raises:
        KeyboardInterrupt: when the block is left, or within it on the second Ctrl-C, if the handlers of the signals
            raise it, as those of our commands do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[int] = []

    def defer(number: int, frame: FrameType | None) -> None:
        if deferred and number == signal.SIGINT:
            raise KeyboardInterrupt
        deferred.append(number)

    handlers = {number: signal.signal(number, defer) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if deferred:
            signal.raise_signal(deferred[0])


def process_tag(pid: int | None = None) -> str:
    """Return host, id and start time of a process; the system may give its id to another process later.

    Args:
        pid: the process's id; None means this process.

    Returns:
        Three words; the start time is in seconds since 1970, and 0 if there is no such process.
    """
    pid = os.getpid() if pid is None else pid
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        started = 0.0
    return f"{platform.node()} {pid} {started:.2f}"
