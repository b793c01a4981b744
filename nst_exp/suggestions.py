"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """Suggest the choice most similar to a name, for the end of an error message.

    A dotted key is also found by its last part: `improvment` suggests `stop.improvement`.

    Returns:
        A text such as `; did you mean 'lbfgs'?`, empty if no choice is similar.
    """
    found = nearest(str(name), choices)
    return f"; did you mean {found!r}?" if found else ""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice most similar to `name`; None if no choice is similar."""
    whole = list(dict.fromkeys(choices))
    forms: dict[str, str] = {}
    for choice in whole:
        forms.setdefault(choice.rpartition(".")[2].lower(), choice)
    forms |= {choice.lower(): choice for choice in whole}
    close = difflib.get_close_matches(name.lower(), forms, n=1)
    return forms[close[0]] if close else None
