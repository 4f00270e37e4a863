"""What became of letters that could not be stored, as the next commit of the journal notes it: who is tried again when,
and what is dead; and whose box became full by those that were.

Nothing here makes a flush of its own but twice a second, and a full disk leaves it for later. The one rule: a row of
the journal goes in no earlier transaction than the deaths of its targets are noted in, and who is full by it.
"""

from __future__ import annotations

from typing import NamedTuple

from shard.dead_letters import DeadLetters, Death, Moved
from shard.journal import ranges
from shard.mailbox import Held
from shard.put_off import PutOff
from shard.quotas import Quotas
from shard.schedule import Retry, Schedule

_DEATHS_MAX = 1_000
_DEATHS_BYTES_MAX = 4 * 1024**2
"""of their bodies; the death that reaches it is noted"""


class Page(NamedTuple):
    """What one transaction notes, and the rows that it lets go."""

    deaths: list[Death]
    retries: list[Retry]
    ended: list[str]
    withdrawn: list[tuple[int, str, str]]
    full: list[tuple[str, Held | None]]
    purge: list[int]


class Ledger:
    def __init__(self, put_off: PutOff, dead: DeadLetters, schedule: Schedule, quotas: Quotas) -> None:
        self._put_off = put_off
        self._dead = dead
        self._schedule = schedule
        self._quotas = quotas
        self._called = False

    def call(self) -> None:
        """It is time to note what there is."""
        put_off = self._put_off
        self._called = bool(put_off.deaths or put_off.withdrawn) or put_off.is_changed or self._quotas.is_changed

    @property
    def is_due(self) -> bool:
        """Whether a transaction is wanted, though no letter comes."""
        return self._called

    def take(self, purge: list[int]) -> Page:
        """The next page; of ``purge``, rows that a barrier has covered, nothing goes while there are more deaths than
        fit."""
        put_off = self._put_off
        count = size = 0
        for death in put_off.deaths[:_DEATHS_MAX]:
            count, size = count + 1, size + death.size
            if size >= _DEATHS_BYTES_MAX:
                break
        deaths, put_off.deaths = put_off.deaths[:count], put_off.deaths[count:]
        self._called = bool(put_off.deaths)
        retries, ended = put_off.take_changes()
        withdrawn, put_off.withdrawn = put_off.withdrawn, []
        full = self._quotas.take_changes()
        return Page(deaths, retries, ended, withdrawn, full, [] if put_off.deaths else purge)

    def write(self, page: Page) -> list[Moved]:
        """In the transaction that purges the page's rows, before it does."""
        moved = [self._dead.bury(page.deaths)] if page.deaths else []
        if page.retries or page.ended:
            self._schedule.write(page.retries, page.ended)
        if page.withdrawn:
            self._dead.withdraw(page.withdrawn)
        self._quotas.write(page.full)
        if page.purge:
            moved.append(self._dead.purged(ranges(sorted(page.purge))))
        return moved

    def committed(self, moved: list[Moved]) -> None:
        for one in moved:
            self._dead.committed(one)

    def give_back(self, page: Page) -> None:
        """It was rolled back."""
        self._put_off.deaths[:0] = page.deaths
        self._put_off.withdrawn += page.withdrawn
        self._put_off.not_written(page.retries, page.ended)
        self._quotas.not_written(page.full)
