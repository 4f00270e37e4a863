"""HTTP/1.1 on a connection: uvicorn's protocol, with a bound on how long a caller may keep us waiting.

A connection is in one of four phases, and in three of them it is the caller's turn:

- HEAD: a request's line and headers are due (``header_timeout_s``, from the connect or the first byte)
- BODY: its body is due (``body_timeout_s``)
- OURS: the request is here, the answer isn't
- IDLE: nothing is due but the next request (``idle_timeout_s``)

A phase only notes when it began. One look at all connections a second finds those that are late,
so no request pays for a timer. An answer of which nobody takes anything (``stall_timeout_s``) is cut off too.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from node.config import Router
from node.errors import CallerError, Overloaded, PoboxError, TooSlow
from router.hops import Crowd, networks
from router.outgoing import Outgoing
from router.problems import MEDIA_TYPE, HeadersTooLarge, encode

HEADERS_BYTES_MAX = 32_768
_HSTS_S = 31_536_000
_LAST_REQUEST_S = 0.5
"""so long does a process that stops wait for a request that may be on its way already"""
CONNECTION = "pobox.connection"
"""where the scope of a request has its :class:`Bounded`, for answers that take long"""


class Phase(IntEnum):
    HEAD = 0
    BODY = 1
    OURS = 2
    IDLE = 3


class Bounded(HttpToolsProtocol):
    """A connection that ends when its caller is too slow, too long-winded or one too many.

    :func:`bounded_by` makes the class with its limits.
    """

    limits = Router()
    crowd = Crowd(Router().connections_per_address_max, [])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stopping = False
        self._phase = Phase.HEAD
        self._since = self.loop.time()
        self._stuck_since: float | None = None
        self._stuck_bytes = 0
        self._head_bytes = 0
        self._portion = 0
        self._refusal = CallerError("this is not an HTTP request")
        self._answering: Any = None
        self._address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = Outgoing(transport, self.loop)  # type: ignore[assignment]
        self._address = self.client[0] if self.client is not None else ""
        alone = self.crowd.enter(self._address)
        if not alone or len(self.connections) > self.limits.connections_max:
            self.app = _turn_away

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.crowd.leave(self._address)
        if self._answering is not None:  # with requests in the pipeline, uvicorn tells only the last of them
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._portion = len(data)
        super().data_received(data)
        if self._phase is Phase.HEAD and not self.transport.is_closing():
            # What came of a head that isn't complete: the parser has no bound of its own.
            self._head_bytes += len(data)
            if self._head_bytes > HEADERS_BYTES_MAX:
                self._give_up(_head_too_large())

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            self._give_up(self._refusal)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._enter(Phase.HEAD)
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        if len(self.headers) > self.limits.headers_max:
            self._refusal = HeadersTooLarge(f"{self.limits.headers_max} headers are the most")
            raise self._refusal
        if self._head_bytes + self._portion > HEADERS_BYTES_MAX:  # it may be; the portion can hold a body too
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEADERS_BYTES_MAX:
                self._refusal = _head_too_large()
                raise self._refusal  # ends the parsing, and comes back as send_400_response
        super().on_headers_complete()
        if self.stopping:
            self.cycle.keep_alive = False
        if not self.pipeline:
            self._answering = self.cycle
        self._enter(Phase.BODY)  # from here on `cycle` is this request's
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def on_message_complete(self) -> None:
        super().on_message_complete()
        # The answer may be out already, if it didn't need the body.
        self._enter(Phase.IDLE if self.cycle.response_complete else Phase.OURS)

    def on_response_complete(self) -> None:
        self._answering = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        self._unset_keepalive_if_required()  # IDLE is watched like any other phase
        if self._phase is Phase.OURS and self.cycle.response_complete:
            self._enter(Phase.IDLE)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck_since = self.loop.time()
        self._stuck_bytes = self._untaken()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck_since = None

    def check(self, now: float) -> None:
        """End the connection if its caller is late by ``now`` (the loop's time)."""
        limits = self.limits
        waited_s = now - self._since
        if self._stuck_since is not None:
            left = self._untaken()
            if left != self._stuck_bytes:  # it takes a little at a time
                self._stuck_since, self._stuck_bytes = now, left
            elif now - self._stuck_since > limits.stall_timeout_s:
                self.transport.abort()
                return
        if self.transport.is_closing():  # and still has something to hand over
            if waited_s > limits.body_timeout_s:
                self.transport.abort()
            return
        if self._phase is Phase.OURS:
            return
        if self._phase is Phase.IDLE:
            if waited_s > limits.idle_timeout_s:
                self.transport.close()
        elif waited_s > (limits.header_timeout_s if self._phase is Phase.HEAD else limits.body_timeout_s):
            self._give_up(TooSlow())

    @property
    def since(self) -> float:
        """When the phase began that the connection is in, in the loop's time."""
        return self._since

    async def writable(self) -> None:
        """Until the caller has taken most of what was written; so no more than that waits in memory."""
        await self.flow.drain()

    @property
    def gone(self) -> bool:
        """Whether there is nobody left to answer; then what was begun may end early."""
        if not self.transport.is_closing():
            return False
        self.cycle.disconnected = True
        return True

    def shutdown(self) -> None:
        """uvicorn's word that the process is stopping; an answer without an end ends here.

        On a connection on which nothing is under way the next request may be: closed at once, it would be lost. It is
        still answered, and told that it was the last.
        """
        self.stopping = True
        if self._answering is None:
            self.loop.call_later(_LAST_REQUEST_S, super().shutdown)
        else:
            super().shutdown()

    def _untaken(self) -> int:
        """Bytes of the answer that the caller has not taken: ours, and those that the kernel holds. (It takes more of
        ours only when a third of its megabytes are gone; on a slow line that is a minute.)"""
        held = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since = self.loop.time()

    def _give_up(self, error: PoboxError) -> None:
        """Answer ``error``, unless an answer was given or another's is due first, and close."""
        if self._may_answer():
            body = encode(error.problem())
            headers = b"".join(b"%b: %b\r\n" % pair for pair in self.server_state.default_headers)
            self.transport.write(
                STATUS_LINE[error.status]
                + headers
                + b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
                % (MEDIA_TYPE.encode(), len(body))
                + body
            )
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # whoever waits for the rest of the body is told
            cycle.message_event.set()
        self._enter(Phase.IDLE)
        self.transport.close()

    def _may_answer(self) -> bool:
        cycle = self.cycle
        if self._phase is Phase.BODY:  # the last cycle is the request at hand
            return not cycle.response_started and not self.pipeline
        return cycle is None or cycle.response_complete


def bounded_by(limits: Router) -> type[Bounded]:
    """:class:`Bounded` with ``limits``; uvicorn makes the instances. Raises :class:`node.errors.ConfigError`."""
    crowd = Crowd(limits.connections_per_address_max, networks(limits.trusted_proxies))
    return type("Bounded", (Bounded,), {"limits": limits, "crowd": crowd})


def security_headers(*, tls: bool) -> list[tuple[str, str]]:
    """What every answer says to browsers, this module's own and those of the app."""
    headers = [
        ("Content-Security-Policy", "frame-ancestors 'none'"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return [*headers, ("Strict-Transport-Security", f"max-age={_HSTS_S}")] if tls else headers


def end_late(connections: Iterable[Any], now: float) -> None:
    """End every connection whose caller is late by ``now``; called once a second."""
    for connection in list(connections):
        connection.check(now)


def _head_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"{HEADERS_BYTES_MAX} bytes are the most")


async def _turn_away(_scope: Any, _receive: Any, send: Any) -> None:
    problem = Overloaded().problem()
    body = encode(problem)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(problem.retry_after).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
