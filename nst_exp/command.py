"""What all small commands share: how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from nst_exp.errors import InputError
from nst_exp.signals import BROKEN_PIPE, drop_output, end_as_interrupted


def run_command(body: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> NoReturn:
    """Exit with what `body` returns, or with 1 and one line on what the user can put right."""
    end_as_interrupted()
    try:
        code = body(arguments)
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:
        drop_output()
        sys.exit(BROKEN_PIPE)
    except (InputError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") == "1":
            raise
        print(f"nst_exp: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("nst_exp: interrupted", file=sys.stderr)
        sys.exit(130)
