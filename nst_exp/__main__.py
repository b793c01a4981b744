"""The command `nst-exp`, which runs all commands of the package.

    nst-exp run content=PHOTO style=PAINTING     (`run` can be left out)
    nst-exp compare | reproduce | upload ...

`python -m nst_exp` does the same. Each command is also a module, for example `python -m nst_exp.compare`.
"""

from __future__ import annotations

import importlib
import sys

from nst_exp.signals import exit_interrupted


def main() -> None:
    """Run the command that the first argument names, or `run` if it names none."""
    run(None)


def run(command: str | None) -> None:
    """Run a command.

    Importing a command takes a while, and Ctrl-C during the import ends the command in the same way as later.

    Args:
        command: the name of a module in `nst_exp.commands`; None for the command that the first argument names.
    """
    try:
        importlib.import_module(f"nst_exp.commands.{command or _named()}").main()
    except KeyboardInterrupt:
        exit_interrupted()


def _named() -> str:
    """Remove the name of a command from the arguments and return it; returns `run` if there is none."""
    from nst_exp.keys import COMMANDS

    return sys.argv.pop(1) if sys.argv[1:2] and sys.argv[1] in COMMANDS else "run"


if __name__ == "__main__":
    main()
