"""One-line messages for errors of Hydra and OmegaConf, with suggestions for mistyped names."""

from __future__ import annotations

import re

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from nst_exp import keys
from nst_exp.grammar import shell_form
from nst_exp.suggestions import did_you_mean

# the prefixes of options that need an extra of this package, and the names of the extras
_EXTRAS = {
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/ray": "ray",
    "hydra/launcher/submitit": "slurm",
    "hydra/sweeper/optuna": "optuna",
    "hydra/sweeper/sampler": "optuna",
}
# the beginnings of lines of Hydra and OmegaConf that do not help someone who has mistyped a key
_DETAILS = (
    "To append to your",
    "full_key:",
    "object_type=",
    "reference_type=",
    "Config search path",
    "provider=",
    "See ",
)


def one_line(error: BaseException) -> str:
    """Return a message of one line that says what is wrong.

    Args:
        error: an error of Hydra or OmegaConf. Known errors get a message of our own; of others, the lines of their
            message are joined.
    """
    cause = error.__cause__ if isinstance(error, HydraException) else None
    lines = [line.strip() for line in f"{error}\n{cause or ''}".splitlines()]
    plain = " ".join(dict.fromkeys(line for line in lines if line and not line.startswith(_DETAILS)))
    return _explained(error, cause) or plain


def _explained(error: BaseException, cause: BaseException | None) -> str | None:
    """Return a message of our own for errors that result from mistyped names and values, None for others."""
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    text = str(error)
    if found := re.match(r"Could not (?:override|append|delete from config\.) ?'([^']+)'", text):
        return unknown_key(found[1])
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return unknown_key(str(error.full_key))
    if found := re.match(r"Ambiguous value for argument '(.*)'\n1\. ", text, re.DOTALL):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: several values make a sweep: add -m; as one value, type {shell_form(key, [value])}"
    if found := re.match(r"Sweep parameters '(.*)' requires --multirun", text, re.DOTALL):
        return f"{found[1]}: several values make a sweep: add -m"
    if "does not support sweep type" in text:
        return "an interval needs a search: add search=optuna or search=random, or list values"
    if isinstance(cause, OmegaConfBaseException) and (found := re.match(r"Error merging override (.*)", text)):
        return f"{found[1]}: {str(cause).splitlines()[0]}"
    return None


def unknown_key(key: str) -> str:
    """Return the message that there is no such key, with the most similar key as a suggestion."""
    return f"{key!r} is no key{did_you_mean(key, keys.all_names())}"


def _missing_option(error: MissingConfigException) -> str | None:
    """Return a message for an option that its group does not have, or that needs an extra."""
    found = re.search(r"Could not (?:find|load) '([^']+)'", str(error))
    if found is None:
        return None
    for start, extra in _EXTRAS.items():
        if found[1].startswith(start):
            what = "this search needs Optuna" if extra == "optuna" else f"{found[1]} is not installed"
            return f"{what}: pip install 'nst-exp[{extra}]'"
    group, _, option = found[1].rpartition("/")
    options = sorted(error.options or keys.group_options().get(group) or ())
    choices = f": choose one of {', '.join(options)}" if options else ": there is no such group or option"
    return f"{group}={option}{choices}{did_you_mean(option, options)}"
