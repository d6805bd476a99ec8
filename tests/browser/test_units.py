"""Single units of the network, and what each word changed, against what the server says of itself."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, Open
from tests.browser.seen import at, predictions, session, write

pytestmark = pytest.mark.browser


def trace(page: Page) -> list[list[list[float]]]:
    """The values of each layer after each word, (words, layers, units)."""
    url = page.url.split("#")[0]
    words: list[dict[str, Any]] = page.request.get(f"{url}v1/sessions/{session(page)}/trace?last=9").json()["words"]
    return [[layer["values"] for layer in word["layers"]] for word in words]


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def test_pointing_at_a_strip_tells_the_unit_and_its_value(page: Page) -> None:
    write(page, "the cat sat ", 3)
    states = trace(page)
    strip = page.locator("#unrolled > li").nth(1).locator(".layer").last  # of the first layer
    strip.scroll_into_view_if_needed()
    box = strip.bounding_box()
    assert box is not None
    readout = page.locator("#unit")
    border = strip.evaluate("strip => getComputedStyle(strip).borderTopColor")
    for line in (0, 3, 5):
        there = box["y"] + box["height"] * (line + 0.5) / 6
        page.mouse.move(box["x"] + box["width"] / 2, there)
        frame = strip.locator(".unit").bounding_box()
        assert frame is not None
        assert frame["y"] <= there <= frame["y"] + frame["height"]
        assert strip.evaluate("strip => getComputedStyle(strip).borderTopColor") == border
        value, before = signed(states[1][0][line]), signed(states[0][0][line])
        expect(readout).to_have_text(f"Layer 1, unit {line + 1} of 6: {value} after “cat”, before it {before}")
    expect(page.locator("#unrolled .pointed")).to_have_count(3)  # the same unit at every step
    curve = page.locator("#course path").last.get_attribute("d")
    assert curve is not None
    drawn = [-float(point.split()[1]) for point in curve.removeprefix("M").split("L")]
    assert drawn == pytest.approx([step[0][5] for step in states])
    page.mouse.move(1, 1)
    expect(readout).to_have_text("")
    expect(page.locator("#unrolled .pointed")).to_have_count(0)


def test_arrows_walk_through_the_units(page: Page) -> None:
    write(page, "the cat sat ", 3)
    states = trace(page)
    page.locator("#unrolled button").last.focus()
    readout = page.locator("#unit")
    places = [(0, line) for line in (5, 4, 3, 2, 1, 0)] + [(1, line) for line in (4, 3, 2, 1, 0)]
    for layer, line in places:
        page.keyboard.press("ArrowUp")
        size = len(states[2][layer])
        value = signed(states[2][layer][line])
        expect(readout).to_contain_text(f"Layer {layer + 1}, unit {line + 1} of {size}: {value} after “sat”")
    page.keyboard.press("ArrowUp")  # there is no higher one
    expect(readout).to_contain_text("Layer 2, unit 1 of 5")
    page.keyboard.press("ArrowDown")
    expect(readout).to_contain_text("Layer 2, unit 2 of 5")
    page.keyboard.press("ArrowLeft")  # the same unit, one step earlier
    expect(readout).to_contain_text(f"Layer 2, unit 2 of 5: {signed(states[1][1][1])} after “cat”")
    page.keyboard.press("Home")
    expect(readout).to_have_text(f"Layer 2, unit 2 of 5: {signed(states[0][1][1])} after “the”")
    page.keyboard.press("Escape")
    expect(readout).to_have_text("")


def test_what_each_word_changed(page: Page) -> None:
    write(page, "the cat sat ", 3)
    states = trace(page)
    gauges = page.locator("#unrolled > li").last.locator(".moved")
    shares = gauges.evaluate_all("all => all.map(gauge => Number(gauge.style.getPropertyValue('--share')))")
    means = [
        sum(abs(now - then) for now, then in zip(*values, strict=True)) / len(values[0])
        for values in zip(states[2], states[1], strict=True)
    ]
    assert shares == pytest.approx(means[::-1], abs=1e-5)
    first = page.locator("#unrolled > li").first
    expect(first.locator("canvas.state")).to_have_count(2)
    expect(first.locator(".moved, canvas.change")).to_have_count(0)  # it is not known what was before
    heights = gauges.evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height / one.parentElement.clientHeight)"
    )
    assert heights == pytest.approx(shares, abs=0.02)
    expect(page.locator("canvas.state").first).to_be_visible()
    page.get_by_label("what each word changed").check()
    expect(page.locator("canvas.state").first).to_be_hidden()
    change = page.locator("#unrolled > li").last.locator("canvas.change").last
    expect(change).to_be_visible()
    colours = change.evaluate(
        """canvas => Array.from({length: canvas.height},
            (_, line) => [...canvas.getContext("2d").getImageData(0, line, 1, 1).data])"""
    )
    for (red, _, blue, strength), now, then in zip(colours, states[2][0], states[1][0], strict=True):
        if strength > 20:
            assert (red > blue) == (now > then)  # orange has grown, blue has fallen
        assert strength == pytest.approx(255 * min(1, abs(now - then)) ** 0.7, abs=2)


def test_what_came_is_marked_where_it_was_expected(page: Page) -> None:
    write(page, "the ", 1)
    likely = next(word for word in predictions(page)[:3] if re.fullmatch(r"\w+", word))
    write(page, f"{likely} ", 2)
    came = page.locator("#unrolled .came")
    expect(came).to_have_count(1)
    expect(came.locator(".word")).to_have_text(likely)
    page.locator("#text").fill("the ")
    at(page, 1)
    expect(came).to_have_count(0)


def test_a_finger_reads_units_too(open_page: Open) -> None:
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    write(page, "the cat ", 2)
    strip = page.locator("#unrolled > li").last.locator(".layer").first
    strip.tap()
    value = signed(trace(page)[1][1][2])
    expect(page.locator("#unit")).to_contain_text(f"Layer 2, unit 3 of 5: {value} after “cat”")
    expect(page.locator("#inspected")).to_be_hidden()  # that is for words
    page.locator("#unrolled button").last.tap()
    expect(page.locator("#inspected")).to_contain_text("Expected there: “")
    expect(page.locator("#inspected")).to_be_in_viewport()
