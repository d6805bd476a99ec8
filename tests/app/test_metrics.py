"""/metrics tells what happened, in names that clients and the dashboard rely on; and never whose session it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.histogram import Histogram
from tests.app.conftest import Running, running

ROOT = Path(__file__).parents[2]


async def scraped(service: Running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = await service.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def at(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, /, **labels: str) -> float:
    return samples["nextword_" + name, frozenset(labels.items())]


@pytest.mark.anyio
async def test_what_happened_is_counted(service: Running) -> None:
    opened = await service.ok(text="the cat")
    await service.ok(session_id=opened["session_id"], text="sat on", position=2)
    await service.ok(session_id=opened["session_id"], text="sat on", position=2)
    assert (await service.predict(session_id=opened["session_id"], position=9)).status_code == 409
    assert (await service.predict(top_k=-1)).status_code == 422
    assert (await service.client.get("/nowhere")).status_code == 404
    assert (await service.client.get("/")).status_code == 200
    assert (await service.client.get(f"/v1/sessions/{opened['session_id']}")).status_code == 200
    samples = await scraped(service)
    predict = {"method": "POST", "route": "/v1/predict"}
    assert at(samples, "http_requests_total", **predict, status="200") == 3
    assert at(samples, "http_requests_total", **predict, status="409") == 1
    assert at(samples, "http_requests_total", **predict, status="422") == 1
    assert at(samples, "http_requests_total", method="GET", route="/v1/sessions/{session_id}", status="200") == 1
    assert at(samples, "http_requests_total", method="GET", route="unmatched", status="404") == 1
    assert at(samples, "http_requests_total", method="GET", route="/", status="200") == 1
    assert at(samples, "replays_total") == 1
    assert at(samples, "conflicts_total") == 1
    assert at(samples, "e2e_request_latency_seconds_count", route="/v1/predict") == 3
    assert at(samples, "request_queue_time_seconds_count") == 3
    assert at(samples, "iteration_tokens_total_sum") == 4
    steps = at(samples, "iteration_tokens_total_count")
    assert steps == at(samples, "runtime_step_seconds_count") == at(samples, "batch_fill_ratio_count") >= 4
    assert (
        0
        < at(samples, "runtime_step_seconds_sum")
        < at(samples, "e2e_request_latency_seconds_sum", route="/v1/predict")
    )
    assert at(samples, "sessions", tier="memory") == 1
    assert at(samples, "num_requests_running") == at(samples, "num_requests_waiting") == 0
    assert at(samples, "status", status="ready") == 1
    assert at(samples, "status", status="draining") == 0
    assert at(samples, "state_bytes") == 44
    assert at(samples, "model_info", name="fake", id="fake@0123456789ab") == 1
    page = (await service.client.get("/metrics")).text
    assert opened["session_id"] not in page


@pytest.mark.anyio
async def test_requests_in_hand(service: Running) -> None:

    service.runtime.gate.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: service.ok(text="the"))
        await service.in_flight(1)
        with anyio.fail_after(10):
            while not service.service.scheduler.engine.running:
                await anyio.lowlevel.checkpoint()
        group.start_soon(lambda: service.ok(text="cat"))
        await service.in_flight(2)
        samples = await scraped(service)
        assert (at(samples, "num_requests_running"), at(samples, "num_requests_waiting")) == (1, 1)
        service.runtime.gate.set()
    samples = await scraped(service)
    assert (at(samples, "num_requests_running"), at(samples, "num_requests_waiting")) == (0, 0)


@pytest.mark.anyio
async def test_evictions_and_expiries() -> None:
    async with running(max_sessions=2, session_ttl_seconds=10) as service:
        for _ in range(3):
            await service.ok(text="the")
        assert at(await scraped(service), "session_evictions_total", reason="capacity") == 1
        service.clock.now += 11

        with anyio.fail_after(10):
            while len(service.service.store):
                await anyio.lowlevel.checkpoint()
        samples = await scraped(service)
        assert at(samples, "session_evictions_total", reason="expired") == 2
        assert at(samples, "sessions", tier="memory") == 0


@pytest.mark.anyio
async def test_client_that_left_and_strange_methods(service: Running) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        raise AssertionError("there is nobody to answer")

    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "headers": []}
    await service.app(scope, receive, send)
    await service.client.request("BREW", "/v1/predict")
    samples = await scraped(service)
    assert at(samples, "http_requests_total", method="POST", route="/v1/predict", status="499") == 1
    assert at(samples, "http_requests_total", method="other", route="/v1/predict", status="405") == 1


@pytest.mark.anyio
async def test_metrics_can_be_turned_off() -> None:
    async with running(metrics="off") as service:
        assert (await service.client.get("/metrics")).status_code == 404
        assert "/metrics" not in (await service.client.get("/openapi.json")).json()["paths"]


def test_histogram_counts_up_to_and_with_its_bounds() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 7):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert histogram.total == 12


def queries(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("expr", "query", "definition") and isinstance(item, str):
                yield item
            else:
                yield from queries(item)
    elif isinstance(value, list):
        for item in value:
            yield from queries(item)


@pytest.mark.anyio
async def test_dashboard_shows_metrics_that_are_there(service: Running) -> None:
    opened = await service.ok(text="the")
    await service.ok(session_id=opened["session_id"], text="the", position=0)
    there = {name for name, _ in await scraped(service)}
    asked = " ".join(queries(json.loads((ROOT / "docker/dashboard.json").read_text())))
    names = set(re.findall(r"\b(?:nextword|process)_\w+", asked))
    assert names - there == set()
    for name in ("num_requests_running", "num_requests_waiting", "e2e_request_latency_seconds_bucket", "sessions"):
        assert f"nextword_{name}" in names


def test_prometheus_scrapes_the_path_and_port_of_the_service() -> None:
    text = (ROOT / "docker/prometheus.yml").read_text()
    assert re.search(r"job_name: nextword\b", text)
    assert re.search(r"metrics_path: /metrics\b", text)
    assert re.search(r"port: 8000\b", text)


@pytest.mark.anyio
async def test_sessions_are_counted_where_they_are(tmp_path: Path) -> None:
    async with running(store=f"sqlite:///{tmp_path / 'sessions.db'}") as service:
        await service.ok(text="the")
        await service.ok(text="the")
        samples = await scraped(service)
        assert at(samples, "sessions", tier="store") == 2
        assert at(samples, "sessions", tier="memory") == 2
