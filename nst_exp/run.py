"""The main command: one run, or with `-m` a sweep.

    python -m nst_exp.run content=PHOTO style=PAINTING
    python -m nst_exp.run -m content_weight=1,4 style_weight=0.03,0.1

Here a DictConfig becomes a `RunConfig`, and errors become one line and an exit code; nothing else happens.
JAX is imported only once a configuration is known to be good.
"""

from __future__ import annotations

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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nst_exp.config import RunConfig
from nst_exp.errors import InputError
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
def _run(config: DictConfig) -> dict[str, Any] | None:
    settings = HydraConfig.get()
    try:
        return _one_run(config, settings)
    except (InputError, OmegaConfBaseException) as error:
        if settings.mode == RunMode.RUN:
            raise _Refused from error
        _log.error("run %s: %s", settings.job.num, _one_line(error))
        raise  # Hydra goes on with the sweep's other points


def _one_run(config: DictConfig, settings: Any) -> dict[str, Any]:
    checked = run_config(config)
    logging.getLogger("jax").setLevel(logging.WARNING)  # it reports each device it does not find
    from nst_exp.experiment import run_experiment

    return run_experiment(checked, Path(settings.runtime.output_dir), _origin(checked, settings))


def _origin(config: RunConfig, settings: Any) -> Origin:
    """Where a run comes from; its name begins with what tells it apart, for MLflow shows a dozen letters."""
    from nst_exp.experiment import Origin

    overrides = list(settings.overrides.task)
    if settings.mode == RunMode.RUN:
        content, style = (PurePath(address).stem for address in (config.content, config.style))
        return Origin(f"{content} x {style}", overrides)
    sweep = Sweep.in_folder(Path(settings.sweep.dir))
    values = [override.partition("=")[2] for override in sweep.swept(overrides)]
    return Origin(f"{settings.job.num}: {', '.join(values)}", overrides, sweep.mlflow_run_id)


def run_config(config: DictConfig) -> RunConfig:
    """The checked configuration.

    It is laid over the bare schema once more, for Hydra takes keys added with `+`, and the configuration in a
    finished run's .hydra folder, as they are.

    Raises:
        InputError: if a value is out of range.
        OmegaConfBaseException: if a key is unknown or a value of the wrong type.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    checked = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    assert isinstance(checked, RunConfig)
    return checked


def main() -> NoReturn:
    """Run the command and exit: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    show_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands errors on to us instead of printing stack traces
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped job ends its runs as Ctrl-C does
    status = "FAILED"
    try:
        _run()
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        close_sweep(status)
        print("nst_exp: interrupted", file=sys.stderr, flush=True)
        logging.shutdown()
        os._exit(130)  # without the interpreter's teardown: jaxlib crashes in it while a chunk still runs
    except _Refused as refused:
        reason = cast(Exception, refused.__cause__)
        if show_traceback:
            raise reason from None
        _exit(_one_line(reason), 1)
    except (InputError, HydraException, OmegaConfBaseException, OSError) as error:
        if show_traceback:
            raise
        _exit(_one_line(error), 1)
    except ValueError as error:
        if show_traceback or "can be specified" not in str(error):  # Hydra's word on --run with --multirun
            raise
        _exit(str(error), 2)
    finally:
        sheet = close_sweep(status)
        if sheet is not None:
            print(f"side by side: {sheet}")
    sys.exit(0)


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
    return " ".join(dict.fromkeys(line for line in lines if line and not line.startswith(_DETAILS)))


def _exit(message: str, code: int) -> NoReturn:
    print(f"nst_exp: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
