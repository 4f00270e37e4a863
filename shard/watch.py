"""Looks twice a second whether something is wrong, and says so when it begins and when it ends: one line each.

Nothing here waits for a disk, so that what hangs there is seen.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

import structlog

from node.clock import now_us
from node.config import Shard as Settings
from node.metrics import Histogram
from shard.alerts import (
    BACKUP,
    DAMAGED,
    DEAD,
    DISK_FULL,
    DISK_LOW,
    FAILURES,
    LANES,
    LOCKS,
    MEMORY,
    OFFSITE,
    Alerts,
    FailureRate,
    News,
)
from shard.backlog import Backlog
from shard.backup import Backups
from shard.house import House
from shard.mailboxes import Mailboxes
from shard.put_off import PutOff

log = structlog.get_logger()

_LOOK_S = 0.5


class Watch:
    """Reads the parts of one shard; of memory and disk what ``house`` read last."""

    def __init__(
        self,
        settings: Settings,
        *,
        backlog: Backlog,
        mailboxes: Mailboxes,
        put_off: PutOff,
        house: House,
        backups: Backups,
    ) -> None:
        self._settings = settings
        self._backlog = backlog
        self._mailboxes = mailboxes
        self._put_off = put_off
        self._house = house
        self._backups = backups
        self._failures = FailureRate()
        self._deaths, self._damages = News(), News()
        self.alerts = Alerts()
        self.readings: dict[str, float] = {}
        self.loop_late_s = Histogram()
        """how much later than asked for the loop came back"""

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.look(loop.time())
            began = perf_counter()  # the loop's own time may be of whole milliseconds
            await asyncio.sleep(_LOOK_S)
            self.loop_late_s.observe(max(0.0, perf_counter() - began - _LOOK_S))

    def look(self, now: float) -> None:
        """Take the readings at the loop's time ``now``."""
        settings, backlog, put_off = self._settings, self._backlog, self._put_off
        self.readings = {
            LANES: max(backlog.waiting / settings.waiting_max, backlog.bytes / max(1, settings.waiting_bytes_max)),
            MEMORY: self._house.usage.percent / 100,
            DISK_LOW: self._house.disk_fill,
            DISK_FULL: self._house.disk_fill,
            BACKUP: self._backups.age_s(now_us()),
            OFFSITE: self._backups.offsite_age_s(now_us()),
            FAILURES: self._failures.look(backlog.stored, put_off.failures, now),
            DEAD: self._deaths.look(put_off.given_up.lost, now),
            DAMAGED: self._damages.look(self._mailboxes.damaged, now),
            LOCKS: self._mailboxes.longest_wait_s(),
        }
        for alert, began in self.alerts.look(self.readings, now, now_us()):
            said = {"alert": alert.name, "value": round(alert.value, 3), "threshold": alert.threshold}
            if began:
                log.warning("an alert has begun", **said, summary=alert.summary)
            else:
                log.info("an alert has ended", **said)
