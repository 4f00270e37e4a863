"""Channels. Every shard knows each of them; the home shard of its id has the last word.

A channel is put to the home shard last and dropped there first: whoever finds it there finds it
everywhere. Members are counted by summing over the shards.
"""

from __future__ import annotations

import falcon.asgi

from node import clock, ops
from node.errors import NotFound
from node.ids import check_name
from node.model import Channel, Channels, ChannelSpec
from router import query
from router.body import Bodies, Request, check_type, decoder
from router.links import Links
from router.messages import encode

_decode = decoder(ChannelSpec)


class ChannelList:
    """``/api/v3/channels`` and each of them."""

    def __init__(self, links: Links, bodies: Bodies, body_bytes_max: int) -> None:
        self._links = links
        self._bodies = bodies
        self._bytes_max = body_bytes_max

    async def put(self, req: Request, resp: falcon.asgi.Response, channel_id: str) -> None:
        """Make a channel, or change what the body says of it; an empty body changes nothing."""
        id = check_name(channel_id, "channelId")
        query.parameters(req)
        body = await self._bodies.read(req, self._bytes_max)
        if body:
            check_type(req, "application/json")
        spec = _decode(body) if body else ChannelSpec()
        now_us = clock.now_us()

        async def once() -> bool:
            request = ops.PutChannel(
                0, id, spec.name, spec.description, spec.created_by, now_us, spec.open, self._links.version
            )
            home = self._links.home(id)
            self._links.check(self._links.shards)
            await self._links.ask_each([(shard, request) for shard in self._others(home)], bool)
            return await self._links.ask(home, request, bool)

        new = await self._links.steady(once)
        resp.status = 201 if new else 200
        resp.data = encode(await find(self._links, id))

    async def get(self, req: Request, resp: falcon.asgi.Response, channel_id: str) -> None:
        """One channel."""
        query.parameters(req)
        resp.data = encode(await find(self._links, check_name(channel_id, "channelId")))

    async def drop(self, req: Request, resp: falcon.asgi.Response, channel_id: str) -> None:
        """Forget a channel; its members leave it, their messages stay theirs."""
        id = check_name(channel_id, "channelId")
        query.parameters(req)
        there: list[bool] = []  # of all tries, while people move

        async def once() -> None:
            home = self._links.home(id)
            request = ops.DropChannel(0, id, self._links.version)
            self._links.check(self._links.shards)
            there.append(await self._links.ask(home, request, bool))
            # Asked even if home didn't know it: an earlier try may have come no further than home.
            there.extend(await self._links.ask_each([(shard, request) for shard in self._others(home)], bool))

        await self._links.steady(once)
        if not any(there):
            raise unknown()
        resp.status = 204

    async def page(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Channels by id. One that its home doesn't know is none: it is being made, or dropped."""
        given = query.parameters(req, "open", "prefix", "limit", "cursor")
        resp.data = encode(await self._page(given, query.flag(given, "open")))

    async def open_page(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """Those that a person may join, and may be in already."""
        check_name(user_id, "userId")
        given = query.parameters(req, "prefix", "limit", "cursor")
        resp.data = encode(await self._page(given, True))

    async def _page(self, given: dict[str, str], is_open: bool | None) -> Channels:
        limit = query.limit(given)
        request = ops.ListChannels(0, query.after(given), limit + 1, query.prefix(given), is_open)
        parts = await self._links.ask_each([(s, request) for s in self._links.shards], list[Channel])
        members: dict[str, int] = {}
        known: dict[str, Channel] = {}
        for shard, part in zip(self._links.shards, parts, strict=True):
            for channel in part:
                members[channel.id] = members.get(channel.id, 0) + channel.members
                if self._links.home(channel.id) == shard:
                    known[channel.id] = channel
        ids = sorted(members)
        page = ids[:limit]
        for id in page:
            if id in known:
                known[id].members = members[id]
        return Channels(
            channels=[known[id] for id in page if id in known],
            cursor=page[-1] if len(ids) > limit else None,
        )

    def _others(self, home: int) -> list[int]:
        return [shard for shard in self._links.shards if shard != home]


def unknown() -> NotFound:
    """The problem of a channel that isn't there."""
    return NotFound("no such channel", field="channelId")


async def find(links: Links, id: str) -> Channel:
    """The channel as its home knows it, with the members of all shards; raises the home's 404."""
    request = ops.GetChannel(0, id)
    home = links.home(id)
    channel = await links.ask(home, request, Channel)
    nobody = Channel(id=id, name="", description=None, created_by=None, created_at="", members=0)
    others = [(shard, request) for shard in links.shards if shard != home]
    parts = await links.ask_each(others, Channel, unknown=nobody)
    channel.members += sum(part.members for part in parts)
    return channel
