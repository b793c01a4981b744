"""The setup of the process and the exit codes, which all commands share."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from nst_exp.devices import ignore_settings, refuse_bad_settings, set_cpu_defaults, set_gpu_defaults
from nst_exp.errors import InputError
from nst_exp.signals import (
    BROKEN_PIPE,
    drop_output,
    end_as_interrupted,
    exit_interrupted,
    flushed_output,
    replace_closed_streams,
)

_ADDRESS_SPACE = 3 * 2**30  # bytes; with 1.5 GB, JAX was observed to wait forever
# Python's default of 700 spends a sixth of the time in which JAX and MLflow are imported on collecting garbage.
_ALLOCATIONS_PER_COLLECTION = 10_000


def prepare_process() -> None:
    """Make the settings that concern the whole process and are the same for all commands.

    It must be called before JAX is imported. It exits with code 1 if the environment or the limits of the process do
    not allow a run.
    """
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION)
    replace_closed_streams()
    end_as_interrupted()
    for setting in ignore_settings():
        print(f"nst_exp: {setting} is ignored: results must not depend on it", file=sys.stderr)
    set_cpu_defaults()
    set_gpu_defaults()
    _refuse_small_address_space()
    _limit_pictures()
    _ignore_unwritable_caches()
    try:
        refuse_bad_settings()
    except InputError as error:
        print(f"nst_exp: {error}", file=sys.stderr)
        sys.exit(1)


def _limit_pictures() -> None:
    """Let Pillow open pictures of every size that nst-exp reads and writes, without a warning."""
    from PIL import Image

    from nst_exp.media.image import MAX_MEGAPIXELS

    Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS * 1_000_000  # Pillow warns above this and refuses more than twice as much
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _ignore_unwritable_caches() -> None:
    """Keep JAX and Matplotlib from complaining where their caches cannot be written, as in a read-only home folder."""
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _refuse_small_address_space() -> None:
    """Exit if `ulimit -v` is too small, because JAX would wait forever for threads that cannot start."""
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _ADDRESS_SPACE:
        print(
            f"nst_exp: ulimit -v {limit // 1024}: JAX needs at least {_ADDRESS_SPACE // 1024} (kB of address space, "
            "most of which is never used); limit the memory in another way, such as a control group",
            file=sys.stderr,
        )
        sys.exit(1)


def program(command: str) -> str:
    """Return how a command was started, such as `nst-exp compare` or `python -m nst_exp.compare`.

    Args:
        command: the name of the command, such as `compare`.
    """
    started = Path(sys.argv[0]).name
    if started == "__main__.py":
        return f"python -m nst_exp {command}"
    return f"python -m nst_exp.{command}" if started == f"{command}.py" else f"nst-exp {command}"


def run_command(body: Callable[[argparse.Namespace], int], arguments: Callable[[], argparse.Namespace]) -> NoReturn:
    """Run a command and exit.

    The exit code is what `body` returns. It is 1 for errors that the user can fix, which are reported in one line on
    standard error; with HYDRA_FULL_ERROR=1, they are raised with a traceback instead.

    Args:
        body: does the work and returns the exit code.
        arguments: parses the command line. It may exit by itself, as argparse does for `--help`.
    """
    prepare_process()
    try:
        with flushed_output():
            sys.exit(body(arguments()))
    except BrokenPipeError:
        drop_output()
        sys.exit(BROKEN_PIPE)
    except (InputError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") == "1":
            raise
        print(f"nst_exp: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        exit_interrupted()
