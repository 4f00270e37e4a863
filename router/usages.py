"""How much is in a person's box, and how much may be."""

from __future__ import annotations

import falcon.asgi

from node import ops
from node.ids import check_name
from node.model import Quota, Usage
from router import query
from router.body import Bodies, Request, check_type, decoder
from router.links import Links, about
from router.messages import encode

_BYTES_MAX = 4_096
_decode = decoder(Quota)


class Usages:
    """``/api/v3/users/{userId}``, to look at, and its ``quota``."""

    def __init__(self, links: Links, bodies: Bodies) -> None:
        self._links = links
        self._bodies = bodies

    async def get(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """What the box holds, with all that waits for it."""
        check_name(user_id, "userId")
        query.parameters(req)
        resp.data = encode(await self._links.ask_about(ops.AskUsage(*about(user_id)), Usage))

    async def set(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """Also for somebody who has no box yet."""
        check_name(user_id, "userId")
        query.parameters(req)
        check_type(req, "application/json")
        quota = _decode(await self._bodies.read(req, _BYTES_MAX))
        await self._set(user_id, quota)
        resp.status = 204

    async def unset(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        check_name(user_id, "userId")
        query.parameters(req)
        await self._set(user_id, Quota())
        resp.status = 204

    async def _set(self, user_id: str, quota: Quota) -> None:
        request = ops.SetQuota(*about(user_id), quota.messages, quota.bytes)
        await self._links.ask_about(request, type(None))
