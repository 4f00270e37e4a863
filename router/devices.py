"""The devices of a person: when each synced last, what it has, and which of them have a message."""

from __future__ import annotations

import falcon.asgi

from node import ops
from node.errors import BadField
from node.ids import check_name
from node.model import Devices, Holders
from router import query
from router.body import Request
from router.links import Links, about
from router.messages import encode
from router.sync import device


class DeviceList:
    """``/api/v3/users/{userId}/devices`` and ``/api/v3/users/{userId}/messages/{id}/devices``."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def get(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """All of them."""
        check_name(user_id, "userId")
        query.parameters(req)
        resp.data = encode(await self._links.ask_about(ops.AskDevices(*about(user_id)), Devices))

    async def forget(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """Take one from the list; it comes back when it syncs again."""
        check_name(user_id, "userId")
        name = device(query.parameters(req, "device"))
        if name is None:
            raise BadField("device must be given: the name of the one to forget", field="device")
        await self._links.ask_about(ops.ForgetDevice(*about(user_id), name), type(None))
        resp.status = 204

    async def holders(self, req: Request, resp: falcon.asgi.Response, user_id: str, id: str) -> None:
        """Which of them have one message."""
        check_name(user_id, "userId")
        query.parameters(req)
        request = ops.AskHolders(*about(user_id), check_name(id, "id"))
        resp.data = encode(await self._links.ask_about(request, Holders))
