"""For whom something came lately: counters in a file that a shard writes and every router looks at.

``data/run/changes-<shard>``: 64-bit numbers in the byte order of the machine. The first is the epoch: later at every
start of the shard, and later whenever something came for people who are not named. The second is what it was at the
start. The others count, by the hash of the userId, what came for each. A shard counts after the journal has it and
before anybody is told. So who read epoch and counter, then asked the shard, and finds them unchanged, may give its
answer once more.

Aligned stores of eight bytes, one writer; readers never wait.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterable
from pathlib import Path

import xxhash

SLOTS = 65_536
_HEAD = 2
_LOOK_S = 0.01
"""how long a file is taken for the one that is there. It is replaced only when a shard starts, some time before that
shard takes anything in."""
SIZE = 8 * (_HEAD + SLOTS)

Mark = tuple[int, int]
"""epoch and counter"""
News = tuple[int, int]
"""the epoch at the start, and counter"""

_hash = xxhash.xxh64_intdigest


class Changes:
    """The writing end."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(fd, 0, SIZE)  # a store must never meet a full disk
            self._map = mmap.mmap(fd, SIZE)
        except OSError:  # it is full already: nobody will see these counters, and everybody asks
            path.unlink(missing_ok=True)
            self._map = mmap.mmap(-1, SIZE)
        finally:
            os.close(fd)
        self._numbers = memoryview(self._map).cast("Q")
        self._numbers[0] = self._numbers[1] = max(time.time_ns(), self._numbers[0] + 1)

    def for_users(self, users: Iterable[str]) -> None:
        """Something came for each of ``users``, or was changed."""
        numbers = self._numbers
        for user in users:
            numbers[_HEAD + _hash(user.encode()) % SLOTS] += 1

    def for_user(self, user: str) -> None:
        """The same for one."""
        self.for_users((user,))

    def for_anybody(self) -> None:
        """Something came, and it isn't said for whom."""
        self._numbers[0] += 1

    def close(self) -> None:
        self._numbers.release()
        self._map.close()


class Watch:
    """The reading end. The file may come, or be replaced, at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._numbers: memoryview | None = None
        self._looked_at = float("-inf")

    def mark(self, user: str) -> Mark | None:
        """What to compare later; None while there is nothing to look at."""
        numbers = self._looked()
        return None if numbers is None else (numbers[0], numbers[_HEAD + _hash(user.encode()) % SLOTS])

    def news(self, user: str) -> News | None:
        """The same for who wants to hear what has come by name, or is in the box, and can wait for the rest."""
        numbers = self._looked()
        return None if numbers is None else (numbers[1], numbers[_HEAD + _hash(user.encode()) % SLOTS])

    def _looked(self) -> memoryview | None:
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            try:
                status = os.stat(self._path)
            except FileNotFoundError:
                self._file = self._numbers = None
            else:
                if self._file != (status.st_ino, status.st_dev):
                    self._open()
        return self._numbers

    def _open(self) -> None:
        self._file = self._numbers = None
        try:
            fd = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            status = os.fstat(fd)
            if status.st_size != SIZE:  # it is being made
                return
            self._numbers = memoryview(mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)).cast("Q")
            self._file = status.st_ino, status.st_dev
        finally:
            os.close(fd)
