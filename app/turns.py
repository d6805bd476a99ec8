"""Requests to one session run one after the other, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class Turns:
    """Who is working on which session, and who comes next. On the event loop only, so it needs no locks.

    Nothing is kept for a session that nobody is working on.
    """

    def __init__(self) -> None:
        self._queues: dict[str, deque[asyncio.Future[None]] | None] = {}

    def __contains__(self, session_id: str) -> bool:
        """Whether somebody is working on this session or waiting to."""
        return session_id in self._queues

    def __len__(self) -> int:
        """On how many sessions somebody is working."""
        return len(self._queues)

    def take_now(self, session_id: str) -> bool:
        """Begin if nobody else is at it."""
        if session_id in self._queues:
            return False
        self._queues[session_id] = None
        return True

    async def take(self, session_id: str) -> None:
        """Begin as soon as everybody who came before is done."""
        if self.take_now(session_id):
            return
        waiting = self._queues[session_id]
        if waiting is None:
            waiting = self._queues[session_id] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.end(session_id)  # it was this one's turn already
            else:
                with suppress(ValueError):  # `end` may have passed over it already
                    waiting.remove(turn)
            raise

    def end(self, session_id: str) -> None:
        """Done: the next one, if there is one, begins."""
        waiting = self._queues[session_id]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._queues[session_id]
