"""How far a run or a sweep is: live bars on a terminal, plain log lines elsewhere."""

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
    """Counts the points of a sweep and estimates the time that is left.

    Args:
        total: the number of points, None if it is not known.
        done: the number of points done before.
    """

    current: ClassVar[SweepProgress | None] = None

    def __init__(self, total: int | None, done: int = 0) -> None:
        self._total, self._done = total, done
        self._solved = 0
        self._started = time.monotonic()

    def advance(self, *, solved: bool) -> None:
        """Count a point that has ended.

        Args:
            solved: False if there was nothing to do for it, so that it says nothing of the time to come.
        """
        self._done += 1
        self._solved += solved
        if _bars is None:
            _log.info("sweep: %s", self.state())
        else:
            _bars.show_sweep(self, self._done, self._total)

    def state(self, solving: float = 0.0) -> str:
        """Such as "3 of 9, 2 min left".

        Args:
            solving: the points at work, each counted by the fraction of it that is solved.
        """
        if self._total is None:
            return f"{self._done} done"
        count, worked, left = f"{self._done} of {self._total}", self._solved + solving, self._total - self._done
        if not (worked and left):
            return count
        seconds = (time.monotonic() - self._started) / worked * max(left - solving, 0)
        return f"{count}, {duration(seconds)} left"


class RunProgress:
    """How far the solver is, with the loss and the evaluations a second.

    Args:
        steps: the number of steps, None if it is not known.
        unit: what is counted.
        batch_size: the number of pictures that are solved together.
    """

    def __init__(self, steps: int | None, unit: str, batch_size: int) -> None:
        self._steps, self._unit, self._batch_size = steps, unit, batch_size
        self._name = "solving" if batch_size == 1 else f"solving {batch_size} pictures"
        self._started = self._last = time.monotonic()

    def update(self, *, steps_done: int, loss: float, evaluations: int) -> None:
        """Show the state after `steps_done` steps; log lines appear at most every ten seconds."""
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
    """A line for the sweep, if there is one, and a line for what is being done."""

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
        """Show what is being done; a new name begins a new line with a clock of its own."""
        if self._phase is None or name != self._phase_name:
            if self._phase is not None:
                self._progress.remove_task(self._phase)
            self._phase = self._progress.add_task(name, total=total, state=state)
            self._phase_name = name
            self._progress.refresh()  # at once: what follows may keep the interpreter busy
        self._progress.update(self._phase, completed=done, state=state)


_bars: _Bars | None = None  # those on the terminal now


@contextlib.contextmanager
def sweep_progress(total: int | None, done: int = 0) -> Iterator[SweepProgress]:
    """Show how far a sweep is, see `SweepProgress`; what its runs do is shown below."""
    sweep = SweepProgress.current = SweepProgress(total, done)
    try:
        with _shown():
            if _bars is not None:
                _bars.show_sweep(sweep, done, total)
            yield sweep
    finally:
        SweepProgress.current = None


@contextlib.contextmanager
def run_progress() -> Iterator[None]:
    """Show what a run does until this is left: its phases, see `phase`, and its steps, see `progress`."""
    with _shown():
        yield


def phase(name: str, *, logged: bool = True) -> None:
    """Say what is done from now on, such as "measuring".

    Args:
        logged: whether there is a log line where no bar is shown.
    """
    if _bars is not None:
        _bars.show(name, "", 0, None)
    elif logged:
        _log.info("%s ...", name)


@contextlib.contextmanager
def progress(steps: int | None, unit: str = "step", batch_size: int = 1) -> Iterator[RunProgress]:
    """Show the solver's progress over `steps` steps, see `RunProgress`; until the first of them it compiles."""
    with _shown():
        phase("compiling", logged=False)
        yield RunProgress(steps, unit, batch_size)


@contextlib.contextmanager
def _shown() -> Iterator[None]:
    """Show bars, unless they are shown already, or the terminal or the verbosity is not for them."""
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
    """About how long: "40 s", "2 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
