"""What all small commands share: how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from nst_exp.errors import InputError


def run_command(body: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> NoReturn:
    """Exit with what `body` returns, or with 1 and one line on what the user can put right."""
    try:
        sys.exit(body(arguments))
    except (InputError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") == "1":
            raise
        print(f"nst_exp: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("nst_exp: interrupted", file=sys.stderr)
        sys.exit(130)
