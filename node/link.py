"""The asking end of a connection to a shard: many requests in flight, each with its answer.

A link connects by itself, again and again with a short backoff, and never hides trouble: a
request on a link that is down, full, cut or too slow raises :class:`Unavailable` or
:class:`Overloaded`. The asker may then send the same again, since every request is harmless to
repeat.

A process that hangs keeps its connections. So a link that has heard nothing for a moment pings, and
when the silence lasts, its breaker opens (:mod:`node.breaker`): what waits fails, and nothing is sent but
the probe, until that is answered. Time in which this process itself was held up is no silence: what was
said meanwhile is still unread.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from node import ops
from node.breaker import SILENCE_S, Breaker, State
from node.errors import Overloaded, Refused, Unavailable
from node.paths import socket_address
from node.wire import Framed

T = TypeVar("T")

IN_FLIGHT_MAX = 8_192
_SWEEP_S = 0.25
_QUIET_S = 0.5
_RECONNECT_MAX_S = 0.5
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


class _Asked(NamedTuple):
    answer: asyncio.Future[msgspec.Raw]
    sent_at: float
    deadline: float


class _Wire(Framed):
    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[int, _Asked] = {}
        self.heard = True
        """whether anything came since the keeper looked last"""

    def data_received(self, data: bytes) -> None:
        self.heard = True
        super().data_received(data)

    def frame_received(self, payload: bytes) -> None:
        answer = ops.decode_answer(payload)
        asked = self.waiting.pop(answer.rid, None)
        if asked is None or asked.answer.done():
            return
        if isinstance(answer, ops.Done):
            asked.answer.set_result(answer.body)
        else:
            asked.answer.set_exception(Refused(answer.problem, answer.shut))

    def closed(self) -> None:
        self.fail_all()

    def fail_all(self) -> None:
        """There will be no answers to what waits."""
        waiting, self.waiting = self.waiting, {}
        for asked in waiting.values():
            if not asked.answer.done():
                asked.answer.set_exception(Unavailable())


class Link:
    """A connection to one shard's socket, kept up until :meth:`close`."""

    def __init__(self, path: Path, *, timeout_s: float = 5.0, silence_s: float = SILENCE_S) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._wire: _Wire | None = None
        self._rid = 0
        self._keeper: asyncio.Task[None] | None = None
        self.breaker = self._closed_breaker()
        self._ping: tuple[int, asyncio.Future[msgspec.Raw]] | None = None
        self._heard_at = 0.0

    @property
    def up(self) -> bool:
        return self._wire is not None and self._wire.transport is not None

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return 0 if self._wire is None else len(self._wire.waiting)

    def check(self) -> _Wire:
        """The connection, if a request may be sent on it now; raises :class:`Unavailable` or
        :class:`Overloaded`. What it says holds until the next await."""
        wire = self._wire
        if wire is None or wire.transport is None:
            raise Unavailable()
        if self.breaker.state is not State.CLOSED:
            raise Unavailable(retry_after=self.breaker.retry_after_s(asyncio.get_running_loop().time()))
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
        self.breaker, self._ping, self._heard_at = self._closed_breaker(), None, loop.time()

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
        return self._send(self.check(), request, timeout_s or self._timeout_s)

    def _send(self, wire: _Wire, request: ops.AnyRequest, timeout_s: float) -> asyncio.Future[msgspec.Raw]:
        loop = asyncio.get_running_loop()
        self._rid = rid = self._rid + 1
        request.rid = rid
        future: asyncio.Future[msgspec.Raw] = loop.create_future()
        now = loop.time()
        wire.waiting[rid] = _Asked(future, now, now + timeout_s)
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
            due = loop.time() + _SWEEP_S
            await asyncio.sleep(_SWEEP_S)
            if loop.time() - due >= _SWEEP_S:  # held up, and the loop runs timers before it reads
                self._heard_at = loop.time()
            if self._wire is not None and self._wire.transport is not None:
                self._sweep(self._wire.waiting, loop.time())
                self._listen(self._wire, loop.time())

    def _closed_breaker(self) -> Breaker:
        """Its probe is a ping to a process next door: it may come soon and often."""
        return Breaker(silence_s=self._silence_s, pause_s=_SWEEP_S, pause_max_s=1.0)

    def _listen(self, wire: _Wire, now: float) -> None:
        """See whether the other end is alive; ask it if it is quiet."""
        if wire.heard:
            wire.heard, self._heard_at = False, now
        if self._ping is not None and self._ping[1].done():
            (ticket, answer), self._ping = self._ping, None
            if answer.exception() is None:
                self.breaker.succeeded(ticket, now)
        oldest = next(iter(wire.waiting.values()), None)
        self.breaker.look(now, None if oldest is None else max(oldest.sent_at, self._heard_at))
        if self.breaker.state is State.OPEN:
            wire.fail_all()  # the ping among them
        elif self._ping is not None or (self.breaker.state is State.CLOSED and now - self._heard_at < _QUIET_S):
            return
        entered = self.breaker.enter(now)
        if entered is not None:
            ping = self._send(wire, ops.Ping(0), self._timeout_s)
            ping.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask
            self._ping = entered, ping

    @staticmethod
    def _sweep(waiting: dict[int, _Asked], now: float) -> None:
        late = [rid for rid, asked in waiting.items() if asked.deadline < now or asked.answer.done()]
        for rid in late:
            answer = waiting.pop(rid).answer
            if not answer.done():
                answer.set_exception(Unavailable())


async def ask_once(path: Path, request: ops.AnyRequest, answer: type[T], *, timeout_s: float) -> T:
    """As :meth:`Link.ask`, over a connection for this alone. Raises ``OSError`` if nobody listens at ``path``,
    ``TimeoutError`` after ``timeout_s``."""
    link = Link(path, timeout_s=timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            await link.connect()
            return await link.ask(request, answer)
    finally:
        await link.close()


def body_of(raw: msgspec.Raw, answer: type[T]) -> T:
    """The body of an answer, as ``answer``."""
    decoder = _decoders.get(answer)
    if decoder is None:
        decoder = _decoders[answer] = msgspec.msgpack.Decoder(answer)
    body: T = decoder.decode(raw)
    return body
