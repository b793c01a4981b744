"""Hydra's job as a run: its checked configuration, where it comes from, and the record of its failure.

Shared by the command, which does one job at a time, and the launcher, which does many side by side.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nst_exp.config import RunConfig, run_config
from nst_exp.errors import InputError
from nst_exp.explanations import one_line
from nst_exp.records.folder import RunFolder
from nst_exp.records.sweep import SweepRecord
from nst_exp.records.tracking import point_name
from nst_exp.sweeps.search import check_metrics

if TYPE_CHECKING:
    from hydra.conf import HydraConf

    from nst_exp.runs.run import Origin

_log = logging.getLogger(__name__)


def checked(config: DictConfig) -> RunConfig:
    """Check the configuration of a job, before JAX is loaded.

    Args:
        config: composed, without Hydra's own part.

    Raises:
        InputError: if a value is out of range.
        OmegaConfBaseException: if a key is unknown or a value of the wrong type.
    """
    found = run_config(config)
    check_metrics(found.optimized_metrics)
    return found


def origin(config: RunConfig, settings: HydraConf) -> Origin:
    """Return where a run comes from; MLflow shows two dozen letters of its name, so that begins with the differences.

    Args:
        config: the checked configuration.
        settings: Hydra's own part of the job's configuration.

    Raises:
        InputError: if the job belongs to a sweep whose record is missing or damaged.
    """
    from nst_exp.runs.run import Origin

    overrides = list(settings.overrides.task)
    if settings.mode == RunMode.RUN:
        content = "camera" if config.source == "camera" else PurePath(config.content).stem
        return Origin(f"{content} x {PurePath(config.style).stem}", overrides)
    sweep = SweepRecord.read(Path(settings.sweep.dir))
    name = point_name(sweep.swept(overrides), settings.job.num)
    return Origin(name, overrides, in_sweep=True, parent=sweep.mlflow_run_id)


@contextlib.contextmanager
def record_failure(settings: HydraConf) -> Iterator[None]:
    """Record in a point's folder and in its log why it fails; the error is raised again, and the others continue.

    Args:
        settings: Hydra's own part of the job's configuration.
    """
    try:
        yield
    except Exception as error:
        refused = isinstance(error, InputError | OmegaConfBaseException)
        reason = one_line(error) if refused else f"{type(error).__name__}: {one_line(error)}"
        RunFolder(Path(settings.runtime.output_dir)).fail(reason, settings.overrides.task)
        _log.error("run %s: %s", settings.job.num, reason, exc_info=not refused)
        raise
