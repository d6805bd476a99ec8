"""A real Chromium, and a real server on a port of its own that a test may stop and start."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from app.main import create_app
from app.settings import Settings
from tests.app.fake_runtime import FakeRuntime, artifact
from tests.browser.seen import settled

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: No look-ups of its own: the only host the browser needs is the server under test.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1100, "height": 900}
PHONE = {"width": 360, "height": 740}

expect.set_options(timeout=20_000)  # milliseconds: a machine may be busy with something else


class Server:
    """The service around the fake runtime, in a thread."""

    def __init__(self, card: str = "", **settings: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.runtime = FakeRuntime()
        self._artifact = dataclasses.replace(artifact(), card=card)
        self._settings = Settings(**settings)
        self.start()

    def start(self) -> None:
        app = create_app(self._settings, runtime=self.runtime, artifact=self._artifact)
        started = threading.Event()

        class Started(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                await app.state.service.scheduler.started()
                started.set()

        config = uvicorn.Config(app, host="127.0.0.1", port=self.port, log_level="warning", lifespan="on")
        self._server = Started(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        assert started.wait(30), "the server did not start"

    def stop(self) -> None:
        self.runtime.gate.set()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not stop"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium here, and in CI these tests must run")
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """The page in a context of its own. An error in it, or something that its policy forbids, fails the test."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    page = context.new_page()
    faults: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # That a call was refused is said there too, and is what some tests are about.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", heard)
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert faults == []


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[Open]:
    """Opens the page, with options of a browser context; `hash` and `ready` are those of the page."""
    managers = []

    def open_one(hash: str = "", ready: bool = True, **options: Any) -> Page:
        manager = opened(browser, server.url + hash, **options)
        page = manager.__enter__()
        managers.append(manager)
        if ready:
            page.wait_for_selector("#predictions li")
            settled(page)
        return page

    yield open_one
    for manager in managers:
        manager.__exit__(None, None, None)


@pytest.fixture
def page(open_page: Open) -> Page:
    """The demo page, opened and answered."""
    return open_page()
