"""Everything that can go wrong looks like something, and goes on."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from playwright.sync_api import Browser, JSHandle, Page, Route, expect

from tests.browser.conftest import Open, Server, opened
from tests.browser.seen import at, predictions, session, settled, write

pytestmark = pytest.mark.browser


class Refusing:
    """A handler that answers so a few times, then lets requests through. `heard` is when each came, in seconds."""

    def __init__(self, status: int, times: int = 1, **headers: str) -> None:
        self.heard: list[float] = []
        self._times = times
        self._status = status
        self._headers: dict[str, Any] = {"content-type": "application/problem+json", **headers}

    def __call__(self, route: Route) -> None:
        self.heard.append(time.monotonic())
        if len(self.heard) > self._times:
            route.continue_()
            return
        problem = json.dumps({"status": self._status, "title": "Refused", "detail": "by this test"})
        route.fulfill(status=self._status, headers=self._headers, body=problem)


def notices(page: Page) -> JSHandle:
    """A list in the page to which everything is added that is said from now on: some of it goes away by itself."""
    return page.evaluate_handle(
        """() => {
            const said = [], place = document.querySelector("#notice");
            new MutationObserver(() => said.push(place.textContent)).observe(place, {childList: true});
            return said;
        }"""
    )


def test_a_server_that_restarts_loses_nothing_that_was_typed(page: Page, server: Server) -> None:
    text, notice = page.locator("#text"), page.locator("#notice")
    write(page, "one two ", 2)
    name = session(page)
    server.stop()
    text.press_sequentially("three ")
    expect(notice).to_contain_text("The server does not answer")
    expect(notice).to_have_attribute("data-kind", "offline")
    text.press_sequentially("four ")  # goes on meanwhile
    server.start()
    at(page, 4)
    expect(notice).to_contain_text("The server does not know this session any more")
    expect(text).to_have_value("one two three four ")
    assert session(page) != name


def test_a_browser_that_is_offline_goes_on_when_it_is_not(page: Page) -> None:
    write(page, "one ", 1)
    page.context.set_offline(True)
    page.locator("#text").press_sequentially("two ")
    expect(page.locator("#notice")).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    at(page, 2)
    expect(page.locator("#notice")).to_be_hidden()


def test_a_session_that_is_gone_is_read_again(page: Page, open_page: Open) -> None:
    write(page, "one two three ", 3)
    name, best = session(page), predictions(page)
    url = page.url.split("#")[0]
    assert page.request.delete(f"{url}v1/sessions/{name}").status == 204
    write(page, "four ", 4)
    expect(page.locator("#notice")).to_contain_text("expired: your text was read again")
    assert session(page) != name
    name = session(page)
    assert page.request.delete(f"{url}v1/sessions/{name}").status == 204
    page.reload()
    expect(page.locator("#notice")).to_contain_text("This session has expired")  # whoever comes back is asked
    expect(page.locator("#text")).to_have_value("one two three four ")
    expect(page.locator("#session")).to_have_text("none yet")
    page.get_by_role("button", name="Read it again").click()
    at(page, 4)
    assert session(page) != name
    page.locator("#text").fill("one two three ")
    at(page, 3)
    assert predictions(page) == best

    other = open_page(f"#{name}")  # nobody has its text any more
    expect(other.locator("#notice")).to_contain_text("That session is gone")
    settled(other)
    at(other, 0)
    assert session(other) != name


def test_a_session_that_went_on_elsewhere_is_left_to_itself(page: Page) -> None:
    write(page, "one two ", 2)
    name = session(page)
    body = {"session_id": name, "text": "rain"}
    assert page.request.post(f"{page.url.split('#')[0]}v1/predict", data=body).status == 200
    write(page, "three ", 3)
    expect(page.locator("#notice")).to_contain_text("gone on elsewhere: your text was read again")
    assert session(page) != name


def test_a_key_is_asked_for_and_kept(browser: Browser) -> None:
    server = Server(api_keys="writer:open-sesame-open-sesame")
    try:
        with opened(browser, server.url) as page:
            field = page.get_by_label("Key")
            expect(field).to_be_focused()
            field.fill("wrong-wrong-wrong-wrong")
            field.press("Enter")
            expect(page.get_by_label("Key")).to_have_value("")
            expect(page.locator("#notice")).to_contain_text("This server does not know that key.")
            page.get_by_label("Key").fill("open-sesame-open-sesame")
            page.get_by_role("button", name="Use it").click()
            expect(page.locator("#notice")).to_be_hidden()
            write(page, "one two ", 2)
            page.reload()
            at(page, 2)
            expect(page.locator("#vocabulary")).to_contain_text("words")
            page.locator("#copy").click()
            command = page.get_by_label("The last call as a curl command").input_value()
            assert "YOUR-KEY" in command
            assert "sesame" not in command
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("status", "words"), [(429, "Too many requests"), (503, "The server is busy or starting")], ids=str
)
def test_it_waits_as_long_as_it_is_told(page: Page, status: int, words: str) -> None:
    write(page, "one ", 1)
    refusing = Refusing(status, **{"retry-after": "1"})
    page.route("**/v1/predict", refusing)
    said = notices(page)
    page.locator("#text").press_sequentially(" ")
    page.wait_for_function("said => said.length === 2", arg=said)  # the notice, and that it is gone
    settled(page)
    assert re.fullmatch(f"{words}.*in 1 s…", said.evaluate("said => said[0]"))
    assert refusing.heard[1] - refusing.heard[0] >= 1
    expect(page.locator("#notice")).to_be_hidden()
    write(page, "two ", 2)


def test_other_refusals_are_shown_and_generation_recovers_too(page: Page) -> None:
    write(page, "one ", 1)
    page.route("**/v1/predict", Refusing(500, times=99))
    page.locator("#text").press_sequentially("two ")
    expect(page.locator("#notice")).to_contain_text("That did not work (500): by this test")
    page.unroute("**/v1/predict")
    write(page, "three ", 3)
    expect(page.locator("#notice")).to_be_hidden()

    said = notices(page)
    page.route("**/v1/generate", Refusing(503, **{"retry-after": "1"}))
    page.locator("#continue").click()
    page.wait_for_function("said => said.some((text) => text.includes('busy'))", arg=said)
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#continue")).to_have_text("Continue for me")
    page.locator("#continue").click()
    at(page, 43)


def test_more_than_the_server_takes_at_once_is_sent_in_parts(browser: Browser) -> None:
    server = Server(max_words=100)
    try:
        with opened(browser, server.url) as page:
            text = page.locator("#text")
            text.fill("one, " * 150)
            at(page, 300)
            expect(page.locator("#notice")).to_be_hidden()
            page.get_by_role("button", name="Clear").click()
            at(page, 0)
            text.fill("a" + "\U0001f600" * 151)  # no blank anywhere, and two units each
            at(page, 152)
            expect(page.locator("#written button").last).to_have_text("\U0001f600")
    finally:
        server.stop()


def test_a_long_text_is_given_up_when_it_is_cleared(page: Page) -> None:
    text = page.locator("#text")
    bodies: list[str] = []
    held: list[Route] = []

    def hold(route: Route) -> None:
        body = route.request.post_data_json
        bodies.append(body.get("text", ""))
        if len(bodies) == 2:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/predict", hold)
    text.fill("one two " * 10_000)
    expect(page.locator("#remembered")).to_have_text("reading: 25.0 %")
    page.get_by_role("button", name="Clear").click()
    held[0].continue_()
    at(page, 0)
    expect(text).to_have_value("")
    assert sum(map(len, bodies)) < 50_000, "the rest was not sent any more"


def test_further_back_than_is_remembered(page: Page) -> None:
    write(page, "one two three ", 3)
    page.route("**/rewind", Refusing(409))
    page.locator("#text").fill("two two three ")
    at(page, 3)
    expect(page.locator("#notice")).to_contain_text("The session goes less far back, or had gone on elsewhere: your")
