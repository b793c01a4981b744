"""Single overrides in Hydra's grammar: reading them, and writing any text as a value."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

_INTERPOLATION = re.compile(r"(\\*)\$\{")


def parsed(override: str) -> Override | None:
    """The override as Hydra reads it, None if it cannot be read."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def literal(text: str) -> str:
    """`text` as a value: as it is where Hydra reads it as this very text, else quoted."""
    if "${" not in text and "\\" not in text:  # a backslash may escape the comma of a list
        found = parsed(f"key={text}")
        value = found.value() if found is not None else None
        if found is not None and not found.is_sweep_override() and value is not None and str(value) == text:
            return text
    return quoted(escape_interpolation(text))


def quoted(value: str) -> str:
    """A value in quotes; interpolations in it stay interpolations."""
    return str(QuotedString(text=value, quote=Quote.single).with_quotes())


def shell_form(key: str, texts: Sequence[str]) -> str:
    """What to type in a shell so that `key` gets these texts as its values."""
    values = [str(QuotedString(text=escape_interpolation(text), quote=Quote.double).with_quotes()) for text in texts]
    return shlex.quote(f"{key}={','.join(values)}")


def escape_interpolation(text: str) -> str:
    """`text` for a place where OmegaConf would resolve `${...}`: it is kept as letters."""
    return _INTERPOLATION.sub(lambda match: f"{match[1] * 2}\\${{", text)


def escape_all(value: Any) -> Any:
    """A resolved container for OmegaConf to read once more, each text in it kept as letters."""
    if isinstance(value, dict):
        return {key: escape_all(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escape_all(inner) for inner in value]
    return escape_interpolation(value) if isinstance(value, str) else value


def plain_value(override: str) -> str:
    """What an override sets its key to, without the quotes that the grammar needs."""
    found, text = parsed(override), override.partition("=")[2]
    if found is None or found.is_sweep_override() or not isinstance(found.value(), str):
        return text
    return str(found.value()).replace("\\${", "${")
