"""A copy of an open database, made in portions, so that whoever uses it waits for one portion at the most.

SQLite's backup writes along what the same connection changes between two portions. So a copy is as the database was
when its last portion was made, whole, and nothing else may hold the database meanwhile; that the shard sees to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path
from typing import NamedTuple

import apsw

from node.keystream import Keystream
from node.pages import PAGE
from node.placement import write_all
from shard.keyring import passing_key
from shard.sqlite import LOCKLESS, MODE_AT, ROLLBACK_MODE, Key, unlock, way


class Hidden(NamedTuple):
    """What a copy is encrypted with; None if it is plain."""

    key: Key | None


class Copy:
    """Of ``source`` to a new file at ``path``; one content always gives the same bytes. What is encrypted gives an
    encrypted copy, with ``key``; that is noise of its own each time. To be closed. Raises ``apsw.FullError`` if there
    is no room; what was written until then stays."""

    def __init__(self, source: apsw.Connection, path: Path, key: Key | None = None) -> None:
        self._copy = apsw.Connection(
            str(path),
            flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOMUTEX,
            vfs=way(key, LOCKLESS),
            statementcachesize=0,
        )
        try:
            unlock(self._copy, key)
            for name, value in (("locking_mode", "exclusive"), ("journal_mode", "off"), ("synchronous", "off")):
                self._copy.pragma(name, value)
            self._backup = self._copy.backup("main", source, "main")
        except BaseException:
            self._copy.close()
            raise

    def step(self, pages: int = -1) -> int:
        """Copy so many pages more, all by default; how many are left."""
        self._backup.step(pages)
        return self._backup.remaining

    def close(self) -> None:
        self._backup.close(True)
        self._copy.close()


def copy_whole(source: apsw.Connection, path: Path, key: Key | None = None) -> None:
    """A :class:`Copy` made in one go."""
    with contextlib.closing(Copy(source, path, key)) as copy:
        copy.step()


def copy_out(source: apsw.Connection, path: Path, key: Key | None) -> Hidden:
    """A copy for somebody else, in one go: where ``source`` has a ``key`` it is encrypted with a passing one."""
    hidden = Hidden(None if key is None else passing_key())
    copy_whole(source, path, hidden.key)
    return hidden


def seal(path: Path, *, durably: bool = False) -> tuple[int, str]:
    """Make the copy at ``path`` one that needs no log; its size and SHA-256."""
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), ROLLBACK_MODE, MODE_AT)
        if durably:
            os.fdatasync(file.fileno())
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def reveal(path: Path, key: Key, target: Path, hidden_by: bytes) -> tuple[int, str]:
    """Of the encrypted copy at ``path`` what a device gets: a plain file that needs no log, the same bytes for the same
    content. It is written to ``target`` under the keystream ``hidden_by``, so that nothing plain is on the disk. Its
    size and SHA-256."""
    digest, keystream = hashlib.sha256(), Keystream(hidden_by)
    size = 0
    with path.open("rb", buffering=0) as copy, target.open("xb", buffering=0) as file:
        total = os.fstat(copy.fileno()).st_size
        with contextlib.closing(_Plain(path, key)) as plain:
            while size < total:
                portion = plain.read(size, min(_PORTION, total - size))
                digest.update(portion)
                write_all(file.fileno(), keystream.apply(portion, size))
                size += len(portion)
    return size, digest.hexdigest()


_PORTION = 64 * PAGE
_TAP = "pobox-tap"
_RESERVED_AT = 20
"""where a file's header says how many bytes at the end of each page are not SQLite's"""


class _Plain:
    """The plain pages of the encrypted database at ``path``, which never changes and has no log."""

    def __init__(self, path: Path, key: Key) -> None:
        tap = _tap()
        self._db = apsw.Connection(
            str(path), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOMUTEX, vfs=_TAP, statementcachesize=0
        )
        self._file = tap.opened.file
        try:
            unlock(self._db, key)
            self._db.pragma("locking_mode", "exclusive")
            self._db.pragma("user_version")  # the key is tried
            self._reserved = self._file.xRead(PAGE, 0)[_RESERVED_AT]
        except BaseException:
            self.close()
            raise

    def read(self, at: int, size: int) -> bytes:
        """Whole pages. Nonces and tags have no meaning there, and would make each copy another one: zeros take their
        place."""
        pages = bytearray(self._file.xRead(size, at))
        nothing = bytes(self._reserved)
        for end in range(PAGE, len(pages) + 1, PAGE):
            pages[end - self._reserved : end] = nothing
        if at == 0:
            pages[MODE_AT : MODE_AT + 2] = ROLLBACK_MODE
        return bytes(pages)

    def close(self) -> None:
        self._db.close()


class _Tap(apsw.VFS):
    """On top of the way that decrypts: what SQLite reads of a file can be read beside it."""

    def __init__(self) -> None:
        self._base = way(passing_key(), LOCKLESS) or LOCKLESS
        apsw.Connection(":memory:", vfs=self._base).close()  # the first to name it has it made
        super().__init__(_TAP, self._base)
        self.opened = _Opened()

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        self.opened.file = apsw.VFSFile(self._base, name, flags)
        return self.opened.file


class _Opened(threading.local):
    """What this thread has opened last."""

    file: apsw.VFSFile


_taps: list[_Tap] = []
_registering = threading.Lock()


def _tap() -> _Tap:
    """The one of this process; SQLite keeps it by its name."""
    with _registering:
        if not _taps:
            _taps.append(_Tap())
        return _taps[0]
