"""What is refused when there is too much, and why. Pure: time, load and memory are arguments.

Two rules; a letter that either of them refuses is refused, with a reason and a time to come back.

*Room.* Whatever is bounded (letters and bytes waiting, journal, disk, how long mail waits) is kept
for the important: priorities below 4 may use 80% of it, below 6 90%, below 8 95%, the others all.
For what changes with each letter this is a function of the moment: under overload the room stands
at one of these marks, and as much comes in as goes out. What is read now and then has hysteresis.
Nobody of priority 8 and above is refused for a long wait: he overtakes it.

*Memory.* Its level is none, medium, high, critical or exhausted. Critical takes only priority 8 and
above, exhausted nothing. High refuses below 6 once the refusal rate is over 30%, medium below 4
once it is over 50%, until the rate is under half of that. A full room should fit into memory; then
this is the second line.

The refusal rate must not feed on the refusals that it brings about. So it is the share of letters,
of those that came in the last ten seconds, for which there was *no room*, whatever the memory rule
did to them. A letter refused for memory counts as refused only while the room is past 70%, that is,
close to where it would have been refused anyway; below that it counts as taken. So once the room
is below 70%, the rate is gone within the window, though letters go on being refused till then. And
nothing is shed for the rate while the room is nearly empty: that would free no memory, only leave
the shard idle. Levels rise at once and fall when the reading has been five points below the mark for
five seconds; shedding by the rate changes at most once in that time. So for any input there is a
bound to the changes.

A refusal holds for a moment: it says below which priority nobody is taken, and for how long routers may say so
themselves (``router.shedding``). No longer than it takes to free a small part of the room, so that the shard is
never idle for it. What they refuse in the meantime they report, and it counts as a letter refused for memory does.

Use: one :class:`Pressure` a shard; :meth:`Pressure.look` twice a second, :meth:`Pressure.ask` for
each letter before it is journaled (and with priority 10 for what isn't a letter), :meth:`Pressure.shed` for what
routers report. Without ``look`` the window stands still, and so do the levels.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from enum import IntEnum, StrEnum
from typing import NamedTuple

from node.errors import DiskFull, NodeError, Overloaded, Shut

TICK_S = 0.5
"""how often to look"""
HOLD_S = 5.0
WINDOW_S = 10.0
NOTHING = 11
"""the floor that no priority reaches"""

_MEMORY_PERCENT = (70.0, 80.0, 90.0, 97.0)
_ROOM = (0.80, 0.90, 0.95, 1.00)
_FLOORS = (1, 4, 6, 8, NOTHING)
"""the lowest priority taken, by how many of the marks of _ROOM are reached"""
_ROOM_OF = (*[0.80] * 4, *[0.90] * 2, *[0.95] * 2, *[1.00] * 3)
"""the same by priority"""
_NEARLY = 0.70
_EMPTY = 0.10
_SHUT_MAX_S = TICK_S / 2
_SHUT_PART = 0.1
"""of what waits: while so much is stored, a refusal holds"""
_RETRY_MAX_S = 30


class Level(IntEnum):
    """How short memory is."""

    NONE = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3
    EXHAUSTED = 4


_RATE = {Level.MEDIUM: 0.50, Level.HIGH: 0.30, Level.CRITICAL: 0.30, Level.EXHAUSTED: 0.30}
"""the refusal rate from which the low priorities are shed; half of it ends that"""


class Reason(StrEnum):
    """What there is too little of."""

    MEMORY = "memory"
    LETTERS = "letters"
    BYTES = "bytes"
    ROWS = "rows"
    JOURNAL = "journal"
    DISK = "disk"
    WAIT = "wait"


_WORDS = {
    Reason.MEMORY: "memory is short",
    Reason.LETTERS: "too many letters wait",
    Reason.BYTES: "too much mail waits",
    Reason.ROWS: "too much is to be written down",
    Reason.JOURNAL: "too much is written down",
    Reason.DISK: "the disk is nearly full",
    Reason.WAIT: "mail would wait too long",
}
"""for callers, who need not know how a node is made"""


class Room(NamedTuple):
    """What changes with each letter, as shares of the most there may be; 1 is full."""

    letters: float
    """letters times targets that wait"""
    bytes: float
    """of their bodies"""
    rows: float
    """of the journal"""
    wait: float
    """how long new mail will wait, as a share of the longest it should: letters waiting, divided by letters stored a
    second. The age of the oldest letter tells of the past: it lets in a multiple of what was meant, and that of a
    letter put off would have one damaged mailbox close the node."""


_ROOM_REASONS = (Reason.LETTERS, Reason.BYTES, Reason.ROWS, Reason.WAIT)


class Reading(NamedTuple):
    """What is read now and then."""

    memory_percent: float
    """used, of what this process may have"""
    journal: float
    """bytes of the journal, as a share of the most there may be"""
    disk: float
    """the reserve, divided by what is free: 1 is full"""


class Refusal(NamedTuple):
    """Why a letter isn't taken. ``floor``: the lowest priority that is, :data:`NOTHING` if none. ``shut_s``: so long
    nobody below it need ask again."""

    reason: Reason
    floor: int
    retry_after_s: int
    shut_s: float = 0.0

    def error(self) -> NodeError:
        """What the caller is told: 507 if it is the disk that is full, or nearly so, otherwise 503."""
        accepted = "nothing" if self.floor == NOTHING else f"only priority {self.floor} and above"
        detail = f"For now {accepted} is accepted: {_WORDS[self.reason]}"
        error: NodeError
        if self.reason is not Reason.DISK:
            error = Overloaded(detail, retry_after=self.retry_after_s)
        else:
            error = DiskFull("" if self.floor == NOTHING else detail, retry_after=self.retry_after_s)
        error.shut = Shut(self.floor, self.shut_s)
        return error


class Steps:
    """A reading made a step, with hysteresis: up at once, down when it has been ``margin`` below the mark for
    ``hold_s``. So each mark is passed downwards at most once in ``hold_s``, noise smaller than ``margin`` passes it
    once, and a reading that falls below all of them is forgotten after ``hold_s``."""

    def __init__(self, marks: tuple[float, ...], *, margin: float, hold_s: float = HOLD_S) -> None:
        self._up = marks
        self._down = tuple(mark - margin for mark in marks)
        self._hold_s = hold_s
        self._held_at = [0.0] * (len(marks) + 1)
        self.step = 0
        """how many marks are reached"""

    def look(self, value: float, now: float) -> int:
        """Take a new reading; the step from now on."""
        self.step = max(self.step, bisect_right(self._up, value))
        kept = min(self.step, bisect_right(self._down, value))
        self._held_at[: kept + 1] = [now] * (kept + 1)
        while now - self._held_at[self.step] >= self._hold_s:
            self.step -= 1
        return self.step


class RefusalRate:
    """The share of refused letters among those of the last ``window_s``; 0 if none came."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._past: deque[tuple[float, int, int]] = deque()
        self._came_before = self._refused_before = 0
        self._came = self._refused = 0

    def count(self, refused: bool, letters: int = 1) -> None:
        """So many letters came."""
        self._came += letters
        self._refused += letters if refused else 0

    def turn(self, now: float) -> float:
        """Move the window; the rate."""
        if self._came:
            self._past.append((now, self._came, self._refused))
            self._came_before += self._came
            self._refused_before += self._refused
            self._came = self._refused = 0
        while self._past and self._past[0][0] <= now - self._window_s:
            _ended, came, refused = self._past.popleft()
            self._came_before -= came
            self._refused_before -= refused
        return self._refused_before / self._came_before if self._came_before else 0.0


class Pressure:
    """The state of one shard: what it refuses at the moment."""

    def __init__(self) -> None:
        self._memory = Steps(_MEMORY_PERCENT, margin=5.0)
        self._slow = {reason: Steps(_ROOM, margin=0.05) for reason in (Reason.JOURNAL, Reason.DISK)}
        self._slow_floor, self._slow_reason = 1, Reason.JOURNAL
        self._slow_nearly = False
        self._window = RefusalRate()
        self._shedding = False
        self._shed_changed_at = -math.inf
        self._memory_floor = 1
        self._retry_after_s = 1
        self.level = Level.NONE
        self.rate = 0.0
        """of letters for which there was no room, of late: 0 to 1"""

    @property
    def floor(self) -> int:
        """The lowest priority that is taken, as long as there is room for it."""
        return max(self._memory_floor, self._slow_floor)

    def look(self, reading: Reading, now: float) -> None:
        """Take a new reading, at monotonic time ``now``; about every :data:`TICK_S`."""
        self.level = Level(self._memory.look(reading.memory_percent, now))
        self.rate = self._window.turn(now)
        self._shed(now)
        self._slow_floor = 1
        shares = {Reason.JOURNAL: reading.journal, Reason.DISK: reading.disk}
        self._slow_nearly = max(shares.values()) >= _NEARLY
        for reason, share in shares.items():
            floor = _FLOORS[self._slow[reason].look(share, now)]
            if floor > self._slow_floor:
                self._slow_floor, self._slow_reason = floor, reason
        self._retry_after_s = min(_RETRY_MAX_S, math.ceil(1.0 / max(1e-9, 1.0 - self.rate)))

    def _shed(self, now: float) -> None:
        """See whether the refusal rate calls for shedding, and how far memory does."""
        begins = _RATE.get(self.level, math.inf)
        if self.level is Level.NONE:
            self._shedding = False
        elif now - self._shed_changed_at >= HOLD_S:
            shedding = self.rate > (begins / 2 if self._shedding else begins)
            if shedding != self._shedding:
                self._shedding, self._shed_changed_at = shedding, now
        if self.level >= Level.CRITICAL:
            self._memory_floor = 8 if self.level is Level.CRITICAL else NOTHING
        elif self._shedding:
            self._memory_floor = 6 if self.level is Level.HIGH else 4
        else:
            self._memory_floor = 1

    def ask(self, priority: int, room: Room, drain_s: float = math.inf) -> Refusal | None:
        """Whether a letter of ``priority`` (1 to 10) is taken: None, or why it isn't. Counts it. ``drain_s``: how long
        it takes to store all that waits."""
        share = max(room if priority < 8 else room[:3])
        shut_s = min(_SHUT_MAX_S, _SHUT_PART * drain_s)
        if priority < self._slow_floor:
            refusal = Refusal(self._slow_reason, self._slow_floor, self._retry_after_s, _SHUT_MAX_S)
        elif share >= _ROOM_OF[priority]:
            reason = _ROOM_REASONS[room.index(share)]
            floor = _FLOORS[bisect_right(_ROOM, share)]
            refusal = Refusal(reason, min(8, floor) if reason is Reason.WAIT else floor, self._retry_after_s, shut_s)
        elif priority < self._memory_floor and (self.level >= Level.CRITICAL or self._nearly(share, _EMPTY)):
            self._window.count(self._nearly(share, _NEARLY))
            return Refusal(Reason.MEMORY, self._memory_floor, max(self._retry_after_s, int(HOLD_S)), shut_s)
        else:
            self._window.count(False)
            return None
        self._window.count(True)
        return refusal

    def shed(self, letters: int, room: Room) -> None:
        """So many were refused by routers, for what :meth:`ask` said a moment before."""
        self._window.count(self._nearly(max(room), _NEARLY), letters)

    def _nearly(self, share: float, mark: float) -> bool:
        return share >= mark or self._slow_nearly
