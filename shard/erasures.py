"""A person is deleted: first one durable row says so, then everything goes, and nothing of it comes back.

1. While their mail waits and nobody holds their box, one transaction of the journal marks them as gone up to a letter
   (:mod:`shard.gone`), ends their memberships and forgets their dead letters and the devices that are pushed to.
2. What waits for them up to that letter is withdrawn. Their directory is renamed out of its place, durably; their
   keys are destroyed, and all that was encrypted with them is noise, here and wherever it was copied to; and the row
   says so. Only then may mail that came later make a new, empty box.
3. It is noted for backups (:mod:`shard.erased`). The directory is removed, and their name and letters leave the
   history.
4. When the last letter from before has left the journal, that is written anew, without what its files still held of
   them, and the row goes.

A kill at any moment leaves the row, and a start goes on from what it says; until the directory is out of its place
nothing is put in it. One person at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import TypeVar

import structlog

from node import ops, paths
from node.clock import now_us
from node.errors import DiskFull, NotFound, PoboxError, Unavailable
from node.placement import sync_directory
from shard import erased, history
from shard import gone as tombstones
from shard.dead_letters import DeadLetters, Moved
from shard.disk import Disk
from shard.gone import DONE, EMPTIED, MARKED, Gone
from shard.history import History, Position
from shard.journal import Journal
from shard.keyring import Keyring
from shard.mailboxes import Mailboxes
from shard.members import Members
from shard.postmen import Postmen
from shard.push import Push
from shard.quotas import Quotas
from shard.residents import Residents
from shard.restore import Restores
from shard.roster import Roster
from shard.statuses import Statuses
from shard.subscriptions import drop_all
from shard.sync import Devices

T = TypeVar("T")
log = structlog.get_logger()

_LOOK_S = 1.0
_AGAIN_S = 5.0
_REST = 50
"""times as long as it took, until the journal is written anew once more"""


class Erasures:
    """For the users of one shard, ``residents``. ``changed`` is told whose box is another one."""

    def __init__(
        self,
        disk: Disk,
        residents: Residents,
        *,
        gone: Gone,
        journal: Journal,
        members: Members,
        mailboxes: Mailboxes,
        statuses: Statuses,
        postmen: Postmen,
        devices: Devices,
        push: Push,
        roster: Roster,
        restores: Restores,
        history: History,
        dead: DeadLetters,
        quotas: Quotas,
        changed: Callable[[str], None],
        keyring: Keyring | None = None,
    ) -> None:
        self._disk = disk
        self._keyring = keyring
        self._residents = residents
        self._layout = residents.placement
        self._gone = gone
        self._journal = journal
        self._members = members
        self._mailboxes = mailboxes
        self._statuses = statuses
        self._postmen = postmen
        self._devices = devices
        self._push = push
        self._roster = roster
        self._restores = restores
        self._history = history
        self._dead = dead
        self._quotas = quotas
        self._changed = changed
        self._thread = ThreadPoolExecutor(1, "erasures")
        self._asked: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._news = asyncio.Event()
        self._again_at = 0.0
        self._rewrite_at = 0.0

    def start(self) -> None:
        """Before anything is replayed: nothing goes into a box that is to be taken away."""
        for user, phase in self._gone.phases.items():
            if phase == MARKED:
                self._close(user)

    async def delete(self, q: ops.DeleteUser) -> None:
        """Nothing is left of this person here when it returns. Raises :class:`NotFound`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append((q.user, future))
        self._news.set()
        await future

    async def run(self) -> None:
        """Delete those who are to go, until cancelled."""
        while True:
            while self._asked:
                user, future = self._asked.popleft()
                try:
                    await self._delete(user)
                except PoboxError as error:
                    if not future.done():
                        future.set_exception(error)
                else:
                    if not future.done():
                        future.set_result(None)
            if monotonic() >= self._again_at:
                with contextlib.suppress(PoboxError):
                    for user in [user for user, phase in self._gone.phases.items() if phase != DONE]:
                        await self._go_on(user)
            if self._gone.up_to:
                await self._retire()
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._news.wait()

    def close(self) -> None:
        self._thread.shutdown()

    # -- one person --------------------------------------------------------------------------------

    async def _delete(self, user: str) -> None:
        if self._gone.phases.get(user, DONE) != DONE:
            await self._go_on(user)
            return
        if not await self._is_known(user):
            raise NotFound("no such user", field="userId")
        await self._go_on(user, is_new=True)

    async def _go_on(self, user: str, *, is_new: bool = False) -> None:
        """Do what is left to do; raises :class:`Unavailable` if that can't be now: it is tried again."""
        try:
            if is_new or self._gone.phases[user] == MARKED:
                await self._take_away(user, is_new=is_new)
            if self._gone.phases[user] == EMPTIED:
                await self._journal.read(self._history.close)  # the next one to be kept begins another file
                until = Position(self._layout.version, self._gone.up_to[user])
                spans = self._residents.spans(user)
                await self._in_thread(lambda: self._remove(user, until, spans))
                await self._advance(user, DONE)
        except (OSError, DiskFull) as error:
            if self._gone.phases.get(user, DONE) == DONE:  # it has not begun
                raise
            self._again_at = monotonic() + _AGAIN_S
            log.error("a deletion is not finished: it is tried again", error=str(error))
            raise Unavailable("The deletion has begun and goes on") from error

    async def _take_away(self, user: str, *, is_new: bool) -> None:
        """Mark ``user`` as gone, if that is new, and take the box out of its place."""
        with self._restores.claimed(user):
            async with self._statuses.seize(user):
                self._close(user)
                try:
                    async with self._mailboxes.seize(user):
                        if is_new:
                            await self._mark(user)
                        await self._postmen.withdraw(user)
                        await self._devices.forget(user)
                        await self._in_thread(lambda: self._move_out(user))
                        await self._advance(user, EMPTIED)
                finally:
                    if self._gone.phases.get(user) != MARKED:
                        self._postmen.let_in(user)
        self._roster.died(user)
        self._changed(user)

    def _close(self, user: str) -> None:
        self._postmen.hold_back(user, "The mailbox is being deleted")

    async def _is_known(self, user: str) -> bool:
        """Whether there is anything here of ``user``."""
        if not self._postmen.is_settled(user) or user in self._push.subscriptions.of:
            return True
        if await self._journal.read(lambda: self._members.of(user)):
            return True
        return await self._in_thread(paths.user_dir(self._disk.data, user).exists)

    async def _mark(self, user: str) -> None:
        """The one transaction after which there is no way back."""
        db = self._journal.db

        def work() -> tuple[int, Moved]:
            seq = self._journal.next_seq()
            now = now_us()
            tombstones.put(db, (user, seq, now, MARKED))
            for channel in self._members.of(user):
                self._members.change(channel, [], [user], seq, now)
            drop_all(db, user)
            self._quotas.drop(user)
            return seq, self._dead.delete_all(user)

        with self._members.as_committed():
            seq, moved = await self._journal.write(work)
        self._dead.committed(moved)
        self._quotas.dropped(user)
        self._gone.up_to[user], self._gone.phases[user] = seq, MARKED
        self._push.subscriptions.of.pop(user, None)
        self._changed(user)

    async def _advance(self, user: str, phase: int) -> None:
        await self._journal.write(lambda: tombstones.advance(self._journal.db, user, phase))
        self._gone.phases[user] = phase

    async def _retire(self) -> None:
        """Forget those whose letters have all left the journal, when its files hold nothing of them any more."""
        journal = self._journal
        oldest = await journal.read(journal.oldest_seq)
        if monotonic() < self._rewrite_at or not self._gone.may_retire(oldest):
            return
        began = monotonic()
        with contextlib.suppress(DiskFull):
            await journal.write(lambda: self._members.sweep(oldest))
            await journal.rewrite()  # a kill before it ends, and it is done again
            await journal.write(lambda: tombstones.forget(journal.db, oldest))
            await journal.cut_log()
            self._gone.retire(oldest)
        self._rewrite_at = monotonic() + _REST * (monotonic() - began)

    # -- in the thread -----------------------------------------------------------------------------

    def _move_out(self, user: str) -> None:
        """Rename the directory; where that was done before a kill there is none. And destroy the keys."""
        place, out = paths.user_dir(self._disk.data, user), paths.erased_dir(self._disk.data, user)
        if place.exists():
            _remove_tree(out)
            place.rename(out)
            sync_directory(place.parent)
            sync_directory(out.parent)
        if self._keyring is not None:  # before anybody of that name can have a new one
            self._keyring.destroy(user)

    def _remove(self, user: str, until: Position, spans: history.Spans) -> None:
        out = paths.erased_dir(self._disk.data, user)
        if paths.backups_dir(self._disk.data).exists():
            erased.note(self._disk.data, user, now_us(), until)
        _remove_tree(out)
        sync_directory(out.parent)
        history.erase(self._disk.data, user, until, spans, self._residents.index, self._keyring)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


def _remove_tree(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
