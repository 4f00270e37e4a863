"""Every error leaves as ``application/problem+json``, whoever raised it.

Ours (:mod:`node.errors`) are answered as they are; Falcon's own are put into the same words; what
nobody expected is logged once and answered 500 without a word about the inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import falcon
import falcon.asgi
import msgspec
import structlog

from node.errors import (
    PROBLEMS,
    CallerError,
    MethodNotAllowed,
    NotFound,
    PoboxError,
    Problem,
)

MEDIA_TYPE = "application/problem+json"
encode = msgspec.json.Encoder().encode
_log = structlog.get_logger()


class HeadersTooLarge(CallerError):
    status = 431
    code = "headers_too_large"
    title = "The request's headers are too large"


class RangeNotSatisfiable(CallerError):
    status = 416
    code = "range_not_satisfiable"
    title = "The file has no such range"


class CrossSite(CallerError):
    status = 403
    code = "cross_site"
    title = "A page of another site may not do this"


class Misdirected(CallerError):
    status = 421
    code = "misdirected"
    title = "The node has no such name"


class TooMany(CallerError):
    """``policy`` and ``state`` are the values of RateLimit-Policy and RateLimit."""

    status = 429
    code = "too_many"
    title = "One of the users was sent too much of late"
    field: str | None = "users"

    def __init__(self, policy: str = "", state: str = "", retry_after: int = 1) -> None:
        super().__init__(field=self.field)
        self.retry_after = retry_after
        self.headers = {"RateLimit-Policy": policy, "RateLimit": state}


class KeyLimit(TooMany):
    code = "key_limit"
    title = "This key has asked for too much of late"
    field = None


class Unauthorized(CallerError):
    """``error`` is what RFC 6750 calls what is wrong with what was shown; empty if nothing was."""

    status = 401
    code = "unauthorized"
    title = "A valid key or token is needed"

    def __init__(self, error: str = "") -> None:
        super().__init__()
        self.headers = {
            "WWW-Authenticate": f'Bearer realm="pobox", error="{error}"' if error else 'Bearer realm="pobox"'
        }


class Forbidden(CallerError):
    """``scopes``: one of them would do."""

    status = 403
    code = "forbidden"
    title = "This key or token is not good for that"

    def __init__(self, scopes: Sequence[str] = ()) -> None:
        super().__init__()
        named = f', scope="{" ".join(scopes)}"' if scopes else ""
        self.headers = {"WWW-Authenticate": f'Bearer realm="pobox", error="insufficient_scope"{named}'}


ALL: tuple[type[PoboxError], ...] = (
    *PROBLEMS,
    HeadersTooLarge,
    RangeNotSatisfiable,
    CrossSite,
    Misdirected,
    TooMany,
    KeyLimit,
    Unauthorized,
    Forbidden,
)
"""every problem this process can answer"""


def install(app: falcon.asgi.App[Any, Any]) -> None:
    """Make ``app`` answer every error as a problem document."""
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _falcons)
    app.add_error_handler(PoboxError, _ours)


def answer(resp: falcon.asgi.Response, problem: Problem) -> None:
    """Put ``problem`` into ``resp``."""
    resp.status = problem.status
    resp.content_type = MEDIA_TYPE
    resp.data = encode(problem)
    if problem.retry_after is not None:
        resp.set_header("Retry-After", str(problem.retry_after))


async def _ours(
    _req: falcon.asgi.Request, resp: falcon.asgi.Response, error: PoboxError, _params: dict[str, Any]
) -> None:
    answer(resp, error.problem())
    resp.set_headers(error.headers)


async def _falcons(
    _req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError, _params: dict[str, Any]
) -> None:
    if error.headers is not None:
        resp.set_headers(error.headers)
    if error.status_code == NotFound.status:
        problem = NotFound("there is nothing at this path").problem()
    elif error.status_code == MethodNotAllowed.status:
        problem = MethodNotAllowed("this path doesn't take this method").problem()
    else:
        problem = CallerError(error.description or "").problem()
    answer(resp, problem)


async def _unexpected(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, _params: dict[str, Any]
) -> None:
    _log.error("a request failed", method=req.method, route=req.uri_template, exc_info=error)
    answer(resp, PoboxError().problem())
