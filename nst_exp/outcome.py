"""What became of each entry of a batch: it has a value, or it failed and the others went on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from nst_exp.errors import InputError

Value = TypeVar("Value")
_Other = TypeVar("_Other")


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """A value, or the error that took its place. Only `get` raises the error.

    Attributes:
        value: None if there is an error.
        error: None if there is a value.
    """

    value: Value | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, function: Callable[[], Value], *errors: type[Exception]) -> Outcome[Value]:
        """Call `function` and keep what it returns, or the error it raises if that is one of `errors`."""
        try:
            return cls(function())
        except errors as error:
            return cls(error=error)

    def get(self) -> Value:
        """Return the value.

        Raises:
            Exception: the error, if there is one.
        """
        if self.error is not None:
            raise self.error
        return cast(Value, self.value)

    def failed_with(self) -> Outcome[Any]:
        """The same failure as the outcome of a later step."""
        assert self.error is not None
        return Outcome(error=self.error)


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
            self.keep(error)

    def keep(self, error: InputError) -> None:
        """Keep `error` unless there is one already."""
        self.error = self.error or error
