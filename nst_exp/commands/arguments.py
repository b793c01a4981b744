"""Parsing of the main command's arguments, which are flags and overrides in any order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser

from nst_exp.errors import InputError
from nst_exp.suggestions import did_you_mean


class UsageError(InputError):
    """Raised for flags that do not exist, lack a value, or exclude each other."""


@dataclass(frozen=True)
class Arguments:
    """The parsed arguments of the main command.

    Attributes:
        flags: the flags for Hydra. These are all given flags except for `--help`, `--version` and
            `--shell-completion`.
        overrides: the overrides, in the order given.
        multirun: whether `--multirun` is given.
        help: whether `--help` is given.
        version: whether `--version` is given.
        completion: whether `--shell-completion` is given, whose request is then in `overrides`.
    """

    flags: Sequence[str]
    overrides: Sequence[str]
    multirun: bool
    help: bool
    version: bool
    completion: bool


def parse(arguments: Sequence[str]) -> Arguments:
    """Parse the arguments of the main command.

    Args:
        arguments: the words of the command line after the name of the program.

    Raises:
        UsageError: if a flag is unknown, lacks a value, or excludes another one.
    """
    parser = _parser()
    found = parser.parse_intermixed_args(list(arguments))
    exclusive = [f"--{name}" for name in ("run", "multirun", "cfg", "info") if getattr(found, name)]
    if len(exclusive) > 1:
        raise UsageError(f"{' and '.join(exclusive)} exclude each other: give one of them; see --help")
    flags = [flag for action in parser._actions for flag in _flag(action, getattr(found, action.dest, None))]
    return Arguments(flags, found.overrides, found.multirun, found.help, found.version, found.shell_completion)


def _parser() -> argparse.ArgumentParser:
    """Return Hydra's parser, but with our own messages, and a `--version` that only sets a flag."""
    parser = get_args_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0].partition("=")[0]
        raise UsageError(f"{message}{did_you_mean(unknown, flags) if unknown else ''}; see --help")

    parser.error = refuse  # type: ignore[method-assign]
    # replaces Hydra's action, which prints the version of Hydra
    parser._option_string_actions["--version"] = argparse._StoreTrueAction(["--version"], "version")
    parser.set_defaults(version=False)
    return parser


def _flag(action: argparse.Action, value: Any) -> list[str]:
    if action.dest in ("overrides", "help", "version", "shell_completion") or value is None or value is False:
        return []
    flag = action.option_strings[0]
    return [flag] if value is True else [f"{flag}={value}"]
