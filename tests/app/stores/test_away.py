"""A store that is away, hangs or cannot write: 503, not ready, the session as before, and recovery by itself."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

import app.stores.redis
import app.stores.sqlite
from tests.app.conftest import Running, running
from tests.app.fake_runtime import Oracle
from tests.app.redis_server import RedisServer, redis_server
from tests.app.stores.conftest import KEY

pytestmark = pytest.mark.anyio


async def refuses(it: Running, **fields: Any) -> None:
    reply = await it.predict(**fields)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1"), reply.text


async def ready(it: Running, status: int) -> None:
    """Wait until the service says so."""
    with anyio.fail_after(20):
        while (await it.client.get("/readyz")).status_code != status:
            await anyio.sleep(0.02)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(65_536):
            writer.write(part)
            await writer.drain()
    writer.close()


async def goes_on(it: Running, session_id: str) -> None:
    """The session stands after "the cat", and takes "sat"."""
    oracle = Oracle()
    oracle.consume("the", "cat", "sat")
    reply = await it.ok(session_id=session_id, text="sat", position=2)
    best = reply["predictions"][0]
    assert best["probability"] == pytest.approx(oracle.row()[best["word"]], abs=1e-5)


async def test_redis_that_is_killed_and_comes_back(own_redis: RedisServer) -> None:
    async with running(store=own_redis.url, session_key=KEY) as it:
        session_id = (await it.ok(text="the cat"))["session_id"]
        own_redis.kill()
        await refuses(it, session_id=session_id, text="sat", position=2)
        await refuses(it, text="the")
        await ready(it, 503)
        assert (await it.client.get("/livez")).status_code == 200
        own_redis.start()
        await ready(it, 200)
        await goes_on(it, session_id)


async def test_redis_that_was_restarted_in_between_is_not_noticed(own_redis: RedisServer) -> None:
    """Neither that all connections are closed nor that the script is forgotten."""
    async with running(store=own_redis.url, session_key=KEY) as it:
        session_id = (await it.ok(text="the cat"))["session_id"]
        own_redis.kill()
        own_redis.start()
        await goes_on(it, session_id)


async def test_redis_that_hangs(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.stores.redis, "TIMEOUT_SECONDS", 0.3)
    async with running(store=own_redis.url, session_key=KEY) as it:
        session_id = (await it.ok(text="the cat"))["session_id"]
        own_redis.process.send_signal(signal.SIGSTOP)
        try:
            with anyio.fail_after(5):
                await refuses(it, session_id=session_id, text="sat", position=2)
                await refuses(it, session_id=session_id, text="sat", position=2)
            await ready(it, 503)
        finally:
            own_redis.process.send_signal(signal.SIGCONT)
        await ready(it, 200)
        # The server has read what it was sent meanwhile: the same request again does not count twice.
        await goes_on(it, session_id)


async def test_redis_that_comes_later(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        server.kill()
        async with running(store=server.url, session_key=KEY) as it:
            await ready(it, 503)
            await refuses(it, text="the cat")
            server.start()
            await ready(it, 200)
            assert (await it.ok(text="the cat"))["position"] == 2


async def test_redis_without_room(own_redis: RedisServer) -> None:
    async with running(store=own_redis.url, session_key=KEY) as it:
        session_id = (await it.ok(text="the cat"))["session_id"]
        with own_redis.client() as client:
            client.config_set("maxmemory", "1")
            await refuses(it, session_id=session_id, text="sat", position=2)
            await ready(it, 503)
            client.config_set("maxmemory", "0")
        await ready(it, 200)
        await goes_on(it, session_id)


async def test_redis_that_may_not_write(own_redis: RedisServer) -> None:
    """As after a fail-over, when the address still leads to the server that has become a replica."""
    async with running(store=own_redis.url, session_key=KEY) as it:
        session_id = (await it.ok(text="the cat"))["session_id"]
        with own_redis.client() as client:
            client.config_set("replica-serve-stale-data", "yes")
            client.replicaof("127.0.0.1", "1")
            await refuses(it, session_id=session_id, text="sat", position=2)
            await ready(it, 503)
            client.replicaof("NO", "ONE")
        await ready(it, 200)
        await goes_on(it, session_id)


async def test_address_that_leads_to_another_server_after_a_fail_over(own_redis: RedisServer, tmp_path: Path) -> None:
    """The old one is a replica now, and keeps the connections that it has."""
    (tmp_path / "other").mkdir()
    with redis_server(tmp_path / "other") as other_redis:
        leads_to = own_redis

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inside_reader, inside_writer = await asyncio.open_connection("127.0.0.1", leads_to.port)
            await asyncio.gather(pump(reader, inside_writer), pump(inside_reader, writer))

        async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
            address = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            async with running(store=address, session_key=KEY) as it:
                session_id = (await it.ok(text="the cat"))["session_id"]
                with own_redis.client() as old, other_redis.client() as new:
                    new.replicaof("127.0.0.1", str(own_redis.port))
                    with anyio.fail_after(20):
                        while not new.exists(f"nextword:session:{session_id}"):
                            await anyio.sleep(0.02)
                    new.replicaof("NO", "ONE")
                    old.replicaof("127.0.0.1", str(other_redis.port))
                leads_to = other_redis
                with anyio.fail_after(20):
                    while (await it.predict(session_id=session_id, position=2)).status_code == 503:
                        await anyio.sleep(0.02)
                await goes_on(it, session_id)


async def test_answer_of_redis_that_is_lost_while_another_replica_goes_on(own_redis: RedisServer) -> None:
    """Sent once more, the commit finds the session moved on. That it was another's doing only cannot be told: so it is
    not begun anew, for then its word would count twice."""
    losing = False

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal losing
        inside_reader, inside_writer = await asyncio.open_connection("127.0.0.1", own_redis.port)
        asking = asyncio.create_task(pump(reader, inside_writer))
        while part := await inside_reader.read(65_536):
            if losing:
                losing = False
                await other.ok(session_id=session_id, text="on")
                break
            writer.write(part)
        inside_writer.close()
        writer.close()
        await asking

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
        address = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        async with (
            running(store=address, session_key=KEY) as one,
            running(store=own_redis.url, session_key=KEY) as other,
        ):
            session_id = (await one.ok(text="the cat"))["session_id"]
            losing = True
            await refuses(one, session_id=session_id, text="sat")
            assert (await other.client.get(f"/v1/sessions/{session_id}")).json()["words"] == ["the", "cat", "sat", "on"]
            await one.ok(session_id=session_id, text="mat", position=4)


async def test_redis_with_a_password(tmp_path: Path) -> None:
    with redis_server(tmp_path, password="the word") as server:  # noqa: S106
        address = f"127.0.0.1:{server.port}/0"
        async with running(store=f"redis://:the%20word@{address}", session_key=KEY) as it:
            assert (await it.ok(text="the cat"))["position"] == 2
        async with running(store=f"redis://:another@{address}", session_key=KEY) as it:
            await refuses(it, text="the cat")
            await ready(it, 503)
        async with running(store=f"redis://{address}", store_password="the word", session_key=KEY) as it:  # noqa: S106
            assert (await it.ok(text="the cat"))["position"] == 2


async def test_sqlite_file_that_somebody_else_has_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.stores.sqlite, "BUSY_SECONDS", 0.05)
    path = tmp_path / "sessions.db"
    async with running(store=f"sqlite:{path}") as it:
        session_id = (await it.ok(text="the cat"))["session_id"]
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await refuses(it, session_id=session_id, text="sat", position=2)
        await refuses(it, text="the")
        assert (await it.client.get("/readyz")).status_code == 503
        assert (await it.client.get(f"/v1/sessions/{session_id}")).json()["position"] == 2
        other.execute("ROLLBACK")
        other.close()
        await ready(it, 200)
        await goes_on(it, session_id)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for 127.0.0.1, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make a certificate with")
    both = tmp_path / "certificate.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [*command, "-keyout", both, "-out", tmp_path / "public.pem", *subject], check=True, capture_output=True
    )
    both.write_bytes(both.read_bytes() + (tmp_path / "public.pem").read_bytes())
    return both


async def test_redis_behind_tls(own_redis: RedisServer, certificate: Path) -> None:
    """The Redis of the tests has no TLS of its own: something in front of it does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside_reader, inside_writer = await asyncio.open_connection("127.0.0.1", own_redis.port)
        await asyncio.gather(pump(reader, inside_writer), pump(inside_reader, writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
    async with server:
        address = f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        trusted = f"{address}?ssl_ca_certs={certificate.parent / 'public.pem'}"
        async with running(store=trusted, session_key=KEY) as it:
            session_id = (await it.ok(text="the cat"))["session_id"]
            await goes_on(it, session_id)
        async with running(store=address, session_key=KEY) as it:  # nobody vouches for this one
            await refuses(it, text="the cat")
            await ready(it, 503)
