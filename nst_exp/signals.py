"""End a command that is stopped from outside: by a signal, or because its output is closed or no longer read.

All commands use this module, so that each of them ends its runs properly however it is stopped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

# The signals that end a command as Ctrl-C does: those that the system, a terminal or a batch system sends to stop a
# process, and that can be caught. Windows has few of them.
_NAMES = (
    *("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK"),
    *("SIGXCPU", "SIGALRM", "SIGUSR1", "SIGUSR2"),  # the time is used up, or soon will be
)
ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
BROKEN_PIPE = 141  # the exit code of shells for a command whose reader has gone: 128 + SIGPIPE
INTERRUPTED = 130  # the exit code for a command ended by Ctrl-C: 128 + SIGINT


def end_as_interrupted() -> None:
    """Let the signals in `ENDING` raise KeyboardInterrupt, as Ctrl-C does; ignored signals (nohup) stay ignored."""
    for number in heeded():
        signal.signal(number, signal.default_int_handler)


def heeded() -> list[int]:
    """Return the signals in `ENDING` that this process does not ignore."""
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def exit_interrupted(end: Callable[[], object] = lambda: None) -> NoReturn:
    """Exit with code 130 after a signal, once `end` has ended the runs of the command.

    Signals that batch systems and closed terminals repeat have no effect; another Ctrl-C exits at once.

    Args:
        end: a function that ends the runs, for example `lambda: close_sweep("KILLED")`; does nothing by default.
    """
    for number in heeded():
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        end()
        sys.stdout.flush()  # `os._exit` would drop lines that are buffered for a pipe or a file
        print("nst_exp: interrupted", file=sys.stderr, flush=True)
    logging.shutdown()
    os._exit(INTERRUPTED)  # without the interpreter's teardown: jaxlib crashes in it while a chunk still runs


def replace_closed_streams() -> None:
    """Connect standard streams that were closed (`>&-`) to the null device.

    Otherwise the next file that is opened, such as a database, would get the number of a closed stream and receive
    everything that is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115


@contextlib.contextmanager
def flushed_output() -> Iterator[None]:
    """Write out standard output when the block ends or exits.

    If nobody reads a pipe any more, the error is raised here and not in the interpreter's teardown, which would print
    it.

    Raises:
        BrokenPipeError: if nobody reads the output any more.
    """
    try:
        yield
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def drop_output() -> None:
    """Discard everything that is printed from now on, so that the interpreter reports no error when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
