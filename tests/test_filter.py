"""`compare --filter` and the page's filter understand the same language.

The kind of fault: two parts of the product read the same text in different ways, or silently ignore what they do not
understand. All cases of data/filters.json are run against both parts, for the page in a real browser.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from test_page import CHROMIUM, browser  # noqa: F401 (a fixture)

from nst_exp import report
from nst_exp.errors import InputError
from nst_exp.report.filter import Row, matching

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "filters.json").read_text())
VALUES = [dict(zip(CASES["names"], row, strict=True)) for row in CASES["rows"]]
ROWS = [Row(values, f"{values['pooling']} {values['note']}") for values in VALUES]


def test_the_command_reads_every_filter() -> None:
    for condition, numbers in CASES["met"].items():
        met = matching(condition, ROWS)
        assert [number for number, is_met in enumerate(met) if is_met] == numbers, condition
    for condition, words in CASES["refused"].items():
        with pytest.raises(InputError) as refused:
            matching(condition, ROWS)
        assert all(word in str(refused.value) for word in words), (condition, refused.value)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_the_page_reads_them_in_the_same_way(browser: Browser) -> None:  # noqa: F811
    page = browser.new_page()
    page.add_script_tag(content=Path(report.__file__).with_name("filter.js").read_text())
    found: dict[str, Any] = page.evaluate(
        """([conditions, rows]) => Object.fromEntries(conditions.map((condition) => {
          try {
            return [condition, matching(condition, rows).flatMap((met, index) => (met ? [index] : []))];
          } catch (error) {
            return [condition, error.message];
          }
        }))""",
        [[*CASES["met"], *CASES["refused"]], [{"values": row.values, "text": row.text} for row in ROWS]],
    )
    page.close()
    assert {condition: found[condition] for condition in CASES["met"]} == CASES["met"]
    for condition, words in CASES["refused"].items():
        assert isinstance(found[condition], str), (condition, found[condition])
        assert all(word in found[condition] for word in words), (condition, found[condition])
