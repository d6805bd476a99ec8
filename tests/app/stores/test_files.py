"""Files and addresses that cannot be used are refused when the service starts, in one line; and what they keep."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.settings import Settings, SettingsError, load
from app.stores.base import StoreRefusedError
from tests.app.conftest import Running, running
from tests.app.fake_runtime import FakeRuntime, artifact
from tests.app.redis_server import RedisServer
from tests.app.stores.conftest import KEY

pytestmark = pytest.mark.anyio


def refusal(model: str = "fake@0123456789ab", **settings: Any) -> str:
    """The line that a start with these settings and this model ends with."""
    with pytest.raises(StoreRefusedError) as caught:
        create_app(Settings(**settings), runtime=FakeRuntime(), artifact=replace(artifact(), id=model))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
async def snapshot(tmp_path: Path) -> Path:
    """One with three sessions."""
    path = tmp_path / "sessions"
    async with running(snapshot=path) as it:
        for text in ("the cat", "", "a dog ran"):
            await it.ok(text=text)
    return path


def signed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda content: content[:-1], "is damaged"),
        (lambda content: content[: len(content) // 2], "is damaged"),
        (lambda content: content[:25], "is damaged"),
        (lambda content: content[:300] + bytes([content[300] ^ 1]) + content[301:], "is damaged"),
        (lambda content: content + b"more", "is damaged"),
        (lambda content: content[:0], "is not one of nextword's"),
        (lambda content: b"PK" + content[2:], "is not one of nextword's"),
        (lambda content: signed(content[:-32].replace(b"sessions 1\n", b"sessions 2\n", 1)), "by another version"),
    ],
)
async def test_damaged_snapshot(snapshot: Path, damage: Callable[[bytes], bytes], what: str) -> None:
    content = damage(snapshot.read_bytes())
    snapshot.write_bytes(content)
    message = refusal(snapshot=snapshot)
    assert what in message
    assert str(snapshot) in message
    assert snapshot.read_bytes() == content


async def test_snapshot_of_another_model(snapshot: Path) -> None:
    message = refusal("fake@ba9876543210", snapshot=snapshot)
    assert "holds sessions of the model fake@0123456789ab, not of fake@ba9876543210" in message


async def test_snapshot_is_replaced_whole(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot.read_bytes()
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
    async with running(snapshot=snapshot) as it:
        assert len(it.service.store) == 3
        await it.ok(text="the cat")

        def fails(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("app.stores.snapshot.os.fsync", fails)
    taken = snapshot.with_name("sessions.taken")
    assert list(snapshot.parent.iterdir()) == [taken]
    assert taken.read_bytes() == before
    taken.rename(snapshot)  # as somebody may who knows what that means
    async with running(snapshot=snapshot) as it:
        assert len(it.service.store) == 3
        monkeypatch.undo()
    assert list(snapshot.parent.iterdir()) == [snapshot]


async def test_snapshot_that_cannot_be_put_aside(snapshot: Path) -> None:
    snapshot.with_name("sessions.taken").mkdir()
    app = create_app(Settings(snapshot=snapshot), runtime=FakeRuntime(), artifact=artifact())
    async with app.router.lifespan_context(app):
        with pytest.raises(StoreRefusedError, match="cannot be put aside, to be taken in once: Is a directory"):
            await app.state.service.scheduler.started()
    assert snapshot.exists()


async def test_snapshot_is_taken_in_once(tmp_path: Path) -> None:
    path = tmp_path / "sessions"
    async with running(snapshot=path) as it:
        session = (await it.ok(text="the cat sat"))["session_id"]

    @asynccontextmanager
    async def killed() -> AsyncIterator[Running]:
        """It ends without having written anything."""
        async with running(snapshot=path) as it:
            yield it
            it.service.store._opened = False  # type: ignore[attr-defined]

    async with killed() as it:
        assert (await it.ok(session_id=session, text="on the mat"))["position"] == 6
    async with killed() as it:
        assert (await it.predict(session_id=session)).status_code == 410, "not as it was before"
        assert (await it.client.get(f"/v1/sessions/{session}")).status_code == 410


async def test_snapshot_holds_more_than_there_is_room_for(snapshot: Path) -> None:
    async with running(snapshot=snapshot, max_sessions=2) as it:
        assert [session.position for session in it.service.store] == [0, 3]


async def test_start_that_failed_leaves_the_snapshot_alone(snapshot: Path) -> None:
    before = snapshot.read_bytes()
    runtime = FakeRuntime()
    runtime.broken = RuntimeError("no such device")
    app = create_app(Settings(snapshot=snapshot), runtime=runtime, artifact=artifact())
    async with app.router.lifespan_context(app):
        with pytest.raises(RuntimeError, match="no such device"):
            await app.state.service.scheduler.started()
    assert snapshot.read_bytes() == before


def test_snapshot_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "no such folder" in refusal(snapshot=tmp_path / "none" / "sessions")


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    path = tmp_path / "sessions.db"
    async with running(store=f"sqlite:{path}") as it:
        await it.ok(text="the cat")
    return path


async def test_sqlite_file_is_nobody_elses_to_read(database: Path) -> None:
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


async def test_sqlite_file_of_another_model(database: Path) -> None:
    message = refusal("fake@ba9876543210", store=f"sqlite:{database}")
    assert "holds sessions of the model fake@0123456789ab, not of fake@ba9876543210" in message


@pytest.mark.parametrize(
    ("statement", "what"),
    [("PRAGMA user_version = 99", "has layout 99"), ("PRAGMA application_id = 7", "holds something else")],
)
async def test_sqlite_file_of_another_kind(database: Path, statement: str, what: str) -> None:
    other = sqlite3.connect(database)
    other.execute(statement)
    other.close()
    assert what in refusal(store=f"sqlite:{database}")


async def test_sqlite_file_of_another_program(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE things (name TEXT)")
    other.close()
    assert "holds something else" in refusal(store=f"sqlite:{tmp_path / 'other.db'}")
    (tmp_path / "text").write_text("The cat sat on the mat. " * 50)
    assert "file is not a database" in refusal(store=f"sqlite:{tmp_path / 'text'}")
    assert "Is a directory" in refusal(store=f"sqlite:{tmp_path}")
    assert "No such file" in refusal(store=f"sqlite:{tmp_path / 'none' / 'sessions.db'}")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"store": "redis://localhost"},
            r"NEXTWORD_SESSION_KEY or --session-key: .*every replica needs the same one.*",
        ),
        ({"store": "rediss://localhost"}, r"NEXTWORD_SESSION_KEY .*"),
        ({"store": "mysql://root:secret@localhost"}, r"NEXTWORD_STORE or --store: .*choose memory, sqlite:PATH.*"),
        ({"store": "sqlite:"}, r"NEXTWORD_STORE .*"),
        ({"store": "sqlite:a.db", "snapshot": "b"}, r"NEXTWORD_SNAPSHOT or --snapshot: .*only sessions in memory.*"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**settings)
    assert re.fullmatch(line, str(caught.value))
    assert "secret" not in str(caught.value)


def test_address_that_cannot_be_understood() -> None:
    message = refusal(store="redis://user:secret@localhost:port/0", session_key=KEY)
    assert message.startswith("cannot understand the address of the session store")
    assert "secret" not in message


async def test_session_of_another_model_in_redis(shared_redis: RedisServer) -> None:
    """Servers with an old and a new model may run side by side for a while."""
    async with running(store=shared_redis.url, session_key=KEY) as it:
        session_id = (await it.ok(text="the cat"))["session_id"]
        key = f"nextword:session:{session_id}"
        with shared_redis.client() as client:
            value = client.get(key)
            assert isinstance(value, bytes)
            client.set(key, value.replace(b"fake@0123456789ab", b"fake@ba9876543210"))
        await it.service.store._hot.delete(session_id)  # type: ignore[attr-defined]
        refused = await it.predict(session_id=session_id, text="sat")
        assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
        assert "fake@ba9876543210" in refused.json()["detail"]
        assert json.loads((await it.client.get(f"/v1/sessions/{session_id}")).text)["status"] == 409
        assert not list(it.service.store)
