"""What persons have read, starred and archived: the open ``read_status.db`` files, and the questions about them.

One holder a person at a time; what waits for the disk runs in a few threads, never on the loop. A file is
made with the first change, and never for somebody without a box. A damaged one is set aside, and its owner
begins anew: what the devices sent is lost with it, what they hold they are told to forget.

Whoever holds a person's statuses may wait for that person's box, never the other way round.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec
import structlog

from node import ops, paths
from node.clock import now_us, us_of
from node.errors import Moving, Overloaded, Unavailable
from node.model import Counts, ReadStatus, StatusMerged
from shard import read_status
from shard.copying import Hidden
from shard.counts import ARRIVALS_MAX, Tally
from shard.disk import Disk, full_is_507
from shard.empty import Empty
from shard.keyring import Keyring
from shard.lines import Lines
from shard.mailbox import CORRUPT, Mailbox
from shard.mailboxes import Mailboxes
from shard.read_status import Merged, StatusFile
from shard.status_birth import FILE, SCHEMA, give_birth, template

T = TypeVar("T")
log = structlog.get_logger()

_THREADS = 4
_UNDER_WAY_MAX = 1_024  # questions that wait for a file or a thread
_TALLIES_MAX = 8_192
_FDS_A_FILE = 3
_OPEN_MIN = 8
_DAMAGED = (*CORRUPT, UnicodeDecodeError, msgspec.MsgspecError)


class Statuses:
    """``box(user)`` holds a box, with all that waits for that user in it, or raises NotFound; ``late(user)`` says
    whether something could not be delivered; ``changed`` is told whose statuses did; ``accepting`` raises if nothing
    new is taken now."""

    def __init__(
        self,
        disk: Disk,
        mailboxes: Mailboxes,
        box: Callable[[str], AbstractAsyncContextManager[Mailbox]],
        *,
        late: Callable[[str], bool],
        changed: Callable[[str], None],
        accepting: Callable[[], None],
        open_max: int,
        vfs: str | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self._disk = disk
        self._mailboxes = mailboxes
        self._box = box
        self._late = late
        self._changed = changed
        self._accepting = accepting
        self._vfs = vfs
        self._keyring = keyring
        self._empty = None if keyring is None else Empty(SCHEMA, keyring)
        fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FDS_A_FILE * mailboxes.open_max
        self.open_max = max(_OPEN_MIN, min(open_max, fds // (2 * _FDS_A_FILE)))  # half of what the boxes leave
        self._template = template()
        self._pool = ThreadPoolExecutor(_THREADS, "statuses")
        self._idle: OrderedDict[str, StatusFile] = OrderedDict()
        self._all: set[StatusFile] = set()  # the idle ones, and those that a thread works with
        self._lines = Lines()
        self._under_way = 0
        self.is_away: Callable[[str], bool] = lambda _user: False
        """whether they are another shard's to open"""
        self._tallies: OrderedDict[str, Tally] = OrderedDict()
        self.damaged = 0
        self.changes: Counter[str] = Counter(taken=0, newer=0, no_message=0)
        """that devices sent, by what became of them: taken, or the reason why not (``node.model.StatusConflict``)"""
        self.told: Counter[str] = Counter(changes=0, full=0)
        """answers to devices: what changed since their last one, or everything"""

    # -- questions -----------------------------------------------------------------------------------

    async def ask(self, q: ops.AskStatuses) -> ReadStatus:
        since_us = _since_us(q.since)
        async with self._hold(q.user):
            found = await self._work(q.user, lambda file: file.pull(since_us, q.limit), create=False)
            if found is None:
                async with self._box(q.user):  # whoever has none may be unknown
                    found = read_status.nothing(since_us)
        self._count_told(found)
        return found

    async def change(self, q: ops.ChangeStatuses) -> StatusMerged:
        self._accepting()
        since_us = _since_us(q.since)
        named = {change.message_id for change in q.changes} | {place.message_id for place in q.positions}
        wanted = sorted(named)  # neighbours share a page of the index
        async with self._hold(q.user):
            async with self._box(q.user) as box:
                found = await self._mailboxes.read(lambda: box.find(wanted))
            if len(found) < len(wanted):
                self._check_all_is_here(q.user)
            channels = {message_id: channel for message_id, (_row, channel) in found.items()}

            def work(file: StatusFile) -> tuple[Merged, StatusMerged]:
                merged = file.merge(q.changes, q.positions, channels, skew_us=q.skew_us, now_us=now_us())
                return merged, _answer(file, merged, q, since_us)

            try:
                done = await self._work(q.user, work, create=bool(found))
            except BaseException:
                self._tallies.pop(q.user, None)  # it may have been written all the same
                raise
            if done is None:
                answer = _all_unknown(q, since_us)
            else:
                merged, answer = done
                self._changed(q.user)
                tally = self._tallies.get(q.user)
                if tally is not None:
                    for message_id, is_read in merged.turned.items():
                        tally.turn(*found[message_id], is_read)
        self.changes["taken"] += answer.accepted
        self.changes.update(conflict.reason for conflict in answer.conflicts)
        self._count_told(answer)
        return answer

    async def counts(self, q: ops.AskCounts) -> Counts:
        async with self._hold(q.user):
            tally = await self._kept_up(q.user)
            if tally is None:
                read_ids = await self._work(q.user, StatusFile.read_ids, create=False) or "[]"
                async with self._box(q.user) as box:
                    seen, unread = await _to_its_end(self._in_thread(lambda: box.count_unread(read_ids)))
                    tally = self._tallies[q.user] = Tally(box, seen, unread)
            self._check_all_is_here(q.user)
            self._tallies.move_to_end(q.user)
            if len(self._tallies) > _TALLIES_MAX:
                self._tallies.popitem(last=False)
            return tally.outward()

    async def copy_out(self, user: str, path: Path) -> Hidden | None:
        """A copy of the file of ``user`` at ``path``, for that person to take along; None if there is none."""
        async with self._hold(user):
            with full_is_507():
                return await self._work(user, lambda file: file.copy_out(path), create=False)

    async def copy(self, user: str, path: Path) -> bool:
        """A copy of the file of ``user`` at ``path``, with the same key; False if there is none."""
        async with self._hold(user):
            with full_is_507():
                return bool(await self._work(user, lambda file: file.copy_to(path), create=False))

    async def forget_marks(self, user: str, message_ids: list[str]) -> None:
        """Forget what ``user`` did to messages that are no more."""
        async with self._hold(user):
            await self._work(user, lambda file: file.forget(message_ids, now_us()), create=False)
            self._tallies.pop(user, None)

    async def replace(self, user: str, fresh: Path, aside: str) -> None:
        """Put the file ``fresh``, which is whole and flushed, in the place of ``user``'s, which is kept beside it with
        ``aside`` at the end of its name. What devices hold of it they are told to forget."""

        def work() -> None:
            path = paths.user_dir(self._disk.data, user) / FILE
            if path.exists():
                with contextlib.closing(StatusFile(path, self._vfs, self._keyring)) as file:
                    file.checkpoint()
                os.link(path, path.with_name(f"{path.name}.{aside}"))
            self._disk.rename(fresh, path)

        async with self._hold(user):
            self._close(self._idle.pop(user, None))
            self._tallies.pop(user, None)
            await _to_its_end(self._in_thread(work))
        self._changed(user)

    @contextlib.asynccontextmanager
    async def seize(self, user: str) -> AsyncIterator[None]:
        """Hold ``user``'s statuses with the file closed, so that it may be taken away."""
        async with self._hold(user):
            self._close(self._idle.pop(user, None))
            self._tallies.pop(user, None)
            yield

    def forget(self, user: str) -> None:
        """The box of ``user`` is another: what was counted of it counts no more."""
        self._tallies.pop(user, None)

    def _count_told(self, answer: ReadStatus) -> None:
        self.told["full" if answer.full else "changes"] += 1

    def _check_all_is_here(self, user: str) -> None:
        """What could not be delivered yet is not missing: nobody is to be told so."""
        if self._late(user):
            raise Unavailable("The mailbox was in use by another program")

    async def _kept_up(self, user: str) -> Tally | None:
        """The tally of ``user`` as it is now, None if there is none that can be trusted."""
        async with self._box(user) as box:
            tally = self._tallies.pop(user, None)
            if tally is None or not tally.fits(box):
                return None
            seen = tally.seen
            arrivals = await self._mailboxes.read(lambda: box.arrivals(seen, ARRIVALS_MAX + 1))
            if len(arrivals) > ARRIVALS_MAX or not tally.fits(box):
                return None
        if arrivals:
            ids = [message_id for _row, message_id, _channel in arrivals]
            tally.arrive(arrivals, await self._work(user, lambda file: file.read_among(ids), create=False) or set())
        self._tallies[user] = tally
        return tally

    # -- holding -------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _hold(self, user: str) -> AsyncIterator[None]:
        """Be the only one who does something with ``user``'s statuses; whoever comes first goes first."""
        if self._under_way >= _UNDER_WAY_MAX:
            raise Overloaded()
        self._under_way += 1
        try:
            async with self._lines.hold(user):
                if self.is_away(user):
                    raise Moving()
                yield
        finally:
            self._under_way -= 1

    async def vacate(self) -> None:
        """Close every file that is away by now; nobody holds one when this returns."""
        for user in [user for user in {*self._idle, *self._lines, *self._tallies} if self.is_away(user)]:
            async with self._lines.hold(user):
                self._close(self._idle.pop(user, None))
                self._tallies.pop(user, None)

    async def _work(self, user: str, work: Callable[[StatusFile], T], *, create: bool) -> T | None:
        """``work`` with the file of ``user``, who is held, in a thread; None if there is none, and none is to be."""
        return await _to_its_end(self._lend(user, work, create))

    async def _lend(self, user: str, work: Callable[[StatusFile], T], create: bool) -> T | None:
        idle = self._idle.pop(user, None)
        try:
            file, result = await self._in_thread(lambda: self._with_file(user, idle, work, create))
        except apsw.BusyError as error:
            raise Unavailable("The read status is in use by another program") from error
        if file is not None:
            self._idle[user] = file
            while len(self._idle) > self.open_max:
                self._close(self._idle.popitem(last=False)[1])
        return result

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    # -- in a thread ---------------------------------------------------------------------------------

    def _with_file(
        self, user: str, file: StatusFile | None, work: Callable[[StatusFile], T], create: bool
    ) -> tuple[StatusFile | None, T | None]:
        path = paths.user_dir(self._disk.data, user) / FILE
        for may_be_damaged in (True, False):
            try:
                file = file or self._open(path, create)
                return file, None if file is None else work(file)
            except BaseException as error:
                self._close(file)  # what it was in the middle of is over
                file = None
                if not may_be_damaged or not isinstance(error, _DAMAGED):
                    raise
                self._set_aside(path, error)
        raise AssertionError("the second time it returns or raises")

    def _open(self, path: Path, create: bool) -> StatusFile | None:
        if not path.exists():
            if not create:
                return None
            with full_is_507():
                user = path.parent.name
                content = self._template if self._empty is None else self._empty.content(user, durably=True)
            give_birth(path, content, self._disk)
        try:
            file = StatusFile(path, self._vfs, self._keyring)
        except apsw.SQLError as error:  # a table that isn't there
            raise apsw.CorruptError(str(error)) from error
        self._all.add(file)
        return file

    def _close(self, file: StatusFile | None) -> None:
        if file is not None:
            self._all.discard(file)
            file.close()

    def _set_aside(self, path: Path, error: Exception) -> None:
        """Keep a damaged file under another name."""
        self.damaged += 1
        stamp = self._disk.set_aside(path)
        log.error("read status damaged, set aside", user=path.parent.name, error=str(error), stamp=stamp)

    def close(self) -> None:
        """Close all files; whoever calls has stopped everything else."""
        self._pool.shutdown()
        self._idle.clear()
        while self._all:
            self._all.pop().close()


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """``work`` goes on when whoever waits for it is cancelled, and is waited for all the same: until then nobody
    else may have what it works with."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _since_us(since: str | None) -> int | None:
    return None if since is None else us_of(datetime.fromisoformat(since))


def _answer(file: StatusFile, merged: Merged, q: ops.ChangeStatuses, since_us: int | None) -> StatusMerged:
    """What the device doesn't know; and how it is where the device was too late, even if it knew that once."""
    pulled = file.pull(since_us, q.limit)
    late = [conflict for conflict in merged.conflicts if conflict.reason == "newer"]
    told = {status.message_id for status in pulled.statuses}
    messages = [c.message_id for c in late if c.index < len(q.changes) and c.message_id not in told]
    known = {position.channel_id for position in pulled.positions}
    channels = [q.positions[c.index - len(q.changes)].channel_id for c in late if c.index >= len(q.changes)]
    return StatusMerged(
        since=pulled.since,
        full=pulled.full,
        more=pulled.more,
        statuses=file.statuses(list(dict.fromkeys(messages))) + pulled.statuses,
        positions=file.positions([c for c in dict.fromkeys(channels) if c not in known]) + pulled.positions,
        accepted=merged.accepted,
        conflicts=merged.conflicts,
    )


def _all_unknown(q: ops.ChangeStatuses, since_us: int | None) -> StatusMerged:
    """For somebody without a file who names no message that is in the box: none is made for that."""
    told = read_status.nothing(since_us)
    return StatusMerged(
        since=told.since,
        full=told.full,
        more=False,
        statuses=[],
        positions=[],
        accepted=0,
        conflicts=read_status.unknown(q.changes, q.positions),
    )
