"""Reading and writing of single overrides in Hydra's grammar."""

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
    """Parse an override with Hydra's grammar; None if it is not valid."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def literal(text: str) -> str:
    """Return `text` as a value in Hydra's grammar, in quotes only if Hydra would read it differently without them."""
    if "${" not in text and "\\" not in text:  # a backslash may escape the comma of a list
        found = parsed(f"key={text}")
        value = found.value() if found is not None else None
        if found is not None and not found.is_sweep_override() and value is not None and str(value) == text:
            return text
    return quoted(escape_interpolation(text))


def quoted(value: str) -> str:
    """Return a value in quotes, in which interpolations still work."""
    return str(QuotedString(text=value, quote=Quote.single).with_quotes())


def shell_form(key: str, texts: Sequence[str]) -> str:
    """Return the argument to type in a shell that sets a key to literal values.

    Args:
        key: The key of the override.
        texts: The values; several values make a sweep.
    """
    values = [str(QuotedString(text=escape_interpolation(text), quote=Quote.double).with_quotes()) for text in texts]
    return shlex.quote(f"{key}={','.join(values)}")


def escape_interpolation(text: str) -> str:
    """Escape `${...}` in `text`, so that OmegaConf keeps it as it is."""
    return _INTERPOLATION.sub(lambda match: f"{match[1] * 2}\\${{", text)


def escape_all(value: Any) -> Any:
    """Escape all texts in a resolved container, so that OmegaConf keeps them when it reads the container again."""
    if isinstance(value, dict):
        return {key: escape_all(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escape_all(inner) for inner in value]
    return escape_interpolation(value) if isinstance(value, str) else value


def plain_value(override: str) -> str:
    """Return the value in an override, without the quotes that the grammar needs."""
    found, text = parsed(override), override.partition("=")[2]
    if found is None or found.is_sweep_override() or not isinstance(found.value(), str):
        return text
    return str(found.value()).replace("\\${", "${")
