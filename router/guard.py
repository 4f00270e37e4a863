"""What a page of somebody else's may not do through the browser of a person who can reach this node.

A change is refused when the browser says that another site's page asks for it (``Sec-Fetch-Site``, else ``Origin``).
Where nobody has to say who they are, the node is also asked only by the names of this machine itself: a page whose own
name was made to lead here (DNS rebinding) would otherwise be of the same site. Programs send none of these headers but
``Host``, and notice nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import falcon.asgi

from router.audit import Audit
from router.body import Request
from router.problems import CrossSite, Misdirected

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OURS = frozenset({b"same-origin", b"none"})
_KNOWN_MAX = 256


class Guard:
    """Falcon calls it before a request is looked at. ``is_open``: anybody who can reach the node may ask. ``origins``:
    other sites whose pages may."""

    def __init__(self, *, is_open: bool, origins: Sequence[str] = (), audit: Audit | None = None) -> None:
        self._is_open = is_open
        self._audit = audit
        self._origins = frozenset(origin.encode() for origin in origins)
        self._known: set[bytes] = set()
        """values of Host that were found good"""

    async def process_request(self, req: Request, _resp: falcon.asgi.Response) -> None:
        """Raises :class:`CrossSite`, :class:`Misdirected`."""
        try:
            self._check(req)
        except (CrossSite, Misdirected) as error:
            if self._audit is not None:
                self._audit.refused(req, error)
            raise

    def _check(self, req: Request) -> None:
        host = origin = site = None
        for name, value in req.scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
        if self._is_open:
            if host is not None and host not in self._known:
                self._look_at(host)
            client = req.scope.get("client")
            if client is not None and client[0] != "127.0.0.1" and not _is_loopback(client[0]):
                raise Misdirected("the node is open to this machine alone")
        if (site is not None or origin is not None) and req.method not in _SAFE and origin not in self._origins:
            _check_site(host, origin, site)

    def _look_at(self, host: bytes) -> None:
        if not is_here(host.decode("latin-1")):
            raise Misdirected("Host must be localhost or a loopback address", field="Host")
        if len(self._known) < _KNOWN_MAX:
            self._known.add(host)


def is_here(host: str) -> bool:
    """Whether ``host`` (with or without a port) can mean nothing but this machine. Pure."""
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, ""
    if port and not port.isdecimal():
        return False
    name = name.removesuffix(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_loopback(name.removeprefix("[").removesuffix("]"))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _check_site(host: bytes | None, origin: bytes | None, site: bytes | None) -> None:
    if site is not None:
        if site not in _OURS:
            raise CrossSite(field="Sec-Fetch-Site")
    elif origin is not None and origin.partition(b"://")[2].lower() != (host or b"").lower():
        raise CrossSite(field="Origin")
