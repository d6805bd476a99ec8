from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import Server

pytestmark = pytest.mark.browser


def suggestions(page: Page) -> list[str]:
    return page.locator("#suggestions button").evaluate_all("buttons => buttons.map(button => button.dataset.word)")


def position(page: Page, count: int) -> None:
    expect(page.locator("#position")).to_have_text(str(count))


def test_it_predicts_before_anything_is_typed(page: Page) -> None:
    assert len(suggestions(page)) == 10
    expect(page.locator("#session")).not_to_have_text("none yet")
    expect(page.locator("#suggestions .probability").first).to_have_text(re.compile(r"^\d+\.\d %$"))


def test_each_finished_word_is_sent_once_to_one_session(page: Page) -> None:
    sent: list[dict] = []

    def record(request: Request) -> None:
        if request.url.endswith("/v1/predict"):
            sent.append(request.post_data_json)

    page.on("request", record)
    session = page.locator("#session").inner_text()
    page.locator("#text").press_sequentially("the cat sat on the mat ", delay=20)
    position(page, 6)
    assert page.locator("#session").inner_text() == session
    assert "".join(request.get("text", "") for request in sent) == "the cat sat on the mat "
    assert {request["session_id"] for request in sent} == {session}


def test_the_word_being_typed_is_completed(page: Page) -> None:
    page.locator("#text").press_sequentially("the cat")
    expect(page.locator("#suggestions li")).to_have_count(4)
    assert set(suggestions(page)) == {"cat", "catalogue", "cater", "category"}
    position(page, 1)


def test_tab_takes_the_likeliest_word_and_escape_frees_the_key(page: Page) -> None:
    text = page.locator("#text")
    text.press_sequentially("the cata")
    expect(page.locator("#suggestions li")).to_have_count(1)
    text.press("Tab")
    expect(text).to_have_value("the catalogue ")
    expect(text).to_be_focused()
    position(page, 2)
    text.press("Escape")
    text.press("Tab")
    expect(text).not_to_be_focused()


def test_a_click_takes_a_word(page: Page) -> None:
    first = suggestions(page)[0]
    page.locator("#suggestions button").first.click()
    position(page, 1)
    assert page.locator("#text").input_value().strip() == ("" if first == "<eos>" else first)


def test_text_changed_further_back_is_read_anew(page: Page) -> None:
    text = page.locator("#text")
    text.press_sequentially("one two three ")
    position(page, 3)
    before = page.locator("#session").inner_text()
    text.fill("one two four ")
    expect(page.locator("#session")).not_to_have_text(before)
    position(page, 3)
    edited = suggestions(page)
    page.locator("#forget").click()
    position(page, 0)
    text.press_sequentially("one two four ")
    position(page, 3)
    assert suggestions(page) == edited


def test_forget_starts_from_nothing(page: Page) -> None:
    fresh = suggestions(page)
    page.locator("#text").press_sequentially("rain ")
    position(page, 1)
    assert suggestions(page) != fresh
    page.locator("#forget").click()
    position(page, 0)
    assert suggestions(page) == fresh
    expect(page.locator("#text")).to_have_value("")


def test_a_server_that_restarts_loses_nothing_that_was_typed(page: Page, server: Server) -> None:
    text = page.locator("#text")
    text.press_sequentially("one two ")
    position(page, 2)
    server.stop()
    text.press_sequentially("three ")
    expect(page.locator("#notice")).to_contain_text("does not answer")
    server.start()
    text.press_sequentially("four ")
    position(page, 4)
    expect(page.locator("#notice")).to_be_hidden()


def test_words_are_shown_as_text_and_never_as_markup(page: Page) -> None:
    page.locator("#text").press_sequentially("<img src=x onerror=alert(1)> ")
    expect(page.locator("img")).to_have_count(0)
    expect(page.locator("#position")).not_to_have_text("0")


def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    heights = page.locator("button").evaluate_all("all => all.map(button => button.getBoundingClientRect().height)")
    assert min(heights) >= 44
