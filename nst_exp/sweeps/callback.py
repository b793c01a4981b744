"""Hydra's callback: finds a run or a sweep its folder, and opens a sweep, before anything else is written.

conf/hydra/nst_exp.yaml names `SweepCallback`. Hydra calls it in the process that was started; points may run in other
processes.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from nst_exp.errors import InputError
from nst_exp.sweeps.active import open_sweep
from nst_exp.sweeps.folders import claim_run_folder
from nst_exp.sweeps.search import prepare_sweep


class SweepCallback(Callback):
    """Finds a run or a sweep its folder, and opens a sweep before its first point.

    Hydra skips `on_multirun_end` when a point failed, so whoever started the sweep ends it:
    `nst_exp.sweeps.closing.close_sweep`.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Give the run a folder that holds neither another run's result nor a user's files of the same names."""
        with _exit_on_error():
            claim_run_folder(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what a search optimises, and open the sweep: its folder, its record and its MLflow run."""
        with _exit_on_error():
            prepare_sweep(config)
            open_sweep(config)


@contextlib.contextmanager
def _exit_on_error() -> Iterator[None]:
    """End the command with exit code 1 on an error; Hydra would only warn about it, and continue."""
    try:
        yield
    except InputError as error:
        sys.exit(f"nst_exp: {error}")
    except OSError as error:
        sys.exit(f"nst_exp: {str(error.filename)!r} cannot be made: {error.strerror}")
    except Exception:
        traceback.print_exc()
        sys.exit(1)
