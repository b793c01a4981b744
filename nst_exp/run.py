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
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nst_exp.config import RunConfig
from nst_exp.errors import InputError
from nst_exp.sweep import close_sweep, parent_run_id

_log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
# conf/ lies beside the package in a checkout and inside it in a wheel
_CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())

ConfigStore.instance().store(name="schema", node=RunConfig)


@hydra.main(version_base="1.3", config_path=str(_CONF), config_name="config")
def _run(config: DictConfig) -> dict[str, Any] | None:
    settings = HydraConfig.get()
    try:
        return _one_run(config, settings)
    except InputError as error:
        if settings.mode == RunMode.MULTIRUN:  # Hydra goes on with the other points
            _log.error("run %s: %s", settings.job.num, error)
        raise


def _one_run(config: DictConfig, settings: Any) -> dict[str, Any]:
    checked = run_config(config)
    _check_overrides(settings.overrides.task, checked)
    logging.getLogger("jax").setLevel(logging.WARNING)  # it reports each device it does not find
    from nst_exp.experiment import Origin, run_experiment

    folder = Path(settings.runtime.output_dir)
    overrides = list(settings.overrides.task)
    if settings.mode == RunMode.MULTIRUN:
        origin = Origin(settings.job.override_dirname, overrides, parent_run_id(Path(settings.sweep.dir)))
    else:
        origin = Origin(" ".join(overrides) or "defaults", overrides)
    return run_experiment(checked, folder, origin)


def run_config(config: DictConfig) -> RunConfig:
    """The checked configuration.

    Merging with the schema changes nothing in a composed configuration, and checks one that came from a
    finished run's .hydra folder, which Hydra takes as it is.

    Raises:
        InputError: if a value is out of range.
    """
    resolved = OmegaConf.merge(OmegaConf.structured(RunConfig), config)
    checked = OmegaConf.to_object(resolved)
    assert isinstance(checked, RunConfig)
    return checked


def _check_overrides(overrides: list[str], config: RunConfig) -> None:
    """Refuse a weight for a layer that is not in use: a sweep over it would be the same run many times."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        table, _, layer = key.partition(".")
        if table == "style_layer_weight" and layer not in config.style_layers:
            used = ", ".join(config.style_layers)
            raise InputError(f"{key}={value} has no effect: {layer} is not among style_layers ({used})")
        if table == "style_layer_weight" and config.style_layer_weights is not None:
            raise InputError(f"{key}={value} has no effect: style_layer_weights={config.style_layer_weights} is given")


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
        _exit("interrupted", 130)
    except (InputError, HydraException, OmegaConfBaseException, OSError) as error:
        if show_traceback:
            raise
        _exit(_one_line(error), 1)
    finally:
        close_sweep(status)
    sys.exit(0)


def _one_line(error: Exception) -> str:
    """What is wrong, without the details that Hydra puts on further lines."""
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines()]
    return " ".join(dict.fromkeys(line for line in lines if line))


def _exit(message: str, code: int) -> NoReturn:
    print(f"nst_exp: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
