"""Everything that can be wrong with a request, and the status that api.md gives it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from app.schemas import ProblemReply
from model.runtimes.base import DeviceMemoryError, StateLostError
from tests.app.conftest import Running, running

pytestmark = pytest.mark.anyio


async def post(service: Running, content: bytes, path: str = "/v1/predict") -> tuple[int, dict[str, Any]]:
    response = await service.client.post(path, content=content)
    assert response.headers["content-type"] == "application/problem+json"
    problem = ProblemReply.model_validate_json(response.content)
    assert problem.status == response.status_code
    assert problem.type.startswith("urn:nextword:problem:")
    return response.status_code, response.json()


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/sessions"])
@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"not JSON",
        b'{"text": "the"',
        b'{"text": "the"} {}',
        b'{"text": "a\x00b"}',
        b'{"text": "\\ud800"}',
        b'{"text": "\\udc00 the"}',
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        b'{"words": ' + b"[" * 100_000,
        b"\x00",
    ],
)
async def test_not_json(service: Running, content: bytes, path: str) -> None:
    status, problem = await post(service, content, path)
    assert status == 400
    assert problem["detail"]
    assert len(service.service.store) == 0


async def test_no_body(service: Running) -> None:
    assert (await post(service, b""))[0] == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"txet": "the"}, "txet"),
        ({"text": 5}, "text"),
        ({"text": ["the"]}, "text"),
        ({"words": "the"}, "words"),
        ({"words": ["the", 5]}, "words.1"),
        ({"words": ["the", ""]}, "words.1"),
        ({"session_id": 5}, "session_id"),
        ({"session_id": ""}, "session_id"),
        ({"session_id": "x" * 129}, "session_id"),
        ({"position": -1}, "position"),
        ({"position": "1"}, "position"),
        ({"position": 1.5}, "position"),
        ({"position": True}, "position"),
        ({"position": 2**64}, "position"),
        ({"keep": 1}, "keep"),
        ({"keep": None}, "keep"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1001}, "top_k"),
        ({"top_k": None}, "top_k"),
        ({"prefix": None}, "prefix"),
        ({"prefix": "x" * 257}, "prefix"),
        ({"include_unknown": "true"}, "include_unknown"),
        ({"scores": 0}, "scores"),
        ({"adapt": True}, "adapt"),
    ],
)
async def test_wrong_field_is_named(service: Running, body: dict[str, Any], field: str) -> None:
    status, problem = await post(service, json.dumps(body).encode())
    assert status == 422
    assert [item["field"] for item in problem["errors"]] == [field]
    assert field in problem["detail"]


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/v1/predict", {"words": [0, 0, "the", 0]}, ["words.0"]),
        ("/v1/score", {"texts": ["the", 0, 0]}, ["texts.1"]),
        ("/detokenize", {"tokens": [0, "a", -1]}, ["tokens.1"]),
    ],
)
async def test_of_a_list_the_first_wrong_item_is_named(
    service: Running, path: str, body: dict[str, Any], fields: list[str]
) -> None:
    status, problem = await post(service, json.dumps(body).encode(), path)
    assert status == 422
    assert [item["field"] for item in problem["errors"]] == fields


async def test_of_prompts_too(service: Running) -> None:
    status, problem = await post(service, json.dumps({"prompt": [[], []] * 1000}).encode(), "/v1/completions")
    assert status == 422
    assert {item["field"] for item in problem["errors"]} == {"prompt"}
    assert len(problem["errors"]) < 10


async def test_more_wrong_fields_than_anyone_would_read_are_counted(service: Running) -> None:
    for count, listed in ((1000, True), (1001, False)):
        body = dict.fromkeys(map(str, range(count)), 0)
        status, problem = await post(service, json.dumps(body).encode())
        assert (status, "errors" in problem) == (422, listed)
    assert "1001 things are wrong" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["the", 5]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"stop": [""]}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stream_options": {"include": True}}, "stream_options.include"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias"),
    ],
)
async def test_fields_of_several_types_are_named_plainly(service: Running, body: dict[str, Any], field: str) -> None:
    status, problem = await post(service, json.dumps(body).encode(), "/v1/completions")
    assert status == 422
    assert {item["field"] for item in problem["errors"]} == {field}


@pytest.mark.parametrize(
    "body", [{"text": "the", "words": ["the"]}, {"keep": False, "session_id": "x"}, [], "the", 5, None]
)
async def test_body_that_makes_no_sense(service: Running, body: Any) -> None:
    status, problem = await post(service, json.dumps(body).encode())
    assert status == 422
    assert problem["errors"][0]["field"] == "body"
    assert "Value error" not in problem["detail"], "how a check is written is nobody's business"


@pytest.mark.parametrize(
    ("body", "field"),
    [({"ttl_seconds": 0}, "ttl_seconds"), ({"ttl_seconds": "5"}, "ttl_seconds"), ({"position": 1}, "position")],
)
async def test_wrong_field_of_a_session(service: Running, body: dict[str, Any], field: str) -> None:
    status, problem = await post(service, json.dumps(body).encode(), "/v1/sessions")
    assert status == 422
    assert problem["errors"][0]["field"] == field


async def test_nul_bytes_in_a_text_are_text(service: Running) -> None:
    reply = await service.ok(text="the \x00 cat\x00")
    assert [word["word"] for word in reply["words"] if word["known"]] == ["the", "cat"]


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/sessions"])
async def test_body_over_the_limit(service: Running, path: str) -> None:
    body = b'{"text": "' + b"a" * 2_000_000 + b'"}'
    status, problem = await post(service, body, path)
    assert (status, problem["limit"]) == (413, 1 << 20)

    async def chunks() -> Any:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    response = await service.client.post(path, content=chunks())
    assert response.status_code == 413
    assert response.headers["connection"] == "close"


async def test_body_at_the_limit() -> None:
    async with running(max_body_bytes=1024) as service:
        body = b'{"text": "the' + b" " * (1024 - 15) + b'"}'
        assert len(body) == 1024
        assert (await service.client.post("/v1/predict", content=body)).status_code == 200
        assert (await service.client.post("/v1/predict", content=body + b" ")).status_code == 413


@pytest.mark.parametrize("kind", ["text", "words"])
async def test_ten_thousand_words(service: Running, kind: str) -> None:
    def body(count: int) -> dict[str, Any]:
        return {"text": "the " * count} if kind == "text" else {"words": ["the"] * count}

    assert (await service.ok(**body(10_000), top_k=1))["position"] == 10_000
    status, problem = await post(service, json.dumps(body(10_001)).encode())
    assert (status, problem["words"], problem["limit"]) == (413, 10_001, 10_000)


async def test_no_such_path_and_no_such_method(service: Running) -> None:
    for path in ("/v1/nowhere", "/v2", "/v1/predict/", "/../app/main.py", "/index.html/x"):
        response = await service.client.get(path)
        assert response.status_code == 404, path
        assert response.headers["content-type"] == "application/problem+json"
    for method, path in (("GET", "/v1/predict"), ("DELETE", "/v1/model"), ("PUT", "/v1/sessions/x")):
        response = await service.client.request(method, path)
        assert response.status_code == 405, path
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["allow"]


async def test_methods_that_a_path_does_not_take_are_405_at_every_path(service: Running) -> None:
    allowed: dict[str, set[str]] = {}
    for route in iter_route_contexts(service.app.routes):
        allowed.setdefault(route.path, set()).update(route.methods or ())
    assert {"/", "/docs", "/page.js", "/livez", "/openapi.json", "/v1/predict"} <= set(allowed)
    for template, methods in allowed.items():
        path = re.sub(r"\{\w+\}", "x" * 32, template)
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} - methods:
            response = await service.client.request(method, path)
            assert response.status_code == 405, (method, path)
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["allow"] == ", ".join(sorted(methods)), (method, path)


async def test_balancers_may_ask_with_head(service: Running) -> None:
    for path in ("/livez", "/readyz"):
        response = await service.client.head(path)
        assert (response.status_code, response.content) == (200, b""), path
    service.service.scheduler.refuse()
    assert (await service.client.head("/readyz")).status_code == 503


async def test_json_is_not_taken_for_a_session_file(service: Running) -> None:
    response = await service.client.post(
        "/v1/sessions", content=b"{}", headers={"content-type": "application/vnd.nextword.state"}
    )
    assert response.status_code == 400


async def test_a_defect_tells_its_id_and_no_more(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    service.runtime.poisoned = 2
    status, problem = await post(service, b'{"text": "the"}')
    assert status == 500
    assert "cannot take 2" not in json.dumps(problem)
    assert any(problem["request_id"] in record.getMessage() and record.exc_info for record in caplog.records)


@pytest.mark.parametrize("error", [DeviceMemoryError("no memory left"), StateLostError("the device failed")])
async def test_what_a_device_cannot_do_is_unavailable_and_the_session_as_it_was(
    error: Exception, service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = await post_well(service, {"text": "the cat"})
    words = service.runtime.project_words

    def full(hidden: Any, named: Any, *, top_k: int) -> Any:
        if top_k > 20:
            raise error
        return words(hidden, named, top_k=top_k)

    monkeypatch.setattr(service.runtime, "project_words", full)
    wide = {"session_id": first["session_id"], "text": "sat", "top_k": 30}
    status, problem = await post(service, json.dumps(wide).encode())
    assert status == 503
    assert str(error) in problem["detail"]
    _, after = await post_well(service, {"session_id": first["session_id"], "text": "sat", "top_k": 3})
    assert after["position"] == first["position"] + 1


async def post_well(service: Running, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    response = await service.client.post("/v1/predict", json=fields)
    assert response.status_code == 200, response.text
    return response.status_code, response.json()


async def test_openapi_documents_every_route(service: Running) -> None:
    document = (await service.client.get("/openapi.json")).json()
    paths = document["paths"]
    assert set(paths) >= {"/v1/predict", "/v1/sessions", "/v1/sessions/{session_id}", "/livez", "/readyz", "/v1/model"}
    predict = paths["/v1/predict"]["post"]
    body = predict["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) >= {"text", "words", "session_id", "position", "keep", "top_k", "prefix"}
    assert {"200", "400", "404", "409", "410", "413", "422", "500", "503"} <= set(predict["responses"])
