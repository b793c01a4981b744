"""What ends a command from outside: signals, and an output that nobody reads any more.

Shared by all commands, so that each of them ends its runs properly however it is stopped.
"""

from __future__ import annotations

import os
import signal
import sys

# What ends a command as Ctrl-C does; Windows has no SIGHUP.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
BROKEN_PIPE = 141  # the exit code of shells for a command whose reader has gone: 128 + SIGPIPE


def end_as_interrupted() -> None:
    """Let a closed terminal and a stopped job end runs as Ctrl-C does; ignored signals (nohup) stay ignored."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def drop_output() -> None:
    """Send what is still to be printed nowhere, so that the interpreter does not complain at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
