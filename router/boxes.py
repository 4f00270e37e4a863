"""One person's box: its messages, and the channels that person is in. One shard knows all of it,
and delivers what waits for that person before it answers."""

from __future__ import annotations

import falcon.asgi

from node import ops
from node.ids import check_name
from node.model import Message, Messages, UserChannels
from router import query
from router.body import Request
from router.links import Links
from router.messages import encode


class Boxes:
    """``/api/v3/users/{userId}/…``."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def messages(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """A page of the box, newest first."""
        slot, shard = self._links.place(check_name(user_id, "userId"))
        given = query.parameters(req, "channelId", "limit", "cursor")
        channel = given.get("channelId")
        if channel is not None:
            check_name(channel, "channelId")
        request = ops.Page(0, self._links.version, slot, user_id, channel, query.limit(given), query.cursor(given))
        resp.data = encode(await self._links.ask(shard, request, Messages))

    async def message(self, req: Request, resp: falcon.asgi.Response, user_id: str, id: str) -> None:
        """One message."""
        slot, shard = self._links.place(check_name(user_id, "userId"))
        query.parameters(req)
        request = ops.ReadOne(0, self._links.version, slot, user_id, check_name(id, "id"))
        resp.data = encode(await self._links.ask(shard, request, Message))

    async def remove(self, req: Request, resp: falcon.asgi.Response, user_id: str, id: str) -> None:
        """Delete one message; no replay and no retry brings it back."""
        slot, shard = self._links.place(check_name(user_id, "userId"))
        query.parameters(req)
        request = ops.Remove(0, self._links.version, slot, user_id, check_name(id, "id"))
        await self._links.ask(shard, request, type(None))
        resp.status = 204

    async def channels(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """The channels this person is in."""
        slot, shard = self._links.place(check_name(user_id, "userId"))
        query.parameters(req)
        request = ops.AskUserChannels(0, self._links.version, slot, user_id)
        resp.data = encode(await self._links.ask(shard, request, UserChannels))
