"""``/api/v3/alerts``: what is wrong just now, as the shards see it; and that a shard doesn't answer, which it can't
say itself.

That one each router logs, a line when it begins and one when it ends, whether anybody asks for alerts or not. It costs
nothing while all is well: only a shard whose link is down, or has heard nothing for a moment, is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import falcon.asgi
import structlog

from node import ops
from node.breaker import State
from node.clock import iso, now_us
from node.model import Alert, Alerts
from router import query
from router.body import Request
from router.links import Links
from router.messages import encode
from router.processes import ANSWER_S, Process, Processes

SILENT = "shard_silent"
_LOOK_S = 1.0
_log = structlog.get_logger()
_SUMMARY = "A shard does not answer: its share of the people gets nothing and reads nothing"


class Found(NamedTuple):
    """``alert`` of ``shard``."""

    shard: int
    alert: ops.Alert


class NodeAlerts:
    """Asks the shards, and remembers since when one has been silent; ``links`` tell which may be."""

    def __init__(self, processes: Processes, links: Links) -> None:
        self._processes = processes
        self._links = links
        self._silent: dict[int, ops.Alert] = {}
        """by shard"""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look for silent shards, from now on."""
        self._task = asyncio.create_task(self._run(), name="alerts")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def now(self) -> list[Found]:
        """What is wrong, by shard; a silent shard has one alert, of this router."""
        return await self._of(self._processes.shards)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            shards = self._processes.shards
            for gone in [shard for shard in self._silent if shard >= len(shards)]:
                self._ended(gone)
            await self._of([process for process in shards if self._may_be_silent(int(process.value))])

    def _may_be_silent(self, shard: int) -> bool:
        link = self._links.link(shard)
        return shard in self._silent or not link.up or link.breaker.state is not State.CLOSED

    async def _of(self, shards: Iterable[Process]) -> list[Found]:
        found: list[Found] = []
        for process, metrics in await self._processes.ask_all(list(shards)):
            shard = int(process.value)
            if metrics is not None:
                self._ended(shard)
                found += [Found(shard, alert) for alert in metrics.alerts]
            else:
                found.append(Found(shard, self._began(shard)))
        return found

    def _began(self, shard: int) -> ops.Alert:
        """``shard`` is silent; it may have been before."""
        now, alert = now_us(), self._silent.get(shard)
        if alert is None:
            alert = self._silent[shard] = ops.Alert(SILENT, now, ANSWER_S, ANSWER_S, _SUMMARY)
            _log.warning("an alert has begun", **_said(shard, alert), summary=alert.summary)
        alert.value = ANSWER_S + (now - alert.since_us) / 1e6
        return alert

    def _ended(self, shard: int) -> None:
        """``shard`` answers, or is no more."""
        if (alert := self._silent.pop(shard, None)) is not None:
            _log.info("an alert has ended", **_said(shard, alert))


class AlertsPage:
    """``/api/v3/alerts``."""

    def __init__(self, alerts: NodeAlerts) -> None:
        self._alerts = alerts

    async def get(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Those that are on."""
        query.parameters(req)
        resp.data = encode(Alerts(alerts=[outward(found) for found in await self._alerts.now()]))


def outward(found: Found) -> Alert:
    """As callers see it. Pure."""
    alert = found.alert
    return Alert(
        name=alert.name,
        shard=found.shard,
        since=iso(alert.since_us),
        value=alert.value,
        threshold=alert.threshold,
        summary=alert.summary,
    )


def _said(shard: int, alert: ops.Alert) -> dict[str, object]:
    return {"alert": alert.name, "shard": shard, "value": round(alert.value, 3), "threshold": alert.threshold}
