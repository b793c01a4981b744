"""Preparation of overrides for Hydra.

The name of an existing file is accepted as it is, even if Hydra's grammar would require its letters to be quoted. With
`-m`, a folder, a `glob(...)` and a list of files are replaced by the files that they stand for. Overrides that Hydra
would misread or silently ignore are refused.
"""

from __future__ import annotations

import fnmatch
import glob
import mimetypes
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Glob, Override

from nst_exp import keys
from nst_exp.config import current_name
from nst_exp.errors import InputError
from nst_exp.grammar import literal, parsed, quoted, shell_form
from nst_exp.media.kind import animation_frames
from nst_exp.suggestions import did_you_mean, nearest

# keys whose value can be any text, such as the name of a folder that need not exist, an address or a title
_TEXT_KEYS = (
    "cache_dir", "registry", "tracking.store", "tracking.uri", "tracking.experiment", "camera.device",
    "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
_SEARCHES = ("search", "hydra/sweeper", "hydra.sweeper._target_")


@dataclass(frozen=True)
class _OverrideText:
    """An override as it was typed.

    Attributes:
        text: the whole override.
        prefix: Hydra's prefix: nothing, `+` or `++`.
        key: the part between the prefix and the equals sign.
        value: the part after the equals sign.
    """

    text: str
    prefix: str
    key: str
    value: str

    @classmethod
    def of(cls, text: str) -> _OverrideText:
        """Split an override.

        Raises:
            InputError: if the text is not an override.
        """
        found = re.fullmatch(r"(\+{0,2})([^=~+][^=]*)=(.*)", text, re.DOTALL)
        if found is None:
            hint = did_you_mean(text, (*keys.COMMANDS, *keys.all_names()))
            commands = ", ".join(keys.COMMANDS)
            raise InputError(f"{text!r} is neither a setting (KEY=VALUE) nor a command ({commands}){hint}")
        return cls(text, *found.groups())

    def with_values(self, values: Sequence[str]) -> str:
        """Return the override with these values instead, each of which is valid in Hydra's grammar."""
        return f"{self.prefix}{self.key}={','.join(values)}"


def prepared(overrides: Sequence[str], *, multirun: bool) -> list[str]:
    """Prepare the overrides of a command for Hydra.

    A line on standard error names the present name of each key that is given by a name of an earlier version.

    Args:
        overrides: the overrides as they were typed.
        multirun: whether the flag `--multirun` is given.

    Returns:
        The overrides for Hydra, in the same order.

    Raises:
        InputError: if an override cannot be read, has an unknown key, names no file, or would leave a sweep without
            points.
    """
    for text in overrides:
        _check_letters(text)
    given = [text.partition("=")[0].lstrip("+") for text in overrides]
    modes = ("hydra.mode=MULTIRUN", "hydra.mode=multirun")
    sweeps = multirun or "search" in given or any(mode in overrides for mode in modes)
    searches = any(key in given for key in _SEARCHES)
    return [_prepared(text, sweeps=sweeps, searches=searches) for text in overrides]


def _check_letters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode(errors="surrogateescape").decode(errors="replace")
        raise InputError(f"{shown!r} is not valid UTF-8: rename the file") from error


def _prepared(text: str, *, sweeps: bool, searches: bool) -> str:
    if text.startswith("~"):
        return text  # a deletion of a key
    given = _OverrideText.of(text)
    if (name := current_name(given.key)) != given.key:
        print(f"nst_exp: {given.key} is now called {name}; the old name will be removed", file=sys.stderr)
        return _prepared(f"{given.prefix}{name}={given.value}", sweeps=sweeps, searches=searches)
    found = parsed(text)
    if given.key in keys.FILE_KEYS:
        replaced = _files(given, found, sweeps=sweeps)
        if replaced is not None:
            return replaced
    elif given.key in _TEXT_KEYS and (found is None or _names_a_file(given.value)):
        return given.with_values([literal(given.value) if _names_a_file(given.value) else quoted(given.value)])
    if found is None:
        raise _unreadable(given)
    _check_sweep(given, found, searches=searches)
    return text


def _unreadable(given: _OverrideText) -> InputError:
    if not keys.is_known(given.key):
        return InputError(f"{given.key!r} is no key{did_you_mean(given.key, keys.all_names())}")
    form = shell_form(given.prefix + given.key, [given.value])
    return InputError(f"{given.text}: cannot be read; if this is one text, type {form}")


# --- sweeps ------------------------------------------------------------------------------------------------------


def _check_sweep(given: _OverrideText, found: Override, *, searches: bool) -> None:
    """Refuse a sweep that has no points.

    Raises:
        InputError: if it enumerates nothing, or is an interval without a search.
    """
    if found.is_interval_sweep() and not searches:
        raise InputError(
            f"{given.text}: an interval needs a search: add search=optuna or search=random, "
            f"or list values, such as {given.key}=1,2"
        )
    value = found._value
    if isinstance(value, Glob):
        _check_glob(given, value)
    elif found.is_discrete_sweep() and next(iter(found.sweep_iterator()), None) is None:
        raise InputError(f"{given.text}: has no values, so the sweep would have no points")


def _check_glob(given: _OverrideText, value: Glob) -> None:
    options = keys.group_options().get(given.key)
    if options is None:
        names = (*keys.group_options(), *keys.PICTURE_KEYS)
        hint = did_you_mean(given.key, names)
        raise InputError(f"{given.text}: glob() is for files ({', '.join(keys.FILE_KEYS)}) and groups{hint}")
    if not value.filter(options):
        raise InputError(f"{given.text}: matches none of {', '.join(options)}")


# --- files -------------------------------------------------------------------------------------------------------


def _files(given: _OverrideText, found: Override | None, *, sweeps: bool) -> str | None:
    """Return the override with the files that it stands for, or None if Hydra can read it unchanged.

    Raises:
        InputError: if it stands for no file, for a folder without `-m`, or is ambiguous.
    """
    if given.value.startswith("glob(") and given.value.endswith(")"):
        return _globbed(given, found, sweeps=sweeps)
    if given.value.startswith("pkg://"):
        whole = [literal(given.value)] if found is None else None
        return given.with_values(whole) if whole else None
    if _names_a_file(given.value):
        pieces = _partitions(given.value) if sweeps and "," in given.value else []
        if len(pieces) > 1:
            raise _ambiguous(given, pieces)
        if not Path(given.value).expanduser().is_dir():
            return given.with_values([literal(given.value)])
        if given.key in keys.PICTURE_KEYS:
            return _folder(given, sweeps=sweeps)
        return None
    if sweeps and "," in given.value:
        listed = _listed(given)
        if listed is not None:
            return listed
    if found is None:
        raise _missing(given, sweeps=sweeps)
    return None


def _names_a_file(text: str) -> bool:
    """Tell whether the text is the path of a file or folder that exists; `~` stands for the home folder."""
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _listed(given: _OverrideText) -> str | None:
    """Return the override for a comma-separated list of files and folders, whose names may have commas themselves.

    Returns:
        The override, or None if the value is not a list of files and folders that exist.
    """
    partitions = _partitions(given.value)
    if not partitions:
        return None
    if len(partitions) > 1:
        raise _ambiguous(given, partitions)
    return given.with_values([value for piece in partitions[0] for value in _expanded(given, piece)])


def _partitions(text: str) -> list[list[str]]:
    """Return up to two ways to divide a text at commas into names that exist."""
    pieces = text.split(",")
    if len(pieces) > 1000:
        return []
    # ways[i] has the ways to divide the first i pieces
    ways: list[list[list[str]]] = [[[]]]
    for end in range(1, len(pieces) + 1):
        found = (
            [*before, name]
            for start in range(max(0, end - 8), end)  # names with more than seven commas have to be quoted
            if ways[start] and _exists(name := ",".join(pieces[start:end]))
            for before in ways[start]
        )
        ways.append([way for way, _ in zip(found, range(2), strict=False)])
    return ways[-1]


def _exists(name: str) -> bool:
    return name.startswith("pkg://") or _names_a_file(name)


def _ambiguous(given: _OverrideText, partitions: Sequence[Sequence[str]]) -> InputError:
    forms = " or ".join(shell_form(given.key, names) for names in partitions)
    return InputError(f"{given.text}: could be {' and '.join(map(str, map(len, partitions)))} files; type {forms}")


def _missing(given: _OverrideText, *, sweeps: bool) -> InputError:
    """Return the error for a value that Hydra cannot read and that is not the name of an existing file."""
    names = given.value.split(",") if sweeps else [given.value]
    missing = next((name for name in names if not _exists(name)), given.value)
    folder = os.path.dirname(missing)
    others = [os.path.join(folder, name) for name in _names_in(Path(os.path.expanduser(folder)))]
    hint = f"; did you mean {found!r}?" if (found := nearest(missing, others)) else ""
    return InputError(f"{given.key}={missing!r}: No such file or directory{hint}")


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, RuntimeError):
        return []


# --- folders and globs ---------------------------------------------------------------------------------------------


def _globbed(given: _OverrideText, found: Override | None, *, sweeps: bool) -> str:
    value = found._value if found is not None else None
    chosen = value if isinstance(value, Glob) else Glob(include=[given.value.removeprefix("glob(")[:-1]])
    if not sweeps:
        raise InputError(f"{given.text}: several files make a sweep: add -m")
    names = [name for pattern in chosen.include for name in glob.iglob(os.path.expanduser(pattern), recursive=True)]
    kept = [name for name in names if not any(fnmatch.fnmatch(name, os.path.expanduser(no)) for no in chosen.exclude)]
    return given.with_values(_readable(given, [name for name in dict.fromkeys(kept) if os.path.isfile(name)]))


def _folder(given: _OverrideText, *, sweeps: bool) -> str:
    if sweeps:
        return given.with_values(list(_expanded(given, given.value)))
    raise InputError(
        f"{given.key}={given.value!r}: it is a directory; for each of its pictures add -m, for one give its name"
    )


def _expanded(given: _OverrideText, name: str) -> Iterator[str]:
    """Yield the file with this name or, if it is a folder, the readable files in it."""
    folder = Path(name).expanduser()
    if name.startswith("pkg://") or not folder.is_dir():
        yield literal(name)
    else:
        files = (os.path.join(folder, inner) for inner in _names_in(folder) if not inner.startswith("."))
        yield from _readable(given, [file for file in files if os.path.isfile(file)])


def _readable(given: _OverrideText, names: Sequence[str]) -> list[str]:
    """Return the files that can be read, as values in natural order, and print which are left out.

    Raises:
        InputError: if none can be read.
    """
    kept = sorted((name for name in names if _is_readable(given.key, name)), key=_natural)
    left_out = [os.path.basename(name) for name in names if name not in kept]
    if not kept:
        others = f" among {len(names)} files" if names else ""
        raise InputError(f"{given.text}: no {_what(given.key)} found{others}")
    if left_out:
        shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        print(f"{given.text}: {len(kept)} files; left out, for each is no {_what(given.key)}: {shown}")
    return [literal(name) for name in kept]


def _what(key: str) -> str:
    return {"style": "picture", "content": "picture or video"}.get(key, "file")


def _is_readable(key: str, name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    if key not in keys.PICTURE_KEYS:
        return True
    is_video = (mimetypes.guess_type(name)[0] or "").startswith("video/")
    return (key == "content" and is_video) or animation_frames(Path(name)) is not None


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders numbers by value, so that frame2 comes before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
