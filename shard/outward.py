"""Requests from the node to the world outside, at addresses that strangers have named.

Whoever subscribes says where the node is to send. So the node connects to public addresses only: the name is
resolved here, every address it has is looked at, and the connection is made to the very address that was looked at;
a name that says something else the next time (DNS rebinding) gains nothing. Redirects are not followed, proxies of
the environment not used, and of an answer only status and ``Retry-After`` are looked at.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from node.errors import BadField, Unavailable

if TYPE_CHECKING:
    from shard.poster import Poster

URL_MAX = 2_048
CONNECT_S = 5.0
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class Request(NamedTuple):
    """A POST."""

    url: str
    headers: list[tuple[str, str]]
    body: bytes


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
        self._poster: Poster | None = None
        self._making = asyncio.Lock()

    async def check(self, url: str) -> None:
        """Raises :class:`BadField` (``endpoint``) for a URL that this node doesn't send to, in the same words whether
        its host is a private one or unknown: nobody is to learn names of our network here."""
        origin = urlsplit(origin_of(url, allow_private=self._allow_private))
        if self._allow_private:
            return
        assert origin.hostname is not None
        try:
            async with asyncio.timeout(CONNECT_S):
                await addresses(origin.hostname, origin.port or 443)
        except Forbidden:
            raise BadField("endpoint must be at a public address", field="endpoint") from None
        except (Unreachable, TimeoutError):
            raise Unavailable("the endpoint can't be looked up right now") from None

    async def post(self, url: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """Send ``body`` to ``url``. Raises :class:`Unreachable`, :class:`Forbidden`."""
        poster = self._poster or await self._open()
        return await poster.post(url, headers, body)

    async def close(self) -> None:
        if self._poster is not None:
            await self._poster.close()

    async def _open(self) -> Poster:
        async with self._making:
            if self._poster is None:
                self._poster = await asyncio.to_thread(self._made)
            return self._poster

    def _made(self) -> Poster:
        from shard.poster import Poster  # with an HTTP client, which most shards never need

        return Poster(allow_private=self._allow_private, connections=self._connections)


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
