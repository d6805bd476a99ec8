"""The demo page and its files: served as they are, and nothing else of the disk."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from app.routes import page
from tests.app.conftest import Running

pytestmark = pytest.mark.anyio


async def test_page_and_its_files(service: Running) -> None:
    index = await service.client.get("/")
    assert index.status_code == 200
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert (await service.client.get("/index.html")).content == index.content
    for file in page.WEB.rglob("*"):
        response = await service.client.get(f"/{file.relative_to(page.WEB).as_posix()}")
        content = file.read_bytes()
        for link in re.findall(rb'<link rel="stylesheet" href="([^"]+)">', content):
            # In the place of the link stands what it links to, and the policy allows that and nothing else.
            style = (page.WEB / link.decode()).read_bytes()
            content = content.replace(b'<link rel="stylesheet" href="%b">' % link, b"<style>%b</style>" % style)
            digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
            policy = response.headers["content-security-policy"]
            assert policy.endswith(f"; style-src 'self' 'sha256-{digest}'")
        assert response.content == content
        assert response.headers["content-security-policy"].startswith("default-src 'self';")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert (await service.client.head(f"/{file.name}")).status_code == 200
        again = await service.client.get(f"/{file.name}", headers={"if-none-match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = await service.client.get(f"/{file.name}", headers={"if-none-match": '"of-another-version"'})
        assert other.content == response.content


async def test_nothing_else_is_served(tmp_path: Path) -> None:
    (tmp_path / "web" / "sub").mkdir(parents=True)
    for name in ("web/index.html", "web/sub/app.js", "web/.hidden", "secret.txt"):
        (tmp_path / name).write_text(name)
    app = FastAPI()
    app.include_router(page.router(tmp_path / "web"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.get("/sub/app.js")).text == "web/sub/app.js"
        for path in (
            "/.hidden",
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/sub",
            "/sub/../../secret.txt",
            "//etc/passwd",
        ):
            assert (await client.get(path)).status_code == 404, path
