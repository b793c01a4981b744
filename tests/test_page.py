"""The report's page in a real browser, headless Chromium, used as an artist would use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import test_report as sweeps
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect, sync_playwright

from nst_exp.records.folder import RunFolder, Tracked
from nst_exp.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

# needed as root and without a network
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
SIZE = (320, 200)  # px of the pictures


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 2x3 runs, of which four are finished, one failed, and one is not finished."""
    folder = tmp_path_factory.mktemp("sweep")
    sweeps.make_grid(folder, 0, pooling=("average", "max"), style_weight=(0.03, 0.1, 0.3))
    points = [(pooling, weight) for pooling in ("average", "max") for weight in (0.03, 0.1, 0.3)]
    for number, (pooling, weight) in enumerate(points):
        overrides = [f"pooling={pooling}", f"style_weight={weight}", "note=it's"]
        if number < 4:
            run = sweeps.add_run(folder, number, overrides, size=SIZE)
            run.mark_tracked(Tracked("sqlite:////x/outputs/mlflow.db", f"{number}" * 32))
        else:
            run = sweeps.begin_run(folder, number, overrides)
    run.fail("the device is out of memory", overrides)
    sweeps.picture(1, SIZE).save(RunFolder(folder / "4").progress_file(10))
    write_report(folder)
    return folder / "report.html"


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The page, opened from its file; a request to a network or an error fails the test."""
    context = browser.new_context(
        viewport={"width": 1200, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    opened = context.new_page()
    troubles: list[str] = []
    opened.on(
        "console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("request", lambda request: troubles.append(request.url) if is_far(request.url) else None)
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert troubles == []


def is_far(url: str) -> bool:
    return not url.startswith(("file:", "blob:", "data:"))


def shown(page: Page) -> list[str]:
    """The numbers of the runs whose cards are visible, in the page's order."""
    return [str(card.get_attribute("data-run")) for card in page.locator(".card").all() if card.is_visible()]


def card(page: Page, number: int) -> Locator:
    return page.locator(f".card[data-run='{number}']")


def box_of(element: Locator) -> FloatRect:
    """Where an element is on the page, in px; it must be visible."""
    box = element.bounding_box()
    assert box is not None
    return box


def natural_size(image: Locator) -> list[int]:
    return image.evaluate("async image => { await image.decode(); return [image.naturalWidth, image.naturalHeight]; }")


def test_every_picture_is_there_at_full_size(page: Page) -> None:
    expect(page).to_have_title("photo × painting")  # noqa: RUF001
    assert shown(page) == ["0", "1", "2", "3", "4", "5"]
    for number in range(5):
        image = card(page, number).locator(".thumb img")
        expect(image).to_be_visible()
        assert natural_size(image) == list(SIZE)
        assert box_of(image)["width"] > 100
    expect(card(page, 5)).to_contain_text("failed: the device is out of memory")
    expect(card(page, 4)).to_contain_text("unfinished, step 10")
    assert page.locator("#inputs img").count() == 2
    expect(page.locator(".counts")).to_contain_text("4 done")


def test_the_grid_has_its_labels(page: Page) -> None:
    assert page.locator(".label.column:not(.corner)").all_inner_texts() == [
        f"style_\u200bweight\n{value}" for value in ("0.03", "0.1", "0.3")
    ]
    boxes = [box_of(card(page, number)) for number in range(6)]
    assert len({box["y"] for box in boxes[:3]}) == 1
    assert len({box["x"] for box in (boxes[0], boxes[3])}) == 1
    assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]


def test_labels_stay_in_sight(page: Page) -> None:
    page.locator("#size").fill("2.5")
    page.evaluate("window.scrollTo(300, 500)")
    page.wait_for_timeout(100)
    column = box_of(page.locator(".label.column:not(.corner)").first)
    row = box_of(page.locator(".label.row").first)
    assert column["y"] >= box_of(page.locator("#bar"))["height"] - 1
    assert row["x"] >= 0


def test_sorting_changes_the_order(page: Page) -> None:
    page.select_option("#sort", "style_distance")
    values = {number: sweeps.measures_of(number)["style_distance"] for number in range(4)}
    expected = [str(number) for number in sorted(values, key=values.__getitem__)]
    assert shown(page) == [*expected, "4", "5"]  # runs without this measure come last
    page.click("#turn")
    assert shown(page) == [*reversed(expected), "4", "5"]
    page.select_option("#sort", "ssim")
    assert shown(page)[:4] == ["0", "1", "2", "3"]  # the best comes first, here the highest
    page.click("[data-view=grid]")
    assert shown(page) == ["0", "1", "2", "3", "4", "5"]


def test_the_table_sorts_by_its_head(page: Page) -> None:
    rows = page.locator("#table tbody tr")
    head = page.locator("#table th[data-key=lpips]")
    head.locator("button").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert [row.get_attribute("data-run") for row in rows.all()][:4] == ["0", "1", "2", "3"]
    head.locator("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    assert [row.get_attribute("data-run") for row in rows.all()][:4] == ["3", "2", "1", "0"]
    rows.nth(0).click()
    expect(page.locator("#viewer-title")).to_contain_text("Run 3")


def test_filters_hide(page: Page) -> None:
    page.click("#chips button:text-is('max')")
    assert shown(page) == ["3", "4", "5"]
    page.click("#chips button:text-is('0.1')")
    assert shown(page) == ["4"]
    assert page.locator("#table tbody tr").count() == 1
    page.click("#chips button:text-is('max')")
    assert shown(page) == ["1", "4"]
    page.click("#chips button:text-is('0.1')")
    page.fill("#search", "lpips<0.2 average")
    assert shown(page) == ["0", "1"]
    expect(page.locator("#shown")).to_have_text("2 of 6 runs")
    page.fill("#search", "nothing like this")
    assert shown(page) == []
    page.click("#reset")
    assert len(shown(page)) == 6


def test_pareto_only(page: Page) -> None:
    page.click("#front")
    assert shown(page) == ["0", "1", "3"]


def test_a_picture_opens_at_full_size_and_escape_closes(page: Page) -> None:
    card(page, 1).locator(".thumb").click()
    viewer = page.locator("#viewer")
    expect(viewer).to_be_visible()
    assert natural_size(page.locator("#full")) == list(SIZE)
    expect(viewer).to_contain_text("style_weight")
    expect(viewer.locator("code").nth(0)).to_have_text(
        "python -m nst_exp.run pooling=average style_weight=0.1 'note=it'\"'\"'s'"
    )
    expect(viewer.locator("code").nth(1)).to_have_text(f"python -m nst_exp.reproduce {'1' * 32}")
    before = box_of(page.locator("#full"))["width"]
    page.locator("#full").click()
    assert box_of(page.locator("#full"))["width"] == SIZE[0] != before
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()


def test_the_keyboard_steps_through_what_is_shown(page: Page) -> None:
    page.fill("#search", "average")
    card(page, 0).locator(".thumb").focus()
    page.keyboard.press("Enter")
    title = page.locator("#viewer-title")
    for key, number in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        expect(title).to_contain_text(f"Run {number}")
    run = page.locator("#full").get_attribute("src")
    expect(page.locator("#peek")).to_have_text("Photograph")
    page.keyboard.press("Space")
    expect(page.locator("#full")).to_have_attribute("alt", "The photograph")
    assert page.locator("#full").get_attribute("src") != run
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    expect(page.locator("#tray")).to_be_visible()


def test_a_command_is_copied(page: Page) -> None:
    card(page, 2).locator(".thumb").click()
    page.locator("#viewer .copy").first.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("python -m nst_exp.run pooling=average style_weight=0.3")
    expect(page.locator("#viewer .copy").first).to_have_text("Copied")


def test_two_runs_are_compared(page: Page) -> None:
    card(page, 0).locator(".thumb").click(modifiers=["Shift"])
    card(page, 3).locator(".pick input").check(force=True)
    page.click("#compare")
    comparison = page.locator("#comparison")
    expect(comparison).to_be_visible()
    assert natural_size(page.locator("#image-a")) == natural_size(page.locator("#image-b")) == list(SIZE)
    expect(page.locator("#differences")).to_contain_text("pooling")
    pair = page.locator("#pair")
    box = box_of(pair)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 100)
    page.mouse.up()
    assert float(page.locator("#slide").input_value()) == pytest.approx(25, abs=1)
    assert box_of(page.locator("#divider"))["x"] == pytest.approx(box["x"] + box["width"] / 4, abs=4)
    before = float(page.locator("#slide").input_value())
    page.locator("#slide").focus()
    page.keyboard.press("ArrowRight")
    assert float(page.locator("#slide").input_value()) > before
    page.click("[data-mode=beside]")
    assert box_of(page.locator("#image-a"))["x"] < box_of(page.locator("#image-b"))["x"]
    page.select_option("#side-a", "input-0")
    expect(page.locator("#caption-a")).to_contain_text("Photograph")
    page.keyboard.press("Escape")
    expect(comparison).to_be_hidden()
    page.click("#only")
    assert shown(page) == ["0", "3"]
    page.click("#clear")
    assert len(shown(page)) == 6


def test_one_run_is_compared_with_the_photograph(page: Page) -> None:
    card(page, 2).locator(".thumb").click(modifiers=["Shift"])
    expect(page.locator("#compare")).to_have_text("Compare with photograph")
    page.click("#compare")
    expect(page.locator("#caption-a")).to_contain_text("Photograph")
    expect(page.locator("#caption-b")).to_contain_text("Run 2")


@pytest.mark.parametrize("plot", ["#pareto-point-2", "#convergence-curve-2"])
def test_what_is_plotted_shows_its_picture_and_opens_its_run(plot: str, page: Page) -> None:
    group = page.locator(plot)
    group.scroll_into_view_if_needed()
    group.focus()
    expect(page.locator("#hint")).to_contain_text("Run 2")
    assert natural_size(page.locator("#hint img")) == list(SIZE)
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-title")).to_contain_text("Run 2")


def test_a_point_can_be_clicked(page: Page) -> None:
    page.locator("#pareto-point-3").click()
    expect(page.locator("#viewer-title")).to_contain_text("Run 3")


@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off(width: int, scheme: Literal["light", "dark"], page: Page) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    style = page.evaluate("(({ color, backgroundColor }) => [color, backgroundColor])(getComputedStyle(document.body))")
    ink, paper = (int(colour.removeprefix("rgb(").partition(",")[0]) for colour in style)
    assert (ink < paper) == (scheme == "light")
