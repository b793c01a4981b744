"""What a search optimises: the names that `optimized_metric` may have, and the numbers that a run returns for them.

A search is a sweep whose sweeper chooses each point by the results of earlier ones; conf/search has those of Optuna.
Wrong names and directions are refused before the first run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, read_write

from nst_exp.errors import InputError
from nst_exp.evaluation.catalogue import ALL_MEASURES
from nst_exp.records.result import Result
from nst_exp.suggestions import did_you_mean

_COSTS = ("total_loss", "seconds", "peak_memory_mb")  # fields of a result; of each, less is better
_BETTER = {name: measure.direction for name, measure in ALL_MEASURES.items()} | dict.fromkeys(_COSTS, "lower")


def returned(result: Result, names: Sequence[str]) -> float | tuple[float, ...]:
    """Return what a run with this result tells Hydra's sweepers.

    Args:
        names: of measures and costs, as checked by `check_metrics`.

    Returns:
        A number; with several names, as many.

    Raises:
        InputError: if the run has no such measure, as a picture has none of the measures of videos.
    """
    numbers = {**result.measures, **{name: getattr(result, name) for name in _COSTS}}
    missing = [name for name in names if name not in numbers]
    if missing:
        raise InputError(f"optimized_metric={missing[0]}: this run has none")
    values = tuple(float(numbers[name]) for name in names)
    return values if len(values) > 1 else values[0]


def number_of_points(config: DictConfig) -> int | None:
    """Return how many points the whole sweep has; None if its sweeper does not tell.

    Args:
        config: composed, Hydra's part included.
    """
    sweeper = config.hydra.sweeper
    if not str(sweeper._target_).endswith(".BasicSweeper"):
        trials = sweeper.get("n_trials")
        return None if trials is None else int(trials)
    always_swept = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    loader = GlobalHydra.instance().config_loader()
    overrides = OverridesParser.create(loader).parse_overrides([*config.hydra.overrides.task, *always_swept])
    axes = [override for override in overrides if override.is_discrete_sweep()]
    return math.prod(len(list(axis.sweep_string_iterator())) for axis in axes)


def check_metrics(names: object) -> None:
    """Check the names of what a search optimises.

    Args:
        names: `optimized_metric` as a list, as far as the user has given one.

    Raises:
        InputError: if it is no list, a name is unknown or there twice, or there is none.

    Example:
        >>> check_metrics(["score"])
        >>> check_metrics(["scor"])
        Traceback (most recent call last):
        nst_exp.errors.InputError: optimized_metric=scor: choose among score, ...
    """
    if not isinstance(names, list) or not names:
        raise InputError(f"optimized_metric={names}: must be a name, or a list of names")
    for name in names:
        if not isinstance(name, str) or name not in _BETTER:
            raise InputError(f"optimized_metric={name}: choose among {', '.join(_BETTER)}{did_you_mean(name, _BETTER)}")
        if names.count(name) > 1:
            raise InputError(f"optimized_metric: {name} is named twice")


def prepare_sweep(config: DictConfig) -> None:
    """Check what a sweep optimises, tell Optuna in which direction, and keep its log quiet.

    Args:
        config: composed, Hydra's part included; the sweeper's direction is set if it is not given.

    Raises:
        InputError: as `check_metrics`, or if the sweeper has been given directions that do not fit the metrics.
    """
    metric = _plain(config.optimized_metric)
    names = [metric] if isinstance(metric, str) else metric
    check_metrics(names)
    if str(config.hydra.sweeper._target_).endswith(".OptunaSweeper"):
        _set_direction(config, names)
        _quiet_optuna()


def _set_direction(config: DictConfig, names: Sequence[str]) -> None:
    """Set the direction of each metric; without it, Optuna would minimise all, or fail after the first run.

    Raises:
        InputError: if other directions are given.
    """
    given = _plain(config.hydra.sweeper.direction)
    wanted = ["minimize" if _BETTER[name] == "lower" else "maximize" for name in names]
    if given is None:
        with read_write(config):
            config.hydra.sweeper.direction = wanted
    elif [getattr(one, "name", one) for one in (given if isinstance(given, list) else [given])] != wanted:
        raise InputError(
            f"hydra.sweeper.direction does not fit optimized_metric={','.join(names)}: "
            f"give hydra.sweeper.direction=[{','.join(wanted)}]"
        )


def _quiet_optuna() -> None:
    """Silence Optuna and the database tools below it: Hydra's sweeper logs all that a user needs."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)


def _plain(value: object) -> Any:
    """Return a list or table of the configuration without OmegaConf's types."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
