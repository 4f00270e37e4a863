"""What is done in every box of the shard once a day: a round over all of them, a few at a time, behind all mail.

A box that nobody uses is opened for this one errand; one that another program has is left for the next round. The
first round after a start sweeps: a kill may have come between two steps of what was done before.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import apsw
import structlog

from node import paths
from node.clock import now_us
from node.errors import DiskFull, PoboxError, Unavailable
from shard.mailbox import FILE, Mailbox
from shard.mailboxes import Mailboxes
from shard.opener import Errand
from shard.residents import Residents
from shard.roster import boxes_of

EVERY_S = 86_400.0
_FEW = 4
"""boxes in one errand: each may wait for some flushes, and so does mail for boxes that are closed"""
_PAUSE_S = 0.1
_PASSED_OVER = (apsw.Error, OSError, DiskFull, Unavailable)

log = structlog.get_logger()


class Chore(ABC):
    """One of the things that are done."""

    @abstractmethod
    def do(self, box: Mailbox, now_us: int, *, sweep: bool) -> int:
        """A portion of it, in a thread that holds ``box``; how much that was. It is asked until there is nothing."""

    async def after(self, user: str) -> None:  # noqa: B027
        """What is left to do for ``user`` when the box is let go of."""

    async def ended(self, failed: int) -> bool:
        """A round is over, in which so many boxes could not be seen to. Whether there will be nothing to do in any
        other."""
        return False


class Rounds:
    """For the boxes under ``data`` of ``residents``. ``may_work`` says whether there is time for it just now;
    ``changed(user)`` is told whose box has changed."""

    def __init__(
        self,
        data: Path,
        residents: Residents,
        mailboxes: Mailboxes,
        chores: Sequence[Chore],
        *,
        may_work: Callable[[], bool],
        changed: Callable[[str], None],
    ) -> None:
        self._data = data
        self._residents = residents
        self._mailboxes = mailboxes
        self._chores = list(chores)
        self._may_work = may_work
        self._changed = changed
        self._thread = ThreadPoolExecutor(1, "rounds")
        self.made = 0
        """rounds, since the start"""

    async def run(self) -> None:
        """Work until cancelled."""
        sweep = True
        while self._chores:
            await self.round(now_us(), sweep=sweep)
            sweep = False
            await asyncio.sleep(EVERY_S)

    async def round(self, now: int, *, sweep: bool) -> None:
        """All chores in every box, as of ``now`` (microseconds)."""
        failed = 0
        loop = asyncio.get_running_loop()
        for slot in self._residents.table.directories(self._residents.index):
            # Not in the loop's own thread pool: a loop that ends waits for that, and the disk may not answer.
            users = await loop.run_in_executor(self._thread, self._users, slot)
            for at in range(0, len(users), _FEW):
                failed += await self._see_to(users[at : at + _FEW], now, sweep=sweep)
        if failed:
            log.warning("boxes were not seen to; the next round tries again", boxes=failed)
        self._chores = [chore for chore in self._chores if not await chore.ended(failed)]
        self.made += 1

    def _users(self, slot: int) -> list[str]:
        """Who has a box in it."""
        place = paths.boxes_dir(self._data) / str(slot)
        names = boxes_of(self._data, self._residents.table, self._residents.index, slot)
        return [user for user in names if (place / user / FILE).exists()]

    async def _see_to(self, users: list[str], now: int, *, sweep: bool) -> int:
        """All there is to do in these boxes; how many could not be seen to."""
        failed = 0
        while users:
            while not self._may_work():
                await asyncio.sleep(_PAUSE_S)
            done: dict[str, int] = {}

            def errand(box: Mailbox, sweep: bool = sweep, done: dict[str, int] = done) -> None:
                done[box.user] = sum([chore.do(box, now, sweep=sweep) for chore in self._chores])

            at_rest = [user for user in users if self._mailboxes.is_at_rest(user)]
            errands: list[tuple[str, Errand]] = [(user, errand) for user in at_rest]
            failures = await self._mailboxes.visit(errands, create=False) if errands else []
            for user in users:
                if user not in at_rest:
                    failures.append(await self._hold(user, errand))
            for error in failures:
                if error is not None and not isinstance(error, _PASSED_OVER):
                    raise error
                failed += error is not None
            for user, count in done.items():
                if count:
                    self._changed(user)
                failed += await self._after(user)
            users, sweep = [user for user, count in done.items() if count], False
        return failed

    async def _hold(self, user: str, errand: Errand) -> Exception | None:
        """The errand in a box that is open, or held; what it failed with."""
        try:
            async with self._mailboxes.hold(user, create=False) as box:
                if box is not None:
                    await asyncio.get_running_loop().run_in_executor(self._thread, partial(errand, box))
                    self._mailboxes.wrote(user, 0)
        except _PASSED_OVER as error:
            return error
        return None

    async def _after(self, user: str) -> bool:
        """Whether it failed."""
        try:
            for chore in self._chores:
                await chore.after(user)
        except (*_PASSED_OVER, PoboxError):
            return True
        return False

    def close(self) -> None:
        """Nothing is in the thread any more: the boxes may be closed."""
        self._thread.shutdown()
