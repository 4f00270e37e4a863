"""Empty encrypted databases, as bytes: of one schema, each with a key of its own.

One is kept in memory, on a way to the disk that leads to a ``bytearray``. SQLite encrypts its few pages anew for each
key, which takes some 30 microseconds; making the tables each time would take a millisecond.
"""

from __future__ import annotations

import itertools
import threading

import apsw

from shard.keyring import Keyring, passing_key
from shard.sqlite import MODE_AT, WAL_MODE, unlock, way

_MEMORY = "pobox-memory"
_registered = threading.Lock()
_names = itertools.count()


class Empty:
    """Of the tables of ``schema``. For all threads."""

    def __init__(self, schema: str, keyring: Keyring) -> None:
        self._keyring = keyring
        self._lock = threading.Lock()
        key = passing_key()
        with _registered:
            memory = _memory()
            self._db = apsw.Connection(f"/{next(_names)}", vfs=way(key, _MEMORY), statementcachesize=0)
            self._file = memory.opened
        unlock(self._db, key)
        for name, value in (("locking_mode", "exclusive"), ("journal_mode", "off"), ("synchronous", "off")):
            self._db.pragma(name, value)
        self._db.execute(schema).fetchall()
        self.size = len(self._file.content)
        """bytes of each"""

    def content(self, owner: str, *, durably: bool = False) -> bytes:
        """A new file of ``owner``, in WAL mode; ``durably`` as in :meth:`Keyring.new`. Raises :class:`OSError` where
        there is no room for keys."""
        key = self._keyring.new(owner, durably=durably)
        with self._lock:
            self._db.execute(f"PRAGMA rekey={key.text}", can_cache=False)
            content = bytearray(self._file.content)
        content[MODE_AT : MODE_AT + 2] = WAL_MODE
        return bytes(content)


class _File:
    """What SQLite asks of a file, of one in memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self.content[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        if offset + len(data) > len(self.content):
            self.content.extend(bytes(offset + len(data) - len(self.content)))
        self.content[offset : offset + len(data)] = data

    def xTruncate(self, size: int) -> None:
        del self.content[size:]

    def xFileSize(self) -> int:
        return len(self.content)

    def xSync(self, _flags: int) -> None:
        return

    def xLock(self, _level: int) -> None:
        return

    def xUnlock(self, _level: int) -> None:
        return

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, _op: int, _pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 512

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xClose(self) -> None:
        return


class _Memory(apsw.VFS):
    """``opened`` is the file that was opened last."""

    def __init__(self) -> None:
        super().__init__(_MEMORY, "")
        self.opened = _File()

    def xOpen(self, name: object, flags: object) -> _File:  # type: ignore[override]
        self.opened = _File()
        return self.opened

    def xAccess(self, pathname: str, flags: int) -> bool:
        return False

    def xDelete(self, filename: str, syncdir: bool) -> None:
        return

    def xFullPathname(self, name: str) -> str:
        return name


_one: list[_Memory] = []


def _memory() -> _Memory:
    """The one of this process; SQLite keeps it by its name."""
    if not _one:
        _one.append(_Memory())
    return _one[0]
