"""The document at /openapi.json: every route, every answer it may give, and an example of each."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.schemas import AdaptRequest, ProblemReply

#: Marks the ids of words in a JSON Schema: how many there are is known when a model is there.
WORD_ID = "x-word-id"

Responses = dict[int | str, dict[str, Any]]

_REFERENCE = {"$ref": "#/components/schemas/ProblemReply"}

#: status: when, the rest of its type, an example of its detail, and of its further fields.
_PROBLEMS: dict[int, tuple[str, str, str, dict[str, Any]]] = {
    400: ("The body is not JSON, or the request contradicts itself.", "not-json", "EOF while parsing a value", {}),
    401: ("A key is needed and there is none, or it is not known.", "no-key", "this needs a key", {}),
    403: (
        "A browser sent it for a page of an origin that is not allowed.",
        "foreign-origin",
        "pages of https://page.example may change nothing here; start the service with --cors-origins and name their "
        "origin",
        {},
    ),
    404: ("No such session, or somebody else's.", "no-such-session", "there is no such session", {}),
    405: ("Another method.", "http", "this path takes POST only", {}),
    408: (
        "The request did not arrive in time.",
        "request-timeout",
        "the request did not arrive in time; send it again",
        {},
    ),
    409: (
        "`position` does not fit, or a state is of another model.",
        "position-conflict",
        "the session is at 4, not yet at 7",
        {"position": 4},
    ),
    410: (
        "The session was here; it has expired, was evicted or deleted.",
        "session-gone",
        "the session has expired, was evicted or deleted; open a new one",
        {},
    ),
    413: (
        "The body is larger, or brings more words, than one request may.",
        "body-too-large",
        "the body is larger than 1048576 bytes, the most that is accepted",
        {"limit": 1048576},
    ),
    415: ("The body is of a type that is not taken here.", "unsupported-media-type", "only application/json", {}),
    422: (
        "A field is missing, unknown, of the wrong type or out of range; `errors` names it.",
        "invalid-field",
        "top_k: Input should be less than or equal to 1000",
        {"errors": [{"field": "top_k", "message": "Input should be less than or equal to 1000"}]},
    ),
    429: (
        "This key makes too many requests, or has too many sessions.",
        "too-many-requests",
        "this key may make 10 requests a second; wait 0.1 seconds",
        {},
    ),
    431: (
        "The first line and the headers are longer than a request's may be.",
        "head-too-large",
        "the first line and the headers of the request are longer than 65536 bytes, the most that is accepted",
        {"limit": 65536},
    ),
    500: (
        "A defect. The session is as it was; the id is in the log.",
        "defect",
        "a defect of the service; it is in the log as 5f3a9c0b2e00000001, and the session is as it was",
        {"request_id": "5f3a9c0b2e00000001"},
    ),
    503: (
        "Not now: the model is being loaded, too many requests are being served, or the service is stopping.",
        "unavailable",
        "the model is being loaded",
        {},
    ),
}

_HEADERS = {
    401: {"WWW-Authenticate": "How to show a key."},
    429: {"Retry-After": "Seconds to wait."},
    503: {"Retry-After": "Seconds to wait."},
}

#: (method, path): examples of the body that goes in, and of the one that comes out.
_EXAMPLES: dict[tuple[str, str], tuple[Any, Any]] = {
    ("post", "/v1/predict"): (
        {"text": "The cat sat on the", "top_k": 2},
        {
            "session_id": "0kq2b0Xo2o6vP1b9pGqMxfUqZ0w5sY3T",
            "position": 5,
            "model": "english@1f3a9c",
            "expires_at": "2026-01-01T00:30:00Z",
            "words": [{"word": "the", "start": 0, "end": 3, "known": True}],
            "predictions": [
                {"word": "floor", "probability": 0.31, "log_probability": -1.17},
                {"word": "table", "probability": 0.12, "log_probability": -2.12},
            ],
            "prefix_probability": 1.0,
            "unknown_probability": 0.02,
        },
    ),
    ("post", "/v1/sessions"): ({"text": "The cat sat", "ttl_seconds": 600, "adapt": True}, None),
    ("get", "/v1/sessions/{session_id}/trace"): (
        None,
        {
            "session_id": "0kq2b0Xo2o6vP1b9pGqMxfUqZ0w5sY3T",
            "position": 3,
            "model": "english@1f3a9c",
            "words": [
                {
                    "word": "sat",
                    "known": True,
                    "position": 3,
                    "predictions": [{"word": "down", "probability": 0.22, "log_probability": -1.51}],
                    "layers": [{"name": "h1", "layer": 0, "size": 1024, "values": [0.03, -0.11]}],
                }
            ],
        },
    ),
    ("post", "/v1/sessions/{session_id}/fork"): ({"position": 2}, None),
    ("post", "/v1/sessions/{session_id}/rewind"): ({"position": 2}, None),
    ("post", "/v1/generate"): ({"text": "The cat sat", "max_words": 3, "seed": 7, "temperature": 0.8}, None),
    ("post", "/v1/score"): ({"texts": ["The cat sat on the mat .", "The mat sat on the cat ."]}, None),
    ("post", "/v1/completions"): ({"prompt": "The cat sat", "max_tokens": 3, "temperature": 0}, None),
    ("post", "/tokenize"): ({"prompt": "The cat sat"}, None),
    ("post", "/detokenize"): ({"tokens": [2, 3]}, None),
}


def events(*names: str) -> dict[str, Any]:
    """The content of a reply that is a stream of server-sent events of these names, for `content` of a response."""
    data = {"type": "string", "description": "JSON; of OpenAI's streams the last one is [DONE]."}
    properties = {"event": {"enum": list(names)}, "data": data}
    item = {"type": "object", "properties": properties, "required": ["event", "data"]}
    return {"text/event-stream": {"itemSchema": item}}  # as FastAPI documents its own: each event by itself


def problems(*statuses: int) -> Responses:
    """The errors of a route, as FastAPI wants them; all of them if none are named."""
    return {status: _problem(status) for status in statuses or _PROBLEMS}


def _problem(status: int) -> dict[str, Any]:
    when, kind, detail, fields = _PROBLEMS[status]
    example = {"type": f"urn:nextword:problem:{kind}", "title": "", "status": status, "detail": detail, **fields}
    response: dict[str, Any] = {
        "description": when,
        "content": {"application/problem+json": {"schema": _REFERENCE, "example": example}},
    }
    if status in _HEADERS:
        response["headers"] = {
            name: {"description": text, "required": True, "schema": {"type": "string"}}
            for name, text in _HEADERS[status].items()
        }
    return response


def document(app: FastAPI, *, keyed: bool, vocabulary: int, pairs: int) -> dict[str, Any]:
    """The document, made of the routes of `app`. `keyed`: a key has to be shown; `vocabulary`: how many words;
    `pairs`: how many of its last words a session may adapt to."""
    result: dict[str, Any] = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    components = result.setdefault("components", {})
    components.setdefault("schemas", {}).update(
        {schema.__name__: schema.model_json_schema() for schema in (ProblemReply, AdaptRequest)}
    )
    size = components["schemas"]["AdaptRequest"]["properties"]["size"]
    next(kind for kind in size["anyOf"] if kind["type"] == "integer")["maximum"] = pairs
    if keyed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, item in result["paths"].items():
        for method, operation in item.items():
            if keyed and (path.startswith("/v1") or method not in ("get", "head")):
                operation["security"] = [{"key": []}]
            _show(operation, *_EXAMPLES.get((method, path), (None, None)))
    _limit_ids(result, vocabulary)
    return result


def _limit_ids(part: Any, vocabulary: int) -> None:
    if isinstance(part, dict):
        if part.pop(WORD_ID, False):
            part["maximum"] = vocabulary - 1
        for item in part.values():
            _limit_ids(item, vocabulary)
    elif isinstance(part, list):
        for item in part:
            _limit_ids(item, vocabulary)


def _show(operation: dict[str, Any], request: Any, reply: Any) -> None:
    if request is not None:
        operation["requestBody"]["content"]["application/json"]["example"] = request
    for status, response in operation["responses"].items():
        response.setdefault("headers", {})["X-Request-Id"] = {
            "description": "The id of the request: the client's own if it sent a sane one, else a new one.",
            "required": True,
            "schema": {"type": "string"},
        }
        if reply is not None and status == "200":
            response["content"]["application/json"]["example"] = reply
