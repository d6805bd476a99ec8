"""Sessions in a Redis or Valkey server, so that every replica of the service can go on with every session.

All that the service asks for in one round of its event loop travels as one pipeline: a round trip a request, and less
than one where requests come together.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from app.sessions import Session
from app.stores.base import StoreAwayError, StoreRefusedError

log = logging.getLogger("nextword")

#: A server that takes longer to accept a connection or to answer is away.
TIMEOUT_SECONDS = 2.0

#: How often a server that is away is asked whether it is back.
PROBE_SECONDS = 0.25

#: So many pipelines may be on their way at once; what comes meanwhile waits for the next one.
FLIGHTS = 4

#: The server keeps a session for so long after its hour, in which it is refused: a request that came before that may
#: be still at it, and is to find it there when it is done.
GRACE_SECONDS = 60.0

PREFIX = b"nextword:session:"
PROBE = b"nextword:probe"

#: A value begins with the revision.
REVISION_BYTES = 8

# Sets the value if the stored one is of the expected revision ("" if there must be none). A commit that was sent twice
# because the connection broke finds its own revision, and has succeeded.
COMPARE_AND_SET = """
local revision = redis.call('GETRANGE', KEYS[1], 0, 7)
if revision == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    return 1
end
if revision == string.sub(ARGV[2], 1, 8) then
    return 1
end
return 0
"""

AWAY = "the session store cannot be reached"


@dataclass(slots=True, eq=False)
class _Order:
    """A command, and what its reply means to the one who waits for `future`."""

    command: tuple[Any, ...]
    answer: Callable[[Any], Any]
    future: Future[Any]


class RedisBackend:
    """A `Backend` in the server at `url` (redis:// or rediss://, with user and password if it wants them).

    `password` is used where the URL has none. `clock` gives seconds since 1970. Sessions expire in the server; how many
    it may hold is its own setting.

    Raises:
        StoreRefusedError: the URL cannot be understood. A server that does not answer is no reason: it may come yet.
    """

    evictions = 0
    count: int | None = None

    def __init__(self, url: str, *, password: str | None = None, clock: Callable[[], float] = time.time) -> None:
        self.away: str | None = AWAY
        self._clock = clock
        self._gathered: list[_Order] = []
        self._scheduled = False
        self._flights: set[asyncio.Task[None]] = set()
        self._prober: asyncio.Task[None] | None = None
        self._in_doubt = asyncio.Event()  # set until it has been asked whether it can be written
        self._loop: asyncio.AbstractEventLoop
        self._sha = hashlib.sha1(COMPARE_AND_SET.encode(), usedforsecurity=False).hexdigest()
        try:
            self._pool: ConnectionPool = ConnectionPool.from_url(
                url,
                password=password,
                socket_timeout=None,  # one limit for the whole exchange is set below
                socket_connect_timeout=TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),  # what was sent twice is told apart here
                protocol=2,
                client_name="nextword",
            )
        except (ValueError, RedisError) as error:
            raise StoreRefusedError(f"cannot understand the address of the session store: {error}") from None

    def owned(self, owner: str) -> int | None:  # noqa: ARG002 - sessions are on all replicas
        return None

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._ask()
        self._prober = asyncio.create_task(self._probe())

    async def close(self) -> None:
        while self._gathered or self._flights:
            self._depart()
            await asyncio.wait(self._flights)
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])
        await self._pool.aclose()

    def read(self, session_id: str) -> Future[bytes | None]:
        return self._order(_content, "GET", _key(session_id))

    def revision(self, session_id: str) -> Future[int | None]:
        return self._order(_revision, "GETRANGE", _key(session_id), 0, REVISION_BYTES - 1)

    def write(self, session: Session, expected_revision: int | None, content: bytes) -> Future[bool]:
        expected = b"" if expected_revision is None else _packed(expected_revision)
        value = _packed(session.revision) + content
        milliseconds = max(1, int((session.expires_at - self._clock() + GRACE_SECONDS) * 1000))
        return self._order(_written, "EVALSHA", self._sha, 1, _key(session.id), expected, value, milliseconds)

    def remove(self, session_id: str) -> Future[bool]:
        return self._order(bool, "UNLINK", _key(session_id))

    def expire(self, now: float) -> Future[list[str]]:  # noqa: ARG002 - the server does it
        nothing: Future[list[str]] = self._loop.create_future()
        nothing.set_result([])
        return nothing

    def _order(self, answer: Callable[[Any], Any], *command: Any) -> Future[Any]:
        order = _Order(command, answer, self._loop.create_future())
        if self.away is not None:
            order.future.set_exception(StoreAwayError(self.away))
            return order.future
        self._gathered.append(order)
        if not self._scheduled and len(self._flights) < FLIGHTS:
            self._scheduled = True
            self._loop.call_soon(self._depart)
        return order.future

    def _depart(self) -> None:
        self._scheduled = False
        if self._gathered:
            orders, self._gathered = self._gathered, []
            flight = self._loop.create_task(self._fly(orders))
            self._flights.add(flight)
            flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if self._gathered and not self._scheduled:
            self._depart()

    async def _fly(self, orders: Sequence[_Order]) -> None:
        try:
            replies, twice = await self._exchange([order.command for order in orders])
            forgotten = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if forgotten:  # the server was restarted, or is another one now
                again = [("EVAL", COMPARE_AND_SET, *orders[index].command[2:]) for index in forgotten]
                late, again_twice = await self._exchange(again)
                for index, reply in zip(forgotten, late, strict=True):
                    replies[index] = reply
                twice = twice or again_twice
        except BaseException as error:
            self._lose(error)
            for order in orders:
                if not order.future.done():
                    order.future.set_exception(StoreAwayError(AWAY))
            return
        for order, reply in zip(orders, replies, strict=True):
            if order.future.done():
                continue
            if isinstance(reply, ResponseError):
                # Out of memory, a replica that may not write, no permission: nothing was changed.
                log.error("the session store refused %s: %s", order.command[0], reply)
                order.future.set_exception(StoreAwayError("the session store does not take what it is given now"))
                self._in_doubt.set()
            elif twice and order.answer is _written and not reply:
                # It may have been written the first time, and somebody else have gone on from there since: whoever
                # took it for refused and began anew would count the same words twice.
                order.future.set_exception(StoreAwayError("the answer of the session store was lost"))
            else:
                order.future.set_result(order.answer(reply))

    async def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> tuple[list[Any], bool]:
        """The replies, and whether all had to be sent twice. Errors that concern one command only are among them.

        Raises when the connection is of no use.
        """
        async with asyncio.timeout(TIMEOUT_SECONDS):
            try:
                return await self._send(commands), False
            except LostConnectionError:
                # A server that was restarted has closed all connections, and only using one shows it. All that is sent
                # here may be done twice.
                await self._pool.disconnect(inuse_connections=False)
                return await self._send(commands), True

    async def _send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            replies: list[Any] = []
            for _ in commands:
                try:
                    replies.append(await connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
                except BaseException:
                    # What is still to come must not be read as the answer to something else.
                    await connection.disconnect(nowait=True)
                    raise
            return replies
        finally:
            await self._pool.release(connection)

    def _lose(self, error: BaseException) -> None:
        if self.away is None:
            log.error("the session store is away: %s", str(error) or type(error).__name__)
        self.away = AWAY
        self._in_doubt.set()

    async def _probe(self) -> None:
        while True:
            await self._in_doubt.wait()
            await self._ask()
            if self.away is not None:
                await asyncio.sleep(PROBE_SECONDS)

    async def _ask(self) -> None:
        """Whether it can be written shows by writing: it may be full, or a replica by now."""
        try:
            ((reply,), _) = await self._exchange([("SET", PROBE, b"", "PX", 1000)])
        except (RedisError, OSError) as error:
            self._lose(error)
            return
        if isinstance(reply, ResponseError):
            self._lose(reply)
            # The address may lead to another server by now, and this one keep its connections.
            await self._pool.disconnect(inuse_connections=False)
            return
        if self._in_doubt.is_set() and self.away is not None:
            log.warning("the session store is there again")
        self._in_doubt.clear()
        self.away = None


def _key(session_id: str) -> bytes:
    return PREFIX + session_id.encode("utf-8", "surrogatepass")


def _packed(revision: int) -> bytes:
    return revision.to_bytes(REVISION_BYTES, "big")


def _written(reply: int) -> bool:
    return reply == 1


def _content(value: bytes | None) -> bytes | None:
    return None if value is None else value[REVISION_BYTES:]


def _revision(head: bytes) -> int | None:
    return int.from_bytes(head, "big") if head else None
