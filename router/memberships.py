"""What a person makes of channels: joins an open one, leaves one, mutes one. Each is a change of the membership, which
lies with the person's own shard and, from there, in the person's own box."""

from __future__ import annotations

import falcon.asgi

from node import ops
from node.clock import now_us, us_of
from node.errors import BadField
from node.ids import check_name
from node.model import Mute
from router import query
from router.body import Bodies, Request, check_type, decoder
from router.letters import US_MAX
from router.links import Links, about
from router.members import change_members

_decode = decoder(Mute)
_FOR_GOOD_US = 0


class Memberships:
    """``/api/v3/users/{userId}/channels/{channelId}`` and its ``/mute``."""

    def __init__(self, links: Links, bodies: Bodies, body_bytes_max: int) -> None:
        self._links = links
        self._bodies = bodies
        self._bytes_max = body_bytes_max

    async def join(self, req: Request, resp: falcon.asgi.Response, user_id: str, channel_id: str) -> None:
        """Into an open channel; who is in any channel already stays in it."""
        user, channel = _names(req, user_id, channel_id)
        await change_members(self._links, channel, [user], [], themselves=True)
        resp.status = 204

    async def leave(self, req: Request, resp: falcon.asgi.Response, user_id: str, channel_id: str) -> None:
        """Out of any channel; who isn't in stays out."""
        user, channel = _names(req, user_id, channel_id)
        await change_members(self._links, channel, [], [user], themselves=True)
        resp.status = 204

    async def mute(self, req: Request, resp: falcon.asgi.Response, user_id: str, channel_id: str) -> None:
        """For good, or until a moment that the body names."""
        user, channel = _names(req, user_id, channel_id)
        body = await self._bodies.read(req, self._bytes_max)
        if body:
            check_type(req, "application/json")
        until = _decode(body).until if body else None
        until_us = _FOR_GOOD_US
        if until is not None:
            until_us = us_of(until)
            if not now_us() < until_us <= US_MAX:
                raise BadField("until must lie in the future, up to the year 9999", field="until")
        await self._set(user, channel, until_us)
        resp.status = 204

    async def unmute(self, req: Request, resp: falcon.asgi.Response, user_id: str, channel_id: str) -> None:
        """Hear it again; what isn't muted stays so."""
        user, channel = _names(req, user_id, channel_id)
        await self._set(user, channel, None)
        resp.status = 204

    async def _set(self, user: str, channel: str, until_us: int | None) -> None:
        await self._links.ask_about(ops.SetMute(*about(user), channel, until_us), type(None))


def _names(req: Request, user_id: str, channel_id: str) -> tuple[str, str]:
    query.parameters(req)
    return check_name(user_id, "userId"), check_name(channel_id, "channelId")
