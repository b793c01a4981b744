"""The output of `--help` and `--version`; explanations of keys are read from the comments in conf/."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nst_exp import __version__
from nst_exp.conf_files import CONF
from nst_exp.keys import COMMANDS, group_options
from nst_exp.versions import installed_version

_HEAD = """\
nst-exp: try the settings of neural style transfer, side by side.

  One picture       nst-exp content=PHOTO style=PAINTING size=512
  A grid            nst-exp -m content_weight=1,4 style_weight=0.03,0.1
  A folder          nst-exp -m content=PHOTO style=PAINTINGS/
  A search          nst-exp -m search=optuna (needs the extra nst-exp[optuna])
  Tab completion    eval "$(nst-exp -sc install=bash)", or zsh, or
                    nst-exp -sc install=fish | source
"""
_FLAGS = """\
Flags, anywhere among the settings:
  -m, --multirun    a sweep: every combination of comma-separated values
  --cfg job         show the composed configuration and do nothing (--resolve)
  --version         versions of nst-exp and of what it is built on
  --hydra-help      Hydra's own flags
"""
_KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s].*?))?(?: +# ?(?P<comment>.*))?")
_DEFAULT = re.compile(r" +- (?:override )?(?P<group>[\w/]+): (?P<option>\w+) *(?:# ?(?P<comment>.*))?")


@dataclass
class Key:
    """A key in a file of conf/.

    Attributes:
        name: the dotted key.
        value: the value as it is written in the file; empty for a table.
        comment: the comment that explains the key.
    """

    name: str
    value: str
    comment: str


@dataclass
class Section:
    """The keys under a heading of conf/run.yaml.

    Attributes:
        title: the heading.
        keys: the keys, in the order of the file.
    """

    title: str
    keys: list[Key]


def print_version() -> None:
    """Print the versions of nst-exp and of its most important libraries."""
    others = ", ".join(f"{name} {installed_version(name)}" for name in ("jax", "hydra-core", "mlflow"))
    print(f"nst-exp {__version__} ({others})")


def print_help() -> None:
    """Print explanations of all commands, flags, keys and groups, wrapped to the width of the terminal."""
    width = min(100, max(60, shutil.get_terminal_size().columns)) - 1
    print(_HEAD)
    print(f"Commands: nst-exp {' | '.join(COMMANDS)}; `run` if none is named\n")
    print(_FLAGS)
    for section in sections():
        print("\n".join([*textwrap.wrap(section.title, width), *_explained(section.keys, width), ""]))
    print("Groups: GROUP=OPTION chooses several settings at once")
    for group, options in group_options().items():
        print("\n".join(["", *_group(group, options, width)]))


def sections() -> list[Section]:
    """Return the keys of conf/run.yaml under their headings."""
    found: list[Section] = []
    for heading, lines in _blocks((CONF / "run.yaml").read_text(encoding="utf-8").splitlines()):
        if heading:
            found.append(Section(heading, list(_keys(lines, ""))))
    return found


def group_keys(group: str, option: str) -> list[Key]:
    """Return the keys that an option of a group sets, as they are written on the command line.

    Args:
        group: such as `solver` or `hydra/launcher`.
        option: such as `lbfgs`.
    """
    lines = _option_file(group, option).read_text(encoding="utf-8").splitlines()
    is_global = any(line.startswith("# @package _global_") for line in lines)
    prefix = "" if is_global else f"{group.replace('/', '.')}."
    return [key for key in _keys(lines, prefix) if key.name not in ("defaults", "hydra.launcher._target_")]


def default_options() -> dict[str, tuple[str, str]]:
    """Return the default option of each group and the comment that explains the group, by group."""
    lines = (CONF / "run.yaml").read_text(encoding="utf-8").splitlines()
    found = (_DEFAULT.fullmatch(line) for line in lines)
    return {match["group"]: (match["option"], match["comment"] or "") for match in found if match}


def _option_file(group: str, option: str) -> Path:
    return CONF / group / f"{option}.yaml"


# --- reading the comments ----------------------------------------------------------------------------------------


def _blocks(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each heading `# --- TITLE` and the lines below it; the heading of the first lines is empty."""
    heading, block = "", list[str]()
    for line in lines:
        if line.startswith("# --- "):
            yield heading, block
            heading, block = line.removeprefix("# --- "), []
        else:
            block.append(line)
    yield heading, block


def _keys(lines: Sequence[str], prefix: str) -> Iterator[Key]:
    """Yield the keys that have a value or a comment; a comment may continue on the following lines."""
    parents: list[tuple[int, str]] = []
    key: Key | None = None
    for line in lines:
        if key is not None and key.comment and re.match(r" {20,}# ", line):
            key.comment += " " + line.strip().removeprefix("# ")
            continue
        if key is not None:
            yield key
        key, match = None, _KEY.fullmatch(line)
        if match is None:
            continue
        indent = len(match["indent"])
        parents = [parent for parent in parents if parent[0] < indent]
        name = prefix + ".".join([*(parent for _, parent in parents), match["key"]])
        parents.append((indent, match["key"]))
        if match["value"] is not None:
            key = Key(name, match["value"], match["comment"] or "")
        elif match["comment"]:
            key = Key(name, "", match["comment"])
    if key is not None:
        yield key


def _about(group: str, option: str) -> str:
    """Return the first sentence of the comment at the beginning of an option's file."""
    file = _option_file(group, option)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    head = [line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @package")]
    text = re.sub(r"^(scripts/run|python -m nst_exp\.run) [^:]*: ", "", " ".join(head))
    return re.split(r"(?<!\bal)\.\s", text, maxsplit=1)[0]


# --- laying out ----------------------------------------------------------------------------------------------------


def _explained(keys: Sequence[Key], width: int) -> Iterator[str]:
    for key in keys:
        yield from _entry(f"{key.name}={key.value}" if key.value else f"{key.name}.NAME=VALUE", key.comment, width)


def _entry(term: str, meaning: str, width: int) -> Iterator[str]:
    """Yield the lines of a term and, beside it or below it, its meaning."""
    column = 30
    lines = textwrap.wrap(meaning, width - column) or [""]
    if len(term) + 4 > column:
        yield from textwrap.wrap(f"  {term}", width, subsequent_indent="    ")
    else:
        yield f"  {term:{column - 2}}{lines.pop(0)}".rstrip()
    yield from (" " * column + line for line in lines if line)


def _group(group: str, options: Sequence[str], width: int) -> Iterator[str]:
    default, meaning = default_options().get(group, ("", ""))
    title = f"{group}={default}" if default and default != "null" else f"{group}="
    yield from textwrap.wrap(f"{title}  {meaning}".rstrip(), width, subsequent_indent="    ")
    for option in options:
        yield from _entry(option, textwrap.shorten(_about(group, option), 150), width)
    if default in options and _option_file(group, default).is_file():
        yield from _explained([key for key in group_keys(group, default) if key.comment], width)
