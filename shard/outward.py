"""Requests from the node to the world outside, at addresses that strangers have named.

Whoever subscribes says where the node is to send. So the node connects to public addresses only: the name is
resolved here, every address it has is looked at, and the connection is made to the very address that was looked at;
a name that says something else the next time (DNS rebinding) gains nothing. Redirects are not followed, proxies of
the environment not used, and of an answer only status and ``Retry-After`` are looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from time import time
from typing import NamedTuple
from urllib.parse import urlsplit

import httpcore

from node.errors import BadField, Unavailable

URL_MAX = 2_048
_CONNECT_S = 5.0
_ANSWER_S = 10.0
_ALL_S = 20.0
_ANSWER_BYTES_MAX = 16_384
_ADDRESSES_MAX = 3
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
_FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, TimeoutError, OSError)
_COMPATIBLE = ipaddress.ip_network("::/96")
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class Answer(NamedTuple):
    status: int
    retry_after_s: float | None


class Unreachable(Exception):
    """Nobody answered, or not in time; trying again may help."""


class Forbidden(Exception):
    """The address is not one that this node sends to."""


def is_public(address: str) -> bool:
    """Whether ``address`` (an IP literal) belongs to the world outside, also where IPv4 is wrapped in IPv6. Pure."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and (ip in _TRANSLATED or ip in _COMPATIBLE):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


def origin_of(url: str, *, allow_private: bool) -> str:
    """Scheme, host and port of ``url``, as a push service wants to be named. Pure.

    Raises :class:`BadField` (``endpoint``) for what isn't ``https`` (or ``http``, where private addresses are
    allowed), has a name and password in it, or no name or IPv4 address.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise BadField("endpoint is not a URL", field="endpoint") from None
    if len(url) > URL_MAX or not url.isascii() or any(char <= " " or char == "\\" for char in url):
        raise BadField(f"endpoint may have {URL_MAX} ASCII characters and no space", field="endpoint")
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise BadField("endpoint must be an https URL", field="endpoint")
    if not host or "@" in parts.netloc or ":" in host:
        raise BadField("endpoint must name a host, and nothing else before its path", field="endpoint")
    standard = {"https": 443, "http": 80}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, standard) else "")


class Outward:
    """Sends. ``allow_private``: to anybody, also over plain HTTP."""

    def __init__(self, *, allow_private: bool, connections: int) -> None:
        self._allow_private = allow_private
        self._connections = connections
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._making = asyncio.Lock()

    async def check(self, url: str) -> None:
        """Raises :class:`BadField` (``endpoint``) for a URL that this node doesn't send to, in the same words whether
        its host is a private one or unknown: nobody is to learn names of our network here."""
        origin = urlsplit(origin_of(url, allow_private=self._allow_private))
        if self._allow_private:
            return
        assert origin.hostname is not None
        try:
            async with asyncio.timeout(_CONNECT_S):
                await addresses(origin.hostname, origin.port or 443)
        except Forbidden:
            raise BadField("endpoint must be at a public address", field="endpoint") from None
        except (Unreachable, TimeoutError):
            raise Unavailable("the endpoint can't be looked up right now") from None

    async def post(self, url: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """Send ``body`` to ``url``. Raises :class:`Unreachable`, :class:`Forbidden`."""
        pool = self._pool or await self._open()
        timeouts = {"connect": _CONNECT_S, "read": _ANSWER_S, "write": _ANSWER_S, "pool": _ALL_S}
        try:
            async with (
                asyncio.timeout(_ALL_S),
                pool.stream("POST", url, headers=headers, content=body, extensions={"timeout": timeouts}) as response,
            ):
                taken = 0
                async for part in response.aiter_stream():
                    taken += len(part)
                    if taken > _ANSWER_BYTES_MAX:
                        break  # the connection is given up with it
                return Answer(response.status, _retry_after_s(response.headers))
        except _FAILURES as error:
            raise Unreachable(type(error).__name__) from error

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    async def _open(self) -> httpcore.AsyncConnectionPool:
        """The certificates are read by whoever sends first: most shards never do."""
        async with self._making:
            if self._pool is None:
                context: ssl.SSLContext = await asyncio.to_thread(httpcore.default_ssl_context)
                self._pool = httpcore.AsyncConnectionPool(
                    ssl_context=context,
                    max_connections=self._connections,
                    keepalive_expiry=30,
                    network_backend=_Checked(self._allow_private),
                )
            return self._pool


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were looked at."""

    def __init__(self, allow_private: bool) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - of the interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if self._allow_private:
            return await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        failure: Exception = Unreachable("no address")
        for address in (await addresses(host, port))[:_ADDRESSES_MAX]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def addresses(host: str, port: int) -> list[str]:
    """What ``host`` stands for, in whatever form it is written. Raises :class:`Forbidden` if any of it is not public,
    or there is no such name; :class:`Unreachable` if nobody can say."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_NAME:
            raise Forbidden(host) from error
        raise Unreachable("name lookup") from error
    except (OSError, UnicodeError) as error:
        raise Forbidden(host) from error
    literals = list(dict.fromkeys(str(address[4][0]) for address in found))
    if not literals or not all(map(is_public, literals)):
        raise Forbidden(host)
    return literals


def _retry_after_s(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """``Retry-After``: seconds, or a date."""
    for name, value in headers:
        if name.lower() == b"retry-after":
            with contextlib.suppress(ValueError, OverflowError):
                text = value.decode("ascii").strip()
                if text.isdigit():
                    return float(text)
                return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    return None
