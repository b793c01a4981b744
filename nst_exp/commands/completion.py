"""Tab completion of `nst-exp` and `python -m nst_exp.run` in bash, zsh and fish.

    eval "$(nst-exp -sc install=bash)"        # zsh: install=zsh; fish: nst-exp -sc install=fish | source

The shell calls this program for every completion. The answer comes from the schema and conf/ alone, which takes a
fraction of a second.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nst_exp import keys
from nst_exp.config import BOOLEANS, CHOICES
from nst_exp.errors import InputError
from nst_exp.suggestions import did_you_mean

_FLAGS = ("--help", "--multirun", "--cfg", "--resolve", "--version", "--hydra-help", "--shell-completion")
_PATHS = ("cache_dir", "registry", "tracking.store", "hydra.run.dir", "hydra.sweep.dir", *keys.FILE_KEYS)

# The functions for `python` complete only command lines that begin with `-m nst_exp`; others get the shell's defaults.
_SCRIPTS = {
    "bash": r"""
_nst_exp_complete() {
    local program=("$1")
    [[ $1 == *nst-exp ]] || program=("$1" -m nst_exp.run)
    local IFS=$'\n'
    local -x COMP_LINE=${COMP_LINE:0:COMP_POINT} COMP_WORDBREAKS=$COMP_WORDBREAKS
    COMPREPLY=($("${program[@]}" -sc query=bash 2>/dev/null))
}
_nst_exp_complete_python() {
    COMPREPLY=()
    [[ ${COMP_WORDS[1]} != -m || ${COMP_WORDS[2]} != nst_exp* ]] || _nst_exp_complete "$1"
}
complete -o nospace -o default -o bashdefault -F _nst_exp_complete nst-exp
complete -o nospace -o default -o bashdefault -F _nst_exp_complete_python python python3
""",
    "zsh": r"""
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_nst_exp_complete() {
    local -a program found
    if [[ $words[1] == *nst-exp ]]; then program=(${(Q)words[1]})
    elif [[ $words[2] == -m && $words[3] == nst_exp* ]]; then program=(${(Q)words[1]} -m nst_exp.run)
    else _default; return
    fi
    found=("${(@f)$(COMP_LINE=$LBUFFER ${~program} -sc query=zsh 2>/dev/null)}")
    found=(${found:#})
    (( $#found )) && compadd -Q -U -S '' -- $found
}
compdef _nst_exp_complete nst-exp python python3
""",
    "fish": r"""
function _nst_exp_complete
    set -l program $argv
    COMP_LINE=(commandline -cp) $program -sc query=fish 2>/dev/null
end
complete -c nst-exp -f -a '(_nst_exp_complete nst-exp)'
for python in python python3
    complete -c $python -n '__fish_seen_subcommand_from nst_exp nst_exp.run' -f \
        -a "(_nst_exp_complete $python -m nst_exp.run)"
end
""",
}
_UNINSTALL = {
    "bash": "complete -r nst-exp python python3; unset -f _nst_exp_complete _nst_exp_complete_python",
    "zsh": "compdef -d nst-exp python python3; unfunction _nst_exp_complete",
    "fish": "complete -e -c nst-exp; complete -e -c python; complete -e -c python3; functions -e _nst_exp_complete",
}


def answer(request: Sequence[str], environment: Mapping[str, str]) -> None:
    """Answer a request of `--shell-completion` on standard output.

    Args:
        request: one of `install=SHELL`, `uninstall=SHELL` and `query=SHELL`.
        environment: the environment variables. For a query, COMP_LINE is the command line up to the cursor, and
            COMP_WORDBREAKS has the letters at which bash divides words.

    Raises:
        InputError: if the request is not one of these.
    """
    verb, _, shell = request[0].partition("=") if len(request) == 1 else ("", "", "")
    if verb not in ("install", "uninstall", "query") or shell not in _SCRIPTS:
        asked = " ".join(request)
        forms = [f"install={name}" for name in _SCRIPTS]
        raise InputError(f"--shell-completion {asked}: give {', '.join(forms)}{did_you_mean(asked, forms)}")
    if verb == "install":
        print(_SCRIPTS[shell].strip())
    elif verb == "uninstall":
        print(_UNINSTALL[shell])
    else:
        line = environment.get("COMP_LINE", "")
        breaks = environment.get("COMP_WORDBREAKS", "") if shell == "bash" else ""
        print("\n".join(completions(line, breaks=breaks, escape=shell != "fish")))


def completions(line: str, *, breaks: str = "", escape: bool = True) -> list[str]:
    """Return the completions of the last word of a command line, in the form that the shell inserts.

    Args:
        line: the command line up to the cursor, including the name of the program.
        breaks: the letters at which the shell divides words; it expects only the part of the last word after these.
        escape: whether to put a backslash before special characters of the shell; fish does this itself.

    Example:
        >>> from nst_exp.commands.completion import completions
        >>> completions("nst-exp solver=")
        ['solver=adam', 'solver=lbfgs', 'solver=optax_lbfgs']
    """
    words = _words(line)
    typed = words[-1]
    cut = max((typed.rfind(letter) for letter in breaks if letter in "=:,"), default=-1) + 1
    found = sorted(set(_candidates(words)))
    if not escape:
        return found
    return [re.sub(r"""([\s'"\\$&;|<>()*?`!#\[\]{}])""", r"\\\1", word[cut:]) for word in found]


def _words(line: str) -> list[str]:
    """Split a command line without its program into words, the last of which is at the cursor and may be empty."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
            break
        except ValueError:
            continue
    else:
        words = line.replace("\\", "").split()
    if line[-1:].isspace() and not line.endswith("\\ "):
        words.append("")
    starts_module = len(words) > 2 and words[1] == "-m" and words[2].startswith("nst_exp")
    return words[3 if starts_module else 1 :] or [""]


def _candidates(words: Sequence[str]) -> Iterator[str]:
    word = words[-1]
    key, equals, value = word.partition("=")
    if equals:
        yield from (f"{key}={one}" for one in _values(key.lstrip("+"), value))
        return
    names = [f"{key}=" for key in _leaves()] + [f"{group}=" for group in keys.group_options()]
    if word.startswith("-"):
        names = list(_FLAGS)
    elif len(words) == 1:
        names += keys.COMMANDS
    matching = [name for name in names if name.startswith(word)]
    if len(matching) > 1:  # only up to the next dot, as paths are completed up to the next slash
        matching = [re.sub(rf"^({re.escape(word)}[^.]*\.).*", r"\1", name) for name in matching]
    yield from matching


def _leaves() -> list[str]:
    """Return the keys that have a value rather than further keys."""
    every = (*keys.run_keys(), *keys.hydra_keys())
    parents = {key.rpartition(".")[0] for key in every}
    return [key for key in every if key not in parents]


def _values(key: str, value: str) -> Iterator[str]:
    """Yield the values of a key that begin with `value`; in a comma-separated list, the last entry is completed."""
    head = value[: value.rfind(",") + 1]
    start = value[len(head) :]
    if key in _PATHS:
        yield from (f"{head}{name}" for name in _paths(start))
        return
    choices = keys.group_options().get(key) or CHOICES.get(key) or (("true", "false") if key in BOOLEANS else ())
    yield from (f"{head}{choice}" for choice in choices if choice.startswith(start))


def _paths(start: str) -> Iterator[str]:
    """Yield the files and folders whose path begins with `start`."""
    folder, name = os.path.split(start)
    try:
        entries = list(os.scandir(Path(folder).expanduser()))
    except (OSError, RuntimeError):
        return
    for entry in entries:
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
            yield os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "")
