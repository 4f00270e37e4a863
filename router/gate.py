"""Stands before every responder: nothing is read, asked or answered before it is known who asks, and that they may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import falcon.asgi

from router.access import Credentials, Who, check
from router.body import Request

Responder = Callable[..., Awaitable[None]]


class Gate:
    """Stands before every responder. Without ``credentials`` the node is open, and it isn't there at all."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials

    def before(self, rule: Who, action: Responder) -> Responder:
        """``action``, for those whom ``rule`` lets."""
        credentials = self._credentials
        if credentials is None or rule.anybody:
            return action

        @wraps(action)
        async def guarded(req: Request, resp: falcon.asgi.Response, **params: Any) -> None:
            req.caller = caller = credentials.caller(req.header(b"authorization"))
            if caller.share is not None:
                caller.share.take()
                caller.share.tell(resp)
            check(rule, caller, params.get("user_id"))
            await action(req, resp, **params)

        return guarded
