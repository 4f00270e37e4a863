"""Frames on a Unix socket: four bytes of length (big endian), then one msgpack value.

The splitter is pure and takes any split of the byte stream. Everything is bounded: a frame by
``FRAME_MAX`` bytes, what waits to be written by the transport's high-water mark (``writable``
turns False above it; whoever sends has to look). Frames written during one turn of the loop
leave in one system call.
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import cast

FRAME_MAX = 32 * 1024 * 1024
_HIGH_WATER = 4 * 1024 * 1024
_LENGTH = Struct(">I")


class WireError(Exception):
    """The peer doesn't speak this protocol; the connection is of no more use."""


def frame(payload: bytes) -> bytes:
    """``payload`` with its length in front."""
    return _LENGTH.pack(len(payload)) + payload


class Splitter:
    """Cuts a byte stream into the payloads of its frames."""

    __slots__ = ("_max", "_need", "_rest")

    def __init__(self, frame_max: int = FRAME_MAX) -> None:
        self._max = frame_max
        self._rest = bytearray()
        self._need = 4  # bytes that _rest must hold before a look at it is worth while

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that ``data`` completes; raises :class:`WireError` on a length beyond the bound."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return []
            data = bytes(self._rest)
        payloads = []
        at, end, need = 0, len(data), 4
        while end - at >= 4:
            need = 4 + _LENGTH.unpack_from(data, at)[0]
            if need - 4 > self._max:
                raise WireError(f"a frame of {need - 4} bytes; {self._max} is the most")
            if end - at < need:
                break
            payloads.append(data[at + 4 : at + need])
            at += need
            need = 4
        self._rest = bytearray(data[at:])
        self._need = need
        return payloads


class Framed(asyncio.Protocol):
    """One end of a connection. Subclasses take :meth:`frame_received` and :meth:`closed`."""

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.writable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports have the methods and not the base class.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.writable = True

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._splitter.feed(data):
                self.frame_received(payload)
        except WireError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.writable = False
        self.closed()

    def send(self, payload: bytes) -> None:
        """Queue one frame; it leaves at the end of this turn of the loop."""
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(_LENGTH.pack(len(payload)))
        out.append(payload)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self.transport is not None:
            self.transport.write(b"".join(out))

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close without another look at what came or waits."""
        if self.transport is not None:
            self.transport.abort()

    def frame_received(self, payload: bytes) -> None:
        raise NotImplementedError

    def closed(self) -> None:
        raise NotImplementedError
