"""`GET /`: the demo page and the files beside it."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import re
from pathlib import Path

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

WEB = Path(__file__).parent.parent / "web"

#: Nothing from elsewhere, no inline scripts: the page shows words that people typed.
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {"referrer-policy": "no-referrer", "cache-control": "no-cache"}
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


_STYLESHEET = re.compile(r'<link rel="stylesheet" href="([\w-]+\.css)">')


def styled(page: Path) -> tuple[bytes, str]:
    """An HTML file with its stylesheet in the place of the link to it, and the policy that allows that one.

    A browser paints nothing before it has the stylesheet: so the first paint waits for one answer, not for two.
    """
    html = page.read_text(encoding="utf-8")
    link = _STYLESHEET.search(html)
    if link is None:
        return html.encode(), POLICY
    style = (page.parent / link[1]).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    content = f"{html[: link.start()]}<style>{style}</style>{html[link.end() :]}"
    return content.encode(), f"{POLICY}; style-src 'self' 'sha256-{digest}'"


class _File:
    """Answers with the content of a file, or with 304 to who has that already."""

    def __init__(self, file: Path) -> None:
        content, policy = styled(file) if file.suffix == ".html" else (file.read_bytes(), POLICY)
        self._etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        headers = HEADERS | {"content-security-policy": policy, "etag": self._etag}
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._whole = Response(content, headers=headers, media_type=kind)
        self._same = Response(status_code=304, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        same = Headers(scope=scope).get("if-none-match") == self._etag
        await (self._same if same else self._whole)(scope, receive, send)
