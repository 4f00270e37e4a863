"""Two families of errors, and the problem document both become.

The caller's fault (``CallerError``, 4xx) is found before anything is written and names the field.
Ours (``NodeError``, 5xx) says when to try again and nothing about what is inside; sending the same
message id again is always safe. A process that can't be sure of its disk raises ``Unsure``: it
answers nothing, ends, and replays its journal at the next start.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Problem(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """An RFC 9457 problem document; ``code`` is stable and made for programs."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    retry_after: int | None = None
    users: list[str] | None = None
    """whom it is about, where it is not about the whole"""


class Shut(msgspec.Struct, array_like=True, frozen=True):
    """Of a shard's refusal: for the next ``for_s`` seconds no letter of a priority below ``below`` is taken."""

    below: int
    for_s: float


class PoboxError(Exception):
    """Anything that is answered to a caller as a problem document."""

    status = 500
    code = "internal"
    title = "Internal error"
    type = "about:blank"
    field: str | None = None
    retry_after: int | None = None
    users: list[str] | None = None
    headers: Mapping[str, str] = {}
    """what else the answer says of it, before its body"""
    shut: Shut | None = None
    """for whom else it holds, which no caller is told"""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title

    def problem(self) -> Problem:
        return Problem(
            type=self.type,
            title=self.title,
            status=self.status,
            code=self.code,
            detail=self.detail,
            field=self.field,
            retry_after=self.retry_after,
            users=self.users,
        )


class CallerError(PoboxError):
    """The request can't be served as it is; ``field`` names what is wrong in it."""

    status = 400
    code = "bad_request"
    title = "Bad request"

    def __init__(self, detail: str = "", *, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


class BadField(CallerError):
    status = 422
    code = "bad_field"
    title = "A field is not acceptable"


class NotOpen(CallerError):
    status = 403
    code = "not_open"
    title = "The channel is not open"


class NotFound(CallerError):
    status = 404
    code = "not_found"
    title = "Not found"


class MethodNotAllowed(CallerError):
    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"


class TooSlow(CallerError):
    status = 408
    code = "too_slow"
    title = "The request took too long to arrive"


class Conflict(CallerError):
    status = 409
    code = "conflict"
    title = "This id was used with another body"


class MailboxFull(CallerError):
    """``users``: who has no room. A 409 and no 507, which is about the node's own disk and tried again by itself: what
    is in the way here is the state of somebody's box, and the message may go to the others."""

    status = 409
    code = "mailbox_full"
    title = "A mailbox is full"
    type = "urn:pobox:mailbox-full"

    def __init__(self, users: list[str] | None = None) -> None:
        super().__init__(field="users")
        self.users = users


class TooLarge(CallerError):
    status = 413
    code = "too_large"
    title = "The body is too large"


class WrongType(CallerError):
    status = 415
    code = "wrong_content_type"
    title = "The content type is not supported"


class NodeError(PoboxError):
    """Ours: the caller may send the same again after ``retry_after`` seconds."""

    retry_after = 1

    def __init__(self, detail: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        if retry_after is not None:
            self.retry_after = retry_after


class Unavailable(NodeError):
    status = 503
    code = "unavailable"
    title = "Part of the node is not available"


class Moving(Unavailable):
    """Not this shard's, or not now: slots change hands. Between shard and router alone, which asks again by the table
    of then; a caller for whom that takes too long hears :class:`Unavailable`."""

    code = "moving"


class Overloaded(NodeError):
    status = 503
    code = "overloaded"
    title = "The node is overloaded"


class DiskFull(NodeError):
    status = 507
    code = "disk_full"
    title = "The disk is full"
    retry_after = 5


class Unsure(Exception):
    """The disk's answer leaves it unknown what is stored: stop and replay, never guess."""


class ConfigError(Exception):
    """The configuration is not usable; the message names the key."""


class Refused(PoboxError):
    """A shard's refusal, as it came over the wire: the problem is passed on as it is."""

    def __init__(self, problem: Problem, shut: Shut | None = None) -> None:
        super().__init__(problem.detail)
        self.status, self.code, self.title = problem.status, problem.code, problem.title
        self.field, self.retry_after = problem.field, problem.retry_after
        self.type, self.users = problem.type, problem.users
        self.shut = shut


PROBLEMS: tuple[type[PoboxError], ...] = (
    CallerError,
    BadField,
    NotOpen,
    NotFound,
    MethodNotAllowed,
    TooSlow,
    Conflict,
    MailboxFull,
    TooLarge,
    WrongType,
    Unavailable,
    Overloaded,
    DiskFull,
    PoboxError,
)
"""Every problem a caller can meet, for the OpenAPI document."""
