"""What is past its time leaves: the box, its archive, and the marks on it. A chore of the daily round.

A message goes that was made *and* accepted longer ago than ``[shard] retention_days``. It leaves its name in the box
(``expired``), so that neither a replay of the journal nor a sender's retry brings it back; the name goes a month later,
and not before the journal has let go of everything from that time.

The box lets go first, in one transaction. The archive's files and the read marks follow, when that transaction is on
disk: so a power cut, or a kill in between, leaves at worst what nobody names any more, and the sweep of the next start
finds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from node.clock import DAY_US, iso
from shard import archive
from shard.disk import Disk
from shard.mailbox import Mailbox
from shard.rounds import Chore

_PORTION = 500
"""messages that go in one transaction"""
_KEEP_NAMES_US = 30 * DAY_US


class Retention(Chore):
    """``days``: how old a message must be. ``forget(user, ids)`` forgets the marks on messages. ``oldest_us()``: when
    the oldest letter of the journal was accepted, 0 if there is none. ``receipt_us``: how long a receipt stops a
    retry."""

    def __init__(
        self,
        disk: Disk,
        days: int,
        *,
        forget: Callable[[str, list[str]], Awaitable[None]],
        oldest_us: Callable[[], int],
        receipt_us: int,
    ) -> None:
        self._disk = disk
        self._days = days
        self._forget = forget
        self._oldest_us = oldest_us
        self._keep_names_us = max(_KEEP_NAMES_US, receipt_us)
        self._gone: dict[str, list[str]] = {}
        self.expired = 0
        """messages, since the start"""

    def before(self, now_us: int) -> str:
        """What is from before then goes."""
        return iso(now_us - self._days * DAY_US)

    def do(self, box: Mailbox, now_us: int, *, sweep: bool) -> int:
        gone = expire(box, self.before(now_us), iso(now_us), self._disk)
        self.expired += len(gone)
        self._gone[box.user] = box.expired() if sweep else gone
        forgettable_us = now_us - self._keep_names_us
        box.forget_expired(iso(min(forgettable_us, self._oldest_us() or forgettable_us)))
        return len(gone)

    def clear(self, box: Mailbox, now_us: int) -> None:
        """The same at once for a box that is being made again, archive apart."""
        while self._days and (gone := box.outdated(self.before(now_us), _PORTION)):
            self._let_go(box, gone, now_us)

    def clear_archive(self, box: Mailbox, now_us: int) -> None:
        """Such a box lets go of what it names in the archive, too; in the files it stays till the next round."""
        if self._days:
            for outdated in archive.overdue(box, self.before(now_us), _PORTION):
                if gone := list(box.shelved(outdated)):
                    self._let_go(box, gone, now_us)

    def _let_go(self, box: Mailbox, gone: list[str], now_us: int) -> None:
        box.begin()
        box.expire(gone, iso(now_us))
        box.commit()

    async def after(self, user: str) -> None:
        if gone := self._gone.pop(user, None):
            await self._forget(user, gone)


def expire(box: Mailbox, before: str, now: str, disk: Disk, most: int = _PORTION) -> list[str]:
    """Let go for good of up to ``most`` messages, and as many of the archive, that were made and accepted before
    ``before`` (an ISO time); their ids. Blocks for the disk: for a thread that holds the box."""
    found = box.outdated(before, most)
    shelved = archive.outdated(box, before, most)
    named = box.shelved([message_id for ids in shelved.values() for message_id in ids])
    gone = found + list(named)
    if gone:
        box.begin()
        try:
            box.expire(gone, now)
            box.commit()
        except BaseException:
            box.rollback()
            raise
    if shelved and not box.newborn:
        if box.log_path.exists():
            disk.sync_file(box.log_path)
        archive.drop(box, shelved)
    return gone
