"""Word of what comes: a stream of server-sent events for each device that listens.

An event says only that something came for this person, or was changed; what it is the device finds out by
the next sync. So nothing is queued for anybody: many changes are one event, a device that was away gets
one, and a node that was started anew sends one too. What there is to tell is seen in the counters of the
shards (:mod:`node.changes`), which cost nothing to look at, several times a second for everybody who listens.

The id of an event is what the counters said. A device that comes back with it (``Last-Event-ID``) hears at
once if they say anything else now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import falcon.asgi

from node import ops
from node.changes import News
from node.errors import Overloaded
from node.ids import check_name
from node.model import UserChannels
from router import query
from router.body import Request
from router.links import Links, about
from router.protocol import CONNECTION

MEDIA_TYPE = "text/event-stream"
LOOK_S = 0.25
HEARTBEAT_S = 15.0
_RETRY_MS = 2_000


class Events:
    """``/api/v3/users/{userId}/events``."""

    def __init__(self, links: Links, listeners_max: int) -> None:
        self._links = links
        self._listeners_max = listeners_max
        self.listeners = 0

    async def get(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """An endless stream; 404 for somebody who has no box."""
        check_name(user_id, "userId")
        query.parameters(req, "device")
        if self.listeners >= self._listeners_max:
            raise Overloaded("Too many devices are listening", retry_after=10)
        await self._links.ask_about(ops.AskUserChannels(*about(user_id)), UserChannels)  # whether there is such a box
        resp.content_type = MEDIA_TYPE
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Accel-Buffering", "no")
        if req.method != "HEAD":
            resp.stream = Stream(self, req, self._links, user_id)


class Stream(AsyncIterator[bytes]):
    """What one device hears, until it is gone."""

    def __init__(self, events: Events, req: Request, links: Links, user: str) -> None:
        self._events = events
        self._counted = False
        self._connection = req.scope[CONNECTION]
        self._links = links
        self._user = user
        self._told = req.get_header("Last-Event-ID")
        self._quiet_s = 0.0
        self._greeted = False

    async def __anext__(self) -> bytes:
        if not self._greeted:
            self._greeted = self._counted = True
            self._events.listeners += 1  # only now: a stream that was never begun is never closed
            return f"retry: {_RETRY_MS}\n\n".encode() + (self._news() or b"")
        while not (self._connection.gone or self._connection.stopping):
            await asyncio.sleep(LOOK_S)
            self._quiet_s += LOOK_S
            event = self._news()
            if event is None and self._quiet_s >= HEARTBEAT_S:
                event = b":\n\n"
            if event is not None:
                self._quiet_s = 0.0
                return event
        raise StopAsyncIteration

    def _news(self) -> bytes | None:
        """One event if the counters say anything new."""
        news = self._links.news(self._user)
        if news is None:  # the shard is being started
            return None
        id = id_of(news)
        if id == self._told:
            return None
        first = self._told is None
        self._told = id
        # Who comes for the first time has synced, or is about to: only the id is news to it.
        return f"id: {id}\n\n".encode() if first else f"id: {id}\ndata: {{}}\n\n".encode()

    async def close(self) -> None:
        """Falcon calls it at the end, whatever that is, of a stream that was begun."""
        if self._counted:
            self._counted = False
            self._events.listeners -= 1


def id_of(news: News) -> str:
    """What a device brings back. Pure."""
    return f"{news[0]:x}-{news[1]:x}"
