"""What it looks like: phone, dark, forced colours, reduced motion; screenshots for people, and what axe finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, Open
from tests.browser.seen import at, write

pytestmark = pytest.mark.browser

SCREENSHOTS = Path(__file__).parents[2] / "out" / "screenshots"
TEXT = "the cat sat on a catamaran and then it was gone. "


def shoot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes'][:3]]}" for one in found]


def filled(page: Page) -> None:
    """A page with everything on it: words, an inspected one, a branch."""
    write(page, TEXT, 12)
    page.locator("#written button").nth(3).click()
    page.get_by_role("button", name="Try another way from here").click()
    at(page, 4)
    write(page, "two ", 5)
    page.get_by_text("How it continues").click()
    page.locator("#written button").nth(2).click()
    expect(page.locator("#inspected")).to_contain_text("Expected there")
    expect(page.locator("#fresh li").first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme, reduced_motion="reduce")
    shoot(page, f"empty-{scheme}")
    assert violations(page) == []
    filled(page)
    shoot(page, scheme)
    assert violations(page) == []


def test_it_fits_a_phone(open_page: Open) -> None:
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True, reduced_motion="reduce")
    filled(page)
    page.locator("#text").press_sequentially("Donaudampfschifffahrtsgesellschaftskapitän" * 3 + " ")
    at(page, 6)
    shoot(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = page.locator("button:visible, summary, #predictions li, input:visible, fieldset label").evaluate_all(
        """all => all.filter(one => one.getBoundingClientRect().height < 43.9
            && !one.closest("fieldset label input, label"))
            .map(one => `${one.outerHTML.slice(0, 80)} ${one.getBoundingClientRect().height}`)"""
    )
    assert small == []
    strip = page.locator("#strip").bounding_box()
    assert strip is not None
    assert strip["x"] == 0
    assert strip["width"] == PHONE["width"]
    assert strip["y"] + strip["height"] == pytest.approx(PHONE["height"], abs=1)
    # The keyboard covers the lower part of the page: the strip is lifted by as much.
    page.evaluate(
        """() => {
            Object.defineProperty(visualViewport, "height", {value: innerHeight - 300});
            visualViewport.dispatchEvent(new Event("resize"));
        }"""
    )
    lifted = page.locator("#strip").bounding_box()
    assert lifted is not None
    assert lifted["y"] == pytest.approx(strip["y"] - 300, abs=1)
    page.locator("#strip .best").tap()
    at(page, 7)
    assert violations(page) == []


def test_forced_colours_and_reduced_motion_are_heeded(open_page: Open) -> None:
    page = open_page(forced_colors="active", reduced_motion="reduce")
    write(page, "the cat sat hats ", 4)
    shoot(page, "forced-colours")
    style = "(one, name) => getComputedStyle(one)[name]"
    assert page.locator("#unrolled > li").last.evaluate(style, "animationName") == "none"
    assert page.locator("#written button").first.evaluate(style, "borderTopStyle") != "none"
    assert page.locator("#predictions .bar").first.evaluate(style, "backgroundColor") != "rgba(0, 0, 0, 0)"
    moving = open_page()
    write(moving, "the ", 1)
    assert moving.locator("#unrolled > li").last.evaluate(style, "animationName") == "arrive"


def test_a_very_long_text_stays_in_its_place(page: Page) -> None:
    page.locator("#text").fill("the cat sat on mat a dog ran to park " * 60 + "\n" + "in " * 60)
    expect(page.locator("#position")).to_have_text("661")
    shoot(page, "long")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight < 3000")
    box, strip = page.locator("#text").bounding_box(), page.locator("#strip").bounding_box()
    assert box is not None
    assert strip is not None
    line = page.locator("#text").evaluate(
        """box => box.getBoundingClientRect().top + box.scrollHeight - box.scrollTop
            - parseFloat(getComputedStyle(box).paddingBottom)"""
    )
    assert strip["y"] >= line  # the last line is not covered
    assert box["y"] < strip["y"] < box["y"] + box["height"] - strip["height"] + 1  # under the caret, inside the box
