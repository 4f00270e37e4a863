"""Who is in a channel. Each shard keeps those of its own users; a join or a leave is journaled
there before it is answered. The channel's home is asked first whether there is such a channel."""

from __future__ import annotations

from heapq import merge
from itertools import islice

import falcon.asgi

from node import clock, ops
from node.errors import BadField
from node.ids import check_name, check_names
from node.model import Channel, MemberChange, MemberChanged, Members
from router import query
from router.body import Bodies, Request, check_type, decoder
from router.channels import find
from router.delivery import split
from router.links import Links
from router.messages import encode

_decode = decoder(MemberChange)


class MemberList:
    """``/api/v3/channels/{channelId}/members`` and each of them."""

    def __init__(self, links: Links, bodies: Bodies, body_bytes_max: int) -> None:
        self._links = links
        self._bodies = bodies
        self._bytes_max = body_bytes_max

    async def put(self, req: Request, resp: falcon.asgi.Response, channel_id: str, user_id: str) -> None:
        """Let a person join; one who is in already stays in."""
        await self._change_one(req, channel_id, user_id, join=True)
        resp.status = 204

    async def drop(self, req: Request, resp: falcon.asgi.Response, channel_id: str, user_id: str) -> None:
        """Let a person leave; one who isn't in stays out."""
        await self._change_one(req, channel_id, user_id, join=False)
        resp.status = 204

    async def post(self, req: Request, resp: falcon.asgi.Response, channel_id: str) -> None:
        """Let many join and leave."""
        channel = check_name(channel_id, "channelId")
        query.parameters(req)
        check_type(req, "application/json")
        change = _decode(await self._bodies.read(req, self._bytes_max))
        check_names(change.add, "add")
        check_names(change.remove, "remove")
        if both := set(change.add).intersection(change.remove):
            raise BadField(f"{min(both)} is in add and in remove", field="remove")
        resp.data = encode(await change_members(self._links, channel, change.add, change.remove))

    async def get(self, req: Request, resp: falcon.asgi.Response, channel_id: str) -> None:
        """Members by id."""
        channel = check_name(channel_id, "channelId")
        given = query.parameters(req, "prefix", "limit", "cursor")
        limit = query.limit(given)
        request = ops.ListMembers(0, channel, query.after(given), limit + 1, query.prefix(given))
        home = self._links.home(channel)
        parts = [await self._links.ask(home, request, list[str])]
        others = [(shard, request) for shard in self._links.shards if shard != home]
        parts += await self._links.ask_each(others, list[str], unknown=[])
        members = list(islice(merge(*parts), limit + 1))
        page = members[:limit]
        resp.data = encode(Members(members=page, cursor=page[-1] if len(members) > limit else None))

    async def _change_one(self, req: Request, channel_id: str, user_id: str, *, join: bool) -> None:
        channel = check_name(channel_id, "channelId")
        users = [check_name(user_id, "userId")]
        query.parameters(req)
        await change_members(self._links, channel, users if join else [], [] if join else users)


async def change_members(
    links: Links, channel: str, add: list[str], remove: list[str], *, themselves: bool = False
) -> MemberChanged:
    """Let people join and leave; ``themselves``: they do it, so the channel must be open. Raises the home's 404 before
    anything is written."""
    now_us = clock.now_us()
    added = removed = 0

    async def once() -> None:
        nonlocal added, removed
        for part in await _change(links, channel, add, remove, now_us, themselves):
            added, removed = added + part.added, removed + part.removed

    await links.steady(once)
    return MemberChanged(added=added, removed=removed, members=(await find(links, channel)).members)


async def _change(
    links: Links, channel: str, add: list[str], remove: list[str], now_us: int, themselves: bool
) -> list[MemberChanged]:
    """What each shard says."""
    await links.ask(links.home(channel), ops.GetChannel(0, channel), Channel)
    joining = split(links.table, list(dict.fromkeys(add)))
    leaving = split(links.table, list(dict.fromkeys(remove)))
    requests: list[tuple[int, ops.AnyRequest]] = []
    for shard in sorted(joining.keys() | leaving.keys()):
        users, slots = joining.get(shard, ([], []))
        leavers, leavers_slots = leaving.get(shard, ([], []))
        requests.append(
            (
                shard,
                ops.ChangeMembers(0, links.version, channel, users, leavers, slots + leavers_slots, now_us, themselves),
            )
        )
    return await links.ask_each(requests, MemberChanged)
