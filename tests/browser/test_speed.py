"""The page is there at once, and typing never waits."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from app.routes.page import WEB
from tests.browser.conftest import Server
from tests.browser.seen import at, calls, predictions, write

pytestmark = pytest.mark.browser

#: Bytes of JavaScript, uncompressed.
BUDGET = 60 * 1024


def test_little_is_loaded_and_only_from_here() -> None:
    """Of the pages of the API and of the model, too, nothing is from elsewhere; they have scripts of their own."""
    scripts = [path for path in WEB.glob("*.js") if path.name not in {"docs.js", "model-card.js"}]
    assert sum(path.stat().st_size for path in scripts) < BUDGET
    for path in (*WEB.glob("*.js"), *WEB.glob("*.html"), *WEB.glob("*.css")):
        content = path.read_text(encoding="utf-8")
        assert "https://" not in content


def test_the_first_paint_waits_for_nothing_but_the_html(page: Page, server: Server) -> None:
    """How many milliseconds it takes is the machine's affair; what it waits for is the page's."""
    held: list[Route] = []
    page.context.route(re.compile(r"\.(js|css|svg)$"), lambda route: held.append(route))
    page.goto("about:blank")
    with page.expect_request("**/begin.js"):
        page.goto(server.url, wait_until="commit")
    wait = page.evaluate(
        """() => new Promise((resolve) => new PerformanceObserver((list) => {
            const [paint] = list.getEntriesByName("first-contentful-paint");
            if (paint) resolve(paint.startTime - performance.getEntriesByType("navigation")[0].responseEnd);
        }).observe({type: "paint", buffered: true}))"""
    )
    print(f"first paint {wait:.0f} ms after the HTML")
    for route in held:
        route.abort()


def test_the_scripts_begin_after_the_first_paint(page: Page) -> None:
    """Or 200 ms after they could have begun, if nothing was painted by then: a window that nobody sees."""
    paint, ready, began = page.evaluate(
        """() => [
            performance.getEntriesByName("first-contentful-paint")[0].startTime,
            performance.getEntriesByName(new URL("begin.js", location).href)[0].responseEnd,
            performance.getEntriesByName(new URL("page.js", location).href)[0].startTime,
        ]"""
    )
    assert began >= min(paint, ready + 199)


def test_without_a_script_there_is_something_to_look_at(page: Page, server: Server) -> None:
    page.context.route("**/*.js", lambda route: route.abort())
    page.goto("about:blank")
    page.goto(server.url)
    for place in ("h1", "#text", "#keys", "#unrolled-empty svg", "#continue"):
        expect(page.locator(place)).to_be_visible()


class Held:
    """Calls of predict are held up until they are released."""

    def __init__(self, page: Page) -> None:
        self.routes: list[Route] = []
        self._released = False
        page.route("**/v1/predict", self._hold)

    def _hold(self, route: Route) -> None:
        if self._released:
            route.continue_()
        else:
            self.routes.append(route)

    def release(self) -> None:
        self._released = True
        for route in self.routes:
            route.continue_()


def test_until_the_first_answer_there_is_room_for_it(page: Page, server: Server) -> None:
    held = Held(page)
    page.goto("about:blank")
    with page.expect_request("**/v1/predict"):
        page.goto(server.url)
    for place in ("#predictions", "#fresh"):
        expect(page.locator(place)).to_be_empty()
        expect(page.locator(place)).to_have_css("background-image", re.compile("gradient"))
    expect(page.locator("#next")).to_have_attribute("aria-busy", "true")
    before = page.locator("#memory").bounding_box()
    held.release()
    at(page, 0)
    expect(page.locator("#predictions li")).to_have_count(10)
    assert page.locator("#memory").bounding_box() == before  # nothing has moved


def test_typing_never_waits_and_requests_coalesce(page: Page) -> None:
    write(page, "one ", 1)
    held = Held(page)
    sent = calls(page, "/v1/predict")
    text = page.locator("#text")
    before = predictions(page)
    with page.expect_request("**/v1/predict"):
        text.press_sequentially("t")
    for word in ("wo ", "three ", "four ", "five"):
        text.press_sequentially(word)
    expect(text).to_have_value("one two three four five")  # while the server has said nothing
    assert predictions(page) == before
    assert len(sent) == len(held.routes) == 1
    held.release()
    at(page, 4)
    of_session = [request for request in sent if "session_id" in request]
    assert len(of_session) == 2  # all that was typed meanwhile is one request
    assert of_session[1]["prefix"] == "five"
    expect(page.locator("#predictions li")).to_have_count(1)


def test_an_answer_to_an_older_text_is_not_shown(page: Page) -> None:
    write(page, "the ", 1)
    page.evaluate(
        """() => {
            window.shown = [];
            new MutationObserver(() => window.shown.push(document.querySelectorAll("#predictions li").length))
                .observe(document.querySelector("#predictions"), {childList: true});
        }"""
    )
    held = Held(page)
    with page.expect_request("**/v1/predict"):
        page.locator("#text").press_sequentially("c")
    page.locator("#text").press_sequentially("ata")
    held.release()
    expect(page.locator("#predictions li")).to_have_count(1)  # "catalogue"
    assert page.evaluate("window.shown") == [1]  # never the five that begin with "c"


def test_two_thousand_words_are_read_and_gone_back_to(page: Page) -> None:
    text = page.locator("#text")
    text.fill("the cat sat on mat a dog ran to park " * 200)
    expect(page.locator("#position")).to_have_text("2,000")
    text.press("Control+End")
    text.press_sequentially("then it was gone and we saw them go home")
    expect(page.locator("#position")).to_have_text("2,009")
    page.locator("#written button").first.click()
    expect(page.locator("#inspected")).to_contain_text("word 1")
