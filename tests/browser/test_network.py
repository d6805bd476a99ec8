"""The network unrolled in time, the words that were read, and the ways back."""

from __future__ import annotations

import math
import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.seen import at, predictions, session, steps, write

pytestmark = pytest.mark.browser

#: How words look that are more or less surprising: never by their colour alone.
COLOURS = """all => all.map(word => {
    const style = getComputedStyle(word);
    const line = [style.textDecorationLine, style.textDecorationStyle, style.textDecorationThickness];
    return [style.backgroundColor, line.join()];
})"""


def shades(canvas: Locator) -> list[str]:
    """The colours of a strip, from the top."""
    shades: list[str] = canvas.evaluate(
        """canvas => Array.from({length: canvas.height},
            (_, line) => canvas.getContext("2d").getImageData(0, line, 1, 1).data.join())"""
    )
    return shades


def test_it_is_drawn_unrolled_in_time(page: Page) -> None:
    expect(page.locator("#unrolled-empty")).to_be_visible()
    write(page, "the cat sat on the mat and then it was gone we ", 12)
    expect(page.locator("#unrolled-empty")).to_be_hidden()
    assert steps(page) == ["the", "cat", "sat", "on", "the", "mat", "and", "then", "it", "was", "gone", "we"]
    newest = page.locator("#unrolled > li").last
    strips = newest.locator("canvas.state")  # a strip for each layer, the last on top
    assert strips.evaluate_all("all => all.map(canvas => canvas.height)") == [5, 6]
    for strip, size in zip(strips.all(), (5, 6), strict=True):
        expect(strip).to_be_visible()
        assert len(set(shades(strip))) > size / 2
    expect(newest.locator(".next li")).to_have_count(3)
    words = [word.replace("<eos>", "↵") for word in predictions(page)[:3]]
    assert newest.locator(".next .word").all_inner_texts() == words
    place = page.locator("#unrolled").bounding_box()
    box = newest.bounding_box()
    assert place is not None
    assert box is not None
    assert place["x"] <= box["x"]
    assert box["x"] + box["width"] <= place["x"] + place["width"]  # the newest is in view; older ones scroll
    assert page.locator("#unrolled").evaluate("list => list.scrollWidth > list.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_beside_the_remembering_network_stands_one_with_a_fresh_state(page: Page) -> None:
    write(page, "rain ", 1)
    expect(page.locator("#alone")).to_have_text("after “rain” alone")
    alone = page.locator("#fresh li").all_inner_texts()
    shown = page.locator("#predictions li").all_inner_texts()
    assert alone == shown  # nothing came before it: both know the same
    write(page, "with no cat and rain ", 6)
    expect(page.locator("#alone")).to_have_text("after “rain” alone")
    assert page.locator("#fresh li").all_inner_texts() == alone
    assert page.locator("#predictions li").all_inner_texts() != shown
    write(page, "ca", 6)  # the word being typed is completed on both sides
    expect(page.locator("#fresh li")).to_have_count(4)
    assert sorted(page.locator("#fresh .word").all_inner_texts()) == sorted(predictions(page))


def test_surprise_is_coloured_by_rank_or_bits(page: Page) -> None:
    write(page, "the cat sat on two hats ", 6)
    words = page.locator("#written button")
    expect(words).to_have_text(["the", "cat", "sat", "on", "two", "hats"])
    expect(words.last).to_have_class("unknown")
    titles = words.evaluate_all("all => all.map(word => word.title)")
    ranks = [int(re.search(r"rank (\d+)", title)[1]) for title in titles]  # type: ignore[index]
    bits = [float(re.search(r"([\d.]+) bits", title)[1]) for title in titles]  # type: ignore[index]
    by_rank = [0 if rank <= 10 else 1 for rank in ranks]
    by_bits = [next(index for index, bound in enumerate((3, 7, 11, 99)) if value <= bound) for value in bits]
    assert by_rank != by_bits
    for scale, classes, name in (("rank", by_rank, "among the 10 likeliest"), ("bits", by_bits, "up to 3 bits")):
        page.get_by_label(scale).check()
        legend = page.locator(".legend:visible")
        expect(legend).to_contain_text(name)
        colours = legend.locator("[data-class]").evaluate_all(COLOURS)
        assert len({colour for colour, _ in colours}) == len({line for _, line in colours}) == 4
        assert words.evaluate_all(COLOURS) == [colours[index] for index in classes]
        assert page.locator("#unrolled button").evaluate_all(COLOURS) == [colours[index] for index in classes]
    perplexity = float(page.locator("#perplexity").inner_text())
    assert perplexity == pytest.approx(2 ** (math.fsum(bits) / len(bits)), rel=0.05)


def test_a_word_tells_what_was_expected_and_leads_back(page: Page) -> None:
    write(page, "the cat ", 2)
    expected, name = predictions(page), session(page)
    write(page, "sat on the mat ", 6)
    page.locator("#unrolled button", has_text="sat").click()
    panel = page.locator("#inspected")
    expect(panel).to_contain_text(re.compile(r"“sat”, word 3: rank \d+, [\d.]+ bits, [\d.]+ %\."))
    expect(panel).to_contain_text(f"Expected there: “{expected[0].replace('<eos>', '↵')}” ")
    expect(page.locator("#unrolled .marked button")).to_have_text("sat")
    page.locator("#written button").first.click()
    expect(panel).to_contain_text("“the”, word 1")
    expect(panel).to_contain_text("Expected there: ")

    page.locator("#written button").nth(1).click()
    page.get_by_role("button", name="Go back to here").click()
    at(page, 2)
    expect(page.locator("#text")).to_have_value("the cat ")
    expect(panel).to_be_hidden()
    assert (session(page), predictions(page)) == (name, expected)
    page.locator("#text").press("Control+z")  # that was a change of the text like others
    expect(page.locator("#text")).to_have_value("the cat sat on the mat ")
    at(page, 6)


def test_arrows_walk_along_the_words(page: Page) -> None:
    write(page, "the cat sat ", 3)
    for place in ("#unrolled", "#written"):
        assert page.locator(f'{place} button[tabindex="0"]').all_inner_texts() == ["sat"]  # one stop of Tab
        page.locator(f"{place} button").last.focus()
        page.keyboard.press("ArrowLeft")
        expect(page.locator(f"{place} button").nth(1)).to_be_focused()
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
        expect(page.locator("#inspected")).to_contain_text("“the”, word 1")


def test_branches(page: Page) -> None:
    write(page, "the cat sat on the mat ", 6)
    trunk, there = session(page), predictions(page)
    page.locator("#written button").nth(1).click()
    page.get_by_role("button", name="Try another way from here").click()
    at(page, 2)
    expect(page.locator("#text")).to_have_value("the cat ")
    branch = session(page)
    assert branch != trunk
    write(page, "ran home ", 4)
    tree = page.locator("#branches button")
    expect(tree).to_have_text(["the cat sat on the mat", "from word 2: the cat ran home"])
    expect(page.locator("#branches ul button")).to_have_attribute("aria-current", "true")  # a twig of the first
    here = predictions(page)

    tree.first.click()
    at(page, 6)
    expect(page.locator("#text")).to_have_value("the cat sat on the mat ")
    assert (session(page), predictions(page)) == (trunk, there)
    assert steps(page) == ["the", "cat", "sat", "on", "the", "mat"]
    tree.last.click()
    at(page, 4)
    expect(page.locator("#text")).to_have_value("the cat ran home ")
    assert (session(page), predictions(page)) == (branch, here)
    assert steps(page) == ["the", "cat", "ran", "home"]
    page.locator("#clear").click()
    at(page, 0)
    expect(page.locator("#branches")).to_be_hidden()


def test_branches_are_there_after_a_reload(page: Page) -> None:
    write(page, "the cat sat on the mat ", 6)
    trunk, there = session(page), predictions(page)
    page.locator("#written button").nth(1).click()
    page.get_by_role("button", name="Try another way from here").click()
    at(page, 2)
    write(page, "ran home ", 4)
    branch, here = session(page), predictions(page)
    tree = page.locator("#branches button")
    names = tree.all_inner_texts()
    page.reload()
    at(page, 4)
    assert (session(page), predictions(page)) == (branch, here)
    expect(tree).to_have_text(names)
    expect(page.locator("#branches ul button")).to_have_attribute("aria-current", "true")
    tree.first.click()
    at(page, 6)
    assert (session(page), predictions(page)) == (trunk, there)
    expect(page.locator("#text")).to_have_value("the cat sat on the mat ")
    write(page, "then ", 7)
    tree.last.click()
    at(page, 4)
    page.reload()
    at(page, 4)
    expect(tree).to_have_text(["the cat sat on the mat then", names[1]])  # it was kept before it was left


def test_network_and_tree_without_a_mouse(page: Page) -> None:
    write(page, "the cat sat ", 3)
    keyboard = page.keyboard

    def tab_to(place: str) -> None:
        for _ in range(40):
            keyboard.press("Tab")
            if page.locator(":focus").evaluate("(one, place) => one.closest(place) !== null", place):
                return
        raise AssertionError(f"Tab does not reach {place}")

    keyboard.press("Escape")
    tab_to("#unrolled")
    expect(page.locator(":focus")).to_have_text("sat")
    keyboard.press("ArrowLeft")
    keyboard.press("Enter")
    expect(page.locator("#inspected")).to_contain_text("“cat”, word 2")
    tab_to("#inspected")
    keyboard.press("Escape")
    expect(page.locator("#inspected")).to_be_hidden()
    expect(page.locator(":focus")).to_have_text("cat")  # back to where it was opened from
    keyboard.press("Enter")
    tab_to("[data-way=branch]")
    keyboard.press("Enter")
    at(page, 2)
    expect(page.locator("#text")).to_be_focused()
    keyboard.press("Escape")
    tab_to("#branches")
    expect(page.locator(":focus")).to_have_text("from word 2: the cat")
    keyboard.press("ArrowUp")
    keyboard.press("Enter")
    at(page, 3)
    expect(page.locator("#text")).to_have_value("the cat sat ")
