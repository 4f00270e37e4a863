"""Who has a box on this shard, by name. The directories say so; this is a copy of what they say, made to be searched.

It is made when somebody asks for the first time, so that a node nobody looks at pays nothing, and knows of every birth
from the moment it began to look. An answer is bounded in time: while the directories are being read it is a 503, and
boxes that could not be looked into in time are answered with their size alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import apsw

from node import ops, paths
from node.errors import PoboxError, Unavailable
from node.ids import is_name
from node.model import UserBox
from node.slots import Table
from shard.mailbox import FILE
from shard.mailboxes import Mailboxes
from shard.residents import Residents

_READING_S = 2.0
_LOOKING_S = 2.0
_NOTED_MAX = 10_000
_BEYOND = "\x7f"  # comes after every character of a name
_PAGE = "SELECT id FROM users WHERE id>? AND id>=? AND id<? ORDER BY id LIMIT ?"


def names_in(data: Path, slot: int) -> list[str]:
    """Whose directories are in a slot, by name. For a thread."""
    try:
        return sorted(name for name in os.listdir(paths.boxes_dir(data) / str(slot)) if is_name(name))
    except FileNotFoundError:
        return []


def boxes_of(data: Path, table: Table, shard: int, slot: int) -> list[str]:
    """Whose directories in ``slot`` are ``shard``'s, by name. For a thread."""
    return [name for name in names_in(data, slot) if table.shard_of(name) == shard]


class Roster:
    """The users of this shard, ``residents``, whose boxes are under ``data``."""

    def __init__(self, data: Path, residents: Residents, mailboxes: Mailboxes) -> None:
        self._data = data
        self._residents = residents
        self._mailboxes = mailboxes
        self._thread = ThreadPoolExecutor(1, "roster")
        self._db: apsw.Connection | None = None  # in memory, and of the thread alone
        self._made: asyncio.Future[None] | None = None
        self._noted: deque[str] = deque()

    def born(self, user: str) -> None:
        """``user`` has a box now. From any thread."""
        if self._made is not None:
            self._noted.append(user)
            if len(self._noted) % _NOTED_MAX == 0:
                self._thread.submit(self._take_noted)

    def died(self, user: str) -> None:
        """``user`` has no box any more; but one that was born since is none the less there."""
        if self._made is not None:
            self._thread.submit(self._look_again, user)

    def forget(self) -> None:
        """Others belong here from now on: the copy is made anew when somebody asks."""
        self._made = None
        self._noted.clear()

    async def page(self, q: ops.ListUsers) -> list[str]:
        """Names after ``after`` that begin with ``prefix``. Raises :class:`Unavailable` while the copy is made."""
        loop = asyncio.get_running_loop()
        if self._made is None:
            self._made = loop.run_in_executor(self._thread, self._make)
        try:
            await asyncio.wait_for(asyncio.shield(self._made), _READING_S)
        except TimeoutError:
            raise Unavailable("The list of users is being made", retry_after=2) from None
        except OSError as error:
            self._made = None
            raise Unavailable("The list of users can't be made") from error
        return await loop.run_in_executor(self._thread, self._page, q)

    async def boxes(self, q: ops.AskBoxes) -> list[UserBox]:
        """What there is to say of each box; a user without one is left out."""
        until = monotonic() + _LOOKING_S
        found = await self._mailboxes.read(lambda: [self._sized(user) for user in q.users])
        boxes = [box for box in found if box is not None]
        for box in boxes:
            if monotonic() > until:
                break
            await self._look_into(box)
        return boxes

    def close(self) -> None:
        self._thread.shutdown()

    async def _look_into(self, box: UserBox) -> None:
        """One that another program has open, or that is damaged, keeps its secrets."""
        try:
            async with self._mailboxes.hold(box.id, create=False) as held:
                if held is not None:
                    box.messages, box.last_delivery = await self._mailboxes.read(held.extent)
        except (apsw.Error, PoboxError):
            return

    def _sized(self, user: str) -> UserBox | None:
        path = paths.user_dir(self._data, user) / FILE
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        with contextlib.suppress(FileNotFoundError):
            size += path.with_name(f"{FILE}-wal").stat().st_size
        return UserBox(id=user, size=size)

    # -- in the thread -----------------------------------------------------------------------------

    def _make(self) -> None:
        """Read the directories; ``born`` notes meanwhile."""
        db = apsw.Connection(":memory:")
        db.execute("CREATE TABLE users(id TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID")
        with db:
            table, shard = self._residents.table, self._residents.index
            for slot in table.directories(shard):
                names = boxes_of(self._data, table, shard, slot)
                db.executemany("INSERT OR IGNORE INTO users VALUES(?)", [(name,) for name in names])
        self._db = db

    def _take_noted(self) -> None:
        assert self._db is not None
        with self._db:
            while self._noted:
                self._db.execute("INSERT OR IGNORE INTO users VALUES(?)", (self._noted.popleft(),))

    def _look_again(self, user: str) -> None:
        if self._db is not None and not paths.user_dir(self._data, user).exists():
            self._take_noted()
            self._db.execute("DELETE FROM users WHERE id=?", (user,))

    def _page(self, q: ops.ListUsers) -> list[str]:
        assert self._db is not None
        self._take_noted()
        rows = self._db.execute(_PAGE, (q.after, q.prefix, q.prefix + _BEYOND, q.limit))
        return [row[0] for row in rows]
