"""A sweep as a whole: its folder, its parent run in MLflow, whose children are its points, and its report.

Hydra calls `SweepCallback` in the process that was started. Points may run in others, so what they need to
know of the sweep lies in its folder, in sweep.json. The same command, given again, goes on in the same folder
and the same parent run, and its points skip what is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from nst_exp.config import TrackingConfig
from nst_exp.errors import InputError
from nst_exp.files import missing_folders, remove_folders, write_json
from nst_exp.media.image import locate, sha256_of
from nst_exp.records import tracking
from nst_exp.records.folder import RESULTS_VERSION, RunFolder, run_folders
from nst_exp.records.registry import ResultRegistry
from nst_exp.runs.progress import phase
from nst_exp.sweeps.search import number_of_points, prepare_sweep

if TYPE_CHECKING:
    from nst_exp.report import Report

_log = logging.getLogger(__name__)

_FILE = "sweep.json"
_SEARCH_RESULTS = "optimization_results.yaml"
_HYDRA_FILES = ("multirun.yaml", _SEARCH_RESULTS)
_WHERE_ONLY = ("hydra", "cache_dir", "registry", "force")


@dataclass(frozen=True)
class Sweep:
    """What a point knows of its sweep.

    Attributes:
        key: hash of all that makes two commands the same sweep.
        overrides: the command's.
        mlflow_run_id: of the parent run, None if not tracked.
    """

    key: str
    overrides: Sequence[str]
    mlflow_run_id: str | None

    @classmethod
    def in_folder(cls, folder: Path) -> Sweep:
        """The sweep that writes to `folder`.

        Raises:
            InputError: if there is none.
        """
        try:
            return cls(**json.loads((folder / _FILE).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{str(folder)!r} is no sweep's folder: no sound {_FILE}") from error

    def write(self, folder: Path) -> None:
        """Make this the sweep that writes to `folder`.

        Raises:
            InputError: if the folder cannot be written.
        """
        write_json(folder / _FILE, asdict(self))

    def swept(self, overrides: Sequence[str]) -> list[str]:
        """Those of a point's overrides that may differ from point to point."""
        command = OverridesParser.create().parse_overrides(list(self.overrides))
        fixed = {override.get_key_element() for override in command if not override.is_sweep_override()}
        return [override for override in overrides if override.partition("=")[0] not in fixed]


def is_sweep(folder: Path) -> bool:
    """Whether a sweep writes, or wrote, to `folder`."""
    return (folder / _FILE).is_file()


class SweepCallback(Callback):
    """Finds a run or a sweep its folder, and opens a sweep's parent run before the first point.

    Hydra skips `on_multirun_end` when a point failed, so whoever started the sweep ends it: `close_sweep`.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Find the run a folder that holds neither another run's result nor a user's files of the same names."""
        with _or_exit(), read_write(config):
            wanted = Path(config.hydra.run.dir)
            folder = _free_folder(wanted) if _given(config, "hydra.run.dir") else _new_folder(wanted)
            config.hydra.run.dir = str(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make or find the sweep's folder, its record and, unless tracking=none, its MLflow run."""
        with _or_exit():
            prepare_sweep(config)
            _open_sweep(config)


def discard_unbegun_run(folder: Path) -> None:
    """Leave nothing of a single run that was refused before it began."""
    if not RunFolder(folder).began:
        RunFolder(folder).discard_unbegun()
        remove_folders(_made)


@contextlib.contextmanager
def _or_exit() -> Iterator[None]:
    """End the command: Hydra would make a warning of an exception, and go on."""
    try:
        yield
    except InputError as error:
        sys.exit(f"nst_exp: {error}")
    except OSError as error:
        sys.exit(f"nst_exp: {str(error.filename)!r} cannot be made: {error.strerror}")
    except Exception:
        traceback.print_exc()
        sys.exit(1)


@dataclass(frozen=True)
class _Open:
    """The sweep that this process started.

    Attributes:
        points: how many it has; None if only its sweeper knows.
        run_id: of the parent run in MLflow, None if not tracked.
        claim: the lock that keeps other processes from continuing the same sweep.
        resumable: whether the same command continues it.
    """

    folder: Path
    store: tracking.Store
    key: str
    registry: ResultRegistry
    points: int | None
    client: Any
    run_id: str | None
    claim: Any
    resumable: bool


_open: list[_Open] = []  # none, or the sweep that this process started
_made: list[Path] = []  # the folders that this process made for its run or sweep


def _open_sweep(config: DictConfig) -> None:
    overrides = list(config.hydra.overrides.task)
    store, client = _connected(config)  # before anything is written: a store that is not there refuses the sweep
    registry, key = ResultRegistry.at(OmegaConf.select(config, "registry")), _key(config, overrides)
    _made[:] = missing_folders(registry.folder) if registry.folder else []
    claim = registry.claim(key)
    goes_on = claim is not None and not config.force and _enumerates(config) and config.source != "camera"
    folder = _folder(config, registry.sweep(key) if goes_on else None)
    run_id = None
    if client is not None:
        run_id = tracking.start_sweep(client, store, folder, overrides, _earlier_run(folder))
    Sweep(key, overrides, run_id).write(folder)
    registry.add_sweep(key, folder)
    _open.append(_Open(folder, store, key, registry, number_of_points(config), client, run_id, claim, goes_on))


def _connected(config: DictConfig) -> tuple[tracking.Store, Any]:
    """The store and a client of it, None with tracking=none."""
    checked = OmegaConf.to_object(config.tracking)
    assert isinstance(checked, TrackingConfig)
    store = tracking.Store.of(checked)
    if not store.tracks:
        return store, None
    client = tracking.connect(store)
    tracking.end_the_dead(client, store)
    return store, client


def _earlier_run(folder: Path) -> str | None:
    with contextlib.suppress(InputError):  # a new sweep has no sound record yet
        return Sweep.in_folder(folder).mlflow_run_id
    return None


def _enumerates(config: DictConfig) -> bool:
    """Whether the same command means the same points under the same numbers."""
    return str(config.hydra.sweeper._target_).endswith(".BasicSweeper")


def _key(config: DictConfig, overrides: Sequence[str]) -> str:
    """Hash of the command, the configuration below it, the inputs' contents, and the version of results."""
    settings = OmegaConf.masked_copy(config, [str(name) for name in config if name not in _WHERE_ONLY])
    plain = OmegaConf.to_container(settings, resolve=True)
    command = [override for override in overrides if override.partition("=")[0].lstrip("+") not in _WHERE_ONLY]
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    text = json.dumps([RESULTS_VERSION, command, plain, sweeper, _input_hashes(config, overrides)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _input_hashes(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """SHA-256 of every picture that the sweep may read; what cannot be read is for its points to report."""
    addresses = [config.content, config.style]
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group in ("content", "style") and override.is_discrete_sweep():
            values = (getattr(value, "text", value) for value in override.sweep_iterator())  # of a quoted one its text
            addresses += [str(value).replace("\\${", "${") for value in values]
    hashes = []
    for address in addresses:
        try:
            hashes.append(sha256_of(locate(address)))
        except InputError:
            hashes.append("")
    return hashes


def _folder(config: DictConfig, earlier: Path | None) -> Path:
    """Where the sweep writes to: on in `earlier`, or in the folder configured unless another sweep has that."""
    configured, given = Path(config.hydra.sweep.dir).absolute(), _given(config, "hydra.sweep.dir")
    if earlier is not None and is_sweep(earlier) and (not given or earlier == configured):
        _log.info("the sweep goes on in %s", earlier)
        folder = earlier
    else:
        folder = next(folder for folder in _candidates(configured) if _taken(folder))
    if folder != configured:
        _redirect(config, folder)
    return folder


def _candidates(wanted: Path) -> Iterator[Path]:
    """`wanted`, wanted-2, wanted-3, ..."""
    yield wanted
    wanted = wanted.absolute()  # "." has no name to put a number behind
    for suffix in itertools.count(2):
        yield wanted.with_name(f"{wanted.name}-{suffix}")


def _taken(folder: Path) -> bool:
    """Claim the folder for this sweep; returns False if another sweep owns it.

    Raises:
        InputError: if it holds files that the sweep would overwrite but no sweep has written.
    """
    if not is_sweep(folder):
        _refuse_foreign_files(folder)
    _made.extend(missing_folders(folder))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / _FILE).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _refuse_foreign_files(folder: Path) -> None:
    from nst_exp.report import FILES

    if not folder.is_dir():
        return
    names = [name for name in (*FILES, *_HYDRA_FILES) if (folder / name).exists()]
    if names:
        raise InputError(
            f"{str(folder)!r} holds {', '.join(names)}, which no sweep has written: give a folder without files of "
            "these names"
        )


def _new_folder(wanted: Path) -> Path:
    """Make `wanted` or, if it is there, the first candidate that is not."""
    for folder in _candidates(wanted):
        with contextlib.suppress(FileExistsError):
            _made[:] = missing_folders(folder)
            folder.mkdir(parents=True)
            return folder
    raise AssertionError  # there is no end of candidates


def _free_folder(wanted: Path) -> Path:
    """`wanted` or, if that holds a finished run, the first candidate that does not.

    Raises:
        InputError: if it holds files that a run would overwrite but no run has written.
    """
    folder = next(folder for folder in _candidates(wanted) if not RunFolder(folder).finished)
    RunFolder(folder).refuse_foreign_files(before_hydra=True)
    _made[:] = missing_folders(folder)
    if folder != wanted:
        _log.info("%s holds a finished run; this one is written to %s", wanted, folder)
    return folder


def _redirect(config: DictConfig, folder: Path) -> None:
    """Tell Hydra, which composes each point's configuration anew from the overrides."""
    quoted = str(folder).replace("'", "\\'")
    with read_write(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")


def _given(config: DictConfig, key: str) -> bool:
    return any(override.startswith(f"{key}=") for override in config.hydra.overrides.hydra)


def close_sweep(status: str) -> bool:
    """End the sweep that this process started, if any: write and log its report, and say how it went.

    Args:
        status: FINISHED, FAILED or KILLED, as far as the caller knows.

    Returns:
        Whether points failed, and have been named.
    """
    if not _open:
        return False
    sweep = _open[-1]  # until it is closed: a signal may break this off, and is followed by another call
    if not any(point.began for point in run_folders(sweep.folder)):
        failures = _failures(sweep.folder)
        _discard(sweep)
        _open.clear()
        return _name(failures)
    report = written_report(sweep.folder)
    if sweep.run_id is not None:
        files = [*report.files, *sweep.folder.glob(_SEARCH_RESULTS)]
        tracking.end_sweep(sweep.client, sweep.store, sweep.run_id, sweep.folder, files, report.bests, status)
    if sweep.claim is not None:
        sweep.claim.release()
    _open.clear()
    return _say_how_it_went(sweep)  # last: the output may be closed


def _discard(sweep: _Open) -> None:
    """Leave nothing of a sweep of which no point has begun: it was refused, or interrupted before its first run."""
    if sweep.run_id is not None:
        tracking.delete_sweep(sweep.client, sweep.run_id)
    for point in run_folders(sweep.folder):
        point.discard_unbegun()
        remove_folders([point.path])
    for name in (*_HYDRA_FILES, _FILE):
        with contextlib.suppress(OSError):
            (sweep.folder / name).unlink()
    if sweep.claim is not None:
        sweep.claim.release()
    sweep.registry.remove_sweep(sweep.key)
    remove_folders(_made)


def written_report(folder: Path) -> Report:
    """The sweep's report; that it cannot be written is no reason to end a sweep in another way."""
    from nst_exp import report

    phase("writing the report")
    try:
        return report.write_report(folder)
    except InputError as error:
        _log.warning("no report: %s", error)
        return report.Report.empty()


def _say_how_it_went(sweep: _Open) -> bool:
    """Print how many points are done, how to resume and, on stderr, what failed and why."""
    points, failures = run_folders(sweep.folder), _failures(sweep.folder)
    done, total = sum(point.finished for point in points), max(sweep.points or 0, len(points))
    print(f"{done} of {total} points done, side by side: {sweep.folder / 'report.html'}")
    if sweep.resumable and done + len(failures) < total:
        print("The same command resumes the sweep; points that are done are not done again.")
    return _name(failures)


def _failures(folder: Path) -> list[str]:
    """Which points failed, and why, in a line each."""
    sweep = Sweep.in_folder(folder)
    return [
        f"point {point.path.name} ({' '.join(sweep.swept(point.overrides))}) failed: {point.failure['error']}"
        for point in run_folders(folder)
        if point.failure
    ]


def _name(failures: Sequence[str]) -> bool:
    """Print failures on stderr; whether there are any."""
    for failure in failures:
        print(f"nst_exp: {failure}", file=sys.stderr)
    return bool(failures)
