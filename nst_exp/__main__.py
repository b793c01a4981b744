"""All commands under one name.

    nst-exp run content=PHOTO style=PAINTING     (`run` may be left out)
    nst-exp compare | reproduce | upload ...

`python -m nst_exp` is the same, and each command is also a module: `python -m nst_exp.compare`.
"""

from __future__ import annotations

import importlib
import sys

from nst_exp.signals import exit_interrupted


def main() -> None:
    """Run the command that is named first; without a name, `run`."""
    run(None)


def run(command: str | None) -> None:
    """Run a command, None for the one that is named first.

    Ctrl-C while the command is imported, which takes a while, ends it as it does later.
    """
    try:
        importlib.import_module(f"nst_exp.commands.{command or _named()}").main()
    except KeyboardInterrupt:
        exit_interrupted()


def _named() -> str:
    from nst_exp.keys import COMMANDS

    return sys.argv.pop(1) if sys.argv[1:2] and sys.argv[1] in COMMANDS else "run"


if __name__ == "__main__":
    main()
