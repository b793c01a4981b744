"""Write log records to the console as short lines.

On a terminal, lines are coloured by severity and appear above the progress bar if one is shown.
"""

from __future__ import annotations

import logging
import sys
from typing import ClassVar

from rich.console import Console
from rich.text import Text


class OutputConsole(Console):
    """A console that raises an error if nobody reads its output any more; rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        """Raise an error instead of ending the process.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError


class ConsoleHandler(logging.Handler):
    """Writes log records to standard output; warnings and errors begin with their severity.

    Colours are used on a terminal only, and never where the environment variable NO_COLOR is set.

    Attributes:
        bar: the console that a progress bar is shown on at present; lines then appear above the bar.

    Example:
        >>> log = logging.Logger("example")
        >>> log.addHandler(ConsoleHandler())
        >>> log.warning("the disk is nearly full")
        warning: the disk is nearly full
    """

    bar: ClassVar[Console | None] = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or drop it if nobody reads standard output any more."""
        try:
            text = _styled(self.format(record).expandtabs(2).lstrip(), record)
            console = self.bar if self.bar is not None and sys.stdout.isatty() else OutputConsole(file=sys.stdout)
            console.print(text, soft_wrap=True)
        except BrokenPipeError:
            pass
        except Exception:
            self.handleError(record)


def _styled(message: str, record: logging.LogRecord) -> Text:
    """Return the line of a record, with escapes for letters that standard output cannot show."""
    severity = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    line = f"{severity}{message}".encode(encoding, "backslashreplace").decode(encoding)
    text = Text(line)
    if severity:
        text.stylize("bold red" if record.levelno >= logging.ERROR else "yellow", 0, len(severity) - 1)
    return text
