"""How much each person may have in the box, and whose box is full: it takes nothing new until there is room again.

The box itself counts (``Mailbox.usage``); here is kept what the counter and the postmen have to know without opening
it: who has a quota of their own, and who is full. Whoever opens a box, or has written into it, says what it holds. That
a box became full is noted in the journal in no later transaction than the one that lets go of the letter that filled
it, so a kill forgets nobody. Those that are noted are looked at again at every start: room may have been made and not
been noted.

What was accepted is stored, quota or not. Only the counter refuses, before anything is written. The members of a
channel are not asked there: for one who is full, its letter is dead, and says why.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import apsw

from node import ops
from node.changes import Changes
from node.config import Shard as Settings
from node.errors import PoboxError
from node.model import Usage
from shard.backlog import Letter
from shard.journal import Journal
from shard.mailbox import Held, Mailbox
from shard.mailboxes import Mailboxes
from shard.quota_tables import drop, make_tables, put, rows
from shard.rounds import Chore

T = TypeVar("T")

_PAUSE_S = 0.01


class Limit(NamedTuple):
    """0: none."""

    messages: int
    bytes: int

    def is_reached_by(self, held: Held) -> bool:
        return 0 < self.messages <= held.messages or 0 < self.bytes <= held.bytes


Own = tuple[int | None, int | None]
"""a quota of somebody's own; None: as the settings say"""


class Quotas(Chore):
    """``settings`` have the quota of everybody else. ``changes`` tell the routers whom to ask about."""

    def __init__(self, journal: Journal, mailboxes: Mailboxes, settings: Settings, changes: Changes) -> None:
        self._journal = journal
        self._mailboxes = mailboxes
        self._default = Limit(settings.quota_messages, settings.quota_bytes)
        self._changes = changes
        make_tables(journal.db)
        self._own: dict[str, Own] = {}
        self._seen: deque[tuple[str, Held | None]] = deque()  # from any thread: who is full now, or no more (None)
        self._changed: set[str] = set()
        self.full: dict[str, Held] = {}
        """whose boxes are full, and what each held when it was looked at last"""
        for table, (user, messages, size) in rows(journal.db):
            if table == "quotas":
                self._own[user] = messages, size
            elif (limit := self.limit_of(user)) is not None and limit.is_reached_by(Held(messages, size)):
                self.full[user] = Held(messages, size)
                changes.full(user)
            else:  # the settings are others than then
                self._changed.add(user)
        self._to_look = set(self.full)
        self._thread = ThreadPoolExecutor(1, "quotas")  # counting a large box keeps no reader waiting
        self._news = asyncio.Event()

    # -- the rule ----------------------------------------------------------------------------------

    def limit_of(self, user: str) -> Limit | None:
        """None without a quota."""
        own = self._own.get(user)
        limit = self._default
        if own is not None:
            limit = Limit(*(theirs if mine is None else mine for mine, theirs in zip(own, limit, strict=True)))
        return limit if any(limit) else None

    @property
    def is_on(self) -> bool:
        """Whether anybody may have a quota."""
        return any(self._default) or bool(self._own)

    def opened(self, box: Mailbox) -> None:
        """A box was opened, in whatever thread."""
        if self.limit_of(box.user) is not None and not box.metered:
            with contextlib.suppress(apsw.FullError):  # it counts when there is room again
                box.meter()
        self.look(box)

    def look(self, box: Mailbox) -> None:
        """Something was written into a box, in whatever thread."""
        limit, known = self.limit_of(box.user), self.full.get(box.user)
        if limit is None or not box.metered:
            if known is not None and limit is None:
                self._seen.append((box.user, None))
            return
        held = box.usage()
        now = held if limit.is_reached_by(held) else None
        if now != known:
            self._seen.append((box.user, now))

    def may_refuse(self, box: Mailbox, letters: list[Letter]) -> bool:
        """Whether some of ``letters`` may be too much for ``box``, and may be left out."""
        limit = self.limit_of(box.user)
        if limit is None or not box.metered or all(letter.channel is None for letter in letters):
            return False
        held = box.usage()
        size = sum(letter.size for letter in letters)
        return limit.is_reached_by(Held(held.messages + len(letters), held.bytes + size))

    def refuses(self, box: Mailbox, message_id: str) -> bool:
        """Whether ``box``, as it is in this transaction, takes no new letter, and this is one."""
        limit = self.limit_of(box.user)
        return limit is not None and limit.is_reached_by(box.usage()) and not box.knows(message_id)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Do something that may look at all of a box, which is held."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        """Nothing is in the thread any more: the boxes may be closed."""
        self._thread.shutdown()

    # -- on the loop -------------------------------------------------------------------------------

    def settle(self) -> None:
        """Take what was seen."""
        while self._seen:
            user, held = self._seen.popleft()
            if held is None:
                if self.full.pop(user, None) is not None:
                    self._changes.not_full(user)
            else:
                if user not in self.full:
                    self._changes.full(user)
                self.full[user] = held
            self._changed.add(user)

    async def run(self) -> None:
        """Look at boxes of which nobody knows whether they are full still, until cancelled."""
        while True:
            while self._to_look:
                await self._look_at(self._to_look.pop())
                await asyncio.sleep(_PAUSE_S)
            self._news.clear()
            await self._news.wait()

    async def _look_at(self, user: str) -> None:
        """Open the box; where that can't be, whoever opens it next sees what it holds."""
        with contextlib.suppress(apsw.Error, OSError, PoboxError):
            async with self._mailboxes.hold(user, create=False) as box:
                if box is None:
                    self._seen.append((user, None))
                else:
                    await self.in_thread(lambda: self.opened(box))
                    self._mailboxes.wrote(user, 0)
        self.settle()

    def do(self, box: Mailbox, now_us: int, *, sweep: bool) -> int:
        """A chore of the daily round: whoever opens a box looks at it, and that is all."""
        self.look(box)
        return 0

    async def after(self, user: str) -> None:
        self.settle()

    def look_again(self, user: str) -> None:
        """The box of ``user`` is another."""
        self._to_look.add(user)
        self._news.set()

    # -- questions ---------------------------------------------------------------------------------

    def full_of(self, users: Iterable[str]) -> list[str]:
        """Those of ``users`` whose boxes are full."""
        self.settle()
        return [user for user in users if user in self.full]

    def usage(self, user: str, held: Held) -> Usage:
        """What is said of a box that holds so much."""
        limit = self.limit_of(user)
        return Usage(
            id=user,
            messages=held.messages,
            bytes=held.bytes,
            quota_messages=(limit.messages or None) if limit else None,
            quota_bytes=(limit.bytes or None) if limit else None,
            own_quota=user in self._own,
            full=limit is not None and limit.is_reached_by(held),
        )

    async def set(self, q: ops.SetQuota) -> None:
        """Durable, and the box looked at, when it returns."""
        own = (q.messages, q.bytes)
        is_none = own == (None, None)

        def work() -> None:
            if is_none:
                self._journal.db.execute("DELETE FROM quotas WHERE user_id=?", (q.user,))
            else:
                put(self._journal.db, "quotas", (q.user, *own))

        await self._journal.write(work)
        if is_none:
            self._own.pop(q.user, None)
        else:
            self._own[q.user] = own
        await self._look_at(q.user)

    # -- what the journal notes --------------------------------------------------------------------

    @property
    def is_changed(self) -> bool:
        return bool(self._changed or self._seen)

    def take_changes(self) -> list[tuple[str, Held | None]]:
        """Who became full, and who is no more (None), since this was asked last."""
        self.settle()
        changed, self._changed = self._changed, set()
        return [(user, self.full.get(user)) for user in changed]

    def write(self, changed: Iterable[tuple[str, Held | None]]) -> None:
        for user, held in changed:
            if held is None:
                self._journal.db.execute("DELETE FROM full_boxes WHERE user_id=?", (user,))
            else:
                put(self._journal.db, "full_boxes", (user, *held))

    def not_written(self, changed: Iterable[tuple[str, Held | None]]) -> None:
        """The disk is full: next time, then."""
        self._changed.update(user for user, _held in changed)

    def take(self, came: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        """These, as :func:`rows` gives them, are people's who were moved here, and on disk."""
        for table, (user, messages, size) in came:
            if table == "quotas":
                self._own[user] = messages, size
            else:
                self._seen.append((user, Held(messages, size)))
        self.settle()

    # -- whoever is deleted, or has moved away ------------------------------------------------------------------------

    def drop(self, user: str) -> None:
        """``user`` is to have no quota of their own any more, nor a full box."""
        drop(self._journal.db, user)

    def dropped(self, user: str) -> None:
        """That is on disk."""
        self._own.pop(user, None)
        self._seen.append((user, None))
        self.settle()
