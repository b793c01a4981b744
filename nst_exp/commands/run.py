"""The main command: one run, or with `-m` a sweep.

    python -m nst_exp.run content=PHOTO style=PAINTING
    python -m nst_exp.run -m content_weight=1,4 style_weight=0.03,0.1

This module only makes a `RunConfig` of a DictConfig, and one line and an exit code of an error. JAX is imported after
the configuration has been checked.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nst_exp.commands import completion, usage
from nst_exp.commands.arguments import UsageError, parse
from nst_exp.commands.overrides import prepared
from nst_exp.commands.process import prepare_process
from nst_exp.conf_files import CONF
from nst_exp.config import RunConfig
from nst_exp.devices import keep_compiled_code
from nst_exp.errors import InputError
from nst_exp.explanations import one_line
from nst_exp.files import cache_folder
from nst_exp.signals import BROKEN_PIPE, drop_output, exit_interrupted, flushed_output
from nst_exp.sweeps import job
from nst_exp.sweeps.closing import close_sweep
from nst_exp.sweeps.folders import discard_unbegun_run
from nst_exp.sweeps.search import returned

if TYPE_CHECKING:
    from hydra.conf import HydraConf

ConfigStore.instance().store(name="schema", node=RunConfig)


class _SingleRunError(BaseException):
    """Carries an error of the user, as its cause, out of a single run past Hydra, which adds lines to any Exception."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="run")
def _run(config: DictConfig) -> float | tuple[float, ...]:
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN:
        with job.record_failure(settings):
            return _one_run(config, settings)
    try:
        return _one_run(config, settings)
    except (InputError, OmegaConfBaseException) as error:
        raise _SingleRunError from error
    finally:
        discard_unbegun_run(Path(settings.runtime.output_dir))


def _one_run(config: DictConfig, settings: HydraConf) -> float | tuple[float, ...]:
    """Do the run, and return the numbers that Hydra's sweepers optimise.

    Args:
        config: composed, without Hydra's own part.
        settings: Hydra's own part.
    """
    checked = job.checked(config)
    keep_compiled_code(cache_folder(checked.cache_dir) / "jax")
    from nst_exp.runs.run import run_alone

    result = run_alone(checked, Path(settings.runtime.output_dir), job.origin(checked, settings))
    return returned(result, checked.optimized_metrics)


def main() -> NoReturn:
    """Run the command and exit: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    show_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing stack traces
    logging.raiseExceptions = show_traceback  # no traceback for a log line that cannot be written
    prepare_process()
    try:
        with flushed_output():
            failed = _main(show_traceback=show_traceback)
    except BrokenPipeError:
        drop_output()
        sys.exit(BROKEN_PIPE)
    except KeyboardInterrupt:
        exit_interrupted(lambda: close_sweep("KILLED"))
    sys.exit(int(failed))


def _main(*, show_traceback: bool) -> bool:
    """Run the command, and return whether points of a sweep failed."""
    try:
        _make_ready()
        _run()
    except (Exception, _SingleRunError) as error:
        named = close_sweep("FAILED")
        _end(error, show_traceback=show_traceback, named=named)
    except SystemExit:
        close_sweep("FAILED")
        raise
    return close_sweep("FINISHED")  # also if points failed: a search continues to its end


def _make_ready() -> None:
    """Replace the arguments by flags and overrides that Hydra can read; help, version and completion end here.

    Raises:
        InputError: if an argument is wrong.
    """
    arguments = parse(sys.argv[1:])
    if arguments.completion:
        completion.answer(arguments.overrides, os.environ)
    elif arguments.help:
        usage.print_help()
    elif arguments.version:
        usage.print_version()
    else:
        sys.argv[1:] = [*arguments.flags, *prepared(arguments.overrides, multirun=arguments.multirun)]
        return
    sys.exit(0)


def _end(error: BaseException, *, show_traceback: bool, named: bool) -> NoReturn:
    """Exit because of an error.

    Args:
        error: printed in one line if the user can put it right; else it is raised again.
        show_traceback: raise every error again.
        named: the failures of a sweep have been printed already.
    """
    reason = cast(BaseException, error.__cause__) if isinstance(error, _SingleRunError) else error
    if isinstance(reason, BrokenPipeError):
        raise reason
    wrong_usage = isinstance(reason, UsageError)
    expected = isinstance(reason, InputError | HydraException | OmegaConfBaseException | OSError)
    if show_traceback or not (expected or named):
        raise reason from None
    if not named:
        print(f"nst_exp: {one_line(reason)}", file=sys.stderr)
    sys.exit(2 if wrong_usage else 1)
