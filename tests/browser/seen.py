"""What a person sees on the page."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, Request, expect


def predictions(page: Page) -> list[str]:
    """The words of the list, likeliest first."""
    return page.locator("#predictions li").evaluate_all("all => all.map(item => item.dataset.word)")


def strip(page: Page) -> list[str]:
    """The words under the caret, from left to right."""
    expect(page.locator("#strip")).to_be_visible()
    return page.locator("#strip button").evaluate_all("all => all.map(button => button.dataset.word)")


def steps(page: Page) -> list[str]:
    """The words of the unrolled network, from left to right."""
    return page.locator("#unrolled button").all_inner_texts()


def settled(page: Page) -> None:
    """Wait until everything that is shown belongs to the text as it stands."""
    for part in ("#next", "#network"):
        expect(page.locator(part)).to_have_attribute("aria-busy", "false")


def at(page: Page, position: int) -> None:
    """Wait until the page says that so many words were read, and has drawn them and what follows from them."""
    expect(page.locator("#position")).to_have_text(f"{position:,}")
    settled(page)
    if position:
        expect(page.locator("#unrolled > li").last).to_have_attribute("data-position", str(position))
    else:
        expect(page.locator("#unrolled")).to_be_hidden()


def write(page: Page, text: str, position: int) -> None:
    """Type at the end of the text, and wait until everything is read."""
    page.locator("#text").press_sequentially(text)
    at(page, position)


def session(page: Page) -> str:
    return page.locator("#session").inner_text()


def calls(page: Page, *paths: str) -> list[dict[str, Any]]:
    """A list to which every call from now on to one of these paths adds its body."""
    made: list[dict[str, Any]] = []

    def record(request: Request) -> None:
        if request.method == "POST" and request.url.endswith(paths):
            made.append(request.post_data_json)

    page.on("request", record)
    return made
