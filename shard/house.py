"""What a shard sees to twice a second: how much room there is, how many postmen and open boxes, what may be
forgotten.

The readings (memory, journal, disk) go to :class:`shard.pressure.Pressure`, which decides letter by letter; only what
closes the counter for everybody (a disk that was met full, a shard that stops) is said to the office here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from node.changes import Changes
from node.clock import now_us
from node.config import Shard as Settings
from node.errors import DiskFull, PoboxError, Unavailable
from shard.backlog import Backlog
from shard.dead_letters import DeadLetters
from shard.disk import Disk
from shard.journal import Journal
from shard.mailboxes import Mailboxes
from shard.members import Members
from shard.memory import Memory, Usage, trim
from shard.office import Office
from shard.postmen import Postmen
from shard.pressure import TICK_S, Level, Pressure, Reading
from shard.snapshots import Snapshots
from shard.staffing import Staffing
from shard.warmth import Warmth

_FORGET_PORTIONS = 20
_STAFF_S = 1.0
_TRIM_S = 10.0
_FULL_S = 1.0
_SWEEP_S = 60.0


class House:
    """``change`` makes a durable change of members."""

    def __init__(
        self,
        settings: Settings,
        disk: Disk,
        *,
        journal: Journal,
        members: Members,
        backlog: Backlog,
        mailboxes: Mailboxes,
        snapshots: Snapshots,
        changes: Changes,
        office: Office,
        postmen: Postmen,
        pressure: Pressure,
        dead: DeadLetters,
        change: Callable[[Callable[[], None]], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._disk = disk
        self._journal = journal
        self._members = members
        self._backlog = backlog
        self._mailboxes = mailboxes
        self._snapshots = snapshots
        self._changes = changes
        self._office = office
        self._postmen = postmen
        self._pressure = pressure
        self._dead = dead
        self._change = change
        self._memory = Memory()
        self._staffing = Staffing(first=settings.postmen, most=settings.postmen_max)
        self._warmth = Warmth(mailboxes.open_max)
        self._staffed_at = self._trimmed_at = self._swept_at = 0.0
        self._full_until = 0.0
        self._stopping = False
        self.usage = Usage(0, 1)
        self.journal_bytes = self.journal_oldest_us = 0
        """as read last"""
        self.disk_free_bytes = disk.free_bytes()
        """the same"""

    @property
    def disk_fill(self) -> float:
        """The reserve, divided by what was free when that was read last: 1 is full, and so is a disk that a delivery
        met full a moment ago."""
        met_full = asyncio.get_running_loop().time() < self._full_until
        return max(self._settings.disk_reserve_bytes / max(1, self.disk_free_bytes), float(met_full))

    def stop(self) -> None:
        """Nothing more is to be accepted."""
        self._stopping = True
        self._office.closed = Unavailable("The node is stopping")

    def no_room(self) -> None:
        """A delivery met a full disk: take nothing more for a moment."""
        self._office.closed = DiskFull()
        self._full_until = asyncio.get_running_loop().time() + _FULL_S

    async def run(self) -> None:
        """Keep house until cancelled."""
        loop = asyncio.get_running_loop()
        damaged, looked_at, rested_before_s = 0, loop.time(), self._postmen.rested_s
        while True:
            now = loop.time()
            if self._mailboxes.damaged != damaged:  # a box was begun anew, and nothing came for it
                damaged = self._mailboxes.damaged
                self._changes.for_anybody()
            self._snapshots.sweep()
            rested_s = self._postmen.rested_s
            self._backlog.count_rate(now - looked_at, rested_s - rested_before_s)
            looked_at, rested_before_s = now, rested_s
            await self._look(now)
            if not self._stopping:
                self._office.closed = DiskFull() if now < self._full_until else None
            self._office.nudge()
            with contextlib.suppress(PoboxError):  # no room, or stopping: the old ones stay a little longer
                await self._forget()
                await self._sweep(now)
            await asyncio.sleep(TICK_S)

    async def _look(self, now: float) -> None:
        """Take the readings, and act on them."""
        settings = self._settings
        usage = self._memory.read()
        self.usage = usage
        self.disk_free_bytes = self._disk.free_bytes()
        self.journal_bytes, self.journal_oldest_us = await self._journal.read(self._journal.extent)
        reading = Reading(
            memory_percent=usage.percent,
            journal=self.journal_bytes / settings.journal_bytes_max,
            disk=settings.disk_reserve_bytes / max(1, self.disk_free_bytes),
        )
        self._pressure.look(reading, now)
        fill = max(self._backlog.waiting / settings.waiting_max, self._backlog.window.fill)
        if now - self._staffed_at >= _STAFF_S:
            busy = self._postmen.busy(now - self._staffed_at)
            self._postmen.staff(self._staffing.look(now, fill=fill, busy=busy))
            opened = len(self._mailboxes)
            self._mailboxes.bound(self._warmth.look(now, level=self._pressure.level, opened=opened))
            self._staffed_at = now
        if self._pressure.level is not Level.NONE and fill < 0.1 and now - self._trimmed_at >= _TRIM_S:
            # What a backlog has left behind is free, but still counted as ours.
            self._trimmed_at = now
            await asyncio.to_thread(trim)

    async def _forget(self) -> None:
        """Receipts past their time; memberships that no letter asks for."""
        journal, settings = self._journal, self._settings
        before = now_us() - int(settings.receipt_s * 1e6)

        def work() -> int:
            return journal.forget(before, surplus())

        def surplus() -> int:
            # The receipts of letters that wait stay, however many they are: no use to look at them again and again.
            return journal.receipts - max(settings.receipts_max, journal.rows)

        def has_ended() -> bool:
            return self._members.has_ended(journal.oldest_seq())

        if await journal.read(has_ended):
            await self._change(lambda: self._members.sweep(journal.oldest_seq()))
        for _ in range(_FORGET_PORTIONS):
            if not journal.may_forget(before, surplus()):
                return
            journal.receipts -= await journal.write(work)

    async def _sweep(self, now: float) -> None:
        """Dead letters past their time."""
        if now - self._swept_at < _SWEEP_S:
            return
        self._swept_at = now
        time_us, receipt_us = now_us(), int(self._settings.receipt_s * 1e6)
        if await self._journal.read(lambda: self._dead.has_old(time_us, receipt_us)):
            self._dead.committed(await self._journal.write(lambda: self._dead.sweep(time_us, receipt_us)))
