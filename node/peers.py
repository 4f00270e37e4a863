"""Who is at the other end of a Unix socket: asked of the kernel, which knows it better than the file's mode does."""

from __future__ import annotations

import asyncio
import os
import socket
from struct import Struct

_CREDENTIALS = Struct("3i")  # pid, uid, gid


def is_ours(transport: asyncio.BaseTransport) -> bool:
    """Whether it is a process of this one's own user."""
    connected: socket.socket = transport.get_extra_info("socket")
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(raw)
    return bool(uid == os.geteuid())
