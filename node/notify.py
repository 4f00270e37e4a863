"""What a process tells the service manager that started it: ready, alive, stopping.

The protocol is sd_notify(3): one datagram a message, to the socket that ``NOTIFY_SOCKET`` names. Without one nothing
is told. A watchdog is fed from the loop itself: a process whose loop hangs serves nobody, and is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

_USEC = 1e6


def tell(state: str) -> None:
    """Send ``state`` (``READY=1``, ``STOPPING=1``, …). Never fails and never waits: the manager may be gone."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.sendto(state.encode(), address)


def watchdog_s() -> float | None:
    """How often the manager wants to hear that this process lives, in seconds; None if it doesn't."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        asked_us = int(os.environ.get("WATCHDOG_USEC", ""))
        if asked_us > 0:
            return asked_us / _USEC
    return None


async def feed() -> None:
    """Say that the loop goes round, three times as often as is asked, until cancelled; returns if nobody asks."""
    every_s = watchdog_s()
    while every_s is not None:
        tell("WATCHDOG=1")
        await asyncio.sleep(every_s / 3)
