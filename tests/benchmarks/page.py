"""The page benchmark: the demo page in a real Chromium, from its first paint to two thousand words in its box."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.benchmarks import models, report
from tests.benchmarks.harness import BenchmarkError
from tests.benchmarks.servers import Server, free_port, nextword

LOADS = 30
KEYS = 60
WORDS = 2_000
#: Milliseconds.
PAINT, KEY, TASK, STRIP = 100, 50, 50, 20

BARE = "<!doctype html><html lang=en><title>bare</title><h1>What a browser needs at least</h1>"

_PAINT = """() => new Promise((resolve) => new PerformanceObserver((list) => {
    const [paint] = list.getEntriesByName("first-contentful-paint");
    if (paint) resolve(paint.startTime - performance.getEntriesByType("navigation")[0].responseEnd);
}).observe({type: "paint", buffered: true}))"""

#: From a key to the next frame, all tasks of 50 ms and more, and from an answer to the frame with its suggestions.
_WATCH = """() => {
    const seen = window.seen = {keys: [], tasks: [], strips: []};
    addEventListener("keydown", (event) => {
        requestAnimationFrame(() => setTimeout(() => seen.keys.push(performance.now() - event.timeStamp)));
    }, true);
    new PerformanceObserver((list) => seen.tasks.push(...list.getEntries().map((task) => task.duration)))
        .observe({type: "longtask"});
    new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {
        const shown = performance.now();
        const calls = performance.getEntriesByType("resource").filter(({name}) => name.endsWith("/v1/predict"));
        const last = calls.at(-1);
        if (last && shown > last.responseEnd) seen.strips.push(shown - last.responseEnd);
        performance.clearResourceTimings();
    }))).observe(document.querySelector("#strip"), {childList: true});
}"""


@contextmanager
def _opened(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    try:
        page = context.new_page()
        page.goto(url, wait_until="commit")
        yield page
    finally:
        context.close()


def _paints(browser: Browser, url: str, loads: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the end of the HTML to the first paint: of the page, nothing cached, and of a bare document."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(loads + 1):  # the first warms the browser up
        with _opened(browser, url) as page:
            found[0].append(page.evaluate(_PAINT))
        context = browser.new_context(viewport={"width": 1100, "height": 900})
        bare = context.new_page()
        bare.route("**/bare", lambda route: route.fulfill(body=BARE, content_type="text/html"))
        bare.goto(f"{url}bare", wait_until="commit")
        found[1].append(bare.evaluate(_PAINT))
        context.close()
    return found[0][1:], found[1][1:]


def _typing(browser: Browser, url: str, words: int, keys: int) -> dict[str, list[float]]:
    with _opened(browser, url) as page:
        text = page.locator("#text")
        phrase = "the cat sat on the mat and a dog ran to the park "
        text.fill((phrase * (words // 12 + 1))[: len(phrase) * (words // 12)])
        page.wait_for_function(
            "words => Number(document.querySelector('#position').textContent.replace(',', '')) >= words",
            arg=words // 12 * 12,
            timeout=120_000,
        )
        page.wait_for_selector("#next[aria-busy=false]")
        page.wait_for_selector("#network[aria-busy=false]")
        text.press("Control+End")
        page.evaluate(_WATCH)
        line = "then it was gone and we saw them go home in the rain without a hat on their heads "
        text.press_sequentially((line * (keys // len(line) + 1))[:keys], delay=60)
        page.wait_for_selector("#next[aria-busy=false]")
        seen: dict[str, list[float]] = page.evaluate("window.seen")
    return seen


def run(command: str, *, quick: bool, model: Path | None) -> str:
    """Measure, and write the section."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise BenchmarkError("no Chromium here: apt-get install chromium")
    where = report.circumstances(command)
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        chosen = models.shipped(Path(directory), model)
        with Server(nextword(port, chosen.path), port) as server, sync_playwright() as playwright:
            server.wait_ready()
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            version = browser.version
            paints, bare = _paints(browser, url, 3 if quick else LOADS)
            seen: dict[str, Any] = _typing(browser, url, 240 if quick else WORDS, 12 if quick else KEYS)
            browser.close()
    if not seen["keys"] or not seen["strips"]:
        raise BenchmarkError("the page has told nothing of its keys or of its suggestions")
    middle = statistics.median
    aims = [
        report.Aim("from the end of the HTML to the first paint", middle(paints), PAINT, least=False, unit=" ms"),
        report.Aim(
            "from an answer to the frame that shows the strip", middle(seen["strips"]), STRIP, least=False, unit=" ms"
        ),
        report.Aim(
            f"from a key to the next frame, {WORDS:,} words written", middle(seen["keys"]), KEY, least=False, unit=" ms"
        ),
        report.Aim("the longest task while typing there", max(seen["tasks"], default=0), TASK, least=False, unit=" ms"),
    ]
    number = report.number
    return "\n".join(
        [
            "## The page\n",
            where,
            f"- {chosen.description}; Chromium {version} without a GPU, 1,100 x 900, on the machine that serves",
            f"\nMedians of {len(paints)} loads with nothing cached, {len(seen['keys'])} keys and {len(seen['strips'])} "
            "answers.\n",
            *(aim.line() for aim in aims),
            f"\nFirst paints were {number(min(paints))} to {number(max(paints))} ms; of a document that is a heading, "
            f"in turn with them, {number(min(bare))} to {number(max(bare))}, in the middle {number(middle(bare))} ms. "
            f"The slowest key took {number(max(seen['keys']))} ms; tasks of 50 ms or more: {len(seen['tasks'])}.",
        ]
    )
