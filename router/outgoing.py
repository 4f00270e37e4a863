"""What is sent on a connection: everything that is written during one turn of the loop leaves in one system call.

The server writes head and body of an answer one after the other. Left alone each would be a call into the kernel, a
packet, and a waking of whoever waits for it; together these cost as much as all else that is done for a small answer.
Large pieces go straight on, so that an answer is never held whole, and who is slow is noticed as before.
"""

from __future__ import annotations

import asyncio
from typing import Any

_HELD_MAX = 64 * 1024


class Outgoing:
    """``transport``, as far as a server uses one, with its writes held until the end of the turn."""

    __slots__ = ("_held", "_loop", "_size", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if len(data) >= _HELD_MAX:
            self._flush()
            self._transport.write(data)
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._size += len(data)
        if self._size >= _HELD_MAX:
            self._flush()

    def close(self) -> None:
        """When all that was written is sent."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """At once."""
        self._held, self._size = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str) -> Any:
        return self._transport.get_extra_info(name)

    def get_write_buffer_size(self) -> int:
        """Bytes that were written and the kernel has not taken."""
        return self._size + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        held, self._held, self._size = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))
