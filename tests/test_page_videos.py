"""Files beside the report's page play and open, whatever the names of files and folders are.

The kinds of fault: the page's own policy forbids what the page shows; the page states something wrong about a file
that it cannot show; a path is put into an address unquoted, so that `%`, `?` and `#` change its meaning.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import test_report as sweeps
import videos
from mlflow_server import wait_for
from playwright.sync_api import Browser, Page, expect
from test_page import CHROMIUM, browser, natural_size, shown  # noqa: F401 (a fixture)

from nst_exp.report import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

NAME = "50%25 of #1? 'it's' a \"q\" & ü;+=,"  # the folder's name
FILES = ("pastiche.mp4", "pastiche.gif", "pastiche.webp", "gone.mp4", "pastiche.mkv", "moved #1?.gif")


class Silent(SimpleHTTPRequestHandler):
    """Serves files without log lines."""

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of videos without curves: one file is missing, one plays in no browser, one is removed later."""
    folder = tmp_path_factory.mktemp("videos") / NAME
    sweeps.make_grid(folder, 0, seed=())
    for number, name in enumerate(FILES):
        run = sweeps.add_run(folder, number, [f"seed={number}"], {"source": "video"}, video=name, trace={})
        (run.path / "trace.csv").unlink()
        path = run.path / name
        if path.suffix == ".mp4" and name != "gone.mp4":
            videos.write(path, 30)
        elif path.suffix == ".mkv":
            videos.write(path, 3, codec="ffv1")
        elif path.suffix in (".gif", ".webp"):
            first, *rest = (sweeps.picture(index, (64, 48)) for index in range(3))
            first.save(path, save_all=True, append_images=rest, duration=100)
    (folder / "sweep.json").write_text(json.dumps({"overrides": ["search=optuna", "seed=interval(0,9)"]}))
    (folder / "0" / ".hydra").mkdir()
    given = ["hydra.mode=MULTIRUN", "hydra.sweeper.n_trials=6", "hydra.sweep.dir=x"]
    (folder / "0" / ".hydra" / "hydra.yaml").write_text(json.dumps({"hydra": {"overrides": {"hydra": given}}}))
    files = {path.name for path in write_report(folder).files}
    assert files == sweeps.FILES - {"convergence.png"}
    (folder / "5" / FILES[5]).unlink()
    return folder


@pytest.fixture(scope="module", params=["file", "http"])
def page(request: pytest.FixtureRequest, browser: Browser, folder: Path) -> Iterator[Page]:  # noqa: F811
    """The page, opened from a folder and from a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    is_file = request.param == "file"
    opened.goto(f"{folder.as_uri()}/report.html" if is_file else f"http://127.0.0.1:{server.server_port}/report.html")
    yield opened
    opened.close()
    server.shutdown()
    server.server_close()


def open_run(page: Page, number: int) -> None:
    page.keyboard.press("Escape")
    page.locator(f".card[data-run='{number}'] .thumb").click()


def test_videos_play_and_what_does_not_is_explained(page: Page) -> None:
    open_run(page, 0)
    expect(page.locator("video")).to_be_visible()
    wait_for(lambda: page.evaluate("document.querySelector('video').currentTime") > 0)
    for number in (1, 2):
        open_run(page, number)
        image = page.locator("#details img.clip")
        expect(image).to_be_visible()
        assert natural_size(image) == [64, 48]
    for number, reason in ((3, "it was not there when this page was made"), (4, "this browser cannot play its format")):
        open_run(page, number)
        expect(page.locator(".no-video")).to_contain_text(reason)
        expect(page.locator("video")).to_be_hidden()
    open_run(page, 5)
    expect(page.locator(".no-video")).to_contain_text("no longer beside this page")
    expect(page.locator(".no-video")).to_contain_text("moved #1?.gif")
    page.keyboard.press("Escape")


def test_a_video_is_called_a_video_everywhere(page: Page) -> None:
    open_run(page, 0)
    peek = page.locator("#peek")
    expect(peek).to_have_text("Video")
    expect(peek).to_have_attribute("title", "Show the first frame of the video instead (space)")
    peek.click()
    expect(page.locator("#full")).to_have_attribute("alt", "The video")
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    expect(page.locator("#compare")).to_have_text("Compare with video")
    assert "hotograph" not in "".join(page.locator("body > :not(script, main)").all_inner_texts())
    page.click("#clear")


def test_links_lead_to_files(page: Page, folder: Path) -> None:
    open_run(page, 4)
    address = str(page.locator(".no-video a").evaluate("link => link.href"))
    with urlopen(address) as opened:
        assert opened.read() == (folder / "4" / "pastiche.mkv").read_bytes()
    page.keyboard.press("Escape")


def test_a_page_of_videos_has_no_empty_plot_and_the_whole_command_of_its_search(page: Page) -> None:
    assert page.locator("#convergence").count() == 0
    assert page.locator("#pareto").count() == 1
    command = page.locator(".facts .command code")
    expect(command).to_have_text("python -m nst_exp.run -m search=optuna 'seed=interval(0,9)' hydra.sweeper.n_trials=6")
    expect(page.locator("#inputs figcaption").nth(0)).to_have_text("Video: photo")


def test_a_filter_that_is_not_understood_says_why(page: Page) -> None:
    page.fill("#search", "lpip < 0.2")
    expect(page.locator("#search-trouble")).to_contain_text("'lpip' is no key of these runs; did you mean 'lpips'?")
    assert len(shown(page)) == len(FILES)
    page.fill("#search", "lpips < 0.2 or seed == 5")
    expect(page.locator("#search-trouble")).to_be_hidden()
    assert shown(page) == ["0", "1", "5"]
    page.fill("#search", "")


def test_three_chosen_runs_are_not_compared_as_two(page: Page) -> None:
    for number in range(3):
        page.locator(f".card[data-run='{number}'] .thumb").click(modifiers=["Shift"])
    expect(page.locator("#compare")).to_be_disabled()
    expect(page.locator("#compare")).to_have_text("Two can be compared: 3 are chosen")
    page.click("#clear")
