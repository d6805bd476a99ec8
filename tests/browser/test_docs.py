"""/docs in a real browser: it reads the document, shows every call, and asks nobody else."""

from __future__ import annotations

from playwright.sync_api import Browser

from tests.browser.conftest import Server
from tests.browser.test_looks import violations


def test_every_call_is_shown_under_the_strict_policy(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    faults: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(server.url + "docs")
    page.wait_for_selector("#calls section")
    page.wait_for_function("document.getElementById('about').textContent.startsWith('What word')")
    calls = page.locator("#calls h2").all_inner_texts()
    assert "POST /v1/predict" in calls
    assert "GET /v1/sessions/{session_id}" in calls
    assert len(calls) == page.locator("#contents a").count()
    assert "The cat sat on the" in page.locator("#calls pre").first.inner_text()
    assert violations(page) == []
    assert hosts == {server.url.split("/")[2]}
    assert faults == []
    page.close()
