"""Writing, and what may come next."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.seen import at, calls, predictions, session, settled, strip, write

pytestmark = pytest.mark.browser


def test_it_predicts_before_anything_is_typed(page: Page) -> None:
    assert len(predictions(page)) == 10
    likeliest = predictions(page)[:3]
    assert strip(page) == [likeliest[1], likeliest[0], likeliest[2]]
    expect(page.locator("#predictions .figure").first).to_have_text(re.compile(r"^\d+(\.\d)? %$"))
    expect(page.locator("#strip small").first).to_have_text(re.compile(r"^\d+(\.\d)? %$"))
    expect(page.locator("#session")).to_have_text(re.compile(r"^[\w-]{32}$"))
    expect(page.locator("#state-bytes")).to_contain_text("44 bytes")
    expect(page.locator("#latency")).to_have_text(re.compile(r"^\d+\.\d ms$"))
    expect(page.locator("#model")).to_have_text("fake@0123456789ab")
    at(page, 0)


def test_each_finished_word_is_sent_once_to_one_session(page: Page) -> None:
    sent = calls(page, "/v1/predict")
    name, memory = session(page), page.locator("#state-bytes")
    expect(memory).to_contain_text("44 bytes")
    write(page, "the cat sat on the mat ", 6)
    assert session(page) == name
    expect(memory).to_contain_text("44 bytes")
    of_session = [request for request in sent if "session_id" in request]
    assert "".join(request.get("text", "") for request in of_session) == "the cat sat on the mat "
    assert {request["session_id"] for request in of_session} == {name}


def test_the_word_being_typed_is_completed(page: Page) -> None:
    write(page, "the cat", 1)
    expect(page.locator("#predictions li")).to_have_count(4)
    assert set(predictions(page)) == {"cat", "catalogue", "cater", "category"}
    page.locator("#text").press_sequentially("xyz")
    expect(page.locator("#none")).to_have_text("No word of the vocabulary begins with “catxyz”.")
    expect(page.locator("#strip")).to_be_hidden()
    page.locator("#text").press_sequentially(" ")
    expect(page.locator("#none")).to_be_hidden()
    expect(page.locator("#written .unknown")).to_have_text("catxyz")


def test_keys_take_words_and_give_them_back(page: Page) -> None:
    text = page.locator("#text")
    write(page, "the cata", 1)
    expect(page.locator("#predictions li")).to_have_count(1)
    text.press("Tab")
    expect(text).to_have_value("the catalogue ")
    expect(text).to_be_focused()
    at(page, 2)
    name, best = session(page), predictions(page)

    for place in (1, 2, 3):
        word = strip(page)[place - 1]
        text.press(f"Alt+Digit{place}")
        at(page, 3)
        assert text.input_value().rstrip(" ") == ("the catalogue" if word == "<eos>" else f"the catalogue {word}") + (
            "\n" if word == "<eos>" else ""
        )
        text.press("Control+z")  # the session goes back, too
        expect(text).to_have_value("the catalogue ")
        at(page, 2)
        assert predictions(page) == best
        assert session(page) == name

    text.press("ArrowDown")
    text.press("ArrowDown")
    chosen = page.locator('#predictions [aria-selected="true"]')
    expect(chosen).to_have_count(1)
    expect(chosen).to_have_attribute("data-word", best[1])
    assert text.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    text.press("ArrowUp")
    expect(chosen).to_have_attribute("data-word", best[0])
    text.press("Enter")
    at(page, 3)
    expect(page.locator("#written button").last).to_have_text("↵" if best[0] == "<eos>" else best[0])
    assert session(page) == name


def test_escape_frees_the_tab_key(page: Page) -> None:
    text = page.locator("#text")
    text.press("Escape")
    expect(page.locator("#strip")).to_be_hidden()
    text.press("Tab")
    expect(text).not_to_be_focused()
    expect(text).to_have_value("")
    text.press_sequentially("a ")
    expect(page.locator("#strip")).to_be_visible()  # typing brings it back
    text.press("Home")
    expect(page.locator("#strip")).to_be_hidden()  # the word would not go to where the caret is


def test_a_click_takes_a_word(page: Page) -> None:
    chosen = next(word for word in predictions(page) if word != "<eos>")
    page.locator(f'#predictions [data-word="{chosen}"]').click()
    at(page, 1)
    expect(page.locator("#text")).to_have_value(f"{chosen} ")
    chosen = strip(page)[1]
    page.locator("#strip .best").click()
    at(page, 2)
    expect(page.locator("#written button").last).to_have_text("↵" if chosen == "<eos>" else chosen)
    expect(page.locator("#text")).to_be_focused()


def test_text_changed_further_back_is_read_from_there(page: Page, open_page: Open) -> None:
    write(page, "one two three ", 3)
    name = session(page)
    sent = calls(page, "/v1/predict", "/rewind")
    page.locator("#text").fill("one two four ")
    expect(page.locator("#written button").last).to_have_text("four")
    at(page, 3)
    assert session(page) == name
    assert {"position": 2} in sent
    assert [request["text"].strip() for request in sent if "text" in request] == ["four"]
    other = open_page()
    write(other, "one two four ", 3)
    assert predictions(other) == predictions(page)


def test_what_is_typed_is_read_as_what_is_pasted(page: Page, open_page: Open) -> None:
    """Signs that come one by one may make one word of those before: an abbreviation, dots, a dash, an address, a line
    end of several."""
    text = "one U.S. at 5 p.m. two... three--four www.x.org, you@x.org.\n\n five (six). "
    pasted = open_page()
    pasted.locator("#text").fill(text)
    at(pasted, 20)
    words = pasted.locator("#written button").all_inner_texts()
    assert words[:6] == ["one", "U.S.", "at", "5", "p.m.", "two"]
    assert words.count("↵") == 1
    write(page, text, 20)
    assert page.locator("#written button").all_inner_texts() == words
    assert predictions(page) == predictions(pasted)
    expect(page.locator("#perplexity")).to_have_text(pasted.locator("#perplexity").inner_text())
    url = page.url.split("#")[0]
    sessions = [page.request.get(f"{url}v1/sessions/{session(one)}").json()["words"] for one in (page, pasted)]
    assert sessions[0] == sessions[1]


def test_enter_within_the_text_breaks_the_line(page: Page) -> None:
    write(page, "one two ", 2)
    text = page.locator("#text")
    text.press("ArrowDown")
    expect(text).to_have_attribute("aria-activedescendant", "prediction-0")
    for _ in range(4):
        text.press("ArrowLeft")
    expect(text).not_to_have_attribute("aria-activedescendant", re.compile("."))
    text.press("Enter")
    expect(text).to_have_value("one \ntwo ")


def test_what_is_cleared_is_nowhere_any_more(page: Page) -> None:
    write(page, "one two ", 2)
    page.reload()  # so that it is kept
    at(page, 2)
    assert "one two" in page.evaluate("JSON.stringify(localStorage)")
    page.get_by_role("button", name="Clear").click()
    at(page, 0)
    assert "one two" not in page.evaluate("JSON.stringify(localStorage)")


def test_an_address_that_names_no_session(page: Page, open_page: Open) -> None:
    other = open_page("#%")
    expect(other.locator("#notice")).to_contain_text("That session is gone")
    write(other, "one ", 1)


def test_forget_and_clear(page: Page) -> None:
    fresh = predictions(page)
    write(page, "rain in the ", 3)
    remembering, name = predictions(page), session(page)
    assert remembering != fresh
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        page.locator("#forget").click()
    at(page, 0)
    assert predictions(page) == fresh
    expect(page.locator("#text")).to_have_value("rain in the ")  # the text stays; its state is empty
    expect(page.locator("#notice")).to_contain_text("The state is empty")
    assert page.request.get(f"{page.url.split('#')[0]}v1/sessions/{name}").status == 410
    write(page, "rain ", 1)
    expect(page.locator("#written button")).to_have_text(["rain"])
    page.locator("#clear").click()
    at(page, 0)
    expect(page.locator("#text")).to_have_value("")
    write(page, "rain in the ", 3)
    assert predictions(page) == remembering


def test_a_reload_goes_on_where_it_was(page: Page, open_page: Open) -> None:
    write(page, "the cat sat on the ", 5)
    name, best = session(page), predictions(page)
    assert page.url.endswith(f"#{name}")
    page.reload()
    at(page, 5)
    expect(page.locator("#text")).to_have_value("the cat sat on the ")
    assert (session(page), predictions(page)) == (name, best)
    colours = page.locator("#written button").evaluate_all("all => all.map(word => word.dataset.rank)")

    elsewhere = open_page(f"#{name}")  # a browser that has not seen the text: the server has
    at(elsewhere, 5)
    expect(elsewhere.locator("#text")).to_have_value("the cat sat on the ")
    assert (session(elsewhere), predictions(elsewhere)) == (name, best)
    words = elsewhere.locator("#written button")
    assert words.evaluate_all("all => all.map(word => word.dataset.rank)") == colours


def test_words_are_shown_as_text_and_never_as_markup(page: Page) -> None:
    page.locator("#text").fill("<img src=x onerror=alert(1)> 🙂 the end ")
    expect(page.locator("img")).to_have_count(0)
    expect(page.locator("#written button").last).to_have_text("end")
    expect(page.locator("#written button.unknown").first).to_be_visible()


def test_the_last_call_can_be_copied(page: Page) -> None:
    write(page, "the cat's ", 2)
    page.locator("#copy").click()
    command = page.get_by_label("The last call as a curl command")
    expect(command).to_have_value(re.compile(r"^curl -X POST 'http://.*/v1/predict' -H 'content-type"))
    assert session(page) in command.input_value()


def test_a_screen_reader_is_told_once_the_keys_are_still(page: Page) -> None:
    expect(page.locator("#announcer")).to_have_text(re.compile(r"^Next: \S+ [\d.]+ %, \S+ [\d.]+ %, \S+ [\d.]+ %$"))


def test_an_example_is_one_click_away(page: Page) -> None:
    write(page, "rain ", 1)
    example = page.locator("#examples button").first
    example.click()
    expect(page.locator("#text")).to_have_value(f"{example.inner_text()} ")
    at(page, 6)
    expect(page.locator("#strip")).to_be_visible()
    page.locator("#text").press("Control+z")
    expect(page.locator("#text")).to_have_value("rain ")
    at(page, 1)


def test_a_letter_does_nothing_outside_of_the_text(page: Page) -> None:
    write(page, "the cat ", 2)
    shown = page.locator("main").inner_text()
    made = calls(page, "")
    page.locator("#written button").last.focus()
    for key in "abcdefghijklmnopqrstuvwxyz0123456789?/.":
        page.keyboard.press(key)
    settled(page)
    assert page.locator("main").inner_text() == shown
    expect(page.locator("#text")).to_have_value("the cat ")
    assert made == []
