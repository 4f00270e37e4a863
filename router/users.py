"""Who has a box. Each shard lists its own; what is said of a box is asked of its owner, for the page alone. And the
end of one."""

from __future__ import annotations

from heapq import merge
from itertools import islice

import falcon.asgi

from node import ops
from node.ids import check_name
from node.model import UserBox, Users
from router import query
from router.body import Request
from router.delivery import split
from router.links import Links, about
from router.messages import encode
from router.sync import SNAPSHOT_TIMEOUT_S


class UserList:
    """``/api/v3/users`` and ``/api/v3/users/{userId}``."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def page(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Users by id. One whose box went away in between is left out."""
        links = self._links
        given = query.parameters(req, "prefix", "limit", "cursor")
        limit = query.limit(given)
        request = ops.ListUsers(0, query.prefix(given), query.after(given), limit + 1)
        parts = await links.ask_each([(shard, request) for shard in links.shards], list[str])
        names = list(islice(merge(*parts), limit + 1))
        page = names[:limit]

        async def once() -> list[list[UserBox]]:
            requests: list[tuple[int, ops.AnyRequest]] = [
                (shard, ops.AskBoxes(0, links.version, users, slots))
                for shard, (users, slots) in split(links.table, page).items()
            ]
            return await links.ask_each(requests, list[UserBox])

        boxes = {box.id: box for part in await links.steady(once) for box in part}
        resp.data = encode(
            Users(
                users=[boxes[name] for name in page if name in boxes],
                cursor=page[-1] if len(names) > limit else None,
            )
        )

    async def delete(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """Delete all there is of a person; 204 when nothing is left."""
        check_name(user_id, "userId")
        query.parameters(req)
        await self._links.ask_about(ops.DeleteUser(*about(user_id)), type(None), timeout_s=SNAPSHOT_TIMEOUT_S)
        resp.status = 204
