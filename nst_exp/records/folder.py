"""What a run leaves in its folder, and how it is read again: the one place that knows the files' names.

Files come first and MLflow is made from them, so that a run whose tracking was lost can be uploaded later, and a
sweep can be compared without any server. Each file is whole or not there; `result.json` comes last of those that
hold the result, so a folder that has it is finished.
"""

from __future__ import annotations

import contextlib
import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from nst_exp.config import current_name
from nst_exp.errors import InputError
from nst_exp.files import TEMPORARY, digest, read_json, write_atomically, write_json
from nst_exp.media.codecs import SUFFIXES
from nst_exp.records.result import Result

# Raise it when a change of code alters pictures or measures: earlier results then no longer count as done.
RESULTS_VERSION = 6

PICTURE = "pastiche.png"  # of a video: a frame from its middle
VIDEO = "pastiche"  # a video, its suffix by its codec
SIDE_BY_SIDE = "side_by_side"  # source and pastiche in one video
FRAMES = "frames"  # folder of a video's painted frames
CONFIG = "config.yaml"  # resolved: repeats the run
RESULT = "result.json"  # losses, measures, costs
TRACE = "trace.csv"  # a row for each step: losses, evaluations, scale
PROGRESS = "progress"  # folder of pictures on the way, named by their step
_RECORD = "record.json"
_FAILURE = "failure.json"
_TRACKED = "mlflow.json"
_OWN_FILES = (RESULT, CONFIG, PICTURE, TRACE, _RECORD, _FAILURE, _TRACKED)
_HYDRA_FILES = (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "run.log")

Table = Mapping[str, npt.NDArray[Any]]
Value = float | int | str | None  # of a setting, as it is read from a run's files


@dataclass(frozen=True)
class Record:
    """What a run says of itself before it begins.

    Attributes:
        identity: hash of all that determines the result.
        name: for people.
        overrides: Hydra's, of this run.
        params: every setting under its readable name.
        tags: versions, device, SHA-256 of inputs.
        tracking_uri: the MLflow store that it belongs to, None if it is not tracked.
    """

    identity: str
    name: str
    overrides: Sequence[str]
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    tracking_uri: str | None


@dataclass(frozen=True)
class Tracked:
    """The finished MLflow run that holds all of a folder."""

    tracking_uri: str
    run_id: str


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, finished or not."""

    path: Path

    def begin(self, config: Mapping[str, Any], record: Record) -> None:
        """Write record and configuration; what a killed or failed run has left is removed.

        The record comes first: it marks the folder as a run's, and nothing is removed from any other folder.

        Raises:
            InputError: if the folder cannot be written, or holds files of these names that no run has written.
        """
        self.refuse_foreign_files()
        self._clear()
        write_json(self.path / _RECORD, asdict(record))
        write_atomically(self.path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False).encode())

    @property
    def began(self) -> bool:
        """Whether a run has begun in this folder, however far it came."""
        with contextlib.suppress(InputError):
            return bool(self.record)
        return False

    @property
    def is_ours(self) -> bool:
        """Whether a run has written to this folder: it has a run's record, or says why a run failed."""
        return self.began or read_json(self.path / _FAILURE).keys() == {"error", "overrides"}

    def refuse_foreign_files(self, *, before_hydra: bool = False) -> None:
        """Check that a run may write to this folder.

        Args:
            before_hydra: Hydra has not written its own files yet, so those that exist count, too, unless an earlier
                run was killed right after Hydra wrote them.

        Raises:
            InputError: if it holds files that a run would overwrite but no run has written.
        """
        if self.is_ours:
            return
        names = [path.name for path in self._written_files() if path.exists()]
        names += [name for name in (PROGRESS, FRAMES) if (self.path / name).exists()]
        if before_hydra and not self._has_our_hydra_files():
            names += [name for name in (".hydra", "run.log") if (self.path / name).exists()]
        if names:
            raise InputError(
                f"{str(self.path)!r} holds {', '.join(sorted(names))}, which no run has written: "
                "give a folder without files of these names"
            )

    def _has_our_hydra_files(self) -> bool:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return "nst_exp.sweep" in (self.path / ".hydra" / "hydra.yaml").read_text()
        return False

    def discard_unbegun(self) -> None:
        """Remove what Hydra and a run that was refused before it began have left in the folder."""
        if self.began:
            return
        for name in (*_HYDRA_FILES, _FAILURE):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        with contextlib.suppress(OSError):
            (self.path / ".hydra").rmdir()  # only if it is empty

    def fail(self, error: str, overrides: Sequence[str]) -> None:
        """Write down why there is no result; nothing if the disk refuses that, too."""
        with contextlib.suppress(InputError):
            write_json(self.path / _FAILURE, {"error": error, "overrides": list(overrides)})

    def progress_file(self, step: int) -> Path:
        """Where the picture after `step` steps belongs.

        Raises:
            InputError: if its folder cannot be made.
        """
        path = self.path / PROGRESS / f"{step:06d}.png"
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{str(path.parent)!r} cannot be made: {error.strerror}") from error
        return path

    def write_trace(self, trace: Table) -> None:
        """Write columns of equal length, a row for each step; the first column is `step`."""
        text = StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(trace)
        rows.writerows(zip(*(column.tolist() for column in trace.values()), strict=True))
        write_atomically(self.path / TRACE, text.getvalue().encode())

    def finish(self, result: Result) -> None:
        """Write the result: from here on the run is finished."""
        result.write(self.path / RESULT)
        with contextlib.suppress(OSError):
            (self.path / _FAILURE).unlink(missing_ok=True)

    def mark_tracked(self, tracked: Tracked) -> None:
        """Write down that MLflow has all of this."""
        write_json(self.path / _TRACKED, asdict(tracked))

    def adopt(self, other: RunFolder, record: Record) -> None:
        """Take over the finished run of `other`, which has the same identity, under an own record."""
        self.refuse_foreign_files()
        self._clear()
        write_json(self.path / _RECORD, asdict(replace(record, tags=other.record.tags)))
        for file in (CONFIG, TRACE, PROGRESS, FRAMES, *other.result.products.values()):
            source, target = other.path / file, self.path / file
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy2(source, target)
        self.finish(replace(other.result, reused_from=str(other.path)))

    def _clear(self) -> None:
        """Remove what an earlier try has left, `result.json` first: without it nothing else counts.

        Raises:
            InputError: if something cannot be removed.
        """
        for path in (*self._written_files(), *self.path.glob(TEMPORARY)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"{str(path)!r} cannot be removed: {error.strerror}") from error
        shutil.rmtree(self.path / PROGRESS, ignore_errors=True)

    def _written_files(self) -> list[Path]:
        """The files that a run may write, whether they exist or not; `result.json` first."""
        videos = [f"{name}{suffix}" for name in (VIDEO, SIDE_BY_SIDE) for suffix in SUFFIXES]
        return [self.path / name for name in (*_OWN_FILES, *videos)]

    @property
    def finished(self) -> bool:
        """Whether the result is there, with every file that it names.

        A folder whose picture or video was deleted is not finished: the run is done again.
        """
        result = self.result_so_far
        return result is not None and all((self.path / name).is_file() for name in result.products.values())

    @property
    def sound(self) -> bool:
        """Whether the run is finished and its picture or videos are as they were written."""
        if not self.finished:
            return False
        products, hashes = self.result.products, self.result.sha256
        return all(digest(self.path / name) == hashes.get(what) for what, name in products.items())

    @property
    def result(self) -> Result:
        """The result of a finished run.

        Raises:
            InputError: if the run is not finished, or its result is damaged.
        """
        result = self.result_so_far
        if result is None:
            raise InputError(f"{str(self.path)!r} holds no finished run: no sound {RESULT}")
        return result

    @property
    def result_so_far(self) -> Result | None:
        """The result; None while there is none."""
        return Result.read(self.path / RESULT)

    @property
    def record(self) -> Record:
        """What `begin` wrote.

        Raises:
            InputError: if the run never began, or its record is damaged.
        """
        try:
            record = Record(**read_json(self.path / _RECORD))
            return replace(record, params={current_name(name): value for name, value in record.params.items()})
        except TypeError as error:
            raise InputError(f"{str(self.path)!r} holds no run: no sound {_RECORD}") from error

    @property
    def failure(self) -> dict[str, Any]:
        """`error` and `overrides` of a run that failed, {} if it did not."""
        return {} if self.finished else read_json(self.path / _FAILURE)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, {} if the run never began."""
        try:
            return yaml.safe_load((self.path / CONFIG).read_text())
        except FileNotFoundError:
            return {}

    @property
    def overrides(self) -> tuple[str, ...]:
        """Hydra's overrides of this run, however far it came."""
        with contextlib.suppress(OSError):
            return tuple(yaml.safe_load((self.path / ".hydra" / "overrides.yaml").read_text()))
        return tuple(self.failure.get("overrides") or self.record.overrides)

    @property
    def tracked(self) -> Tracked | None:
        """The MLflow run that holds all of this; None while there is none."""
        found = read_json(self.path / _TRACKED)
        return Tracked(**found) if found else None

    @property
    def trace(self) -> dict[str, npt.NDArray[Any]]:
        """What `write_trace` wrote, {} if nothing."""
        try:
            header, *rows = csv.reader((self.path / TRACE).read_text().splitlines())
        except (FileNotFoundError, ValueError):
            return {}
        columns = np.array(rows, float).T if rows else np.empty((len(header), 0))
        return dict(zip(header, columns, strict=True))

    @property
    def progress(self) -> Iterator[tuple[int, Path]]:
        """Steps and files of the pictures on the way."""
        for path in sorted((self.path / PROGRESS).glob("*.png")):
            yield int(path.stem), path

    @property
    def artifacts(self) -> Iterator[Path]:
        """The files that belong into MLflow as they are."""
        for path in sorted(self.path.rglob("*")):
            folder = path.relative_to(self.path).parts[0]
            if path.is_file() and folder not in (PROGRESS, FRAMES) and path.suffix != ".tmp" and path.name != _TRACKED:
                yield path


def loss_column(name: str) -> str:
    """The trace's name for a loss; MLflow makes a section of what stands before a slash."""
    return name.replace("style.", "loss_of_layer/") if "." in name else f"loss/{name}"


def run_folders(folder: Path) -> list[RunFolder]:
    """The runs of the sweep in `folder`, finished or not, in the order of their numbers."""
    numbered = [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()]
    return [RunFolder(path) for path in sorted(numbered, key=lambda path: int(path.name))]
