"""One person's box: its messages, and the channels that person is in. One shard knows all of it,
and delivers what waits for that person before it answers."""

from __future__ import annotations

import falcon.asgi

from node import ops
from node.ids import check_name
from node.model import Message, Messages, UserChannels
from router import query
from router.body import Request
from router.links import Links, about
from router.messages import encode


class Boxes:
    """``/api/v3/users/{userId}/…``."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def messages(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """A page of the box, newest first."""
        check_name(user_id, "userId")
        given = query.parameters(req, "channelId", "limit", "cursor")
        channel = given.get("channelId")
        if channel is not None:
            check_name(channel, "channelId")
        request = ops.Page(*about(user_id), channel, query.limit(given), query.cursor(given))
        resp.data = encode(await self._links.ask_about(request, Messages))

    async def message(self, req: Request, resp: falcon.asgi.Response, user_id: str, id: str) -> None:
        """One message."""
        check_name(user_id, "userId")
        query.parameters(req)
        request = ops.ReadOne(*about(user_id), check_name(id, "id"))
        resp.data = encode(await self._links.ask_about(request, Message))

    async def remove(self, req: Request, resp: falcon.asgi.Response, user_id: str, id: str) -> None:
        """Delete one message; no replay and no retry brings it back."""
        check_name(user_id, "userId")
        query.parameters(req)
        request = ops.Remove(*about(user_id), check_name(id, "id"))
        await self._links.ask_about(request, type(None))
        resp.status = 204

    async def channels(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """The channels this person is in."""
        check_name(user_id, "userId")
        query.parameters(req)
        resp.data = encode(await self._links.ask_about(ops.AskUserChannels(*about(user_id)), UserChannels))
