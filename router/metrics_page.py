"""``/metrics``: what all processes of the node tell of themselves, in the text format of Prometheus.

Nothing is summed up: every sample has a label that says whose it is. A process that doesn't answer is there with
``pobox_up 0``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import falcon.asgi

from node.errors import BadField
from router import query
from router.body import Request
from router.processes import Process, Processes, Told

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPage:
    """``/metrics``."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    async def get(self, req: Request, resp: falcon.asgi.Response) -> None:
        """All processes, or the one that is named."""
        wanted = self._wanted(query.parameters(req, "shard", "process"))
        told = await self._processes.ask_all(wanted)
        resp.content_type = MEDIA_TYPE
        resp.data = await asyncio.to_thread(_text, told)

    def _wanted(self, given: Mapping[str, str]) -> list[Process]:
        everybody = [*self._processes.routers, *self._processes.shards]
        if "shard" in given and "process" in given:
            raise BadField("shard and process exclude each other", field="process")
        for label, value in given.items():
            if (label, value) == ("process", "router"):
                return [self._processes.here]
            named = [one for one in everybody if (one.label, one.value) == (label, value)]
            if not named:
                raise BadField(f"there is no such {label}", field=label)
            return named
        return everybody


def _text(told: Told) -> bytes:
    from router.exposition import exposition  # with web servers that it brings along: not every node is scraped

    return exposition(told)
