"""Sessions in memory, and in a file between a graceful stop and the next start.

A file is taken in once. A service that was killed, or could not write it, has told of more than the last file holds:
its sessions are gone, and not as they were some time ago, which nobody would notice. What was taken in is kept beside
the file until that is written anew, with `.taken` behind its name, for people to decide about.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from app.stores.backed import Codec
from app.stores.base import StoreRefusedError
from app.stores.memory import MemoryStore

log = logging.getLogger("nextword")

#: The last character is the layout: this line, then one of JSON ({"model", "session_key"}), then each session as its
#: length (4 bytes, little-endian) and its bytes, then the SHA-256 of all that.
MAGIC = b"nextword sessions 1\n"

_LENGTH = struct.Struct("<I")
_HASH_BYTES = 32
_CHUNK = 1 << 20

#: So many sessions are taken in before others have their turn on the event loop.
_ROUND = 200


class SnapshotStore(MemoryStore):
    """A `MemoryStore` that is written to `path` by `close` and read from it by `open`.

    The file is checked whole when the store is made. `session_key` signs ids; it is the file's if there is one, or that
    of the one that was taken in before, else `new_key`. `free` and `in_use` are those of `MemoryStore`.

    Raises:
        StoreRefusedError: the file is damaged, of another version or of another model; or there is no such folder.
    """

    def __init__(
        self,
        path: Path,
        codec: Codec,
        *,
        model: str,
        new_key: bytes,
        capacity: int,
        adapting: int,
        free: Callable[[int], None],
        in_use: Callable[[str], bool],
    ) -> None:
        super().__init__(capacity=capacity, adapting=adapting, free=free, in_use=in_use)
        self.session_key = new_key
        self._path = path
        self._taken = path.with_name(f"{path.name}.taken")
        self._codec = codec
        self._model = model
        self._opened = False
        self._file: IO[bytes] | None = None
        if not path.parent.is_dir():
            raise StoreRefusedError(f"cannot write a snapshot to {path}: there is no such folder; make it")
        self._file = self._found(path)
        if self._file is not None:
            try:
                self.session_key = self._check(path, self._file)
            except BaseException:
                self._file.close()
                raise
        elif (taken := self._found(self._taken)) is not None:
            with taken, contextlib.suppress(StoreRefusedError):  # ids of its sessions are still told from made-up ones
                self.session_key = self._check(self._taken, taken)

    @staticmethod
    def _found(path: Path) -> IO[bytes] | None:
        try:
            return path.open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreRefusedError(f"cannot read the snapshot {path}: {error.strerror}") from None

    async def open(self) -> None:
        if self._file is not None:
            with self._file:
                for index, content in enumerate(_contents(self._file)):
                    await self.commit(self._codec.unpack(content), None)
                    if index % _ROUND == 0:
                        await asyncio.sleep(0)
            try:
                self._path.replace(self._taken)
            except OSError as error:
                raise StoreRefusedError(
                    f"the snapshot {self._path} cannot be put aside, to be taken in once: {error.strerror}; "
                    "have its folder written to"
                ) from None
        self._opened = True

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if not self._opened:
            return  # what the file holds was never taken in
        try:
            await asyncio.to_thread(self._write)
        except OSError as error:
            left = f"; those of the last start are in {self._taken}" if self._taken.exists() else ""
            log.error("the sessions could not be written to %s and are gone: %s%s", self._path, error, left)
        else:
            log.info("%d sessions were written to %s", len(self), self._path)

    def _check(self, path: Path, file: IO[bytes]) -> bytes:
        """The session key, of a file that is whole; `file` then stands at the first session."""

        def refused(what: str) -> StoreRefusedError:
            return StoreRefusedError(f"the snapshot {path} {what}; remove it or name another with --snapshot")

        if not file.read(len(MAGIC)).startswith(MAGIC[:-2]):
            raise refused("is not one of nextword's")
        size = os.fstat(file.fileno()).st_size - _HASH_BYTES
        file.seek(0)
        if file.readline() != MAGIC:
            raise refused("was written by another version")
        digest = hashlib.sha256()
        file.seek(0)
        while file.tell() < size:
            digest.update(file.read(min(_CHUNK, size - file.tell())))
        if size < len(MAGIC) or file.read() != digest.digest():
            raise refused("is damaged")
        file.seek(len(MAGIC))
        about: dict[str, Any] = json.loads(file.readline())
        if about["model"] != self._model:
            raise refused(f"holds sessions of the model {about['model']}, not of {self._model}")
        return bytes.fromhex(about["session_key"])

    def _write(self) -> None:
        new = self._path.with_name(f"{self._path.name}.new")
        digest = hashlib.sha256()
        try:
            # It holds the key that session ids are signed with: nobody else's to read.
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                for part in self._parts():
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            self._taken.unlink(missing_ok=True)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        if os.name == "posix":  # the new name, too, has to reach the disk
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _parts(self) -> Iterator[bytes]:
        yield MAGIC
        yield json.dumps({"model": self._model, "session_key": self.session_key.hex()}).encode() + b"\n"
        for session in self:
            content = self._codec.pack(session)
            yield _LENGTH.pack(len(content))
            yield content


def _contents(file: IO[bytes]) -> Iterator[bytes]:
    end = os.fstat(file.fileno()).st_size - _HASH_BYTES
    while file.tell() < end:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        yield file.read(length)
