"""Access to the files of conf/: the options of each group, and their content."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parent
# conf/ lies beside the package in a checkout and inside it in a wheel
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())


@functools.cache
def options(group: str) -> tuple[str, ...]:
    """Return the names of a group's options, such as `lbfgs` of `solver`, in alphabetical order."""
    return tuple(sorted(file.stem for file in (CONF / group).glob("*.yaml")))


@functools.cache
def groups() -> tuple[str, ...]:
    """Return the names of all groups of a run's settings, in alphabetical order."""
    return tuple(sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"))


@functools.cache
def option(group: str, name: str) -> dict[str, Any]:
    """Return the content of the file of an option."""
    return read_yaml(CONF / group / f"{name}.yaml")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a file of conf/; empty if the file is empty."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
