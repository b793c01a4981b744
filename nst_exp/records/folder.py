"""The folder of a run: the names of its files, and how they are written and read.

Files are written before MLflow gets them, so that a run whose tracking was lost can be uploaded later, and a sweep can
be compared without a server. Each file is written atomically. `result.json` is written after all other files of the
result, so a folder that has it belongs to a finished run.
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

# Raise this version when a change of code alters pictures or measures: points with earlier results are then done again.
RESULTS_VERSION = 6

PICTURE = "pastiche.png"  # the picture; of a video, a frame from its middle
VIDEO = "pastiche"  # the painted video; the codec adds the suffix
SIDE_BY_SIDE = "side_by_side"  # the source and the painted video side by side; the codec adds the suffix
FRAMES = "frames"  # the folder of a video's painted frames
CONFIG = "config.yaml"  # the resolved configuration, which repeats the run
RESULT = "result.json"  # the losses, measures and costs
TRACE = "trace.csv"  # the losses, evaluations and scale, with a row for each step
PROGRESS = "progress"  # the folder of intermediate pictures, which are named by their step
_RECORD = "record.json"
_FAILURE = "failure.json"
_TRACKED = "mlflow.json"
_OWN_FILES = (RESULT, CONFIG, PICTURE, TRACE, _RECORD, _FAILURE, _TRACKED)
_HYDRA_FILES = (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "run.log")

Table = Mapping[str, npt.NDArray[Any]]
Value = float | int | str | None  # the value of a setting, as it is read from the files of a run


@dataclass(frozen=True)
class Record:
    """The description of a run, which is written when the run begins.

    Attributes:
        identity: the hash of everything that determines the result; see `nst_exp.records.record.identity`.
        name: a readable name.
        overrides: the Hydra overrides of the run.
        params: every setting under its readable name; see `nst_exp.records.record.params`.
        tags: the versions, the device and the SHA-256 of the inputs; see `nst_exp.records.record.tags`.
        tracking_uri: the MLflow store that the run belongs to; None if it is not tracked.
    """

    identity: str
    name: str
    overrides: Sequence[str]
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    tracking_uri: str | None


@dataclass(frozen=True)
class Tracked:
    """The finished MLflow run that has everything in a folder.

    Attributes:
        tracking_uri: the MLflow store.
        run_id: the id of the run in this store.
    """

    tracking_uri: str
    run_id: str


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, finished or not.

    Attributes:
        path: the folder, which must exist before anything is written to it.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from nst_exp.records.folder import RunFolder
        >>> path = Path("outputs/example")
        >>> path.mkdir(parents=True)
        >>> folder = RunFolder(path)
        >>> folder.write_trace({"step": np.array([1, 2]), "loss/total": np.array([2.5, 2.0])})
        >>> folder.trace["loss/total"]
        array([2.5, 2. ])
        >>> folder.finished
        False
        >>> folder.result
        Traceback (most recent call last):
            ...
        nst_exp.errors.InputError: 'outputs/example' holds no finished run: result.json is missing or damaged
    """

    path: Path

    def begin(self, config: Mapping[str, Any], record: Record) -> None:
        """Write the record and the configuration, after removing the files of an earlier try.

        The record is written first. It marks the folder as that of a run, and files are only ever removed from such
        folders.

        Args:
            config: the resolved configuration as nested mappings.
            record: the description of the run.

        Raises:
            InputError: if the folder cannot be written, or has files that a run would overwrite but did not write.
        """
        self.refuse_foreign_files()
        self._clear()
        write_json(self.path / _RECORD, asdict(record))
        write_atomically(self.path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False).encode())

    @property
    def began(self) -> bool:
        """Whether a run has begun in this folder, finished or not."""
        with contextlib.suppress(InputError):
            return bool(self.record)
        return False

    @property
    def is_ours(self) -> bool:
        """Whether a run has written to this folder, which then has a record or the reason for a failure."""
        return self.began or read_json(self.path / _FAILURE).keys() == {"error", "overrides"}

    def refuse_foreign_files(self, *, before_hydra: bool = False) -> None:
        """Check that a run may write to this folder.

        Args:
            before_hydra: whether Hydra has not written its own files yet. Existing files of Hydra are then refused as
                well, unless they are those of an earlier run that was killed before it began.

        Raises:
            InputError: if the folder has files that a run would overwrite but no run has written.
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
        """Remove the files of Hydra, and of a run that was refused before it began, if no run has begun here."""
        if self.began:
            return
        for name in (*_HYDRA_FILES, _FAILURE):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        with contextlib.suppress(OSError):
            (self.path / ".hydra").rmdir()  # only if it is empty

    def fail(self, error: str, overrides: Sequence[str]) -> None:
        """Write the reason why there is no result, or nothing if the folder cannot be written.

        Args:
            error: the message.
            overrides: the Hydra overrides of the run.
        """
        with contextlib.suppress(InputError):
            write_json(self.path / _FAILURE, {"error": error, "overrides": list(overrides)})

    def progress_file(self, step: int) -> Path:
        """Return the file for the intermediate picture after `step` steps, and make its folder.

        Raises:
            InputError: if the folder cannot be made.
        """
        path = self.path / PROGRESS / f"{step:06d}.png"
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{str(path.parent)!r} cannot be made: {error.strerror}") from error
        return path

    def write_trace(self, trace: Table) -> None:
        """Write the trace.

        Args:
            trace: columns of equal length by name, with a row for each step; the first column is `step`.

        Raises:
            InputError: if the file cannot be written.
        """
        text = StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(trace)
        rows.writerows(zip(*(column.tolist() for column in trace.values()), strict=True))
        write_atomically(self.path / TRACE, text.getvalue().encode())

    def finish(self, result: Result) -> None:
        """Write the result, after which the run counts as finished.

        Raises:
            InputError: if the file cannot be written.
        """
        result.write(self.path / RESULT)
        with contextlib.suppress(OSError):
            (self.path / _FAILURE).unlink(missing_ok=True)

    def mark_tracked(self, tracked: Tracked) -> None:
        """Write which MLflow run has everything in this folder.

        Raises:
            InputError: if the file cannot be written.
        """
        write_json(self.path / _TRACKED, asdict(tracked))

    def adopt(self, other: RunFolder, record: Record) -> None:
        """Copy the result of a finished run with the same identity, under a record of its own.

        Args:
            other: the folder of the finished run.
            record: the description of the run in this folder. Its tags are replaced by those of `other`, which made
                the result.

        Raises:
            InputError: if the folder cannot be written, or has files that a run would overwrite but did not write.
        """
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
        """Remove the files of an earlier try.

        `result.json` is removed first, so that a folder with only some of the files never counts as finished.

        Raises:
            InputError: if a file cannot be removed.
        """
        for path in (*self._written_files(), *self.path.glob(TEMPORARY)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"{str(path)!r} cannot be removed: {error.strerror}") from error
        shutil.rmtree(self.path / PROGRESS, ignore_errors=True)

    def _written_files(self) -> list[Path]:
        """Return the files that a run may write, whether they exist or not, with `result.json` first."""
        videos = [f"{name}{suffix}" for name in (VIDEO, SIDE_BY_SIDE) for suffix in SUFFIXES]
        return [self.path / name for name in (*_OWN_FILES, *videos)]

    @property
    def finished(self) -> bool:
        """Whether the folder has a result, and every file that the result names.

        If the picture or a video has been deleted, the run is not finished and will be done again.
        """
        result = self.result_so_far
        return result is not None and all((self.path / name).is_file() for name in result.products.values())

    @property
    def sound(self) -> bool:
        """Whether the run is finished, and its picture and videos are unchanged since they were written."""
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
            raise InputError(f"{str(self.path)!r} holds no finished run: {RESULT} is missing or damaged")
        return result

    @property
    def result_so_far(self) -> Result | None:
        """The result; None if there is none, or it is damaged."""
        return Result.read(self.path / RESULT)

    @property
    def record(self) -> Record:
        """The description of the run, with params under their present names.

        Raises:
            InputError: if no run has begun in this folder, or its record is damaged.
        """
        try:
            record = Record(**read_json(self.path / _RECORD))
            return replace(record, params={current_name(name): value for name, value in record.params.items()})
        except TypeError as error:
            raise InputError(f"{str(self.path)!r} holds no run: {_RECORD} is missing or damaged") from error

    @property
    def failure(self) -> dict[str, Any]:
        """The `error` and the `overrides` of a run that failed; empty if it did not fail."""
        return {} if self.finished else read_json(self.path / _FAILURE)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration; empty if no run has begun in this folder."""
        try:
            return yaml.safe_load((self.path / CONFIG).read_text())
        except FileNotFoundError:
            return {}

    @property
    def overrides(self) -> tuple[str, ...]:
        """The Hydra overrides of the run, finished or not.

        Raises:
            InputError: if neither Hydra nor a run has written them.
        """
        with contextlib.suppress(OSError):
            return tuple(yaml.safe_load((self.path / ".hydra" / "overrides.yaml").read_text()))
        return tuple(self.failure.get("overrides") or self.record.overrides)

    @property
    def tracked(self) -> Tracked | None:
        """The MLflow run that has everything in this folder; None if there is none."""
        found = read_json(self.path / _TRACKED)
        return Tracked(**found) if found else None

    @property
    def trace(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of the trace by name; empty if there is no trace."""
        try:
            header, *rows = csv.reader((self.path / TRACE).read_text().splitlines())
        except (FileNotFoundError, ValueError):
            return {}
        columns = np.array(rows, float).T if rows else np.empty((len(header), 0))
        return dict(zip(header, columns, strict=True))

    @property
    def progress(self) -> Iterator[tuple[int, Path]]:
        """The intermediate pictures, as pairs of a step and a file, in the order of their steps."""
        for path in sorted((self.path / PROGRESS).glob("*.png")):
            yield int(path.stem), path

    @property
    def artifacts(self) -> Iterator[Path]:
        """The files that are uploaded to MLflow unchanged."""
        for path in sorted(self.path.rglob("*")):
            folder = path.relative_to(self.path).parts[0]
            if path.is_file() and folder not in (PROGRESS, FRAMES) and path.suffix != ".tmp" and path.name != _TRACKED:
                yield path


def loss_column(name: str) -> str:
    """Return the name of a loss in the trace.

    MLflow groups metrics by the part of their name before the slash.

    Args:
        name: the name of a term, or `style.LAYER`.

    Example:
        >>> from nst_exp.records.folder import loss_column
        >>> loss_column("content"), loss_column("style.block1_conv1")
        ('loss/content', 'loss_of_layer/block1_conv1')
    """
    return name.replace("style.", "loss_of_layer/") if "." in name else f"loss/{name}"


def run_folders(folder: Path) -> list[RunFolder]:
    """Return the folders of the runs of a sweep, finished or not, in the order of their numbers.

    Args:
        folder: the folder of the sweep.
    """
    numbered = [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()]
    return [RunFolder(path) for path in sorted(numbered, key=lambda path: int(path.name))]
