"""What a router tells of itself: its answers, by route, and its way to the shards.

Counted once a request, when the answer begins; an answer to what was no request (400, 408, 431 before there is a
route) isn't counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import falcon.asgi

from node import metrics, ops
from node.breaker import State
from node.metrics import LONG_S, Histogram, counter, gauge, histogram
from node.ops import Family
from router.audit import Audit
from router.body import Request
from router.events import Events
from router.links import Links
from router.protocol import CONNECTION
from router.sync import Versions

_NONE = "none"
"""the route of what has none"""
_BREAKER = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class Requests:
    """Falcon calls it when an answer is about to be sent."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str | None, Any], Histogram] = {}
        self._bytes: Counter[str | None] = Counter()
        self._time: Callable[[], float] | None = None

    async def process_response(
        self, req: Request, resp: falcon.asgi.Response, _resource: object, _succeeded: bool
    ) -> None:
        time = self._time
        if time is None:
            time = self._time = asyncio.get_running_loop().time
        key = req.method, req.uri_template, resp.status
        seconds = self._seconds.get(key)
        if seconds is None:
            seconds = self._seconds[key] = Histogram(LONG_S)
        seconds.observe(time() - req.scope[CONNECTION].since)
        if resp.stream is not None and resp.content_length is not None:
            self._bytes[req.uri_template] += int(resp.content_length)

    def families(self) -> list[Family]:
        seconds: dict[tuple[str, ...], Histogram] = {}
        for (method, route, status), one in self._seconds.items():
            key = (method, route or _NONE, str(status)[:3])  # 200 and "200 OK" are one
            seconds[key] = seconds[key] + one if key in seconds else one
        files = {route or _NONE: float(count) for route, count in self._bytes.items()}
        return [
            histogram(
                "pobox_http_seconds",
                "From the end of a request to the beginning of its answer",
                seconds,
                "method",
                "route",
                "status",
            ),
            counter("pobox_http_file_bytes_total", "Bytes of the snapshots and deltas answered with", files, "route"),
        ]


class Metrics:
    """Of router ``index``, over ``links``; the app adds its parts when it is built."""

    def __init__(self, links: Links, index: int = 0) -> None:
        self.index = index
        self._links = links
        self.requests = Requests()
        self.versions: Versions | None = None
        self.events: Events | None = None
        self.audit: Audit | None = None
        self.connections = 0
        """open, as counted last"""

    def ask(self) -> ops.Metrics:
        """As a shard answers :class:`node.ops.AskMetrics`; a router has no alerts of its own."""
        audit = self.audit.families() if self.audit is not None else []
        return ops.Metrics([*self.requests.families(), *self._parts(), *audit, *metrics.of_process()], [])

    def _parts(self) -> Iterator[Family]:
        links = {str(shard): self._links.link(shard) for shard in self._links.shards}
        states = {shard: float(_BREAKER[link.breaker.state]) for shard, link in links.items()}
        in_flight = {shard: float(link.in_flight) for shard, link in links.items()}
        versions, events = self.versions, self.events
        checks = {"known": versions.known, "asked": versions.asked} if versions is not None else {}
        yield gauge("pobox_connections", "Connections of callers that are open", self.connections)
        yield gauge("pobox_listeners", "Devices that listen for events", events.listeners if events is not None else 0)
        yield counter("pobox_version_checks_total", "Versions looked up, by what it took to answer", checks, "by")
        yield gauge("pobox_link_breaker", "The breaker to a shard: 0 closed, 1 half-open, 2 open", states, "to_shard")
        yield gauge("pobox_link_in_flight", "Requests to a shard that are not answered yet", in_flight, "to_shard")
