"""From a channel letter to its members, a page at a time.

The journal holds one row for a channel letter, whatever the number of members. Members are read in
the order of their names, in the journal's thread, and only while the lanes have room; a letter's
cursor tells how far it is. Who comes to read before the cursor has reached him gets the letter at
once and is passed over later.
"""

from __future__ import annotations

import asyncio
from collections import deque

from shard.backlog import Backlog, Letter
from shard.journal import Journal
from shard.members import Members

_PAGE = 2_000
_LANES_MAX = 200_000
_PAUSE_S = 0.02


class Expander:
    def __init__(self, backlog: Backlog, journal: Journal, members: Members, wake: asyncio.Event) -> None:
        self._backlog = backlog
        self._journal = journal
        self._members = members
        self._wake_postmen = wake
        self._letters: deque[Letter] = deque()
        self._work = asyncio.Event()

    def put(self, letter: Letter) -> None:
        """Expand ``letter`` when its turn comes."""
        self._letters.append(letter)
        self._work.set()

    @property
    def busy(self) -> bool:
        """Whether there is a letter whose members are not all known."""
        return bool(self._letters)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._letters:
                self._work.clear()
                await self._work.wait()
            letter = self._letters[0]
            while self._backlog.lanes.count > _LANES_MAX:
                await asyncio.sleep(_PAUSE_S)
            assert letter.channel is not None
            channel, seq, after = letter.channel, letter.seq, letter.cursor
            users = await self._journal.read(lambda: self._members.at(channel, seq, after, _PAGE))  # noqa: B023
            if users:
                letter.cursor = users[-1]
                early = letter.early
                rest = [user for user in users if user not in early] if early else users
                self._backlog.put(letter, rest, loop.time())
                self._wake_postmen.set()
            if len(users) < _PAGE:
                self._letters.popleft()

    async def early(self, user: str) -> list[Letter]:
        """The letters for ``user`` that are not expanded as far as him, in order; they are his now."""
        if not self._letters:
            return []
        spans = await self._journal.read(lambda: self._members.spans(user))
        mine = []
        for letter in self._letters:
            if letter.cursor >= user or (letter.early and user in letter.early):
                continue
            if any(
                channel == letter.channel and joined < letter.seq and (left is None or left > letter.seq)
                for channel, joined, left in spans
            ):
                letter.early = letter.early or set()
                letter.early.add(user)
                mine.append(letter)
        return mine
