"""The document at /openapi.json is true: Schemathesis asks a live service everything that it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import iter_route_contexts

from tests.app.conftest import Running
from tests.app.process import ROOT, serving

KEY = "a-key-for-schemathesis"
#: Of every operation; more find more (`EXAMPLES=200`).
EXAMPLES = os.environ.get("EXAMPLES", "3")


def test_schemathesis_finds_nothing(directory: Path, tmp_path: Path) -> None:
    with serving(directory, "--api-keys", f"tester:{KEY}", "--no-access-log") as (process, address):
        assert process.stderr is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
        reader.start()
        command = [
            Path(sys.executable).with_name("st"),
            f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
            "run",
            f"{address}/openapi.json",
            "--checks=all",
            f"--max-examples={EXAMPLES}",
            "--seed=1",
            f"--header=Authorization: Bearer {KEY}",
        ]
        # It writes to the folder that it is in.
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert passed is not None
        assert passed[1] == passed[2]
        assert httpx2.get(f"{address}/readyz").status_code == 200
        assert process.poll() is None
    reader.join(10)
    assert not any(" error " in line for line in lines), lines


@pytest.mark.anyio
async def test_every_route_and_each_of_its_errors_is_documented(service: Running) -> None:
    document = (await service.client.get("/openapi.json")).json()
    for route in iter_route_contexts(service.app.routes):
        if getattr(route, "include_in_schema", False):
            for method in route.methods or ():
                assert method.lower() in document["paths"][route.path], (method, route.path)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["description"], (method, path)
            assert {"401", "405", "429", "500"} <= set(operation["responses"]), (method, path)
            for status, answer in operation["responses"].items():
                assert "X-Request-Id" in answer["headers"]
                if int(status) >= 400:
                    example = answer["content"]["application/problem+json"]["example"]
                    assert example["status"] == int(status)
                    assert example["detail"]
            if path.startswith("/v1/") and "requestBody" in operation:
                content = operation["requestBody"]["content"]["application/json"]
                assert "example" in content or "examples" in content, (method, path)


@pytest.mark.anyio
async def test_examples_are_answered_as_they_say(service: Running) -> None:
    document = (await service.client.get("/openapi.json")).json()
    tried = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            if body is None or "{" in path:
                continue
            tried += 1
            response = await service.client.request(method.upper(), path, json=body)
            assert response.status_code < 300, response.text
            shown = operation["responses"]["200" if "200" in operation["responses"] else "201"]
            example = shown["content"]["application/json"].get("example")
            if example is not None:
                assert set(example) == set(response.json())
    assert tried >= 4


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/generate", {"text": "the", "max_words": 3}),
        ("/v1/completions", {"prompt": "the", "max_tokens": 3}),
    ],
)
async def test_streams_are_as_documented(service: Running, path: str, body: dict[str, Any]) -> None:
    document = (await service.client.get("/openapi.json")).json()
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    names = content["text/event-stream"]["itemSchema"]["properties"]["event"]["enum"]
    stream = await service.client.post(path, json={**body, "stream": True})
    for event in stream.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.split("\n"))
        assert fields.get("event", "message") in names
        assert fields["data"]


@pytest.mark.anyio
async def test_page_of_the_api_needs_nobody_else(service: Running) -> None:
    page = await service.client.get("/docs")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for link in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert "//" not in link
        assert (await service.client.get(f"/{link.removeprefix('./')}")).status_code == 200, link
    assert "<script>" not in page.text
    assert " style=" not in page.text
