"""How many messages of a person have no read mark, in all and by channel. Pure.

The first count of a box looks at all of it; from then on a tally is kept up with what arrived (by row
number) and what was marked. It is right because it is thrown away whenever it might not be: when the
box was closed in between, or anything was removed from it. A read mark of a message that is not in the box
never counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.model import Counts
from shard.mailbox import Arrival, Mailbox

ARRIVALS_MAX = 2_000
"""with more than so many new ones a new count of the whole box is no dearer"""


class Tally:
    """The unread messages of ``box``, as far as row ``seen``."""

    __slots__ = ("_box", "_removals", "_unread", "seen")

    def __init__(self, box: Mailbox, seen: int, unread: dict[str, int]) -> None:
        self._box = box
        self._removals = box.removals
        self._unread = unread
        self.seen = seen

    def fits(self, box: Mailbox) -> bool:
        """Whether it can be kept up: this is the very box that was counted, and nothing went from it."""
        return box is self._box and box.removals == self._removals

    def arrive(self, arrivals: Iterable[Arrival], read: set[str]) -> None:
        """Messages after ``seen``, in order; those in ``read`` have been marked already."""
        for row, message_id, channel in arrivals:
            self.seen = row
            if message_id not in read:
                self._add(channel, 1)

    def turn(self, row: int, channel: str, is_read: bool) -> None:
        """The message in ``row`` was marked. One that isn't counted yet will be looked at when it is."""
        if row <= self.seen:
            self._add(channel, -1 if is_read else 1)

    def _add(self, channel: str, number: int) -> None:
        count = self._unread.get(channel, 0) + number
        if count:
            self._unread[channel] = count
        else:
            self._unread.pop(channel, None)

    def outward(self) -> Counts:
        return Counts(unread=sum(self._unread.values()), channels=dict(sorted(self._unread.items())))
