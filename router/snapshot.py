"""A box's file as a shard left it for devices: asked for, opened at once, read in portions.

The file never changes, and may be unlinked at any moment; whoever has it open reads on undisturbed. So
a shard never waits for a device, and a device that is slow holds nothing but a descriptor here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from io import FileIO
from time import perf_counter
from typing import Protocol

import falcon.asgi

from node import ops
from node.errors import Unavailable
from node.keystream import Keystream
from router.body import Request
from router.links import Links, about
from router.protocol import CONNECTION
from router.sync import SNAPSHOT_TIMEOUT_S

_TRIES = 3
PORTION = 128 * 1024
_ALONE = 4  # so many portions at once if the loop has nothing else to do
_TURNS_MAX = 4
_IDLE_S = 0.0001  # a turn that took less did nothing for anybody


class Snapshot:
    """An open file; ``size`` in bytes, ``state`` of the box it was made of. To be closed."""

    def __init__(self, said: ops.Snapshot, file: FileIO) -> None:
        self.state = said.state
        self.size = said.file_size
        self._file = file
        self._hidden = Keystream(said.hidden_by)

    def read(self, at: int, size: int) -> bytes:
        """``size`` bytes from ``at`` on; raises :class:`OSError` if they aren't there."""
        content = os.pread(self._file.fileno(), size, at)
        if len(content) != size:
            raise OSError(f"{len(content)} of {size} bytes at {at}")
        return self._hidden.apply(content, at)

    def close(self) -> None:
        self._file.close()


async def open_snapshot(links: Links, user: str, *, encoding: str, version: str | None, device: str | None) -> Snapshot:
    """The file of ``user``'s box in ``encoding``: ``version`` if it is still kept, else the newest."""
    request = ops.AskSnapshot(*about(user), encoding, version, device)
    for _ in range(_TRIES):
        said = await links.ask_about(request, ops.Snapshot, timeout_s=SNAPSHOT_TIMEOUT_S)
        with contextlib.suppress(FileNotFoundError):  # let go of just now: another one is made
            return Snapshot(said, FileIO(links.data / said.file))
    raise Unavailable()


class Portions(Protocol):
    """What is left of the body of an answer."""

    def take(self, most: int) -> bytes:
        """The next bytes, about ``most`` of them; nothing at the end."""
        ...


class Span:
    """``size`` bytes of ``snapshot`` from ``at`` on."""

    def __init__(self, snapshot: Snapshot, at: int, size: int) -> None:
        self._snapshot, self._at, self._end = snapshot, at, at + size

    def take(self, most: int) -> bytes:
        at, self._at = self._at, min(self._end, self._at + most)
        return self._snapshot.read(at, self._at - at)


class Body(AsyncIterator[bytes]):
    """The body of an answer: ``portions`` of a snapshot, which is closed when they have been sent, or when there is
    nobody left to send them to.

    All bodies share ``turn``: in one turn of the loop one of them writes one portion, and while the loop has other
    work, in one of several. So two hundred downloads take no more of it than one, and deliveries go first.
    """

    def __init__(self, req: Request, snapshot: Snapshot, portions: Portions, turn: asyncio.Lock) -> None:
        self._turn = turn
        self._connection = req.scope[CONNECTION]
        self._snapshot = snapshot
        self._portions = portions

    async def __anext__(self) -> bytes:
        await self._connection.writable()
        async with self._turn:
            is_alone = await others_first()
            if not self._connection.gone and (portion := self._portions.take(PORTION * (_ALONE if is_alone else 1))):
                return portion
        raise StopAsyncIteration

    async def close(self) -> None:
        """Falcon calls it at the end, whatever that is."""
        self._snapshot.close()


async def others_first() -> bool:
    """Until the loop has nothing else to do, or has done something else for some turns; whether it was idle at once."""
    for turn in range(_TURNS_MAX):
        began = perf_counter()
        await asyncio.sleep(0)
        if perf_counter() - began < _IDLE_S:
            return not turn
    return False


def describe(resp: falcon.asgi.Response, state: ops.SyncState) -> None:
    """The headers that say what file the device will end up with."""
    resp.set_header("Pobox-Version", state.version)
    resp.set_header("Pobox-Size", str(state.size))
    resp.set_header("Pobox-Checksum", state.checksum)
