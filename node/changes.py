"""For whom something came lately: counters in a file that a shard writes and every router looks at.

``data/run/changes-<shard>``: 64-bit numbers in the byte order of the machine. The first is the epoch: later at every
start of the shard, and later whenever something came for people who are not named. The second is what it was at the
start. Then come counters, by the hash of the userId, of what came for each. A shard counts after the journal has it and
before anybody is told. So who read epoch and counter, then asked the shard, and finds them unchanged, may give its
answer once more.

Behind them, by the same hash, there is a bit for each who may have a full box (whoever has the same hash has the same
bit: ask the shard), and the number of those that are full.

Aligned stores of eight bytes, one writer; readers never wait.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import xxhash

SLOTS = 65_536
_HEAD = 2
_LOOK_S = 0.01
"""how long a file is taken for the one that is there. It is replaced only when a shard starts, some time before that
shard takes anything in."""
_FULL = _HEAD + SLOTS
_WORD = 64
_COUNT = _FULL + SLOTS // _WORD
SIZE = 8 * (_COUNT + 1)

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
        self._full = Counter[int]()
        for at in range(_FULL, _COUNT + 1):
            self._numbers[at] = 0

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

    def full(self, user: str) -> None:
        """The box of ``user``, which was not, is full."""
        self._count_full(user, 1)

    def not_full(self, user: str) -> None:
        """And no more."""
        self._count_full(user, -1)

    def _count_full(self, user: str, step: int) -> None:
        place = _hash(user.encode()) % SLOTS
        self._full[place] += step
        word, bit = _FULL + place // _WORD, 1 << place % _WORD
        self._numbers[word] = self._numbers[word] | bit if self._full[place] else self._numbers[word] & ~bit
        if not self._full[place]:
            del self._full[place]
        self._numbers[_COUNT] += step

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

    def is_any_full(self) -> bool:
        """Whether there is a full box; not, while there is nothing to look at."""
        numbers = self._looked()
        return numbers is not None and numbers[_COUNT] > 0

    def may_be_full(self, user: str) -> bool:
        """Whether to ask if the box of ``user`` is full."""
        numbers = self._looked()
        place = _hash(user.encode()) % SLOTS
        return numbers is not None and bool(numbers[_FULL + place // _WORD] >> place % _WORD & 1)

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
