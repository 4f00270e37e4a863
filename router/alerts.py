"""``/api/v3/alerts``: what is wrong just now, as the shards see it; and that a shard doesn't answer, which it can't
say itself."""

from __future__ import annotations

from typing import NamedTuple

import falcon.asgi

from node import ops
from node.clock import iso, now_us
from node.model import Alert, Alerts
from router import query
from router.body import Request
from router.messages import encode
from router.processes import ANSWER_S, Processes

SILENT = "shard_silent"
_SUMMARY = "A shard does not answer: its share of the people gets nothing and reads nothing"


class Found(NamedTuple):
    """``alert`` of ``shard``."""

    shard: int
    alert: ops.Alert


class NodeAlerts:
    """Asks the shards, and remembers since when one has been silent."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._silent_since: dict[int, int] = {}

    async def now(self) -> list[Found]:
        """What is wrong, by shard; a silent shard has one alert, of this router."""
        found: list[Found] = []
        for process, metrics in await self._processes.ask_all(self._processes.shards):
            shard = int(process.value)
            if metrics is not None:
                self._silent_since.pop(shard, None)
                found += [Found(shard, alert) for alert in metrics.alerts]
                continue
            now = now_us()
            since = self._silent_since.setdefault(shard, now)
            silent_s = ANSWER_S + (now - since) / 1e6
            found.append(Found(shard, ops.Alert(SILENT, since, silent_s, ANSWER_S, _SUMMARY)))
        return found


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
