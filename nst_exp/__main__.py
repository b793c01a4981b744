"""All commands under one name.

    nst-exp run content=PHOTO style=PAINTING     (`run` may be left out)
    nst-exp compare | reproduce | upload ...

`python -m nst_exp` is the same, and each command is also a module: `python -m nst_exp.compare`.
"""

from __future__ import annotations

import importlib
import sys

from nst_exp.keys import COMMANDS


def main() -> None:
    """Run the command that is named first; without a name, `run`."""
    command = "run"
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        command = sys.argv.pop(1)
    importlib.import_module(f"nst_exp.commands.{command}").main()


if __name__ == "__main__":
    main()
