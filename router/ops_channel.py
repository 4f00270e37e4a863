"""Alerts as messages to the people who look after the node, delivered by the node itself.

Only the first router does it. One message when an alert begins, one when it ends, and no more than one a minute for
each alert of each shard: what changes faster is told as it is when the minute is over. A message that tells of
trouble can't make more of it than that. Its id is made of the alert, so sending it again, also by a router that was
started anew, doubles nothing. What can't be delivered now (no channel takes anything while a shard is silent) is told
as soon as it can, even if it is over by then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import structlog

from node.clock import iso
from node.errors import Conflict, PoboxError
from node.model import NewMessage
from router.alerts import SILENT, Found, NodeAlerts
from router.delivery import Deliverer

_LOOK_S = 2.0
_PAUSE_S = 60.0
_TROUBLE_S = 10.0
_PRIORITY = 9
_log = structlog.get_logger()


class News(NamedTuple):
    """``found`` has begun, or ended."""

    found: Found
    began: bool


class Told:
    """What was told about which alert. Pure: time is an argument."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], Found] = {}
        self._told: dict[tuple[str, int], Found] = {}
        self._at: dict[tuple[str, int], float] = {}

    def due(self, active: Iterable[Found], now: float) -> list[News]:
        """What is to be told at monotonic time ``now``."""
        by_key = {(found.alert.name, found.shard): found for found in active}
        silent = {shard for name, shard in by_key if name == SILENT}
        self._seen |= by_key
        news = []
        for key, found in self._seen.items():
            told = self._told.get(key)
            if told is None or told.alert.since_us != found.alert.since_us:
                news.append(News(found, True))
            elif key not in by_key and key[1] not in silent:  # of a shard that says nothing nothing is known
                news.append(News(told, False))
        return [one for one in news if now - self._at.get(_key(one.found), now - _PAUSE_S) >= _PAUSE_S]

    def done(self, news: News, now: float) -> None:
        """It was told."""
        key = _key(news.found)
        self._at[key] = now
        if news.began:
            self._told[key] = news.found
        else:
            del self._told[key], self._seen[key]


class OpsChannel:
    """Posts to ``channel`` what ``alerts`` finds."""

    def __init__(self, alerts: NodeAlerts, delivery: Deliverer, channel: str) -> None:
        self._alerts = alerts
        self._delivery = delivery
        self._channel = channel
        self._told = Told()
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ops channel")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._look()
            except PoboxError as error:
                said = error.problem().detail
                if said != self._trouble:
                    _log.warning("an alert can't be delivered", channel=self._channel, error=said)
                self._trouble = said
                await asyncio.sleep(_TROUBLE_S)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for news in self._told.due(await self._alerts.now(), loop.time()):
            try:
                await self._delivery.deliver(message(news, self._channel))
            except PoboxError as error:
                if error.status != Conflict.status:  # else it was told before, with another reading
                    raise
            self._told.done(news, loop.time())
            self._trouble = ""


def message(news: News, channel: str) -> NewMessage:
    """The message to ``channel``. Pure."""
    shard, alert = news.found
    state = "has begun" if news.began else "has ended"
    reading = f"Reading {alert.value:.3g}, threshold {alert.threshold:g}, since {iso(alert.since_us)}."
    return NewMessage(
        id=f"alert:{alert.name}:{shard}:{alert.since_us}:{'began' if news.began else 'ended'}",
        channel_id=channel,
        title=f"Alert {alert.name} of shard {shard} {state}",
        content=f"{alert.summary}.\n{reading}",
        message_type="alert",
        priority=_PRIORITY,
        sender="pobox",
    )


def _key(found: Found) -> tuple[str, int]:
    return found.alert.name, found.shard
