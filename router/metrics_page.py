"""``/metrics``: what all processes of the node tell of themselves, in the text format of Prometheus.

Nothing is summed up: every sample has a label that says whose it is. A process that doesn't answer is there with
``pobox_up 0``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import falcon.asgi
from prometheus_client import Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from node import ops
from node.errors import BadField
from node.metrics import gauge
from router import query
from router.body import Request
from router.processes import Process, Processes

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_TOTAL = "_total"
Told = Iterable[tuple[Process, ops.Metrics | None]]


class MetricsPage:
    """``/metrics``."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    async def get(self, req: Request, resp: falcon.asgi.Response) -> None:
        """All processes, or the one that is named."""
        wanted = self._wanted(query.parameters(req, "shard", "process"))
        told = await self._processes.ask_all(wanted)
        resp.content_type = MEDIA_TYPE
        resp.data = await asyncio.to_thread(exposition, told)

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


class _Merged(Collector):
    """The families of many processes, each once, with the samples of all."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for process, metrics in self._told:
            up = gauge("pobox_up", "Whether the process answers", float(metrics is not None))
            for family in [up, *(metrics.families if metrics is not None else ())]:
                metric = merged.get(family.name)
                if metric is None:
                    name = family.name.removesuffix(_TOTAL) if family.kind == "counter" else family.name
                    metric = merged[family.name] = Metric(name, family.help, family.kind)
                for sample in family.samples:
                    metric.add_sample(sample.name, {**sample.labels, process.label: process.value}, sample.value)
        return [merged[name] for name in sorted(merged)]


def exposition(told: Told) -> bytes:
    """The text for what was told. Pure."""
    return generate_latest(_Merged(told))
