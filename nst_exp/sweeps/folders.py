"""The folders that runs and sweeps write to: claimed so that none is written over, and removed if nothing began."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, read_write

from nst_exp.errors import InputError
from nst_exp.files import missing_folders, remove_folders
from nst_exp.records.folder import RunFolder
from nst_exp.records.sweep import SWEEP_RECORD, is_sweep

_log = logging.getLogger(__name__)

SEARCH_RESULTS = "optimization_results.yaml"  # written by Hydra's Optuna sweeper
_HYDRA_FILES = ("multirun.yaml", SEARCH_RESULTS)

_made: list[Path] = []  # the folders that this process made for its run or sweep


# --- single runs -----------------------------------------------------------------------------------------------


def claim_run_folder(config: DictConfig) -> None:
    """Give a single run a folder that holds neither another run's result nor a user's files of the same names.

    Args:
        config: the composed configuration; its `hydra.run.dir` is set to the folder.

    Raises:
        InputError: if the folder that was asked for holds files that a run would overwrite but no run has written.
    """
    wanted = Path(config.hydra.run.dir)
    folder = _free_folder(wanted) if _is_overridden(config, "hydra.run.dir") else _new_folder(wanted)
    with read_write(config):
        config.hydra.run.dir = str(folder)


def discard_unbegun_run(folder: Path) -> None:
    """Remove everything that a single run left in `folder` if it was refused before it began."""
    if not RunFolder(folder).began:
        RunFolder(folder).discard_unbegun()
        remove_made_folders()


def _new_folder(wanted: Path) -> Path:
    """Make `wanted` or, if it exists, the first candidate that does not."""
    for folder in _candidates(wanted):
        with contextlib.suppress(FileExistsError):
            _made[:] = missing_folders(folder)
            folder.mkdir(parents=True)
            return folder
    raise AssertionError  # there is no end of candidates


def _free_folder(wanted: Path) -> Path:
    """Return `wanted` or, if that holds a finished run, the first candidate that does not.

    Raises:
        InputError: if it holds files that a run would overwrite but no run has written.
    """
    folder = next(folder for folder in _candidates(wanted) if not RunFolder(folder).finished)
    RunFolder(folder).refuse_foreign_files(before_hydra=True)
    _made[:] = missing_folders(folder)
    if folder != wanted:
        _log.info("%s holds a finished run; this one is written to %s", wanted, folder)
    return folder


# --- sweeps ----------------------------------------------------------------------------------------------------


def remember_missing(registry: Path | None) -> None:
    """Begin to remember which folders do not exist yet, so that `remove_made_folders` can remove them.

    Args:
        registry: the folder of the result registry; None if there is none.
    """
    _made[:] = missing_folders(registry) if registry else []


def claim_sweep_folder(config: DictConfig, earlier: Path | None) -> Path:
    """Choose and claim the folder that a sweep writes to.

    Args:
        config: the composed configuration; its `hydra.sweep.dir` is set to the folder.
        earlier: the folder of the same sweep, if it can be resumed there.

    Returns:
        `earlier`, or the folder of the configuration or, if another sweep owns that, the first free one of its
        numbered neighbours.

    Raises:
        InputError: if the folder holds files that the sweep would overwrite but no sweep has written.
    """
    configured = Path(config.hydra.sweep.dir).absolute()
    is_asked_for = not _is_overridden(config, "hydra.sweep.dir") or earlier == configured
    if earlier is not None and is_sweep(earlier) and is_asked_for:
        _log.info("resuming the sweep in %s", earlier)
        folder = earlier
    else:
        folder = next(folder for folder in _candidates(configured) if _claim(folder))
    if folder != configured:
        _redirect(config, folder)
    return folder


def discard_sweep_files(folder: Path) -> None:
    """Remove what Hydra and a sweep in which no point has begun have written to `folder`."""
    for name in (*_HYDRA_FILES, SWEEP_RECORD):
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def _claim(folder: Path) -> bool:
    """Claim the folder for this sweep; returns False if another sweep owns it.

    Raises:
        InputError: if it holds files that the sweep would overwrite but no sweep has written.
    """
    _refuse_foreign_files(folder)
    _made.extend(missing_folders(folder))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / SWEEP_RECORD).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _refuse_foreign_files(folder: Path) -> None:
    from nst_exp.report import FILES

    names = [name for name in (*FILES, *_HYDRA_FILES) if (folder / name).exists()]
    # A sweep that starts at the same moment writes its record before these files, so the record is looked for last.
    if names and not is_sweep(folder):
        raise InputError(
            f"{str(folder)!r} holds {', '.join(names)}, which no sweep has written: give a folder without files of "
            "these names"
        )


def _redirect(config: DictConfig, folder: Path) -> None:
    """Set the sweep's folder, also in the overrides from which Hydra composes each point's configuration anew."""
    quoted = str(folder).replace("'", "\\'")
    with read_write(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")


# --- both ------------------------------------------------------------------------------------------------------


def remove_made_folders() -> None:
    """Remove the folders that this process made for its run or sweep, each only if it is empty."""
    remove_folders(_made)


def _candidates(wanted: Path) -> Iterator[Path]:
    """Yield `wanted`, wanted-2, wanted-3, and so on."""
    yield wanted
    wanted = wanted.absolute()  # "." has no name to put a number behind
    for suffix in itertools.count(2):
        yield wanted.with_name(f"{wanted.name}-{suffix}")


def _is_overridden(config: DictConfig, key: str) -> bool:
    """Return whether the command line sets one of Hydra's own keys."""
    return any(override.startswith(f"{key}=") for override in config.hydra.overrides.hydra)
