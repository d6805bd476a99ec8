"""What it looks like: phone, dark, forced colours, reduced motion; screenshots for people, and what axe finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


#: What the server answers, and what the page then says.
TROUBLE: dict[str, tuple[dict[str, Any] | None, str]] = {
    "offline": (None, "does not answer"),
    "key": ({"status": 401, "body": "{}"}, "wants a key"),
    "busy": ({"status": 503, "body": "{}", "headers": {"retry-after": "600"}}, "busy or starting"),
    "limited": ({"status": 429, "body": "{}", "headers": {"retry-after": "600"}}, "Too many requests"),
    "failed": ({"status": 500, "body": "{}"}, "did not work"),
    "expired": ({"status": 410, "body": "{}"}, "has expired"),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", TROUBLE)
def test_axe_finds_nothing_in_trouble_either(open_page: Open, kind: str, scheme: str) -> None:
    page = open_page(color_scheme=scheme, reduced_motion="reduce")
    write(page, "the cat ", 2)
    page.mouse.move(1, 1)
    answer, words = TROUBLE[kind]
    page.route("**/v1/predict", lambda route: route.fulfill(**answer) if answer else route.abort())
    if kind == "expired":
        page.reload()
    else:
        page.locator("#text").press_sequentially("t")
    notice = page.locator("#notice")
    expect(notice).to_contain_text(words)
    expect(notice).to_have_css("border-left-width", "4px")
    shoot(page, f"{kind}-{scheme}")
    assert violations(page) == []


@pytest.mark.parametrize("width", [320, 390])
def test_long_words_fit_the_narrowest_phone(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 844}, has_touch=True, is_mobile=True, reduced_motion="reduce")
    shoot(page, f"empty-{width}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    write(page, f"the cat {'Donaudampfschifffahrtsgesellschaft' * 4} sat ", 4)
    page.locator("#written button").nth(2).click()
    expect(page.locator("#inspected")).to_contain_text("Expected there")
    shoot(page, f"long-word-{width}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
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
    page.locator("#text").fill("the cat sat on mat a dog ran to park " * 200)  # all of it in one paragraph
    at(page, 2000)
    assert page.evaluate("document.documentElement.scrollHeight < 3000")
    shoot(page, "long")
    page.locator("#text").fill("the cat sat on mat a dog ran to park " * 60 + "\n" + "in " * 60)
    at(page, 661)
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
