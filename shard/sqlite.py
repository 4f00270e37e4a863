"""The one SQLite library of a shard, and the one way to open a file with it.

APSW carries its own SQLite. Versions before 3.51.3 can corrupt a write-ahead log that starts over,
so nothing is opened with them. All files are in WAL mode, held exclusively by one connection (no
shared memory file, no locks to take and give back), and never checkpoint by themselves unless asked.

A file that has a key (:mod:`shard.keyring`) is encrypted page by page with AEGIS-256, database and log: a page carries
its own nonce and tag. The first 24 bytes are not encrypted: 16 that are the file's own, and what says how SQLite is to
read and write it. Checksums of the log are of what is on disk, so it is recovered like any other.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import weakref
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from struct import pack
from typing import NamedTuple
from urllib.parse import quote

import apsw

SQLITE_MIN = 3_051_003
LOCKLESS = "unix-none"
"""SQLite's way to the disk without its locks, for files that :func:`lock` has"""

MODE_AT = 18
"""where a file's header says how it is to be read and written: one byte each"""
ROLLBACK_MODE, WAL_MODE = b"\x01\x01", b"\x02\x02"

HEAD = 16
"""bytes at the beginning of a file that say whether it is encrypted, and with which key"""
_CIPHERS = "multipleciphers-"  # the way to the disk with that name does for another what can be done with ciphers

_LOCK = pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0x4000_0000, 512, 0)  # PENDING, RESERVED and SHARED bytes


class Sync(Enum):
    """When SQLite itself waits for the disk."""

    OFF = 0
    """never: whoever uses it makes commits durable in another way (a barrier)"""
    FULL = 2
    """at every commit"""
    EXTRA = 3
    """and for the directory, from which a commit without a log takes the name of its journal"""


class Key(NamedTuple):
    """Of one file: ``id``, 16 bytes that the file begins with, and ``secret``, 32 bytes."""

    id: bytes
    secret: bytes

    @property
    def text(self) -> str:
        """As SQLite is told it. A new file takes up the id, one that is there has it."""
        return f"'raw:{self.secret.hex()}{self.id.hex()}'"


KeyFor = Callable[[bytes], Key | None]
"""the key of a file that begins so, None for a plain one"""


def can_encrypt() -> bool:
    """Whether this SQLite is the one with ciphers (apsw-sqlite3mc)."""
    return hasattr(apsw, "mc_version")


def way(key: Key | None, vfs: str | None) -> str | None:
    """The name of SQLite's way to the disk for a file with ``key``, on top of ``vfs``.

    Never without ``locking_mode=exclusive``: on :data:`LOCKLESS` there is no shared memory, which a file in WAL mode
    asks for otherwise, and this library doesn't notice that.
    """
    return vfs if key is None else f"{_CIPHERS}{vfs or 'unix'}"


def unlock(db: apsw.Connection, key: Key | None) -> None:
    """Give ``db``, of which nothing was read yet, its key."""
    if can_encrypt():
        if key is not None:
            db.execute("PRAGMA cipher=aegis")
            db.execute(f"PRAGMA key={key.text}", can_cache=False)
        db.pragma("secure_delete", False)  # this library has it on: pages that are let go would all be written


def set_up() -> None:
    """Configure the library; once a process, before the first connection.

    No mutex a connection (each is used by one thread at a time), no memory statistics (a global
    mutex), and little memory set aside in advance: thousands of connections are open at once.
    """
    if apsw.SQLITE_VERSION_NUMBER < SQLITE_MIN:
        raise RuntimeError(f"SQLite {apsw.sqlite_lib_version()} is too old: 3.51.3 is the least")
    apsw.shutdown()
    apsw.config(apsw.SQLITE_CONFIG_MULTITHREAD)
    apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)
    apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, 128, 16)
    apsw.initialize()


def empty_file(schema: str) -> bytes:
    """The bytes of a database with the tables of ``schema`` and nothing in them, in WAL mode; made by SQLite itself, in
    memory, since the disk may be full."""
    db = apsw.Connection(":memory:")
    db.execute(schema).fetchall()
    content = bytearray(db.serialize("main"))
    db.close()
    content[MODE_AT : MODE_AT + 2] = WAL_MODE
    return bytes(content)


def has_table(db: apsw.Connection, name: str) -> bool:
    found = db.execute("SELECT 1 FROM sqlite_schema WHERE type='table' AND name=?", (name,))
    return found.fetchone() is not None


def lock(path: Path) -> int:
    """Keep every other program's SQLite out of the database at ``path``, until the descriptor that is returned
    is closed; raises ``apsw.BusyError`` if one is in.

    SQLite would take the same lock itself. But since closing a file drops all POSIX locks that the process has
    on it, it keeps a list of the files that are open, and walks it twice at each opening: 1.5 ms with 8,000
    boxes open. A lock of the open file description belongs to its descriptor alone and needs no list.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise apsw.BusyError("database is locked") from error
        raise
    except BaseException:
        os.close(fd)
        raise
    return fd


def connect(
    path: Path,
    *,
    sync: Sync,
    cache_pages: int,
    statements: int,
    create: bool = False,
    vfs: str | None = None,
    key: Key | None = None,
) -> apsw.Connection:
    """An exclusive WAL connection; raises ``apsw.BusyError`` if somebody else holds the file.

    A page cache may grow beyond ``cache_pages`` inside a transaction, so that no page is written to the
    log twice. Each setting is a statement of its own: APSW runs several in one string only as far as
    their rows are fetched.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
    if create:
        flags |= apsw.SQLITE_OPEN_CREATE
    db = apsw.Connection(str(path), flags=flags, vfs=way(key, vfs), statementcachesize=statements)
    _unlist()
    try:
        unlock(db, key)
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        for name, value in (
            ("locking_mode", "exclusive"),  # before anything is read, or shared memory is made after all
            ("synchronous", sync.value),
            ("cache_size", cache_pages),
            ("cache_spill", "off"),
            ("temp_store", "memory"),
            ("wal_autocheckpoint", 0),
        ):
            db.pragma(name, value)
        if create or db.pragma("journal_mode") != "wal":  # a copy that somebody put here may be in another mode
            db.pragma("journal_mode", "wal")
        db.release_memory()  # the first read took room for 20 pages; the next takes it for cache_pages
        if db.pragma("journal_mode") != "wal":
            raise apsw.CorruptError(f"{path} is not in WAL mode")
    except BaseException:
        db.close()
        raise
    return db


def _unlist() -> None:
    """Take all connections out of APSW's list of them, which is there for ``apsw.connections()``.

    APSW walks the list whenever a connection is closed, with the interpreter's lock held: a tenth of all time, by a
    profile of a shard with 6,000 boxes open that visits others. Only its module refers to the list, and goes without.
    """
    for held in gc.get_referents(apsw):
        if isinstance(held, list) and all(isinstance(item, weakref.ref) for item in held):
            held.clear()


def immutable(path: Path, key: Key | None) -> apsw.Connection:
    """The file at ``path``, which nobody changes and which has no log, to be read."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_NOMUTEX
    db = apsw.Connection(f"file:{quote(str(path.absolute()))}?immutable=1", flags=flags, vfs=way(key, LOCKLESS))
    try:
        unlock(db, key)
        db.pragma("locking_mode", "exclusive")
    except BaseException:
        db.close()
        raise
    return db


class Locked:
    """A connection to the file at ``path``, as :func:`connect` makes it, and the lock that keeps others out, as
    :func:`lock` takes it: both begin and end together. Raises ``apsw.BusyError`` if somebody else has it open, and what
    ``key_for`` does."""

    __slots__ = ("_lock", "db", "key")

    def __init__(
        self,
        path: Path,
        *,
        sync: Sync,
        cache_pages: int,
        statements: int,
        vfs: str | None = None,
        key_for: KeyFor | None = None,
    ) -> None:
        self._lock = lock(path)
        try:
            self.key = key_for(os.pread(self._lock, HEAD, 0)) if key_for else None
            self.db = connect(
                path, sync=sync, cache_pages=cache_pages, statements=statements, vfs=vfs or LOCKLESS, key=self.key
            )
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        try:
            self.db.close()
        finally:
            os.close(self._lock)
