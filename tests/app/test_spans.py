"""Traces leave as the OpenTelemetry standard has it, to a collector that reads them; nothing of a request is there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.spans import Spans, asked_for
from tests.app.collector import Collector, attributes, collecting
from tests.app.conftest import Running
from tests.app.process import ROOT, environment, output, serving, start

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, ERROR = 2, 2  # numbers of the protocol: SPAN_KIND_SERVER, STATUS_CODE_ERROR


@pytest.fixture(scope="module")
def collector(directory: Path) -> Any:
    """What a server exports that was asked a few things and then stopped, for all tests."""
    with collecting() as it:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": it.address,
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20of-the-collector",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",  # so that it is the end that exports
        }
        with serving(directory, **variables) as (process, address), httpx2.Client(base_url=address) as client:
            parent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=7", "x-request-id": "mine"}
            reply = client.post("/v1/predict", json={"text": "the secret words"}, headers=parent)
            assert reply.status_code == 200
            session_id = reply.json()["session_id"]
            client.get(f"/v1/sessions/{session_id}?secret=1", headers={"user-agent": "secret"})
            client.get("/secret/nowhere", headers={"traceparent": "00-damaged"})
            client.request("PROPFIND", "/v1/predict")
            client.get("/livez", headers={"traceparent": f"00-{'1' * 32}-{PARENT}-00"})
            assert it.spans == []
            process.send_signal(signal.SIGTERM)
            assert "Traceback" not in output(process)
            assert process.returncode == 0
        it.session_id = session_id  # type: ignore[attr-defined]
        yield it


def test_a_span_continues_the_clients_trace(collector: Collector) -> None:
    span = collector.only("POST /v1/predict")
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=7")
    assert span.span_id.hex() not in (PARENT, "0" * 16)
    assert span.kind == SERVER
    found = attributes(span.attributes)
    port = found.pop("server.port")
    assert port > 0
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/predict",
        "url.path": "/v1/predict",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "http.response.header.x-request-id": ["mine"],
        "server.address": "127.0.0.1",
    }
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    assert abs(span.end_time_unix_nano - time.time_ns()) < 600e9


def test_spans_without_a_parent_begin_traces(collector: Collector) -> None:
    shown, lost = collector.only("GET /v1/sessions/{session_id}"), collector.only("GET")
    for span in (shown, lost):
        assert span.parent_span_id == b""
        assert len(span.trace_id) == 16
    assert shown.trace_id != lost.trace_id
    assert attributes(lost.attributes)["http.response.status_code"] == 404
    assert "http.route" not in attributes(lost.attributes)


def test_methods_that_nobody_knows_are_one(collector: Collector) -> None:
    span = collector.only("HTTP /v1/predict")
    assert attributes(span.attributes)["http.request.method"] == "_OTHER"
    assert attributes(span.attributes)["http.response.status_code"] == 405
    assert span.status.code != ERROR, "the client's fault is no error of the server"


def test_a_trace_that_is_not_sampled_is_not_exported(collector: Collector) -> None:
    """The client's flags say so, and the standard's sampler goes by its parent."""
    assert len(collector.spans) == 4
    assert not any(span.trace_id.hex() == "1" * 32 for span in collector.spans)


def test_nothing_of_a_request_is_in_a_span(collector: Collector) -> None:
    text = str(collector.spans)
    assert collector.session_id not in text  # type: ignore[attr-defined]
    assert "secret" not in text


def test_the_standards_other_variables_are_heard(collector: Collector) -> None:
    assert collector.headers["authorization"] == "Bearer of-the-collector"
    assert collector.headers["Content-Encoding"] == "gzip"
    assert collector.resource["service.name"] == "nextword"
    assert collector.resource["service.version"]
    assert collector.resource["deployment.environment.name"] == "test"


def test_name_of_the_service_and_path_of_the_signal(directory: Path) -> None:
    with collecting() as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.address}/v1/traces",
            "OTEL_SERVICE_NAME": "words",
        }
        with serving(directory, **variables) as (process, address):
            httpx2.get(f"{address}/livez")
            process.send_signal(signal.SIGTERM)
            output(process)
        assert collector.only("GET /livez")
        assert collector.resource["service.name"] == "words"


@pytest.mark.anyio
async def test_defects_and_clients_that_left(service: Running) -> None:
    spans, exporter = in_memory()
    service.app.gate.spans = spans  # type: ignore[attr-defined]
    service.runtime.poisoned = 2
    assert (await service.predict(text="the")).status_code == 500

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        raise AssertionError("there is nobody to answer")

    await service.app({"type": "http", "method": "POST", "path": "/v1/predict", "headers": []}, receive, send)
    defect, left = exporter.get_finished_spans()
    assert defect.attributes is not None
    assert left.attributes is not None
    assert (defect.status.status_code.value, defect.attributes["error.type"]) == (ERROR, "500")
    assert (left.status.status_code.value, left.attributes["error.type"]) == (0, "client_left")
    assert "http.response.status_code" not in left.attributes


def in_memory() -> tuple[Spans, InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Spans(provider), exporter


_HEADERS = st.sampled_from([b"traceparent", b"tracestate", b"baggage", b"x-request-id"])
_ENTRIES = st.binary(max_size=60) | st.sampled_from([f"00-{TRACE}-{PARENT}-01".encode(), b"a=1,b=2", b"00-0-0-0"])


@given(st.lists(st.tuples(_HEADERS, _ENTRIES), max_size=5))
def test_no_header_makes_a_span_fail(headers: list[tuple[bytes, bytes]]) -> None:
    spans, exporter = in_memory()
    spans.put({"type": "http", "headers": headers}, "GET", "/livez", 200, 0.001, "r-1")
    (span,) = exporter.get_finished_spans()
    assert span.parent is None or (span.parent.trace_id, span.parent.span_id) == (int(TRACE, 16), int(PARENT, 16))


@pytest.mark.parametrize(
    ("variables", "asking"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "words"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "false"}, "OTEL_TRACES_EXPORTER"),
    ],
)
def test_who_asks_for_traces(variables: dict[str, str], asking: str | None) -> None:
    assert asked_for(variables) == asking


def test_nothing_is_imported_that_nobody_asked_for() -> None:
    code = (
        "import sys, app.commands.serve, app.main; from app import spans; assert spans.configured() is None; "
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    plain = {name: value for name, value in environment().items() if not name.startswith("OTEL_")}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=plain).returncode == 0


def until_ready(process: subprocess.Popen[str]) -> str:
    said = ""
    assert process.stderr is not None
    while "ready:" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER names the exporter 'zipkin', and there is only"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL (grpc)"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "max_queue_size"),
    ],
)
def test_what_cannot_be_had_is_one_line(directory: Path, variables: dict[str, str], warning: str) -> None:
    process = start("--model", directory, "--port", "0", **variables)
    try:
        said = until_ready(process)
    finally:
        process.kill()
        output(process)
    (line,) = [line for line in said.splitlines() if "no traces" in line]
    assert warning in line
    assert " warning " in line
    assert len(said.splitlines()) == 2, said


def test_missing_packages_are_one_line(directory: Path, tmp_path: Path) -> None:
    """As on a machine without the extra: the service runs all the same."""
    (tmp_path / "opentelemetry/sdk").mkdir(parents=True)
    (tmp_path / "opentelemetry/sdk/__init__.py").write_text("raise ModuleNotFoundError('No module named X')")
    process = start(
        "--model",
        directory,
        "--port",
        "0",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318",
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
    )
    try:
        said = until_ready(process)
    finally:
        process.kill()
        output(process)
    (line,) = [line for line in said.splitlines() if "no traces" in line]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set" in line
    assert "pip install 'nextword[otel]'" in line


def test_a_collector_that_does_not_answer_holds_nobody_up(directory: Path) -> None:
    """It takes the connection and is silent: requests are answered, and the service stops, without waiting for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(directory, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="3600") as found:
            process, address = found
            assert httpx2.get(f"{address}/livez").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
