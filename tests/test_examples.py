"""The examples in docstrings, run as they stand. The kind of fault: an example that the code has left behind."""

from __future__ import annotations

import contextlib
import doctest
import importlib
from fractions import Fraction
from pathlib import Path

import pytest
import videos

import nst_exp

PACKAGE = Path(nst_exp.__file__).parent


def with_examples() -> list[str]:
    """The modules that have examples."""
    files = sorted(file for file in PACKAGE.rglob("*.py") if ">>> " in file.read_text())
    return [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]


@pytest.mark.parametrize("name", with_examples())
def test_examples_run(name: str, tmp_path: Path) -> None:
    videos.write(tmp_path / "moving.mp4", frames=25, rate=Fraction(25), size=(96, 64))
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    with contextlib.chdir(tmp_path):
        result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.failed == 0


def test_there_are_ten_examples() -> None:
    assert len(with_examples()) >= 10
