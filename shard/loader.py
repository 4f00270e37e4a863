"""From the tail into the windows, and to those who come to read.

A lane's window that is half empty is filled from the lane's tail, oldest first, in the journal's
thread. What is taken stands in the lanes before anybody else may ask the journal something; so whoever
looks for a letter in the tail, and then in the lanes, finds it.

A reader gets all that waits for him in the tail, in portions. How far he has got it is remembered while
the tail lasts: a second read doesn't read it all again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from node.errors import DiskFull
from shard.backlog import Backlog, Letter
from shard.expander import Expander
from shard.gone import Gone
from shard.journal import Journal
from shard.tail import Tail

_FULL_PAUSE_S = 0.5
_READERS_MAX = 50_000


class Loader:
    """``damaged`` tells how many boxes were set aside: what had been written into them is not there any more.
    ``before`` is as in :class:`shard.postmen.Postmen`."""

    def __init__(
        self,
        backlog: Backlog,
        journal: Journal,
        tail: Tail,
        expander: Expander,
        *,
        wake: asyncio.Event,
        damaged: Callable[[], int],
        gone: Gone | None = None,
        before: Callable[[str], int] = lambda _user: 0,
    ) -> None:
        self._gone = gone or Gone()
        self._before = before
        self._backlog = backlog
        self._journal = journal
        self._tail = tail
        self._expander = expander
        self._wake_postmen = wake
        self._damaged = damaged
        self._damaged_before = 0
        self._got: OrderedDict[str, int] = OrderedDict()  # the last letter that a reader has got from the tail
        self._owed: set[str] = set()

    async def run(self) -> None:
        """Fill the windows until cancelled."""
        room, window = self._backlog.room, self._backlog.window
        filling = set[int]()
        while True:
            room.clear()
            filling = {
                lane
                for lane, tail in enumerate(window.tail)
                if tail and (window.has_room(lane) if lane in filling else window.is_half_empty(lane))
            }
            if not filling:
                await room.wait()
                continue
            try:
                for lane in sorted(filling):  # high mail first, but all in turn
                    await self._fill(lane)
            except DiskFull:
                await asyncio.sleep(_FULL_PAUSE_S)

    async def _fill(self, lane: int) -> None:
        """Take up the next letters of ``lane``."""
        backlog, window = self._backlog, self._backlog.window
        left = window.letters_max - window.held[lane], window.bytes_max - window.bytes[lane]
        taken = await self._journal.write(lambda: self._tail.take(lane, *left))
        now = asyncio.get_running_loop().time()
        for letter, users in taken:
            backlog.count_behind(lane, -1, -letter.left, -letter.size)
            backlog.enter(letter)
            if letter.channel is None:
                backlog.put(letter, users, now)
            else:
                self._expander.put(letter)
        self._wake_postmen.set()
        if not window.behind:
            self._got.clear()
            self._owed.clear()

    # -- readers -----------------------------------------------------------------------------------

    async def ahead(self, user: str) -> list[Letter]:
        """The next of what waits for ``user`` in the tail and isn't in his box yet: copies, which are not counted.
        Empty if there are no more."""
        if self._damaged() != self._damaged_before:
            self._damaged_before = self._damaged()
            self._got.clear()
        after = max(self._got.get(user, 0), self._gone.up_to.get(user, 0), self._before(user))
        letters: list[Letter] = []
        if self._backlog.window.behind:
            letters = await self._journal.read(lambda: self._tail.of(user, after))
        if not letters:
            self._owed.discard(user)
        return letters

    def got(self, user: str, letters: list[Letter]) -> None:
        """What :meth:`ahead` gave is in the box of ``user``."""
        self._owed.discard(user)
        self._got[user] = letters[-1].seq
        self._got.move_to_end(user)
        if len(self._got) > _READERS_MAX:
            self._got.popitem(last=False)

    def failed(self, user: str) -> None:
        """What :meth:`ahead` gave could not be stored."""
        self._owed.add(user)

    def forget(self, user: str) -> None:
        """The box of ``user`` was replaced: what it had got from the tail is not there any more."""
        self._got.pop(user, None)

    @property
    def debtors(self) -> set[str]:
        """Whom :meth:`owes` is true of."""
        return set(self._owed)

    def owes(self, user: str) -> bool:
        """Whether ``user`` was read without something that waits for him in the tail."""
        return user in self._owed
