"""Who moves what is old into the archives: a round over all boxes of the shard a day, a few at a time, behind all mail.

A box that nobody uses is opened for this one errand; one that another program has is left for the next round. The
first round after a start also sweeps: a kill may have come between a deletion and the file it was archived in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import apsw
import structlog

from node import paths
from node.clock import DAY_US, iso, now_us
from node.errors import DiskFull, Unavailable
from shard import archive
from shard.mailbox import FILE, Mailbox
from shard.mailboxes import Mailboxes
from shard.opener import Errand
from shard.roster import names_in

EVERY_S = 86_400.0
_FEW = 4
"""boxes in one errand: each may wait for some flushes, and so does mail for boxes that are closed"""
_PAUSE_S = 0.1
_PASSED_OVER = (apsw.Error, OSError, DiskFull, Unavailable)

log = structlog.get_logger()


class Archivist:
    """For the boxes under ``data`` in the slots ``owned``. ``days``: how old a message must be; 0 for never.

    ``may_work`` says whether there is time for it just now; ``changed(user)`` is told whose box has changed.
    """

    def __init__(
        self,
        data: Path,
        owned: Iterable[int],
        mailboxes: Mailboxes,
        *,
        days: int,
        may_work: Callable[[], bool],
        changed: Callable[[str], None],
    ) -> None:
        self._data = data
        self._owned = sorted(owned)
        self._mailboxes = mailboxes
        self._days = days
        self._may_work = may_work
        self._changed = changed
        self._thread = ThreadPoolExecutor(1, "archivist")
        self.moved = 0
        """messages, since the start"""

    async def run(self) -> None:
        """Work until cancelled."""
        sweep = True
        while self._days:
            await self.round(iso(now_us() - self._days * DAY_US), sweep=sweep)
            sweep = False
            await asyncio.sleep(EVERY_S)

    async def round(self, before: str, *, sweep: bool) -> None:
        """Move what was made and accepted before ``before``, of every box."""
        failed = 0
        for slot in self._owned:
            users = await asyncio.to_thread(self._users, slot)
            for at in range(0, len(users), _FEW):
                failed += await self._see_to(users[at : at + _FEW], before, sweep=sweep)
        if failed:
            log.warning("boxes were not archived; the next round tries again", boxes=failed)

    def _users(self, slot: int) -> list[str]:
        """Who has a box in it."""
        place = paths.boxes_dir(self._data) / str(slot)
        return [user for user in names_in(self._data, slot) if (place / user / FILE).exists()]

    async def _see_to(self, users: list[str], before: str, *, sweep: bool) -> int:
        """All that is old, of these; how many could not be seen to."""
        failed = 0
        while users:
            while not self._may_work():
                await asyncio.sleep(_PAUSE_S)
            moved: dict[str, int] = {}

            def errand(box: Mailbox, sweep: bool = sweep, moved: dict[str, int] = moved) -> None:
                if sweep:
                    archive.sweep(box)
                moved[box.user] = archive.move(box, before)

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
            for user, count in moved.items():
                if count:
                    self.moved += count
                    self._changed(user)
            users, sweep = [user for user, count in moved.items() if count], False
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

    def close(self) -> None:
        """Nothing is in the thread any more: the boxes may be closed."""
        self._thread.shutdown()
