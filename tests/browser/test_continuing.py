"""The server goes on by itself: streamed, stopped, repeated."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Server
from tests.browser.seen import at, calls, predictions, session, settled, write

pytestmark = pytest.mark.browser


def finished(page: Page) -> None:
    expect(page.locator("#continue")).to_have_text("Continue for me")


def test_words_are_drawn_as_ordered_and_a_seed_repeats_them(page: Page) -> None:
    orders = calls(page, "/v1/generate")
    write(page, "the cat", 1)
    name = session(page)
    page.get_by_text("How it continues").click()
    page.locator("#temperature").fill("1.5")
    expect(page.locator("output[for=temperature]")).to_have_text("1.5")
    page.locator("#top-k").fill("0")
    expect(page.locator("output[for=top-k]")).to_have_text("all")
    page.locator("#seed").fill("11")
    page.locator("#continue").click()
    at(page, 42)
    finished(page)
    first = page.locator("#text").input_value()
    assert first.startswith("the cat ")
    assert session(page) == name
    expect(page.locator("#seed-used")).to_have_text("11")
    assert orders[0] == {
        "session_id": name,
        "position": 2,
        "max_words": 40,
        "temperature": 1.5,
        "top_p": 0.95,
        "seed": 11,
        "stream": True,
    }
    # What was drawn is scored as what was typed is.
    expect(page.locator('#written [data-rank="-1"]')).to_have_count(0)
    expect(page.locator("#written button")).to_have_count(42)

    page.locator("#text").fill("the cat ")
    at(page, 2)
    page.locator("#continue").click()
    at(page, 42)
    finished(page)
    assert page.locator("#text").input_value() == first
    page.locator("#seed").fill("12")
    page.locator("#text").fill("the cat ")
    at(page, 2)
    page.locator("#continue").click()
    at(page, 42)
    finished(page)
    assert page.locator("#text").input_value() != first


def test_a_stream_that_breaks_off_keeps_what_arrived(page: Page) -> None:
    write(page, "one two ", 2)
    name = session(page)
    words = "".join(
        f'event: word\ndata: {{"word": "{word}", "text": " {word}", "position": {position}, "log_probability": -1.0, '
        f'"probability": 0.37, "rank": 2, "surprisal_bits": 1.44}}\n\n'
        for position, word in enumerate(("three", "four"), 3)
    )
    # Two words, and then nothing: no event says that it is over, and the server knows nothing of them.
    answer = {"content_type": "text/event-stream", "body": words}
    page.route("**/v1/generate", lambda route: route.fulfill(**answer))
    page.locator("#continue").click()
    expect(page.locator("#text")).to_have_value("one two three four ")
    at(page, 4)
    finished(page)
    expect(page.locator("#notice")).to_contain_text("your text was read again")
    assert session(page) != name
    url = page.url.split("#")[0]
    found = page.request.get(f"{url}v1/sessions/{session(page)}").json()["words"]
    assert found == ["one", "two", "three", "four"]


@pytest.mark.parametrize("how", ["button", "escape", "blank", "letter"])
def test_it_streams_and_can_be_stopped(page: Page, server: Server, how: str) -> None:
    write(page, "one two ", 2)
    best, name = predictions(page), session(page)
    server.runtime.hold_at = len(server.runtime.batches) + 5  # the next step waits
    page.locator("#continue").click()
    expect(page.locator("#written button").nth(2)).to_be_visible()  # words are there while others are not
    expect(page.locator("#written button").nth(2)).to_have_attribute("title", re.compile(r"^rank \d+, [\d.]+ bits"))
    expect(page.locator('#written [data-rank="-1"]')).to_have_count(0)  # coloured as they come
    expect(page.locator("#continue")).to_have_text("Stop")
    expect(page.locator("#strip")).to_be_hidden()
    text = page.locator("#text")
    if how == "button":
        page.locator("#continue").click()
    elif how == "escape":
        text.press("Escape")
    else:
        typed = " ten " if how == "blank" else "x ten "
        text.press("End")
        text.press_sequentially(typed)
    server.runtime.hold_at = None
    server.runtime.gate.set()
    finished(page)
    if how in ("blank", "letter"):
        expect(page.locator("#written button").last).to_have_text("ten")
    settled(page)
    count = page.locator("#written button").count()
    at(page, count)
    assert 3 <= count < 20
    assert session(page) == name
    expect(page.locator("#notice")).to_be_hidden()
    written = text.input_value()
    assert written.startswith("one two ")
    assert written.endswith(" ten ") == (how in ("blank", "letter"))
    assert ("x ten" in written, " x ten" in written) == (how == "letter", False), "what is typed stays as it is"
    # The session stands exactly there: what may come next is what anybody says who has read these words.
    url = page.url.split("#")[0]
    words = page.request.get(f"{url}v1/sessions/{name}").json()["words"]
    assert len(words) == count
    answer = page.request.post(f"{url}v1/predict", data={"words": words, "keep": False}).json()
    expected = [one["word"].replace("<eos>", "↵") for one in answer["predictions"]]
    expect(page.locator("#predictions .word")).to_have_text(expected)
    text.fill("one two ")
    at(page, 2)
    assert predictions(page) == best


def test_two_clicks_are_one_continuation(page: Page, server: Server) -> None:
    write(page, "one ", 1)
    orders = calls(page, "/v1/generate")
    server.runtime.gate.clear()
    page.locator("#text").press_sequentially("two ")
    page.locator("#continue").click()
    page.locator("#continue").click()
    server.runtime.gate.set()
    settled(page)
    finished(page)
    assert len(orders) <= 1, "the second click stopped it, or found it on its way"
    expect(page.locator("#notice")).to_be_hidden()


def test_a_reload_in_the_middle_goes_on_with_what_arrived(page: Page, server: Server) -> None:
    write(page, "one two ", 2)
    name = session(page)
    page.evaluate("dispatchEvent(new Event('pagehide'))")  # what is known here is kept
    answer = page.request.post(
        f"{page.url.split('#')[0]}v1/generate", data={"session_id": name, "position": 2, "max_words": 3}
    )
    assert answer.json()["position"] == 5
    page.reload()
    at(page, 2)
    assert session(page) == name
    expect(page.locator("#notice")).to_be_hidden()
    write(page, "three ", 3)
