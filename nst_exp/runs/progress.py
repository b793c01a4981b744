"""The progress of runs and sweeps, shown as live bars on a terminal and as log lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import ClassVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from nst_exp.console import ConsoleHandler, OutputConsole

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 10.0


class SweepProgress:
    """Counts the points of a sweep and estimates the remaining time.

    Args:
        total: the number of points; None if it is not known.
        done: the number of points that were done before.

    Attributes:
        current: the sweep that is running in this process, if any.
    """

    current: ClassVar[SweepProgress | None] = None

    def __init__(self, total: int | None, done: int = 0) -> None:
        self._total, self._done = total, done
        self._solved = 0
        self._started = time.monotonic()

    def advance(self, *, solved: bool) -> None:
        """Count a point that has ended.

        Args:
            solved: False if there was nothing to do for it, so that it does not count for the remaining time.
        """
        self._done += 1
        self._solved += solved
        if _bars is None:
            _log.info("sweep: %s", self.state())
        else:
            _bars.show_sweep(self, self._done, self._total)

    def state(self, solving: float = 0.0) -> str:
        """Return the progress as text, such as "3 of 9, 2 min left".

        Args:
            solving: the sum over all points being solved of the fraction of each that is done.
        """
        if self._total is None:
            return f"{self._done} done"
        count, worked, left = f"{self._done} of {self._total}", self._solved + solving, self._total - self._done
        if not (worked and left):
            return count
        seconds = (time.monotonic() - self._started) / worked * max(left - solving, 0)
        return f"{count}, {duration(seconds)} left"


class RunProgress:
    """Shows how far the solver is, with the loss and the evaluations per second.

    Args:
        steps: the number of steps; None if it is not known.
        unit: the name of what is counted, such as `step` or `frame`.
        batch_size: the number of pictures that are solved together.
    """

    def __init__(self, steps: int | None, unit: str, batch_size: int) -> None:
        self._steps, self._unit, self._batch_size = steps, unit, batch_size
        self._name = "solving" if batch_size == 1 else f"solving {batch_size} pictures"
        self._started = self._last = time.monotonic()

    def update(self, *, steps_done: int, loss: float, evaluations: int) -> None:
        """Show the state of the solver; log lines appear at most every ten seconds.

        Args:
            steps_done: the number of steps done so far.
            loss: the total loss after the last step.
            evaluations: the number of evaluations so far, of all pictures together.
        """
        now = time.monotonic()
        if _bars is None and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        seconds = max(now - self._started, 1e-9)
        numbers = f"loss {loss:.4g}, {evaluations / seconds:.3g} evaluations/s"
        if self._steps is None:
            count = f"{self._unit} {steps_done}"
        else:
            left = seconds / max(steps_done, 1) * (self._steps - steps_done)
            count = f"{self._unit} {steps_done}/{self._steps}, {duration(left)} left"
        if _bars is None:
            _log.info("%s: %s, %s", self._name, count, numbers)
        else:
            _bars.show(self._name, f"{steps_done}/{self._steps or '?'}, {numbers}", steps_done, self._steps)
            if SweepProgress.current is not None and self._steps:
                _bars.state_sweep(SweepProgress.current.state(self._batch_size * steps_done / self._steps))


class _Bars:
    """The bars on the terminal: one for the sweep, if there is one, and one for the current phase."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn("line"),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._sweep: TaskID | None = None
        self._phase: TaskID | None = None
        self._phase_name = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        ConsoleHandler.bar = self._progress.console
        try:
            with self._progress:
                yield
        finally:
            ConsoleHandler.bar = None

    def show_sweep(self, sweep: SweepProgress, done: int, total: int | None) -> None:
        if self._sweep is None:
            self._sweep = self._progress.add_task("sweep", total=total, completed=done, state=sweep.state())
        self._progress.update(self._sweep, completed=done, state=sweep.state())

    def state_sweep(self, state: str) -> None:
        if self._sweep is not None:
            self._progress.update(self._sweep, state=state)

    def show(self, name: str, state: str, done: int, total: int | None) -> None:
        """Show the current phase; a new name begins a new bar with its own clock."""
        if self._phase is None or name != self._phase_name:
            if self._phase is not None:
                self._progress.remove_task(self._phase)
            self._phase = self._progress.add_task(name, total=total, state=state)
            self._phase_name = name
            self._progress.refresh()  # now, because the following work may keep the interpreter busy
        self._progress.update(self._phase, completed=done, state=state)


_bars: _Bars | None = None  # the bars that are on the terminal now


@contextlib.contextmanager
def sweep_progress(total: int | None, done: int = 0) -> Iterator[SweepProgress]:
    """Show the progress of a sweep while the context is open, and below it that of its runs.

    Args:
        total: the number of points; None if it is not known.
        done: the number of points that were done before.
    """
    sweep = SweepProgress.current = SweepProgress(total, done)
    try:
        with _with_bars():
            if _bars is not None:
                _bars.show_sweep(sweep, done, total)
            yield sweep
    finally:
        SweepProgress.current = None


@contextlib.contextmanager
def run_progress() -> Iterator[None]:
    """Show the phases and the steps of a run while the context is open; see `phase` and `progress`."""
    with _with_bars():
        yield


def phase(name: str, *, logged: bool = True) -> None:
    """Show what is being done from now on.

    Args:
        name: the phase, such as "measuring".
        logged: whether to write a log line if no bars are shown.
    """
    if _bars is not None:
        _bars.show(name, "", 0, None)
    elif logged:
        _log.info("%s ...", name)


@contextlib.contextmanager
def progress(steps: int | None, unit: str = "step", batch_size: int = 1) -> Iterator[RunProgress]:
    """Show the progress of the solver while the context is open; until the first update, it is "compiling".

    Args:
        steps: the number of steps; None if it is not known.
        unit: the name of what is counted, such as `step` or `frame`.
        batch_size: the number of pictures that are solved together.
    """
    with _with_bars():
        phase("compiling", logged=False)
        yield RunProgress(steps, unit, batch_size)


@contextlib.contextmanager
def _with_bars() -> Iterator[None]:
    """Show bars, unless they are shown already, the output is not an interactive terminal, or it is to be quiet."""
    global _bars
    console = OutputConsole(stderr=True)
    if _bars is not None or not (sys.stderr.isatty() and console.is_interactive and _log.isEnabledFor(logging.INFO)):
        yield
        return
    _bars = _Bars(console)
    try:
        with _bars.shown():
            yield
    finally:
        _bars = None


def duration(seconds: float) -> str:
    """Return a rounded duration as text, such as "40 s", "2 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
