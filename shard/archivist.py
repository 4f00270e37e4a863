"""The archivist: a chore of the daily round, which moves what is old out of the box (:mod:`shard.archive`)."""

from __future__ import annotations

from node.clock import DAY_US, iso
from shard import archive
from shard.mailbox import Mailbox
from shard.rounds import Chore


class Archivist(Chore):
    """``days``: how old a message must be."""

    def __init__(self, days: int) -> None:
        self._days = days
        self.moved = 0
        """messages, since the start"""

    def do(self, box: Mailbox, now_us: int, *, sweep: bool) -> int:
        if sweep:
            archive.sweep(box)
        moved = archive.move(box, iso(now_us - self._days * DAY_US))
        self.moved += moved
        return moved
