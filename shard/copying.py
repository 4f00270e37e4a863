"""A copy of an open database, made in portions, so that whoever uses it waits for one portion at the most.

SQLite's backup writes along what the same connection changes between two portions. So a copy is as the database was
when its last portion was made, whole, and nothing else may hold the database meanwhile; that the shard sees to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import apsw

from shard.sqlite import LOCKLESS, MODE_AT, ROLLBACK_MODE


class Copy:
    """Of ``source`` to a new file at ``path``; one content always gives the same bytes. To be closed. Raises
    ``apsw.FullError`` if there is no room; what was written until then stays."""

    def __init__(self, source: apsw.Connection, path: Path) -> None:
        self._copy = apsw.Connection(
            str(path),
            flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOMUTEX,
            vfs=LOCKLESS,
            statementcachesize=0,
        )
        try:
            for name, value in (("journal_mode", "off"), ("synchronous", "off"), ("locking_mode", "exclusive")):
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


def copy_whole(source: apsw.Connection, path: Path) -> None:
    """A :class:`Copy` made in one go."""
    with contextlib.closing(Copy(source, path)) as copy:
        copy.step()


def seal(path: Path, *, durably: bool = False) -> tuple[int, str]:
    """Make the copy at ``path`` one that needs no log; its size and SHA-256."""
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), ROLLBACK_MODE, MODE_AT)
        if durably:
            os.fdatasync(file.fileno())
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
