"""From the settings to the store that they name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from app.settings import Settings
from app.stores.backed import BackedStore, Codec
from app.stores.base import Store
from app.stores.memory import MemoryStore
from app.stores.snapshot import SnapshotStore

#: So many sessions of a store elsewhere have a copy in memory, at most.
COPIES = 10_000


def copies(settings: Settings) -> int:
    """How many sessions are held in memory at most, each with its state."""
    if settings.store == "memory":
        return settings.max_sessions
    # There is always room for those that a request is working on.
    return max(min(settings.max_sessions, COPIES), 2 * settings.max_queue)


def choose(
    settings: Settings,
    codec: Codec,
    *,
    model: str,
    free: Callable[[int], None],
    in_use: Callable[[str], bool],
    clock: Callable[[], float],
) -> tuple[Store, bytes]:
    """The store, and the key that session ids are signed with: the setting's, else the one that the store keeps.

    `model` is the id of the model that the states are of.

    Raises:
        StoreRefusedError: what the settings name cannot be used.
    """
    given = settings.session_key
    key = os.urandom(32) if given is None else given.get_secret_value().encode()
    kind, _, place = settings.store.partition(":")
    adapting = settings.max_adapting_sessions
    if kind == "memory" and settings.snapshot is None:
        return MemoryStore(capacity=settings.max_sessions, adapting=adapting, free=free, in_use=in_use), key
    if kind == "memory" and settings.snapshot is not None:
        kept = SnapshotStore(
            settings.snapshot,
            codec,
            model=model,
            new_key=key,
            capacity=settings.max_sessions,
            adapting=adapting,
            free=free,
            in_use=in_use,
        )
        return kept, kept.session_key if given is None else key
    hot = MemoryStore(capacity=copies(settings), adapting=adapting, free=free, in_use=in_use, copies=True)
    # Each is imported only where it is asked for.
    if kind == "sqlite":
        from app.stores.sqlite import SqliteBackend

        file = SqliteBackend(Path(place), model=model, capacity=settings.max_sessions, in_use=in_use)
        return BackedStore(file, codec, hot, free), file.session_key if given is None else key
    from app.stores.redis import RedisBackend

    password = None if settings.store_password is None else settings.store_password.get_secret_value()
    return BackedStore(RedisBackend(settings.store, password=password, clock=clock), codec, hot, free), key
