"""`GET /`: the demo page and the files beside it."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

WEB = Path(__file__).parent.parent / "web"

#: Nothing from elsewhere, no inline scripts: the page shows words that people typed.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
#: Pages that are known by a name without its ending, too.
NAMES = {"/": "index.html", "/docs": "docs.html", "/model-card": "model-card.html"}


def router(directory: Path = WEB) -> APIRouter:
    """A route for each file that is there, and for each name of a page.

    The files are read here, once: a page is a dozen of them, which a browser asks for all at the same time and before
    it shows anything. No path of a request reaches the disk.
    """
    routes = APIRouter()
    files = {
        f"/{file.relative_to(directory).as_posix()}": file
        for file in sorted(directory.rglob("*"))
        if file.is_file() and not file.name.startswith((".", "_"))
    }
    named = {path: files[f"/{name}"] for path, name in NAMES.items() if f"/{name}" in files}
    for path, file in (files | named).items():
        routes.routes.append(Route(path, _File(file), methods=["GET"], include_in_schema=False))
    return routes


class _File:
    """Answers with the content of a file, or with 304 to who has that already."""

    def __init__(self, file: Path) -> None:
        content = file.read_bytes()
        self._etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        headers = HEADERS | {"etag": self._etag}
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._whole = Response(content, headers=headers, media_type=kind)
        self._same = Response(status_code=304, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        same = Headers(scope=scope).get("if-none-match") == self._etag
        await (self._same if same else self._whole)(scope, receive, send)
