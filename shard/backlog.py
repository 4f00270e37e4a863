"""What is accepted and not yet stored: the letters that are held in memory, and the counts of all.

All of it is in the journal as well. What the window doesn't hold is only there (:mod:`shard.tail`), and counted here. A
letter counts down its targets. At zero it is done: stored everywhere, though not yet durable outside the journal. The
next barrier takes the done ones and lets their rows go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from node.clock import now_us
from node.ops import Letter as Body
from shard.deeds import message_row
from shard.journal import MEMBERSHIP, MESSAGE, REMOVAL
from shard.lanes import HIGH, LANES, Lanes, lane_of
from shard.mailbox import Standing
from shard.rows import Row
from shard.window import OVERHEAD_BYTES, Window

_LOOK_MIN_S = 0.1
_RATE_MIN = 100.0
_RATE_FIRST = 10_000.0
"""deliveries a second that are hoped for before any were counted"""


class Letter:
    """One journal row on its way. ``left`` targets are not stored yet."""

    __slots__ = (
        "accepted_us", "channel", "channel_row", "cursor", "deadline_us", "early", "id", "kind", "lane", "left",
        "pile", "removed_us", "row", "seq", "size", "standings",
    )  # fmt: skip

    def __init__(self, seq: int, kind: int, message_id: str, targets: int) -> None:
        self.seq = seq
        self.kind = kind
        self.id = message_id
        self.left = targets
        self.size = 0
        """bytes of its body"""
        self.accepted_us = 0
        """when the node took it, 0 for what is no message"""
        self.lane = HIGH
        self.pile = HIGH
        """where the window counts it"""
        self.row: Row | None = None
        self.deadline_us = 0
        """when to give up, 0 for never"""
        self.removed_us = 0
        """when its removal was asked for, of what is one"""
        self.channel: str | None = None
        """to the members of this channel, who are not all known yet"""
        self.cursor = ""
        """members up to this name have been put into the lanes"""
        self.early: set[str] | None = None
        """members beyond the cursor who came to read and got it before their turn"""
        self.channel_row: tuple[str, str, str | None, str | None, str] | None = None
        self.standings: dict[str, Standing | None] = {}
        """of a membership: how each user is in the channel, None for out of it"""


def message(seq: int, targets: int, channel: str | None, body: Body, size: int) -> Letter:
    """A letter with a message; ``channel`` if it goes to that channel's members."""
    letter = Letter(seq, MESSAGE, body.id, targets)
    letter.size = size
    letter.accepted_us = body.accepted_us
    letter.lane = lane_of(body.priority)
    letter.row = message_row(body)
    letter.channel = channel
    letter.pile = letter.lane if channel is None else letter.lane + len(LANES)
    if body.timeout_s is not None:
        letter.deadline_us = body.accepted_us + int(body.timeout_s * 1e6)
    return letter


def membership(
    seq: int,
    channel_id: str,
    channel_row: tuple[str, str, str | None, str | None, str] | None,
    standings: dict[str, Standing | None],
) -> Letter:
    """Brings the boxes of ``standings`` to the state it names."""
    letter = Letter(seq, MEMBERSHIP, channel_id, len(standings))
    letter.channel_row = channel_row
    letter.standings = standings
    return letter


def removal(seq: int, message_id: str, at_us: int) -> Letter:
    """Deletes a message from the box of one user."""
    letter = Letter(seq, REMOVAL, message_id, 1)
    letter.removed_us = at_us
    return letter


class Backlog:
    """The lanes, the letters by id, and the ones that are done."""

    def __init__(self, window: Window | None = None) -> None:
        self.window = window or Window()
        self.room = asyncio.Event()
        """set when the window may have room for what waits behind it"""
        self.lanes: Lanes[Letter] = Lanes()
        self._live: dict[str, Letter] = {}
        self._twins: dict[str, list[Letter]] = {}  # more rows of one message, after a change of layout
        self._done: list[int] = []
        self.waiting = 0
        """letters times targets not yet stored: the unexpanded ones too, and what waits behind the window"""
        self.put_off = 0
        """of these, what waits for boxes in trouble"""
        self.bytes = 0
        """of the bodies of letters that are not done, wherever they wait"""
        self.stored = 0
        self.stored_rate = _RATE_FIRST
        """how many can be stored a second, by how many were while the postmen had their hands full"""
        self._counted = 0
        self.last_seq = 0
        """up to this number everything that was accepted has been entered"""

    def enter(self, letter: Letter) -> None:
        self.last_seq = max(self.last_seq, letter.seq)
        self.waiting += letter.left
        self.bytes += letter.size
        self.window.bytes[letter.lane] += letter.size + OVERHEAD_BYTES
        if letter.kind == MESSAGE and self._live.setdefault(letter.id, letter) is not letter:
            self._twins.setdefault(letter.id, []).append(letter)

    def enter_behind(self, letter: Letter) -> None:
        """A letter came that waits behind the window."""
        self.last_seq = max(self.last_seq, letter.seq)
        self.count_behind(letter.lane, 1, letter.left, letter.size)

    def count_behind(self, lane: int, letters: int, targets: int, size: int) -> None:
        """So many letters of ``lane`` more wait behind the window; negative when they are taken from there."""
        self.waiting += targets
        self.bytes += size
        self.window.tail[lane] += letters
        self.window.tail_targets[lane] += targets
        self.window.behind += letters
        self.room.set()

    def put(self, letter: Letter, users: list[str], now: float) -> None:
        """Put an entered letter into the lanes for ``users``."""
        self.window.held[letter.pile] += len(users)
        self.lanes.put_many(users, letter, now)

    def hold_early(self, letter: Letter) -> None:
        """One target of an entered letter is served without waiting in the lanes."""
        self.window.held[letter.pile] += 1

    def stored_for_one(self, letters: list[Letter]) -> None:
        """All of ``letters`` are in one user's box now."""
        count = len(letters)
        self.waiting -= count
        self.stored += count
        held = self.window.held
        for letter in letters:
            held[letter.pile] -= 1
            letter.left -= 1
            if not letter.left:
                self._finish(letter)
        if self.window.behind:
            self.room.set()

    def gave_up(self, letter: Letter) -> None:
        """One target of ``letter`` will not be tried again."""
        self.waiting -= 1
        self.parked(letter)

    def parked(self, letter: Letter) -> None:
        """One target of ``letter`` waits on disk alone from now on (:mod:`shard.parked`)."""
        self.window.held[letter.pile] -= 1
        letter.left -= 1
        if not letter.left:
            self._finish(letter)
        if self.window.behind:
            self.room.set()

    def count_parked(self, targets: int, size: int) -> None:
        """So many targets more are parked that nothing here knows of, of letters with bodies of ``size``."""
        self.waiting += targets
        self.bytes += size

    def stored_parked(self, count: int) -> None:
        """So many parked letters are in one user's box now."""
        self.waiting -= count
        self.stored += count

    def dropped(self, size: int, freed: Iterable[int]) -> None:
        """Letters with bodies of ``size`` are parked for nobody any more; ``freed`` wait for nobody else."""
        self.bytes -= size
        self._done += freed

    def has_nobody(self, letter: Letter) -> None:
        """An entered letter has no target left."""
        self._finish(letter)

    def _finish(self, letter: Letter) -> None:
        self.bytes -= letter.size
        self.window.bytes[letter.lane] -= letter.size + OVERHEAD_BYTES
        if self._live.get(letter.id) is letter:
            del self._live[letter.id]
        elif letter.kind == MESSAGE and letter.id in self._twins:
            self._twins[letter.id].remove(letter)
            if not self._twins[letter.id]:
                del self._twins[letter.id]
        self._done.append(letter.seq)

    def pending(self, message_id: str) -> int:
        """Targets of a message that is held, which are not stored yet."""
        letter = self._live.get(message_id)
        twins = self._twins.get(message_id, ())
        return (letter.left if letter is not None else 0) + sum(twin.left for twin in twins)

    def count_rate(self, passed_s: float, rested_s: float) -> None:
        """Look how many were stored in the ``passed_s`` since the last look. Mail that waits for company leaves the
        postmen resting: that says nothing of what they can do, but that what slowed them down before is over."""
        stored, self._counted = self.stored - self._counted, self.stored
        if passed_s < _LOOK_MIN_S:
            return
        if rested_s < passed_s / 2:
            self.stored_rate = max(_RATE_MIN, 0.7 * self.stored_rate + 0.3 * stored / (passed_s - rested_s))
        else:
            self.stored_rate = max(_RATE_FIRST, self.stored_rate)

    @property
    def due(self) -> int:
        """Letters times targets that nothing but their turn is in the way of."""
        return self.waiting - self.put_off

    @property
    def drain_s(self) -> float:
        """How long it takes to store all that waits, but for what waits for boxes in trouble."""
        return self.due / self.stored_rate

    @property
    def done(self) -> int:
        return len(self._done)

    def take_done(self) -> list[int]:
        done, self._done = self._done, []
        return done


def expired(letter: Letter) -> bool:
    """Whether its sender wants it no more."""
    return 0 < letter.deadline_us < now_us()
