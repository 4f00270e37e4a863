"""Whether this process is up, and whether the node behind it can take a message."""

from __future__ import annotations

import falcon.asgi

from node import ops
from node.errors import Unavailable
from node.model import Health
from router import query
from router.body import Request
from router.links import Links
from router.messages import encode


class Healths:
    """``/healthz`` and ``/readyz``."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def alive(self, req: Request, resp: falcon.asgi.Response) -> None:
        """200 as long as the process answers at all."""
        query.parameters(req)
        resp.data = encode(Health(status="ok"))

    async def ready(self, req: Request, resp: falcon.asgi.Response) -> None:
        """200 when every shard answers, and means the same node as this process does."""
        query.parameters(req)
        await self._links.look()
        ping = ops.Ping(0)
        states = await self._links.ask_each([(shard, ping) for shard in self._links.shards], ops.State)
        if any(s.table != self._links.version or s.shards != len(self._links.shards) for s in states):
            raise Unavailable()
        resp.data = encode(Health(status="ready"))
