"""How far a run is: a live bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """A tqdm bar with loss and evaluations a second; log messages pass above it."""

    def __init__(self, steps: int | None, unit: str, lanes: int) -> None:
        self._loss = _loss_of(lanes)
        self._bar = tqdm(total=steps, unit=unit, dynamic_ncols=True)
        self._started = time.monotonic()

    def update(self, *, steps_done: int, loss: float, evaluations: int) -> None:
        """Show the state after `steps_done` steps."""
        rate = evaluations / (time.monotonic() - self._started)
        self._bar.set_postfix_str(f"{self._loss} {loss:.4g}, {rate:.2f} evaluations/s", refresh=False)
        self._bar.update(max(steps_done - self._bar.n, 0))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


class Lines:
    """A log line every ten seconds, for files and pipes."""

    def __init__(self, steps: int | None, unit: str, lanes: int) -> None:
        self._loss = _loss_of(lanes)
        self._steps = steps
        self._unit = unit
        self._started = self._last = time.monotonic()

    def update(self, *, steps_done: int, loss: float, evaluations: int) -> None:
        """Log the state after `steps_done` steps, unless a line was just logged."""
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        seconds = now - self._started
        state = f"{self._loss} {loss:.4g}, {evaluations / seconds:.2f} evaluations/s"
        if self._steps is None:
            _log.info("%s %s, %s", self._unit, steps_done, state)
            return
        left = seconds / max(steps_done, 1) * (self._steps - steps_done)
        _log.info("%s %s/%s, %s, %.0f s left", self._unit, steps_done, self._steps, state, left)

    def close(self) -> None:
        """Nothing is open."""


@contextlib.contextmanager
def progress(steps: int | None, unit: str = "step", lanes: int = 1) -> Iterator[Bar | Lines]:
    """Shows progress over `steps` steps, if known, of so many lanes; a bar only on a terminal, at Hydra's verbosity."""
    if not (sys.stderr.isatty() and _log.isEnabledFor(logging.INFO)):
        yield Lines(steps, unit, lanes)
        return
    with logging_redirect_tqdm(), contextlib.closing(Bar(steps, unit, lanes)) as bar:
        yield bar


def _loss_of(lanes: int) -> str:
    return "loss" if lanes == 1 else f"{lanes} pictures, loss of one"
