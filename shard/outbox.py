"""Which notice goes out next. Pure: time is an argument, and nothing is sent here.

Each device has at most one notice waiting and one on its way: what comes meanwhile is merged into the one that waits.
After a notice was sent its device rests for a moment, so that a flood becomes few notices; what is urgent doesn't wait
for the end of that, but for the end of a pause after a failure everything does. High goes before normal, normal before
low; how many devices have something waiting is bounded, and what is lower makes room for what is higher.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeVar

from shard.lanes import HIGH, LANES
from shard.notice import Notice

Key = TypeVar("Key", bound=Hashable)


class Job(NamedTuple, Generic[Key]):
    """A notice on its way; ``attempt`` counts from 1."""

    key: Key
    notice: Notice
    attempt: int


class _Entry:
    """Of one device. ``ticket`` is the number of its valid place in a line, 0 while it has none."""

    __slots__ = ("at_work", "attempt", "notice", "ticket")

    def __init__(self) -> None:
        self.notice: Notice | None = None
        self.attempt = 0
        """failed so often in a row"""
        self.at_work = False
        self.ticket = 0


class Outbox(Generic[Key]):
    """At most ``most`` devices at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[Key, _Entry] = {}
        self._lines: tuple[deque[tuple[int, Key]], ...] = tuple(deque() for _ in LANES)
        self._resting: list[tuple[float, int, Key]] = []
        self._tickets = 0
        self.dropped = 0
        """notices, each message counted, for which there was no room"""

    def __len__(self) -> int:
        """Devices that have something waiting or on its way, or rest."""
        return len(self._entries)

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting to be sent now, or on its way."""
        return not any(entry.at_work for entry in self._entries.values()) and not any(
            self._valid(ticket, key) for line in self._lines for ticket, key in line
        )

    def put(self, key: Key, notice: Notice) -> None:
        """There is news for ``key``."""
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self._most and not self._make_room(notice.lane):
                self.dropped += notice.count
                return
            entry = self._entries[key] = _Entry()
        lane_before = entry.notice.lane if entry.notice is not None else len(LANES)
        if entry.notice is None:
            entry.notice = notice
        else:
            entry.notice.merge(notice)
        if entry.at_work or entry.attempt:
            return
        resting = entry.ticket and lane_before == len(LANES)
        if entry.notice.lane < lane_before and (entry.notice.lane == HIGH or not resting):
            self._line_up(key, entry)

    def take(self, now: float) -> Job[Key] | None:
        """The next one to be sent; :meth:`done`, :meth:`again` or :meth:`forget` has to follow."""
        self._wake(now)
        for line in self._lines:
            while line:
                ticket, key = line.popleft()
                if self._valid(ticket, key):
                    entry = self._entries[key]
                    assert entry.notice is not None
                    job = Job(key, entry.notice, entry.attempt + 1)
                    entry.notice, entry.at_work, entry.ticket = None, True, 0
                    return job
        return None

    def due_in_s(self, now: float) -> float | None:
        """When a rest ends, if nothing can be sent before; None if nobody rests."""
        while self._resting and not self._valid(self._resting[0][1], self._resting[0][2]):
            heappop(self._resting)
        return max(0.0, self._resting[0][0] - now) if self._resting else None

    def done(self, job: Job[Key], now: float, rest_s: float) -> None:
        """It was sent, or given up: the device rests."""
        entry = self._entries[job.key]
        entry.at_work, entry.attempt = False, 0
        if entry.notice is not None and entry.notice.lane == HIGH:
            self._line_up(job.key, entry)
        elif entry.notice is None and rest_s <= 0:
            del self._entries[job.key]
        else:
            self._rest(job.key, entry, now + rest_s)

    def again(self, job: Job[Key], now: float, pause_s: float) -> None:
        """It failed, and is to be tried again."""
        entry = self._entries[job.key]
        notice = job.notice
        if entry.notice is not None:
            notice.merge(entry.notice)
        entry.notice, entry.at_work, entry.attempt = notice, False, job.attempt
        self._rest(job.key, entry, now + pause_s)

    def forget(self, key: Key) -> None:
        """There is no such device any more."""
        self._entries.pop(key, None)

    def _valid(self, ticket: int, key: Key) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.ticket == ticket

    def _ticket(self, entry: _Entry) -> int:
        self._tickets += 1
        entry.ticket = self._tickets
        return self._tickets

    def _line_up(self, key: Key, entry: _Entry) -> None:
        assert entry.notice is not None
        self._lines[entry.notice.lane].append((self._ticket(entry), key))

    def _rest(self, key: Key, entry: _Entry, until: float) -> None:
        heappush(self._resting, (until, self._ticket(entry), key))

    def _wake(self, now: float) -> None:
        """Those whose rest is over stand in line if there is something for them."""
        while self._resting and self._resting[0][0] <= now:
            _until, ticket, key = heappop(self._resting)
            if self._valid(ticket, key):
                entry = self._entries[key]
                if entry.notice is None:
                    del self._entries[key]
                else:
                    self._line_up(key, entry)

    def _make_room(self, lane: int) -> bool:
        """Drop the notice that has waited longest in the lowest line that is below ``lane``."""
        for line in reversed(self._lines[lane + 1 :]):
            while line:
                ticket, key = line.popleft()
                if self._valid(ticket, key):
                    notice = self._entries.pop(key).notice
                    assert notice is not None
                    self.dropped += notice.count
                    return True
        return False
