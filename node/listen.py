"""The listening sockets: bound by the supervisor, one a router, all on one port.

Every socket has ``SO_REUSEPORT`` and the kernel spreads connections over those that listen. They
stay open in the supervisor while a router is started again, so callers wait a moment in the queue
instead of being refused. Since ``SO_REUSEPORT`` would also let two strangers share a port, a probe
without it goes first: a port that is taken is refused.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from node.errors import ConfigError

_Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class PortTaken(Exception):
    """Somebody else listens there."""


def resolve(host: str, port: int) -> _Address:
    """Where ``host`` and ``port`` are; raises :class:`ConfigError` for a host that is nowhere."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"[node] host: {host}: {error.strerror}") from error
    family, _type, _proto, _name, address = found[0]
    return family, address


def is_loopback(host: str) -> bool:
    """Whether ``host`` is reachable from this machine only."""
    _family, address = resolve(host, 0)
    return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """``count`` sockets bound to one port (a free one if ``port`` is 0); none of them listens yet.

    Raises :class:`PortTaken`, or :class:`ConfigError` for an address that isn't ours to bind.
    """
    family, address = resolve(host, port)
    try:
        _bound(family, address, shared=False).close()
        sockets = [_bound(family, address, shared=True)]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} on {host} is taken: something else listens there") from error
        raise ConfigError(f"can't listen on {host} port {port}: {error.strerror}") from error
    sockets += [_bound(family, sockets[0].getsockname(), shared=True) for _ in range(count - 1)]
    return sockets


def url(listener: socket.socket, scheme: str = "http") -> str:
    """The address of ``listener`` as callers write it."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def listens(listener: socket.socket) -> bool:
    """Whether a router has begun to take connections from ``listener``."""
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _bound(family: socket.AddressFamily, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of an earlier run that linger in TIME_WAIT are no reason to refuse.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
