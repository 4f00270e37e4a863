"""An answer's head and body leave in one system call.

uvicorn writes them one after the other, and each write is a call to the kernel and a wake-up of the
caller: a sixth of what a small request costs. So a head is held back until the next write, which
uvicorn makes in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

_HEAD = b"HTTP/1.1 "
_INTERIM = b"HTTP/1.1 1"


class OneWrite(asyncio.Transport):
    """``transport``, with the head of an answer held until what follows it is written, if only ``b""``."""

    __slots__ = ("_held", "_transport", "is_closing", "pause_reading", "resume_reading")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held = b""
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        held = self._held
        if held:
            self._held = b""
            self._transport.write(held + data)
        elif data[:9] == _HEAD and data[:10] != _INTERIM:
            self._held = bytes(data)
        elif data:
            self._transport.write(data)

    def close(self) -> None:
        self.write(b"")
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
