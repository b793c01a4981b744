"""This process, as MLflow knows it: who makes a run, and which signals wait while it writes."""

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


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Signals that end a command wait until this is left: a write to sqlite that they break off leaves the file locked.

    A second Ctrl-C does not wait; other signals may be repeated by their sender. Signals reach the main thread only, so
    there is nothing to hold in others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held and number == signal.SIGINT:
            raise KeyboardInterrupt
        held.append(number)

    handlers = {number: signal.signal(number, hold) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if held:
            signal.raise_signal(held[0])


def process_tag(pid: int | None = None) -> str:
    """Host, id and start time of a process: the same id may be given again; the time is 0 if there is none.

    Args:
        pid: of the process; default: this one.
    """
    pid = os.getpid() if pid is None else pid
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        started = 0.0
    return f"{platform.node()} {pid} {started:.2f}"
