"""Who holds what belongs to a person, and who waits to: one holder at a time, whoever comes first goes first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable


class Line:
    """``length`` counts the holder, and those who wait."""

    __slots__ = ("length", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.length = 0


class Lines(dict[str, Line]):
    """By user; only those with somebody in it. ``wait`` is how one waits for a lock that is held."""

    def __init__(self, wait: Callable[[asyncio.Lock], Awaitable[object]] = asyncio.Lock.acquire) -> None:
        super().__init__()
        self._wait = wait

    @contextlib.asynccontextmanager
    async def hold(self, user: str) -> AsyncIterator[None]:
        """Wait in line for ``user``; where nobody is in it, without giving up the loop."""
        line = self.get(user)
        if line is None:
            line = self[user] = Line()
        line.length += 1
        try:
            if line.lock.locked():
                await self._wait(line.lock)
            else:
                await line.lock.acquire()
            try:
                yield
            finally:
                line.lock.release()
        finally:
            line.length -= 1
            if not line.length:
                del self[user]
