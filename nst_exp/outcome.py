"""What became of each entry of a batch: it has a value, or it failed while the others continued."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from nst_exp.errors import InputError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """A value, or the error that took its place. Only `get` raises the error.

    Attributes:
        value: None if there is an error.
        error: None if there is a value.
    """

    value: Value | None = None
    error: Exception | None = None

    def get(self) -> Value:
        """Return the value.

        Raises:
            Exception: the error, if there is one.
        """
        if self.error is not None:
            raise self.error
        return cast(Value, self.value)


@dataclass
class Failure:
    """Why one run of a batch cannot be continued, while the others can.

    Attributes:
        error: the first one; None while there is none.
    """

    error: InputError | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep an InputError that is raised in the context instead of letting it out."""
        try:
            yield
        except InputError as error:
            self.error = self.error or error
