"""The language of filters, which choose runs in `compare --filter` and on a report's page.

`filter.js` implements the same language for the page. The tests run `tests/data/filters.json` against both.

    filter     = disjunct { ("or" | "|" | "||") disjunct }
    disjunct   = negation { ["and" | "&" | "&&" | ","] negation }       two conditions side by side mean "and"
    negation   = ("not" | "~" | "!") negation | comparison
    comparison = sum { ("<" | "<=" | ">" | ">=" | "==" | "=" | "!=" | ["not"] "in") sum }
    sum        = product { ("+" | "-") product }
    product    = factor { ("*" | "/") factor }
    factor     = ("-" | "+") factor | "(" filter ")" | list | number | text | name
    list       = ("[" | "(") factor { "," factor } ("]" | ")")          after "in", "==" or "!="
    number     = 1 | 0.5 | .5 | 1e-3
    text       = 'in single quotes' | "or double ones", with a backslash before a quote or a backslash
    name       = letters, digits, dots and underscores, or anything `in backticks`

A name is that of a setting, measure or cost; upper and lower case are ignored if only one name fits. `true`, `false`
and `null` (or `none`: the run has no such value) are constants. A word or text that is a condition by itself is
searched for in the command and the settings of a run. An unknown name on the right of `==` or `!=` or in a list is a
text if the name on the left has that value in some run. `1 < x < 2` means `1 < x and x < 2`; `'a' in x` means that
the text x contains a. A run without a value meets `!=` but no other comparison.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nst_exp.errors import InputError
from nst_exp.records.folder import Value


@dataclass(frozen=True)
class Row:
    """A run as filters read it.

    Attributes:
        values: settings, measures and costs by name; a name that only other rows have counts as null.
        text: the text in which words are searched for.
    """

    values: Mapping[str, Value | bool]
    text: str


def matching(condition: str, rows: Sequence[Row]) -> list[bool]:
    """Tell which rows meet a condition.

    Args:
        condition: a filter; every row meets an empty one.
        rows: the runs.

    Returns:
        For each row, whether it meets the condition.

    Raises:
        InputError: if the condition cannot be understood; the message says why.

    Example:
        >>> from nst_exp.report.filter import Row, matching
        >>> rows = [
        ...     Row({"style_weight": 0.1, "pooling": "max"}, "style_weight=0.1 pooling=max"),
        ...     Row({"style_weight": 1, "pooling": "average"}, "style_weight=1 pooling=average"),
        ... ]
        >>> matching("style_weight > 0.5 and pooling == average", rows)
        [False, True]
        >>> matching("style_wight > 0.5", rows)
        Traceback (most recent call last):
        nst_exp.errors.InputError: 'style_wight' is no key of these runs; did you mean 'style_weight'?
    """
    if not condition.strip():
        return [True] * len(rows)
    met = _Parser(condition, rows).parse()
    return [met(row) for row in rows]


_Met = Callable[[Row], bool]
_Value = Value | bool

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<quoted>`[^`]*`)
    |(?P<name>\w[\w.]*)
    |(?P<sign><=|>=|==|!=|&&|\|\||[<>=!~&|,()\[\]+*/-])
    |(?P<end>$))""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = ("and", "or", "not", "in")
_SAME = {"and": "&", "&&": "&", ",": "&", "or": "|", "||": "|", "not": "!", "~": "!", "=": "=="}
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=", "in")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SUMS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_CONSTANTS: dict[str, _Value] = {"true": True, "false": False, "null": None, "none": None}


@dataclass(frozen=True)
class _Token:
    """A token of a filter.

    Attributes:
        kind: `number`, `text`, `quoted`, `name`, `sign` or `end`.
        value: its text without quotes; words and signs of the same meaning have the same value.
        start: the index of its first letter in the filter.
        end: the index after its last letter.
    """

    kind: str
    value: str
    start: int
    end: int


@dataclass(frozen=True)
class _Part:
    """A part of a filter: a value, or a condition, whose value is true or false.

    Attributes:
        find: returns the value of the part for a row.
        written: the part as it is written in the filter.
        kind: `name`, `word` (a name that no run has), `text`, `number`, `list` or `value`.
        word: the text of a name, word, text or number.
        members: the members of a list.
    """

    find: Callable[[Row], _Value]
    written: str
    kind: str = "value"
    word: str = ""
    members: tuple[_Part, ...] = ()


class _Parser:
    """Turns a filter into a function of a row by recursive descent, with a method for each rule of the grammar."""

    def __init__(self, source: str, rows: Sequence[Row]) -> None:
        self._source, self._rows = source, rows
        self._names = list(dict.fromkeys(name for row in rows for name in row.values))
        self._tokens = _tokens(source)
        self._place = 0

    def parse(self) -> _Met:
        """Return the condition that the whole filter expresses."""
        part = self._either()
        if self._token.kind != "end":
            raise InputError(f"{self._rest()!r} cannot follow {self._before()!r}")
        return _condition(part)

    # --- conditions

    def _either(self) -> _Part:
        start, parts = self._token.start, [self._all()]
        while self._take("|"):
            parts.append(self._all())
        if len(parts) == 1:
            return parts[0]
        conditions = [_condition(part) for part in parts]
        return _Part(lambda row: any(met(row) for met in conditions), self._since(start))

    def _all(self) -> _Part:
        start, parts = self._token.start, [self._negation()]
        while self._take("&") or self._begins_condition():
            parts.append(self._negation())
        if len(parts) == 1:
            return parts[0]
        conditions = [_condition(part) for part in parts]
        return _Part(lambda row: all(met(row) for met in conditions), self._since(start))

    def _begins_condition(self) -> bool:
        return self._token.kind in ("number", "text", "quoted", "name") or self._token.value in ("(", "!")

    def _negation(self) -> _Part:
        start = self._token.start
        if not self._take("!"):
            return self._comparison()
        met = _condition(self._negation())
        return _Part(lambda row: not met(row), self._since(start))

    def _comparison(self) -> _Part:
        start, left, conditions = self._token.start, self._sum(), []
        while (sign := self._comparison_sign()) is not None:
            right = self._list(sign) or self._sum()
            conditions.append(self._compared(left, sign, right))
            left = right
        if not conditions:
            return left
        return _Part(lambda row: all(met(row) for met in conditions), self._since(start))

    def _comparison_sign(self) -> str | None:
        if self._token.value == "!" and self._tokens[self._place + 1].value == "in":
            self._place += 2
            return "not in"
        return next((sign for sign in _COMPARISONS if self._take(sign)), None)

    def _compared(self, left: _Part, sign: str, right: _Part) -> _Met:
        self._check_known(left)
        if sign in ("<", "<=", ">", ">="):
            self._check_known(right)
            return lambda row: _ordered(left, right, sign, row)
        if right.kind == "list":
            members = [self._as_value(member, left) for member in right.members]
            found: _Met = lambda row: any(_equal(left.find(row), member.find(row)) for member in members)  # noqa: E731
        elif sign in ("==", "!="):
            other = self._as_value(right, left)
            found = lambda row: _equal(left.find(row), other.find(row))  # noqa: E731
        elif right.kind == "number":
            raise InputError(f"{sign} needs a list, such as [1, 2], or a text: found {right.written}")
        else:
            self._check_known(right)
            found = lambda row: _contains(right.find(row), left.find(row))  # noqa: E731
        return (lambda row: not found(row)) if sign in ("!=", "not in") else found

    def _as_value(self, part: _Part, left: _Part) -> _Part:
        """Return `part` for a comparison with `left`; a word must be a value that `left` has in some run."""
        if part.kind != "word":
            return part
        values = dict.fromkeys(row.values.get(left.word) for row in self._rows) if left.kind == "name" else {}
        if part.word in values:
            return part
        texts = [value for value in values if isinstance(value, str)]
        if not texts:
            self._check_known(part)
        shown = ", ".join(texts[:8]) + (", ..." if len(texts) > 8 else "")
        raise InputError(f"{left.written} is {part.word!r} in no run; its values are {shown}")

    # --- values

    def _list(self, sign: str) -> _Part | None:
        """Return the list that begins here; None if there is none."""
        start, is_in = self._token.start, sign.endswith("in")
        is_round = is_in and self._token.value == "(" and self._token.kind == "sign"
        if not is_round and not (self._token.value == "[" and self._token.kind == "sign"):
            return None
        if sign not in ("==", "!=", "in", "not in"):
            raise InputError(f"{sign} cannot compare with a list")
        self._place += 1
        members = [self._factor()]
        while self._take("&"):
            members.append(self._factor())
        self._expect(")" if is_round else "]")
        return _Part(lambda row: None, self._since(start), "list", "", tuple(members))

    def _sum(self) -> _Part:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> _Part:
        return self._chain(("*", "/"), self._factor)

    def _chain(self, signs: Sequence[str], part: Callable[[], _Part]) -> _Part:
        start, left = self._token.start, part()
        while (sign := next((sign for sign in signs if self._take(sign)), None)) is not None:
            left = self._computed(left, sign, part(), start)
        return left

    def _computed(self, left: _Part, sign: str, right: _Part, start: int) -> _Part:
        self._check_known(left)
        self._check_known(right)
        return _Part(lambda row: _result(left, sign, right, row), self._since(start))

    def _factor(self) -> _Part:
        token = self._token
        if self._take("-"):
            return self._computed(_Part(lambda row: 0.0, "0"), "-", self._factor(), token.start)
        if self._take("+"):
            return self._factor()
        if self._take("("):
            inner = self._either()
            self._expect(")")
            return replace(inner, written=self._since(token.start))
        if token.kind in ("sign", "end"):
            where = f"before {self._rest()!r}" if token.kind == "sign" else f"after {self._before()!r}"
            raise InputError(f"a name, number or text is missing {where}")
        self._place += 1
        return self._atom(token, self._since(token.start))

    def _atom(self, token: _Token, written: str) -> _Part:
        word = token.value
        if token.kind == "number":
            number = float(word)
            return _Part(lambda row: number, written, "number", word)
        if token.kind == "text":
            return _Part(lambda row: word, written, "text", word)
        similar = [name for name in self._names if name.lower() == word.lower()]
        found = word if word in self._names else similar[0] if len(similar) == 1 else None
        if found is not None:
            return _Part(lambda row: row.values.get(found), written, "name", found)
        if word.lower() in _CONSTANTS:
            return _Part(lambda row: _CONSTANTS[word.lower()], written)
        part = _Part(lambda row: word, written, "word", word)
        if token.kind == "quoted":
            self._check_known(part)
        return part

    def _check_known(self, part: _Part) -> None:
        if part.kind == "word":
            near = difflib.get_close_matches(part.word, self._names, 1)
            raise InputError(
                f"{part.word!r} is no key of these runs" + (f"; did you mean {near[0]!r}?" if near else "")
            )

    # --- tokens

    @property
    def _token(self) -> _Token:
        return self._tokens[self._place]

    def _take(self, value: str) -> bool:
        """Skip the next token if it is this sign; returns whether it was."""
        found = self._token.kind == "sign" and self._token.value == value
        self._place += found
        return found

    def _expect(self, value: str) -> None:
        if not self._take(value):
            raise InputError(f"{value!r} is missing after {self._before()!r}")

    def _since(self, start: int) -> str:
        return self._source[start : self._tokens[self._place - 1].end]

    def _before(self) -> str:
        return self._source[: self._token.start].strip()

    def _rest(self) -> str:
        return self._source[self._token.start :].strip()


def _tokens(source: str) -> list[_Token]:
    tokens: list[_Token] = []
    place = 0
    while not tokens or tokens[-1].kind != "end":
        found = _TOKEN.match(source, place)
        if found is None:
            rest = source[place:].strip()
            raise InputError(
                f"the quote is never closed: {rest}" if rest[0] in "'\"`" else f"{rest!r} cannot be understood"
            )
        kind = str(found.lastgroup)
        value = found[kind]
        start, place = found.start(kind), found.end()
        if kind == "text":
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        elif kind == "quoted":
            value = value[1:-1]
        elif kind == "sign" or value.lower() in _WORDS:
            kind, value = "sign", _SAME.get(value.lower(), value.lower())
        tokens.append(_Token(kind, value, start, place))
    return tokens


def _condition(part: _Part) -> _Met:
    """Return a part as a condition: a part that compares nothing is a word to search for, or itself true or false."""
    if part.kind in ("word", "text", "number"):
        wanted = part.word.lower()
        return lambda row: wanted in row.text.lower()

    def met(row: Row) -> bool:
        value = part.find(row)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if value is None or isinstance(value, bool):
            return bool(value)
        raise InputError(f"{part.written} is no condition: compare it with something, as in style_weight > 0.1")

    return met


def _equal(left: _Value, right: _Value) -> bool:
    """Tell whether two values are equal; texts such as "true" and "null" equal the constants that they spell."""
    if left is None or right is None:
        return all(value is None or str(value).lower() in ("null", "none") for value in (left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return str(left).lower() == str(right).lower()
    return left == right


def _contains(whole: _Value, part: _Value) -> bool:
    return isinstance(whole, str) and isinstance(part, str) and part in whole


def _ordered(left: _Part, right: _Part, sign: str, row: Row) -> bool:
    values = left.find(row), right.find(row)
    if None in values:
        return False
    if _is_number(values[0]) != _is_number(values[1]) or any(isinstance(value, bool) for value in values):
        first, second = (_shown(*both) for both in zip((left, right), values, strict=True))
        raise InputError(f"{sign} cannot compare {first} with {second}")
    return _ORDERS[sign](*values)


def _result(left: _Part, sign: str, right: _Part, row: Row) -> float | None:
    values = left.find(row), right.find(row)
    if None in values:
        return None
    for part, value in zip((left, right), values, strict=True):
        if not _is_number(value):
            raise InputError(f"{sign} needs numbers: found {_shown(part, value)}")
    first, second = map(float, values)  # type: ignore[arg-type]
    return None if sign == "/" and second == 0 else _SUMS[sign](first, second)


def _is_number(value: _Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(part: _Part, value: _Value) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return f"{part.written}, which is {text}," if part.kind in ("name", "value") else text
