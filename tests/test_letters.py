"""Names in any script on plots and contact sheets.

The kind of fault: a letter that the first font lacks becomes a box and a warning on stderr (warnings are errors in
these tests), or a letter with a meaning for the drawing library, such as `$` or a leading `_`, changes the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import test_report as sweeps
from matplotlib.font_manager import fontManager
from PIL import Image, ImageDraw

from nst_exp.report import fonts, write_report

NAMES = ("夜の港", "Ночь", "ليل", "रात", "🎨", "a$b$c_{", "_x", "ﬁn\u0007", "\U0010ffff")


def forget() -> None:
    for cached in (fonts._drawable, fonts._font_with, fonts._entries):
        cached.cache_clear()


@pytest.fixture(params=["fonts of this machine", "DejaVu only"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "DejaVu only":
        kept = [entry for entry in fontManager.ttflist if entry.name.startswith("DejaVu")]
        monkeypatch.setattr(fontManager, "ttflist", kept)
    forget()
    yield
    forget()


@pytest.mark.usefixtures("machine")
def test_a_sweep_over_names_in_any_script_has_its_report(tmp_path: Path) -> None:
    folder = sweeps.make_grid(tmp_path / "写真", 0, style=())
    for number, name in enumerate(NAMES):
        sweeps.add_run(folder, number, [f"style={name}.png"])
    assert {path.name for path in write_report(folder).files} == sweeps.FILES


def drawn(text: str) -> bytes:
    image = Image.new("L", (400, 40), 255)
    fonts.Letters(20).write(ImageDraw.Draw(image), (4, 4), text, "black")
    assert np.asarray(image).min() < 128
    return image.tobytes()


@pytest.mark.usefixtures("machine")
def test_names_can_be_told_apart() -> None:
    names = ("夜の港", "昼の港", "ночь", "día")
    assert len({drawn(name) for name in names}) == len(names)


def test_what_no_font_has_is_written_readably(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fontManager, "ttflist", [one for one in fontManager.ttflist if one.name.startswith("DejaVu")])
    forget()
    assert fonts.drawable("夜 \uff21 día") == "\\u591c A día"
    assert fonts.drawable("a$b$") == r"a\$b\$"
    forget()
