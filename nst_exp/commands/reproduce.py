"""Repeat a logged run from MLflow alone, and print whether the picture is identical, or how much it differs.

    python -m nst_exp.reproduce RUN_ID
    python -m nst_exp.reproduce RUN_ID content=photo.jpg style=painting.jpg

Photograph and painting are recognised by their SHA-256: they are looked for where the run found them, then anywhere
below --inputs. The picture goes to outputs/reproduced/RUN_ID.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from nst_exp.commands.process import program, run_command
from nst_exp.config import RunConfig, run_config
from nst_exp.devices import keep_compiled_code
from nst_exp.errors import InputError
from nst_exp.files import cache_folder, home_expanded
from nst_exp.grammar import escape_all
from nst_exp.media.image import locate, sha256_of
from nst_exp.records import tracking
from nst_exp.records.folder import CONFIG, PICTURE, RESULT, RunFolder
from nst_exp.records.result import Result

_PICTURES = ("content", "style")
_PARAMS = "params.path"
_HASHES = {"content", "style", "params", "pastiche"}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".avif", ".jp2"}
_OUTPUTS = "outputs"  # results lie there, not inputs
_AGAIN = ", again"  # behind a run's name: a repetition of it


@dataclass(frozen=True)
class _Logged:
    """A finished run as MLflow has it.

    Attributes:
        run_id: the run's id in MLflow.
        name: the run's name there.
        folder: a folder with its files.
    """

    run_id: str
    name: str
    folder: RunFolder

    @property
    def hashes(self) -> Mapping[str, str]:
        """SHA-256 of content, style, params and pastiche."""
        return self.folder.result.sha256


@dataclass(frozen=True)
class _Inputs:
    """Where to look for inputs.

    Attributes:
        addresses: those on the command line, by their keys.
        below: the folder that is searched for the others.
    """

    addresses: Mapping[str, str]
    below: Path


def _reproduce(arguments: argparse.Namespace) -> int:
    store = tracking.existing_store(arguments.tracking_uri)
    output = _output(arguments)
    with tempfile.TemporaryDirectory(prefix="nst_exp_") as temporary:
        logged = _logged_run(store, arguments.run_id, Path(temporary))
        config = _config(logged, _Inputs(arguments.addresses, arguments.inputs))
        repeated = _repeat(config, logged, output)
        print(f"run {logged.run_id} ({logged.name}) of {store.uri}")
        print(f"picture: {repeated.path / PICTURE}")
        return _compare(logged, repeated)


# --- the run in MLflow ---------------------------------------------------------------------------------------


def _logged_run(store: tracking.Store, run_id: str, folder: Path) -> _Logged:
    """Download a finished run into `folder`.

    Raises:
        InputError: if MLflow has no finished run of this id, not all of its files, or the run cannot be repeated.
    """
    logged = _Logged(run_id, tracking.download_repeatable(store, run_id, folder), RunFolder(folder))
    if not _is_sound(logged.folder):
        raise InputError(f"run {run_id}: its record or its {RESULT} is damaged")
    return logged


def _is_sound(folder: RunFolder) -> bool:
    """Return whether the record, and the result with its hashes, can be read."""
    try:
        return bool(folder.record.tags) and folder.result.sha256.keys() >= _HASHES
    except InputError:  # there is no record, or no result
        return False


# --- the same run again --------------------------------------------------------------------------------------


def _config(logged: _Logged, inputs: _Inputs) -> RunConfig:
    """Return the run's configuration, with its inputs as they are found here, and with no tracking and no registry.

    Raises:
        InputError: if an input is not found, or this version cannot read the configuration.
    """
    try:
        plain = logged.folder.config
        plain |= {name: _find(name, plain[name], logged.hashes[name], inputs) for name in _PICTURES}
        plain["params"]["path"] = inputs.addresses.get(_PARAMS, plain["params"]["path"])
        plain["tracking"] |= {"backend": "none", "store": None, "uri": None, "snapshots": 0}
        plain |= {"cache_dir": os.environ.get("NST_EXP_CACHE"), "registry": None, "force": False}
        return run_config(OmegaConf.create(escape_all(plain)))
    except (OmegaConfBaseException, yaml.YAMLError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise InputError(f"run {logged.run_id}: this version cannot read its {CONFIG}: {reason}") from error


def _find(name: str, address: str, wanted: str, inputs: _Inputs) -> str:
    """Return the address of an input with a known SHA-256.

    Args:
        name: content or style.
        address: where the run found it.
        wanted: its SHA-256.

    Raises:
        InputError: if it is not found, or the command line names another file.
    """
    given = inputs.addresses.get(name)
    found = _sha256_at(given or address)
    if found == wanted:
        return given or address
    if given is not None:
        state = f"its SHA-256 is {found}" if found else "it cannot be read"
        raise InputError(f"{name}={given!r} is not what the run read: {state}, that was {wanted}")
    for path in _candidates(inputs.below, Path(address)):
        if _sha256_at(str(path)) == wanted:
            return str(path)
    state = f"has changed, its SHA-256 is {found}" if found else "is not there"
    raise InputError(
        f"{name}: {address!r} {state}, and no picture below {str(inputs.below)!r} has the run's, {wanted}: "
        f"give {name}=PATH or --inputs DIR"
    )


def _sha256_at(address: str) -> str | None:
    try:
        return sha256_of(locate(address))
    except InputError:
        return None


def _candidates(below: Path, address: Path) -> list[Path]:
    """Return the files in a folder and below that may be the one at `address`; those with the same name come first.

    These are all pictures, and files with the same suffix, such as videos, outside of hidden folders and results.
    """
    return sorted(
        _files(below, _SUFFIXES | {address.suffix.lower()}), key=lambda path: (path.name != address.name, path)
    )


def _files(below: Path, suffixes: set[str]) -> Iterator[Path]:
    for folder, folders, files in os.walk(below):
        folders[:] = [inner for inner in folders if inner != _OUTPUTS and not inner.startswith(".")]
        yield from (Path(folder, file) for file in files if Path(file).suffix.lower() in suffixes)


def _output(arguments: argparse.Namespace) -> Path:
    """Return the folder for the picture; only an earlier repetition of the same run is overwritten in it.

    Raises:
        InputError: if the folder that the command line names is not empty.
    """
    folder = home_expanded(arguments.output or Path(_OUTPUTS, "reproduced", arguments.run_id)).absolute()
    if arguments.output and folder.exists() and any(folder.iterdir()) and not _is_interrupted(RunFolder(folder)):
        raise InputError(f"--output={str(arguments.output)!r} is not empty")
    return folder


def _is_interrupted(folder: RunFolder) -> bool:
    """Whether the folder holds a repetition that did not come to its end, and so may be made again."""
    return folder.began and not folder.finished and folder.record.name.endswith(_AGAIN)


def _repeat(config: RunConfig, logged: _Logged, output: Path) -> RunFolder:
    """Do the run again, if the network's params are the same.

    Args:
        config: with the inputs of the logged run.
        output: made if it is missing.

    Raises:
        InputError: if the network's params are others.
    """
    keep_compiled_code(cache_folder(config.cache_dir) / "jax")
    from nst_exp.runs.run import Origin, input_hashes, run_alone

    found, wanted = input_hashes(config)["params"], logged.hashes["params"]
    if found != wanted:
        raise InputError(
            f"params={config.params.source} are not what the run read: their SHA-256 is {found}, "
            f"that was {wanted}; give {_PARAMS}=FILE"
        )
    output.mkdir(parents=True, exist_ok=True)
    run_alone(config, output, Origin(f"{logged.name}{_AGAIN}"))
    return RunFolder(output)


# --- then and now --------------------------------------------------------------------------------------------


def _compare(logged: _Logged, repeated: RunFolder) -> int:
    """Print how much the picture and the videos differ; returns the exit code, 0 if they are identical, else 1."""
    then, now = logged.folder, repeated
    digest = sha256_of(then.path / PICTURE)
    if digest != logged.hashes["pastiche"]:
        print(f"MLflow's picture is not the one that the run made: {RESULT} tells of another SHA-256")
    files = [_Pair(what, then.path / name, now) for what, name in then.result.products.items()]
    for pair in files:
        print(pair.verdict if pair.what == "pastiche" else f"{pair.what}: {pair.verdict}")
    if not all(pair.verdict.startswith(_SAME_FILE) for pair in files):
        _print_table(["", "then", "now", "change"], _numbers(then.result, now.result))
    changed = _changed(then, now)
    if changed:
        _print_table(["changed since", "then", "now"], changed)
    else:
        print("device, processor, versions and code are the same")
    return 0 if all(pair.verdict.startswith("identical") for pair in files) else 1


@dataclass(frozen=True)
class _Pair:
    """A picture or video as MLflow has it, and the repeated run.

    Attributes:
        what: one of `Result.products`.
        then: the file from MLflow.
        repeated: the folder of the repeated run.
    """

    what: str
    then: Path
    repeated: RunFolder

    @functools.cached_property
    def verdict(self) -> str:
        """A text that begins with `identical` if the two are, and else tells how much they differ."""
        name = self.repeated.result.products.get(self.what)
        if name is None:
            return "not identical: the repeated run has none"
        now = self.repeated.path / name
        digest = sha256_of(self.then)
        if digest == sha256_of(now):
            return f"{_SAME_FILE}, SHA-256 {digest}"
        if self.what == "pastiche":
            return _verdict([_levels(self.then)], [_levels(now)])
        if _sound(self.then) != _sound(now):
            return "not identical: its sound differs"
        times = [[time for time, _ in _frames(path)] for path in (self.then, now)]
        if times[0] != times[1]:
            return f"not identical: it had {len(times[0])} frames and has {len(times[1])}, or other time stamps"
        return _verdict(*((levels for _, levels in _frames(path)) for path in (self.then, now)))


_SAME_FILE = "identical: the same file"


def _frames(path: Path) -> Iterator[tuple[Fraction, npt.NDArray[np.int16]]]:
    """Yield time in s and levels (H, W, 3), 0 to 255, of each frame of a video."""
    from nst_exp.media.video import Cut, probe, read_frames

    video = probe(path, path.name)
    for frame in read_frames(video, Cut(), on_corrupt="error", name=path.name):
        yield frame.pts * video.time_base, frame.levels.astype(np.int16)


def _sound(path: Path) -> list[tuple[int, Fraction, str]]:
    """Return track, time in s and SHA-256 of each packet of sound."""
    import av

    if path.suffix in (".gif", ".webp"):
        return []
    with av.open(str(path)) as container:
        return [
            (packet.stream_index, packet.pts * packet.time_base, hashlib.sha256(bytes(packet)).hexdigest())
            for packet in container.demux(*container.streams.audio)
            if packet.pts is not None and packet.time_base is not None
        ]


def _levels(path: Path) -> npt.NDArray[np.int16]:
    """Return a picture's levels (H, W, 3), 0 to 255.

    Raises:
        InputError: if the picture cannot be read.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"), np.int16)
    except OSError as error:
        raise InputError(f"{path.name}: MLflow's picture cannot be read") from error


def _verdict(then: Iterable[npt.NDArray[np.int16]], now: Iterable[npt.NDArray[np.int16]]) -> str:
    """Return whether two pictures, or the frames of two videos, are the same, or how much they differ, as a text.

    Args:
        then: levels (H, W, 3), 0 to 255, of each frame before.
        now: as many frames.
    """
    most, differing, squares, pixels = 0, 0, 0.0, 0
    for before, after in zip(then, now, strict=True):
        if before.shape != after.shape:
            sizes = [f"{width}x{height} px" for height, width, _ in (before.shape, after.shape)]
            return f"not identical: it was {sizes[0]} and is {sizes[1]}"
        difference = np.abs(before - after)
        most = max(most, int(difference.max()))
        differing += int(np.count_nonzero(difference.any(axis=-1)))
        squares += float(np.sum(np.square(difference, dtype=np.float64)))
        pixels += difference.shape[0] * difference.shape[1]
    if most == 0:
        return "identical pixels, in a file of other bytes"
    decibels = 20 * math.log10(255 / math.sqrt(squares / (3 * pixels)))
    return (
        f"not identical: at most {most} of 255 levels off, {differing / pixels:.1%} of pixels differ, "
        f"PSNR {decibels:.1f} dB"
    )


def _numbers(then: Result, now: Result) -> list[list[str]]:
    """Return a row for the loss and for each measure: name, before, after, change."""
    tables = [{"total_loss": result.total_loss, **result.measures} for result in (then, now)]
    rows = []
    for name in dict.fromkeys(name for table in tables for name in table):
        before, after = (table.get(name, math.nan) for table in tables)
        rows.append([name, f"{before:.6g}", f"{after:.6g}", f"{after - before:+.2g}"])
    return rows


def _changed(then: RunFolder, now: RunFolder) -> list[list[str]]:
    """Return a row for each of device, processor, versions and identity that has changed: name, before, after."""
    tables = [{**folder.record.tags, "identity": folder.record.identity} for folder in (then, now)]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [[name, *(table.get(name, "not recorded") for table in tables)] for name in names]
    return [row for row in rows if row[1] != row[2]]


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# --- command line --------------------------------------------------------------------------------------------


def _parse_assignments(parser: argparse.ArgumentParser, assignments: list[str]) -> dict[str, str]:
    """Return paths by their keys; the command exits on any other key."""
    addresses = {}
    for assignment in assignments:
        key, _, path = assignment.partition("=")
        if key not in (*_PICTURES, _PARAMS) or not path:
            parser.error(f"{assignment}: only content=PATH, style=PATH and {_PARAMS}=PATH can be given")
        addresses[key] = path
    return addresses


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program("reproduce"), description=__doc__.partition("\n")[0])
    parser.add_argument("run_id", metavar="RUN_ID", help="of a run in MLflow, not of a sweep")
    parser.add_argument("addresses", nargs="*", metavar="KEY=PATH", help=f"of {', '.join(_PICTURES)} or {_PARAMS}")
    parser.add_argument("--inputs", type=Path, default=Path(), metavar="DIR", help="searched for pictures; default: .")
    parser.add_argument("--tracking-uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, else outputs/mlflow.db")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: outputs/reproduced/RUN_ID")
    arguments = parser.parse_intermixed_args()
    arguments.addresses = _parse_assignments(parser, arguments.addresses)
    return arguments


def main() -> None:
    """Run the command and exit: 0 identical, 1 not identical or refused, 2 wrong usage."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    run_command(_reproduce, _arguments)
