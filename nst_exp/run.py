"""The main command: one run, or with `-m` a sweep.

    python -m nst_exp.run content=PHOTO style=PAINTING
    python -m nst_exp.run -m content_weight=1,4 style_weight=0.03,0.1

Here a DictConfig becomes a `RunConfig`, and errors become one line and an exit code; nothing else happens.
JAX is imported only once a configuration is known to be good.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NoReturn, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nst_exp.config import RunConfig, run_config
from nst_exp.errors import InputError
from nst_exp.results import RunFolder
from nst_exp.search import check_metrics, returned
from nst_exp.sweep import Sweep, close_sweep

if TYPE_CHECKING:
    from nst_exp.experiment import Origin

_log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
# conf/ lies beside the package in a checkout and inside it in a wheel
_CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())

ConfigStore.instance().store(name="schema", node=RunConfig)


class _Refused(BaseException):
    """Carries the reason out of a single run; Hydra, which adds lines of its own to exceptions, lets it through."""


@hydra.main(version_base="1.3", config_path=str(_CONF), config_name="run")
def _run(config: DictConfig) -> float | tuple[float, ...]:
    settings = HydraConfig.get()
    try:
        return _one_run(config, settings)
    except Exception as error:
        refused = isinstance(error, InputError | OmegaConfBaseException)
        if settings.mode == RunMode.RUN:
            if refused:
                raise _Refused from error
            raise
        reason = _one_line(error) if refused else f"{type(error).__name__}: {_one_line(error)}"
        RunFolder(Path(settings.runtime.output_dir)).fail(reason, settings.overrides.task)
        _log.error("run %s: %s", settings.job.num, reason, exc_info=not refused)
        raise  # Hydra goes on with the sweep's other points


def _one_run(config: DictConfig, settings: Any) -> float | tuple[float, ...]:
    """Do the run; what it returns is for Hydra's sweepers."""
    checked = run_config(config)
    check_metrics(checked.optimized_metrics)
    logging.getLogger("jax").setLevel(logging.WARNING)  # it reports each device it does not find
    from nst_exp.experiment import run_experiment

    result = run_experiment(checked, Path(settings.runtime.output_dir), _origin(checked, settings))
    return returned(result, checked.optimized_metrics)


def _origin(config: RunConfig, settings: Any) -> Origin:
    """Where a run comes from; its name begins with what tells it apart, for MLflow shows a dozen letters."""
    from nst_exp.experiment import Origin

    overrides = list(settings.overrides.task)
    if settings.mode == RunMode.RUN:
        content = "camera" if config.source == "camera" else PurePath(config.content).stem
        return Origin(f"{content} x {PurePath(config.style).stem}", overrides)
    sweep = Sweep.in_folder(Path(settings.sweep.dir))
    values = [_short(override.partition("=")[2]) for override in sweep.swept(overrides)]
    name = f"{settings.job.num}: {', '.join(values)}"
    return Origin(name, overrides, in_sweep=True, parent=sweep.mlflow_run_id)


def _short(value: str) -> str:
    """A value without the many digits that a search gives it."""
    with contextlib.suppress(ValueError):
        return f"{float(value):.4g}" if len(value) > 8 else value
    return value


def main() -> NoReturn:
    """Run the command and exit: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    show_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands errors on to us instead of printing stack traces
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped job ends its runs as Ctrl-C does
    try:
        _run()
    except KeyboardInterrupt:
        close_sweep("KILLED")
        print("nst_exp: interrupted", file=sys.stderr, flush=True)
        logging.shutdown()
        os._exit(130)  # without the interpreter's teardown: jaxlib crashes in it while a chunk still runs
    except (Exception, _Refused) as error:
        named = close_sweep("FAILED")
        _end(error, show_traceback=show_traceback, named=named)
    except SystemExit:
        close_sweep("FAILED")
        raise
    failed = close_sweep("FINISHED")  # a search goes on to its end
    sys.exit(int(failed))


def _end(error: BaseException, *, show_traceback: bool, named: bool) -> NoReturn:
    """Exit for `error`: in one line if the user can put it right, unless a sweep has `named` its failures."""
    reason = cast(BaseException, error.__cause__) if isinstance(error, _Refused) else error
    usage = isinstance(reason, ValueError) and "can be specified" in str(reason)  # Hydra's on --run with --multirun
    expected = isinstance(reason, InputError | HydraException | OmegaConfBaseException | OSError) or usage
    if show_traceback or not (expected or named):
        raise reason from None
    if not named:
        print(f"nst_exp: {_one_line(reason)}", file=sys.stderr)
    sys.exit(2 if usage else 1)


# what Hydra and OmegaConf put on further lines, of no use to who mistyped a key
_DETAILS = (
    "To append to your",
    "full_key:",
    "object_type=",
    "reference_type=",
    "Config search path",
    "provider=",
    "See ",
)


def _one_line(error: BaseException) -> str:
    """What is wrong, in one line."""
    cause = error.__cause__ if isinstance(error, HydraException) else None
    lines = [line.strip() for line in f"{error}\n{cause or ''}".splitlines()]
    if any("hydra/sweeper/optuna'" in line for line in lines):
        return "this search needs Optuna: pip install 'nst-exp[optuna]'"
    return " ".join(dict.fromkeys(line for line in lines if line and not line.startswith(_DETAILS)))


if __name__ == "__main__":
    main()
