"""What a route is: whom it serves, how that is written down, what comes in and goes out, and what may go wrong."""

from __future__ import annotations

import msgspec

from node.errors import (
    BadField,
    CallerError,
    DiskFull,
    MethodNotAllowed,
    Overloaded,
    PoboxError,
    TooLarge,
    TooSlow,
    Unavailable,
    WrongType,
)
from router.access import USER, Who
from router.problems import CrossSite, Forbidden, HeadersTooLarge, KeyLimit, Misdirected, Unauthorized
from router.query import LIMIT_DEFAULT, LIMIT_MAX
from router.record import Record

V3 = "/api/v3"
PAGE = ("limit", "cursor")

Problems = tuple[type[PoboxError], ...]
_ALWAYS: Problems = (
    CallerError,
    CrossSite,
    MethodNotAllowed,
    TooSlow,
    Misdirected,
    HeadersTooLarge,
    PoboxError,
    Overloaded,
)
_SHOWN: Problems = (Unauthorized, Forbidden, KeyLimit)
READ: Problems = (BadField, Unavailable)
WRITE: Problems = (BadField, Unavailable, DiskFull)
BODY: Problems = (TooLarge, WrongType)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A method of a path: ``action`` of the resource ``noun`` answers it."""

    method: str
    path: str
    noun: str
    action: str
    who: Who
    record: Record
    """how it is written down who asked"""
    summary: str
    statuses: tuple[int, ...] = (200,)
    request: type[msgspec.Struct] | None = None
    media_type: str = "application/json"
    body_required: bool = True
    response: type[msgspec.Struct] | None = None
    response_type: str = "application/json"
    """of a body that is no JSON: then ``request`` and ``response`` are None"""
    query: tuple[str, ...] = ()
    page: tuple[int, int] = (LIMIT_DEFAULT, LIMIT_MAX)
    """what ``limit`` is if left out, and at most"""
    headers: tuple[str, ...] = ()
    faults: Problems = ()

    def __post_init__(self) -> None:
        if self.who.person and USER not in self.path:
            raise ValueError(f"{self.path} names nobody whose it could be")

    @property
    def deed(self) -> str:
        """What the audit log calls it."""
        return f"{self.noun}.{self.action}"

    @property
    def problems(self) -> Problems:
        """Every problem this operation can answer."""
        return _ALWAYS + (() if self.who.anybody else _SHOWN) + self.faults
