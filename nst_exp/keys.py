"""The keys and groups that can be given on the command line, as the schema and conf/ have them."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nst_exp.config import RunConfig

_PACKAGE = Path(__file__).parent
# conf/ lies beside the package in a checkout and inside it in a wheel
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())

PICTURE_KEYS = ("content", "style")
FILE_KEYS = (*PICTURE_KEYS, "params.path")
COMMANDS = ("run", "compare", "reproduce", "upload")
LAUNCHERS = ("basic", "batched", "ray_cluster")  # that are there without an extra, or come with conf/


def group_options() -> Mapping[str, list[str]]:
    """The names of the options of each group in conf/."""
    folders = sorted(folder for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")
    options = {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}
    return options | {"hydra/launcher": list(LAUNCHERS), "hydra/sweeper": ["basic", "optuna"]}


@functools.cache
def run_keys() -> tuple[str, ...]:
    """The dotted keys of a run's settings."""
    weights = (read_yaml(file).get("style_layer_weight") or {} for file in sorted((CONF / "network").glob("*.yaml")))
    layers = dict.fromkeys(f"style_layer_weight.{layer}" for table in weights for layer in table)
    return (*_fields(RunConfig), *layers)


@functools.cache
def hydra_keys() -> tuple[str, ...]:
    """The dotted keys of Hydra's part, those of our launcher and of a search included."""
    from hydra.conf import HydraConf

    launcher = read_yaml(CONF / "hydra" / "launcher" / "batched.yaml")
    sweeper = read_yaml(CONF / "search" / "optuna.yaml")["hydra"]["sweeper"]
    parts = _flat({"launcher": launcher, "sweeper": sweeper})
    return tuple(f"hydra.{key}" for key in (*_fields(HydraConf), *parts))


def is_known(key: str) -> bool:
    """Whether `key` is one of a run's or of Hydra's, or a group."""
    name = key.partition("@")[0]
    return name in run_keys() or name in group_options() or name.startswith(("hydra.", "hydra/", "style_layer_weight."))


def all_names() -> tuple[str, ...]:
    """Every key and group, for suggestions."""
    return (*run_keys(), *group_options(), *hydra_keys())


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file of conf/."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _fields(schema: type) -> Iterator[str]:
    """The dotted names of the fields of a dataclass of dataclasses."""
    types = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield field.name
        if dataclasses.is_dataclass(types[field.name]):
            yield from (f"{field.name}.{inner}" for inner in _fields(typing.cast(type, types[field.name])))


def _flat(tree: Mapping[str, Any]) -> Iterator[str]:
    for name, value in tree.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in _flat(value))
