"""The outcomes of a batch's entries.

Each entry has a value, or failed while the others continued.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from nst_exp.errors import InputError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """A value, or the error that occurred instead.

    The error is only raised by `get`.

    Attributes:
        value: The value; None if there is an error.
        error: The error; None if there is a value.
    """

    value: Value | None = None
    error: Exception | None = None

    def get(self) -> Value:
        """Return the value.

        Raises:
            Exception: The error, if there is one.
        """
        if self.error is not None:
            raise self.error
        return cast(Value, self.value)


@dataclass
class Failure:
    """The reason why a run of a batch cannot continue, while the others can.

    Attributes:
        error: The first error; None as long as there is none.
    """

    error: InputError | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep an InputError that is raised in the context, instead of letting it propagate."""
        try:
            yield
        except InputError as error:
            self.error = self.error or error
