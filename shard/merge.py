"""Who is right when devices disagree about a message, or about how far a channel was read. Pure.

Each of read, archived and starred is decided by itself, and by time: a change holds if it is later than the
last one, whichever way that went. So it makes no difference in which order the devices come. At the very
same time the one who came first keeps it, unless it is the same device that speaks again. Saying once more
what holds already is no conflict, and changes nothing that anyone can see; but from then on it
counts as said at that later time.

A device's clock decides nothing by being wrong: what it got wrong by (``skew_us``) is taken out, and nothing
is later than now, nor earlier than 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from node.clock import iso

NEVER_US = -1
"""of a mark that nobody ever set; earlier than any time"""

EFFECTS: dict[str, tuple[int, bool]] = {
    "read": (0, True),
    "unread": (0, False),
    "archived": (1, True),
    "unarchived": (1, False),
    "starred": (2, True),
    "unstarred": (2, False),
}
"""which mark of a message a change is about, and whether it sets it"""


class Outcome(Enum):
    CHANGED = 1
    """it holds now, and did not before"""
    CONFIRMED = 2
    """it held already, and counts as said later now"""
    KNOWN = 3
    """it held already, nothing is to be done"""
    REFUSED = 4
    """what is there is later"""


def effective_us(at_us: int, skew_us: int, now_us: int) -> int:
    """When it happened by the node's clock; ``skew_us`` is that clock minus the device's."""
    return max(0, min(now_us, at_us + skew_us))


@dataclass(slots=True)
class Mark:
    """Whether something holds, and who said so when."""

    at: str = ""
    """since when it holds, ISO time; empty if it doesn't"""
    us: int = NEVER_US
    """when it was last said how it is"""
    by: str = ""

    def merge(self, holds: bool, us: int, by: str) -> Outcome:
        if holds == bool(self.at):
            if us <= self.us:
                return Outcome.KNOWN
            self.us, self.by = us, by
            return Outcome.CONFIRMED
        if not _beats(us, by, self.us, self.by):
            return Outcome.REFUSED
        self.at, self.us, self.by = iso(us) if holds else "", us, by
        return Outcome.CHANGED


@dataclass(slots=True)
class Marks:
    """The marks of one message."""

    message_id: str
    channel_id: str
    read: Mark = field(default_factory=Mark)
    archived: Mark = field(default_factory=Mark)
    starred: Mark = field(default_factory=Mark)
    read_device: str | None = None
    is_new: bool = True
    """there is no row of it yet"""
    was_read_at: str = ""
    """what ``read.at`` was before"""
    seen: bool = False
    """something changed that others can see"""
    touched: bool = False
    """something changed"""

    def not_after(self, now_us: int) -> None:
        """What was said while the node's clock was ahead of ``now_us`` was said before now all the same, nobody knows
        when."""
        for mark in (self.read, self.archived, self.starred):
            if mark.us > now_us:
                mark.us = 0

    def merge(self, status: str, us: int, device: str | None) -> bool:
        """Whether the change holds now."""
        number, holds = EFFECTS[status]
        outcome = (self.read, self.archived, self.starred)[number].merge(holds, us, device or "")
        if outcome is Outcome.CHANGED:
            self.touched = self.seen = True
            if number == 0:
                self.read_device = device if holds else None
        elif outcome is Outcome.CONFIRMED:
            self.touched = True
        return outcome is not Outcome.REFUSED


@dataclass(slots=True)
class Place:
    """How far one channel was read."""

    channel_id: str
    message_id: str = ""
    position: int = 0
    at: str = ""
    us: int = NEVER_US
    seen: bool = False
    touched: bool = False

    def merge(self, message_id: str, position: int, us: int) -> bool:
        """Whether the change holds now. A tie is kept by who came first."""
        if (message_id, position) == (self.message_id, self.position):
            if us > self.us:
                self.us, self.touched = us, True
            return True
        if us <= self.us:
            return False
        self.message_id, self.position, self.at, self.us = message_id, position, iso(us), us
        self.seen = self.touched = True
        return True


def _beats(us: int, by: str, other_us: int, other_by: str) -> bool:
    return us > other_us or (us == other_us and by == other_by)
