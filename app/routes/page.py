"""`GET /`: the demo page and the files beside it."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

WEB = Path(__file__).parent.parent / "web"

#: Nothing from elsewhere, no inline scripts: the page shows words that people typed.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def router(directory: Path = WEB) -> APIRouter:
    """A route for each file that is there; `index.html` is `/` too, and `docs.html` is `/docs`.

    No other path reaches the disk.
    """
    routes = APIRouter(include_in_schema=False)

    def add(path: str, file: Path) -> None:
        async def serve() -> Response:
            return FileResponse(file, headers=HEADERS)

        routes.add_api_route(path, serve, methods=["GET", "HEAD"])

    for file in sorted(directory.rglob("*")):
        if file.is_file() and not file.name.startswith((".", "_")):
            add(f"/{file.relative_to(directory).as_posix()}", file)
    for path, name in (("/", "index.html"), ("/docs", "docs.html")):
        if (directory / name).is_file():
            add(path, directory / name)
    return routes
