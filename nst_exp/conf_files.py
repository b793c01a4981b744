"""The files of conf/: which options each group has, and what they say."""

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
    """The names of the options of a group, such as `lbfgs` of `solver`, in alphabetical order."""
    return tuple(sorted(file.stem for file in (CONF / group).glob("*.yaml")))


@functools.cache
def groups() -> tuple[str, ...]:
    """The names of all groups of a run's settings, in alphabetical order."""
    return tuple(sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"))


@functools.cache
def option(group: str, name: str) -> dict[str, Any]:
    """What the file of an option says."""
    return read_yaml(CONF / group / f"{name}.yaml")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file of conf/; empty if the file is."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
