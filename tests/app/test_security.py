"""Keys, what is whose, how much of it, and what browsers are told."""

from __future__ import annotations

import ast
import hmac
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from app.problems import Problem
from app.security import Account, Keys, KeysError
from tests.app.conftest import Running, running
from tests.app.process import ROOT

ALICE, BOB = "alice-has-this-key", "bob-has-another-key"
KEYS = f"alice:{ALICE}, bob:{BOB}"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.anyio
async def test_all_of_v1_needs_a_key_and_the_rest_does_not() -> None:
    async with running(api_keys=KEYS) as service:
        asked = 0
        for route in iter_route_contexts(service.app.routes):
            for method in route.methods or ():
                path = re.sub(r"\{\w+\}", "x" * 32, route.path)
                for key in (None, "nobody-has-such-a-key"):
                    response = await service.client.request(method, path, headers=bearer(key) if key else {})
                    if path.startswith("/v1") or method not in ("GET", "HEAD"):
                        asked += 1
                        assert response.status_code == 401, (method, path)
                        assert response.headers["www-authenticate"].startswith('Bearer realm="nextword"')
                        assert response.headers["content-type"] == "application/problem+json"
                    else:
                        assert response.status_code == 200, (method, path)
        assert asked > 10
        assert (await service.client.get("/v1/nowhere")).status_code == 401
        assert (await service.client.get("/v1/model", headers=bearer(ALICE))).status_code == 200
        assert len(service.service.store) == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", ALICE)],
        [("authorization", f"Basic {ALICE}")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", f"Bearer {ALICE}x")],
        [("authorization", f"Bearer {ALICE[:-1]}")],
        [("authorization", f"Bearer alice:{ALICE}")],
        [("authorization", f"Bearer {ALICE}"), ("authorization", f"Bearer {BOB}")],
        [("x-api-key", ALICE)],
    ],
)
async def test_what_is_no_key(headers: list[tuple[str, str]]) -> None:
    async with running(api_keys=KEYS) as service:
        assert (await service.client.get("/v1/model", headers=headers)).status_code == 401


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_scheme_is_no_matter_of_case(scheme: str) -> None:
    async with running(api_keys=KEYS) as service:
        response = await service.client.get("/v1/model", headers={"authorization": f"{scheme} {ALICE}"})
        assert response.status_code == 200


#: Bodies for the endpoints that continue or show a session; a new endpoint without one here fails the test below.
BODIES: dict[tuple[str, str], dict[str, Any] | None] = {
    ("POST", "/v1/predict"): {"text": "sat"},
    ("POST", "/v1/generate"): {"text": "sat", "max_words": 1},
    ("POST", "/v1/completions"): {"prompt": "sat", "max_tokens": 1},
    ("GET", "/v1/sessions/{session_id}"): None,
    ("GET", "/v1/sessions/{session_id}/state"): None,
    ("GET", "/v1/sessions/{session_id}/trace"): None,
    ("POST", "/v1/sessions/{session_id}/fork"): {},
    ("POST", "/v1/sessions/{session_id}/rewind"): {"position": 1},
    ("DELETE", "/v1/sessions/{session_id}"): None,
}


def takes_session(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Every call of the API that a session's id can be given to, in its path or in its body."""
    found = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if "{session_id}" in path or "session_id" in body.get("properties", {}):
                found.append((method.upper(), path))
    return found


async def call(service: Running, method: str, path: str, session_id: str, key: str) -> Any:
    body = BODIES[method, path]
    if "{session_id}" not in path:
        body = {**(body or {}), "session_id": session_id}
    path = path.replace("{session_id}", session_id)
    return await service.client.request(method, path, json=body, headers=bearer(key))


@pytest.mark.anyio
async def test_sessions_are_their_owners_at_every_endpoint() -> None:
    async with running(api_keys=KEYS) as service:
        calls = takes_session((await service.client.get("/openapi.json")).json())
        assert {("POST", "/v1/predict"), ("DELETE", "/v1/sessions/{session_id}")} <= set(calls)
        for method, path in calls:
            opened = await service.client.post("/v1/predict", json={"text": "the cat"}, headers=bearer(ALICE))
            session_id = opened.json()["session_id"]
            shown = await service.client.get(f"/v1/sessions/{session_id}", headers=bearer(ALICE))
            unknown = await call(service, method, path, "A" * 32, BOB)
            refused = await call(service, method, path, session_id, BOB)
            assert refused.status_code == 404, (method, path)
            assert session_id not in refused.text
            # Nothing tells a session of somebody else from one that never was.
            ids = ("request_id",)
            assert {k: v for k, v in refused.json().items() if k not in ids} == {
                k: v for k, v in unknown.json().items() if k not in ids
            }
            after = await service.client.get(f"/v1/sessions/{session_id}", headers=bearer(ALICE))
            assert after.json() == shown.json(), (method, path)
            own = await call(service, method, path, session_id, ALICE)
            assert own.status_code < 300, (method, path, own.text)
            await service.client.delete(f"/v1/sessions/{session_id}", headers=bearer(ALICE))
            assert (await call(service, method, path, session_id, BOB)).status_code == 404, (method, path)
            assert (await call(service, method, path, session_id, ALICE)).status_code == 410, (method, path)


@pytest.mark.anyio
async def test_a_stolen_turn_holds_nobody_up() -> None:
    async with running(api_keys=KEYS) as service:
        opened = await service.client.post("/v1/predict", json={"text": "the"}, headers=bearer(ALICE))
        session_id = opened.json()["session_id"]
        assert (await call(service, "POST", "/v1/predict", session_id, BOB)).status_code == 404
        assert session_id not in service.service.turns
        assert (await call(service, "POST", "/v1/predict", session_id, ALICE)).json()["position"] == 2


@pytest.mark.anyio
async def test_a_key_can_be_changed_without_losing_sessions(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\nalice:{ALICE}\n{BOB}\n")
    async with running(api_keys_file=file) as service:
        keys = service.app.keys  # type: ignore[attr-defined]
        opened = await service.client.post("/v1/predict", json={"text": "the"}, headers=bearer(ALICE))
        session_id = opened.json()["session_id"]
        file.write_text("alice:alice-has-a-new-key-now\n")
        keys.reload()
        assert (await call(service, "POST", "/v1/predict", session_id, ALICE)).status_code == 401
        assert (await call(service, "POST", "/v1/predict", session_id, BOB)).status_code == 401
        reply = await call(service, "POST", "/v1/predict", session_id, "alice-has-a-new-key-now")
        assert reply.json()["position"] == 2
        for broken in ("", "# nothing\n", "too-short", "alice:alice-has-a-new-key-now\nalice-has-a-new-key-now"):
            file.write_text(broken)
            with pytest.raises(KeysError) as caught:
                keys.reload()
            assert "alice-has" not in str(caught.value)
            assert (await service.client.get("/v1/model", headers=bearer("alice-has-a-new-key-now"))).status_code == 200
        file.unlink()
        with pytest.raises(KeysError, match=re.escape(str(file))):
            keys.reload()


@pytest.mark.parametrize(
    "listed",
    ["", " , ", "short", "a b", ":a-key-without-a-name", "sp ace:a-key-with-a-name", "n:a-key-with-an-é-in", "x" * 513],
)
def test_keys_that_cannot_be_used(listed: str) -> None:
    with pytest.raises(KeysError) as caught:
        Keys(SecretStr(listed))
    assert "a-key" not in str(caught.value)


def test_nameless_keys_are_owners_that_stay_the_same() -> None:
    first, second = Keys(SecretStr(f"{ALICE} {BOB}")), Keys(SecretStr(f"{BOB},{ALICE}"))
    assert first.owner(ALICE.encode()) == second.owner(ALICE.encode())
    assert first.owner(ALICE.encode()) != first.owner(BOB.encode())
    assert first.owner(b"") is None
    assert ALICE not in repr(vars(first))


def test_keys_are_compared_in_constant_time_and_by_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def noting(known: bytes, given: bytes) -> bool:
        compared.append((known, given))
        return compare(known, given)

    keys = Keys(SecretStr(KEYS))
    monkeypatch.setattr("hmac.compare_digest", noting)
    for key, owner in ((ALICE, "alice"), (ALICE[:-1], None), (ALICE[:-1] + "x", None), ("z", None)):
        compared.clear()
        assert keys.owner(key.encode()) == owner
        (pair,) = compared
        assert key.encode() not in pair
        assert len(pair[1]) == 32


#: What runs what it reads.
RUNNING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}


def test_nothing_is_unpickled_and_nothing_that_is_read_is_run() -> None:
    """In no source of ours: no module that unpickles, no np.load that may, no eval, no shell."""
    sources = [file for folder in ("app", "model") for file in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 50
    found, loads = [], 0
    for file in sources:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            wrong = bool(RUNNING & {name.partition(".")[0] for name in names})
            if isinstance(node, ast.Call):
                called, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                wrong |= called in ("eval", "exec", "compile", "os.system", "os.popen", "torch.load")
                wrong |= keywords.get("shell") == "True"
                if called in ("np.load", "numpy.load"):
                    loads += 1
                    wrong |= keywords.get("allow_pickle") != "False"
            if wrong:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")  # type: ignore[attr-defined]
    assert found == []
    assert loads >= 2


def test_account_is_a_bucket_of_tokens() -> None:
    account = Account(2.0, 3, None, 0.0)
    for _ in range(3):
        account.enter(0.0)
    with pytest.raises(Problem) as caught:
        account.enter(0.0)
    assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "1")
    account.enter(0.5)
    with pytest.raises(Problem):
        account.enter(0.9)
    for _ in range(3):
        account.enter(1000.0)
    with pytest.raises(Problem):
        account.enter(1000.0)
    slow = Account(0.1, 1, None, 0.0)
    slow.enter(0.0)
    with pytest.raises(Problem) as caught:
        slow.enter(1.0)
    assert caught.value.headers["retry-after"] == "10"


@pytest.mark.anyio
async def test_rate_of_a_key_is_not_that_of_another() -> None:
    async with running(api_keys=KEYS, rate_limit=0.001, rate_burst=2) as service:
        for expected in (200, 200, 429, 429):
            response = await service.client.get("/v1/model", headers=bearer(ALICE))
            assert response.status_code == expected
        assert int(response.headers["retry-after"]) > 900
        assert response.headers["content-type"] == "application/problem+json"
        assert (await service.client.get("/v1/model", headers=bearer(BOB))).status_code == 200
        assert (await service.client.get("/livez")).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("keys", [KEYS, None])
async def test_requests_at_once(keys: str | None) -> None:
    async with running(api_keys=keys, max_requests_per_key=1) as service:
        headers = bearer(ALICE) if keys else {}
        service.runtime.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: service.client.post("/v1/predict", json={"text": "the"}, headers=headers))
            await service.in_flight(1)
            response = await service.client.get("/v1/model", headers=headers)
            assert (response.status_code, response.headers["retry-after"]) == (429, "1")
            assert (await service.client.get("/readyz")).status_code == 200
            if keys:
                assert (await service.client.get("/v1/model", headers=bearer(BOB))).status_code == 200
            service.runtime.gate.set()
        assert (await service.client.get("/v1/model", headers=headers)).status_code == 200


@pytest.mark.anyio
async def test_sessions_of_a_key() -> None:
    async with running(api_keys=KEYS, max_sessions_per_key=2) as service:

        async def opened(key: str, path: str = "/v1/predict", **fields: Any) -> Any:
            return await service.client.post(path, json={"text": "the", **fields}, headers=bearer(key))

        first = await opened(ALICE)
        assert (await opened(ALICE, "/v1/sessions")).status_code == 201
        for path in ("/v1/predict", "/v1/sessions"):
            refused = await opened(ALICE, path)
            assert refused.status_code == 429
            assert refused.headers["retry-after"]
            assert refused.json()["limit"] == 2
        assert (await opened(ALICE, keep=False)).status_code == 200
        assert (await opened(ALICE, session_id=first.json()["session_id"])).status_code == 200
        assert (await opened(BOB)).status_code == 200
        deleted = await service.client.delete(f"/v1/sessions/{first.json()['session_id']}", headers=bearer(ALICE))
        assert deleted.status_code == 204
        assert (await opened(ALICE)).status_code == 200


@pytest.mark.anyio
async def test_metrics_behind_a_key() -> None:
    async with running(api_keys=KEYS, metrics="keyed") as service:
        assert (await service.client.get("/metrics")).status_code == 401
        page = await service.client.get("/metrics", headers=bearer(ALICE))
        assert page.status_code == 200
        assert "alice" not in page.text


@pytest.mark.anyio
async def test_pages_elsewhere_may_not_ask_unless_they_are_named(service: Running) -> None:
    origin = {"origin": "https://page.example", "access-control-request-method": "POST"}
    for method in ("OPTIONS", "POST"):
        response = await service.client.request(method, "/v1/predict", headers=origin, content=b"{}")
        assert not any(name.startswith("access-control") for name in response.headers)
    async with running(cors_origins="https://page.example, https://ähnlich.example", api_keys=KEYS) as named:
        asked = await named.client.options(
            "/v1/predict", headers=origin | {"access-control-request-headers": "authorization"}
        )
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://page.example")
        reply = await named.client.post("/v1/predict", json={"text": "the"}, headers=origin | bearer(ALICE))
        assert reply.headers["access-control-allow-origin"] == "https://page.example"
        assert "X-Session-Id" in reply.headers["access-control-expose-headers"]
        refused = await named.client.post("/v1/predict", json={}, headers=origin)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://page.example")
        stranger = await named.client.options("/v1/predict", headers=origin | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://public.example"}, 200),  # a proxy names another host
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://test:81"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://test"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://page.example"}, 403),
    ],
)
async def test_what_pages_elsewhere_could_send_without_asking_is_refused(
    service: Running, headers: dict[str, str], status: int
) -> None:
    """A form or a fetch without a preflight, as any page can have a browser send it, to this machine too."""
    plain = {"content-type": "text/plain"}
    before = len(service.service.store)
    reply = await service.client.post("/v1/predict", content=b'{"text": "the"}', headers=headers | plain)
    assert reply.status_code == status
    assert len(service.service.store) == before + (status == 200)
    if status == 403:
        assert reply.json()["type"] == "urn:nextword:problem:foreign-origin"
        assert "--cors-origins" in reply.json()["detail"]
    assert (await service.client.get("/", headers=headers)).status_code == 200, "links from elsewhere work"
    for named in ("https://page.example, https://evil.example", "*"):
        async with running(cors_origins=named) as other:
            reply = await other.client.post("/v1/predict", content=b"{}", headers=headers | plain)
            asked = headers.get("origin")
            allowed = status == 200 or named == "*" or asked in named.split(", ")
            assert reply.status_code == (200 if allowed else 403)


@pytest.mark.anyio
async def test_headers_of_answers(service: Running) -> None:
    for path in ("/", "/docs", "/page.js", "/livez", "/v1/model", "/nowhere", "/metrics"):
        response = await service.client.get(path)
        assert response.headers.get_list("x-content-type-options") == ["nosniff"], path
        assert "server" not in response.headers
    pages = 0
    for route in iter_route_contexts(service.app.routes):
        page = await service.client.get(route.path)
        if page.headers.get("content-type", "").startswith("text/html"):
            pages += 1
            policy = page.headers["content-security-policy"]
            assert "default-src 'self'" in policy, route.path
            assert "frame-ancestors 'none'" in policy, route.path
            assert "unsafe" not in policy, route.path
            assert page.headers["referrer-policy"] == "no-referrer", route.path
    assert pages >= 3
    opened = await service.ok(text="the")
    shown = await service.client.get(f"/v1/sessions/{opened['session_id']}")
    assert shown.headers["cache-control"] == "no-store"
