"""The asking end of a connection to a shard: many requests in flight, each with its answer.

A link connects by itself, again and again with a short backoff, and never hides trouble: a
request on a link that is down, full, cut or too slow raises :class:`Unavailable` or
:class:`Overloaded`. The asker may then send the same again, since every request is harmless to
repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from node import ops
from node.errors import Overloaded, Refused, Unavailable
from node.paths import socket_address
from node.wire import Framed

T = TypeVar("T")

IN_FLIGHT_MAX = 8_192
_SWEEP_S = 0.25
_RECONNECT_MAX_S = 0.5
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


class _Wire(Framed):
    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[int, tuple[asyncio.Future[msgspec.Raw], float]] = {}

    def frame_received(self, payload: bytes) -> None:
        answer = ops.decode_answer(payload)
        entry = self.waiting.pop(answer.rid, None)
        if entry is None or entry[0].done():
            return
        if isinstance(answer, ops.Done):
            entry[0].set_result(answer.body)
        else:
            entry[0].set_exception(Refused(answer.problem))

    def closed(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for future, _deadline in waiting.values():
            if not future.done():
                future.set_exception(Unavailable())


class Link:
    """A connection to one shard's socket, kept up until :meth:`close`."""

    def __init__(self, path: Path, *, timeout_s: float = 5.0) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._wire: _Wire | None = None
        self._rid = 0
        self._keeper: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return self._wire is not None and self._wire.transport is not None

    def check(self) -> _Wire:
        """The connection, if a request may be sent on it now; raises :class:`Unavailable` or
        :class:`Overloaded`. What it says holds until the next await."""
        wire = self._wire
        if wire is None or wire.transport is None:
            raise Unavailable()
        if not wire.writable or len(wire.waiting) >= IN_FLIGHT_MAX:
            raise Overloaded()
        return wire

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._keeper = asyncio.create_task(self._keep(), name=f"link {self.path}")

    async def connect(self) -> None:
        """Connect now; raises :class:`OSError` if nobody listens."""
        loop = asyncio.get_running_loop()
        address = socket_address(self.path)
        _transport, self._wire = await loop.create_unix_connection(_Wire, address)

    async def ask(self, request: ops.AnyRequest, answer: type[T], *, timeout_s: float | None = None) -> T:
        """Send ``request`` (its ``rid`` is set here) and wait for the body of the answer.

        Raises what the shard refused with, or :class:`Unavailable` when there is no answer.
        """
        return body_of(await self.send_request(request, timeout_s=timeout_s), answer)

    def send_request(self, request: ops.AnyRequest, *, timeout_s: float | None = None) -> asyncio.Future[msgspec.Raw]:
        """The first half of :meth:`ask`: several shards are asked at once without a task for each.

        Whoever calls it awaits the future (it raises as :meth:`ask` does) and reads it with
        :func:`body_of`.
        """
        wire = self.check()
        loop = asyncio.get_running_loop()
        self._rid = rid = self._rid + 1
        request.rid = rid
        future: asyncio.Future[msgspec.Raw] = loop.create_future()
        wire.waiting[rid] = (future, loop.time() + (timeout_s or self._timeout_s))
        wire.send(ops.encode(request))
        return future

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._wire is not None:
            self._wire.close()

    async def _keep(self) -> None:
        """Connect, sweep out what waited too long, connect again."""
        delay_s = 0.02
        loop = asyncio.get_running_loop()
        while True:
            if not self.up:
                try:
                    await self.connect()
                    delay_s = 0.02
                except OSError:
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, _RECONNECT_MAX_S)
                    continue
            await asyncio.sleep(_SWEEP_S)
            if self._wire is not None:
                self._sweep(self._wire.waiting, loop.time())

    @staticmethod
    def _sweep(waiting: dict[int, tuple[asyncio.Future[msgspec.Raw], float]], now: float) -> None:
        late = [rid for rid, (future, deadline) in waiting.items() if deadline < now or future.done()]
        for rid in late:
            future, _deadline = waiting.pop(rid)
            if not future.done():
                future.set_exception(Unavailable())


def body_of(raw: msgspec.Raw, answer: type[T]) -> T:
    """The body of an answer, as ``answer``."""
    decoder = _decoders.get(answer)
    if decoder is None:
        decoder = _decoders[answer] = msgspec.msgpack.Decoder(answer)
    body: T = decoder.decode(raw)
    return body
