"""The keys and groups that can be given on the command line, collected from the schema and from conf/."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from nst_exp import conf_files
from nst_exp.config import RunConfig

PICTURE_KEYS = ("content", "style")
FILE_KEYS = (*PICTURE_KEYS, "params.path")
COMMANDS = ("run", "compare", "reproduce", "upload")
LAUNCHERS = ("basic", "batched", "ray_cluster")  # Hydra's own and those in conf/; ray_cluster needs the extra `ray`


def group_options() -> Mapping[str, list[str]]:
    """Return the names of the options of each group, including those of Hydra's launcher and sweeper."""
    options = {group: list(conf_files.options(group)) for group in conf_files.groups()}
    return options | {"hydra/launcher": list(LAUNCHERS), "hydra/sweeper": ["basic", "optuna"]}


@functools.cache
def run_keys() -> tuple[str, ...]:
    """Return the dotted keys of the settings of a run, including the layers of all networks."""
    weights = (
        conf_files.option("network", name).get("style_layer_weight") or {} for name in conf_files.options("network")
    )
    layers = dict.fromkeys(f"style_layer_weight.{layer}" for table in weights for layer in table)
    return (*_fields(RunConfig), *layers)


@functools.cache
def hydra_keys() -> tuple[str, ...]:
    """Return the dotted keys of Hydra's own settings, including those of the launcher `batched` and of a search."""
    from hydra.conf import HydraConf

    launcher = conf_files.option("hydra/launcher", "batched")
    sweeper = conf_files.option("search", "optuna")["hydra"]["sweeper"]
    parts = _flat({"launcher": launcher, "sweeper": sweeper})
    return tuple(f"hydra.{key}" for key in (*_fields(HydraConf), *parts))


def is_known(key: str) -> bool:
    """Tell whether `key` is the key of a setting or of a group; every key below `hydra` is accepted.

    Args:
        key: as in an override, with or without a package such as `@hydra`.
    """
    name = key.partition("@")[0]
    return name in run_keys() or name in group_options() or name.startswith(("hydra.", "hydra/", "style_layer_weight."))


def all_names() -> tuple[str, ...]:
    """Return all keys and groups, for suggestions."""
    return (*run_keys(), *group_options(), *hydra_keys())


def _fields(schema: type) -> Iterator[str]:
    """Yield the dotted names of the fields of a dataclass, including those of nested dataclasses."""
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
