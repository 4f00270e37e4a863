"""From a channel letter to its members, a page at a time.

The journal holds one row for a channel letter, whatever the number of members. Members are read in
the order of their names, in the journal's thread, and only while their lane has room; a letter's
cursor tells how far it is. Lanes take turns here as well: a high letter isn't kept waiting by a
channel with a million members. Who comes to read before the cursor has reached him gets the letter at
once and is passed over later.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque

from shard.backlog import Backlog, Letter
from shard.journal import Journal
from shard.lanes import HIGH, LANES, LOW, NORMAL, TURNS
from shard.members import Members

_PAGE = 2_000
_LANES_MAX = 200_000
"""members of channels in one lane, when no more are put there"""
_PAUSE_S = 0.02


class Expander:
    def __init__(self, backlog: Backlog, journal: Journal, members: Members, wake: asyncio.Event) -> None:
        self._backlog = backlog
        self._journal = journal
        self._members = members
        self._wake_postmen = wake
        self._letters: tuple[deque[Letter], ...] = tuple(deque() for _ in LANES)
        self._of: defaultdict[str, dict[int, Letter]] = defaultdict(dict)  # by channel and number
        self._turn = 0
        self._work = asyncio.Event()

    def put(self, letter: Letter) -> None:
        """Expand ``letter`` when its turn comes."""
        assert letter.channel is not None
        self._letters[letter.lane].append(letter)
        self._of[letter.channel][letter.seq] = letter
        self._work.set()

    @property
    def busy(self) -> bool:
        """Whether there is a letter whose members are not all known."""
        return bool(self._of)

    async def run(self) -> None:
        while True:
            if not self._of:
                self._work.clear()
                await self._work.wait()
            lane = self._lane()
            if lane is None:
                await asyncio.sleep(_PAUSE_S)
            else:
                await self._expand(self._letters[lane])

    def _lane(self) -> int | None:
        """Whose turn it is of the lanes that have something to expand and room for it."""
        self._turn = (self._turn + 1) % len(TURNS)
        held = self._backlog.window.held
        for lane in (TURNS[self._turn], HIGH, NORMAL, LOW):
            if self._letters[lane] and held[lane + len(LANES)] <= _LANES_MAX:
                return lane
        return None

    async def _expand(self, letters: deque[Letter]) -> None:
        """The next page of the first of ``letters``."""
        letter = letters[0]
        assert letter.channel is not None
        channel, seq, after = letter.channel, letter.seq, letter.cursor
        users = await self._journal.read(lambda: self._members.at(channel, seq, after, _PAGE))
        if users:
            letter.cursor = users[-1]
            early = letter.early
            rest = [user for user in users if user not in early] if early else users
            self._backlog.put(letter, rest, asyncio.get_running_loop().time())
            self._wake_postmen.set()
        if len(users) < _PAGE:
            letters.popleft()
            del self._of[channel][seq]
            if not self._of[channel]:
                del self._of[channel]

    async def early(self, user: str) -> list[Letter]:
        """The letters for ``user`` that are not expanded as far as him; they are his now."""
        if not self._of:
            return []
        spans = await self._journal.read(lambda: self._members.spans(user))
        mine = []
        for channel, joined, left in spans:
            for seq, letter in self._of.get(channel, {}).items():
                if letter.cursor >= user or (letter.early and user in letter.early):
                    continue
                if joined < seq and (left is None or left > seq):
                    letter.early = letter.early or set()
                    letter.early.add(user)
                    self._backlog.hold_early(letter)
                    mine.append(letter)
        return mine
