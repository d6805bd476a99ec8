"""/model-card in a real browser: readable, and whatever stands in the card stays text."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Server, opened
from tests.browser.test_looks import violations

pytestmark = pytest.mark.browser

CARD = """# A model

Trained on **old** texts,
`as_they_are`, from [the web](https://example.org/) or [elsewhere](javascript:alert(1)).

| text | words |
| --- | ---: |
| one | 1,000 |
| <img src=x onerror=alert(1)> | 2 |

## Limits
- none
- many

```
pip  install
```
"""


def test_the_card_is_shown_and_nothing_in_it_is_markup(browser: Browser) -> None:
    server = Server(card=CARD)
    try:
        with opened(browser, server.url) as page:
            page.get_by_role("link", name="The model").click()
            expect(page.locator("h1")).to_have_text("A model")
            expect(page.locator("#card > p").first).to_contain_text("old texts, as_they_are, from the web")
            expect(page.locator("td")).to_have_text(["one", "1,000", "<img src=x onerror=alert(1)>", "2"])
            expect(page.locator("#card img")).to_have_count(0)
            expect(page.locator("#card a")).to_have_count(1)
            expect(page.locator("#card li")).to_have_text(["none", "many"])
            expect(page.locator("pre")).to_have_text("pip  install\n")
            assert violations(page) == []
            page.get_by_role("link", name="The page").click()
            expect(page.locator("#predictions li").first).to_be_visible()
    finally:
        server.stop()


def test_where_a_key_is_needed_the_card_asks_for_it(browser: Browser) -> None:
    server = Server(api_keys="writer:open-sesame-open-sesame", card=CARD)
    try:
        with opened(browser, server.url + "model-card") as page:
            expect(page.locator("#card")).to_contain_text("give your key")
            page.goto(server.url)
            page.get_by_label("Key").fill("open-sesame-open-sesame")
            page.get_by_role("button", name="Use it").click()
            expect(page.locator("#predictions li").first).to_be_visible()
            page.get_by_role("link", name="The model").click()
            expect(page.locator("h1")).to_have_text("A model")
    finally:
        server.stop()
