"""Stands before every responder: nothing is read, asked or answered before it is known who asks, and that they may; and
what is to be written down is."""

from __future__ import annotations

from functools import wraps
from typing import Any

import falcon.asgi

from router.access import Credentials, check
from router.audit import Audit, Responder
from router.body import Request
from router.operation import Operation
from router.problems import Forbidden, Unauthorized


class Gate:
    """Stands before every responder. Without ``credentials`` the node is open, and everybody comes through."""

    def __init__(self, credentials: Credentials | None, audit: Audit | None) -> None:
        self._credentials = credentials
        self._audit = audit

    def before(self, operation: Operation, action: Responder) -> Responder:
        """``action``, for those whom ``operation`` lets."""
        credentials, audit, rule = self._credentials, self._audit, operation.who
        if audit is not None:
            action = audit.around(operation.record, operation.deed, operation.path, action)
        if credentials is None or rule.anybody:
            return action

        @wraps(action)
        async def guarded(req: Request, resp: falcon.asgi.Response, **params: Any) -> None:
            try:
                req.caller = caller = credentials.caller(req.header(b"authorization"))
                if caller.share is not None:
                    caller.share.take()
                    caller.share.tell(resp)
                check(rule, caller, params.get("user_id"))
            except (Unauthorized, Forbidden) as error:
                if audit is not None:
                    audit.refused(req, error, operation.path, params)
                raise
            await action(req, resp, **params)

        return guarded
