"""What became of letters that could not be stored, as the next commit of the journal notes it: who is tried again when,
and what is dead; and whose box became full by those that were.

Nothing here makes a flush of its own but twice a second, and a full disk leaves it for later. The one rule: a row of
the journal goes in no earlier transaction than the deaths of its targets are noted in, and who is full by it. And it
stays while the letter is parked for anybody (:mod:`shard.parked`).
"""

from __future__ import annotations

from typing import NamedTuple

from shard.backlog import Backlog
from shard.dead_letters import DeadLetters, Death, Moved
from shard.given_up import Withdrawn
from shard.journal import ranges
from shard.mailbox import Held
from shard.parked import Dropped, Dying, Pair, Parking
from shard.put_off import PutOff
from shard.quotas import Quotas
from shard.schedule import Retry, Schedule

_DEATHS_MAX = 1_000
_DEATHS_BYTES_MAX = 4 * 1024**2
"""of their bodies; the death that reaches it is noted"""
_COVERED_MAX = 5_000


class Page(NamedTuple):
    """What one transaction notes, and the rows that it lets go."""

    deaths: list[Death]
    retries: list[Retry]
    ended: list[str]
    withdrawn: list[Withdrawn]
    full: list[tuple[str, Held | None]]
    parkings: list[Parking]
    dying: list[Dying]
    covered: list[Pair]
    purge: list[int]


class Written(NamedTuple):
    """What a page changed, once it is committed."""

    purged: list[int]
    """the rows that went"""
    moved: list[Moved]
    parked_bytes: int
    died: list[tuple[Dying, list[Death], int | None]]
    dropped: Dropped


class Ledger:
    def __init__(
        self, backlog: Backlog, put_off: PutOff, dead: DeadLetters, schedule: Schedule, quotas: Quotas
    ) -> None:
        self._backlog = backlog
        self._put_off = put_off
        self._parked = put_off.parked
        self._dead = dead
        self._schedule = schedule
        self._quotas = quotas
        self._called = False

    def call(self) -> None:
        """It is time to note what there is."""
        put_off, given_up = self._put_off, self._put_off.given_up
        self._called = bool(given_up.deaths or given_up.withdrawn or put_off.dying or self._parked.covered)
        self._called = self._called or put_off.is_changed or put_off.is_too_much() or self._quotas.is_changed

    @property
    def is_due(self) -> bool:
        """Whether a transaction is wanted, though no letter comes."""
        return self._called

    def take(self, purge: list[int]) -> Page:
        """The next page; of ``purge``, rows that a barrier has covered, nothing goes while there are more deaths than
        fit."""
        put_off, given_up = self._put_off, self._put_off.given_up
        deaths = given_up.take_deaths(_DEATHS_MAX, _DEATHS_BYTES_MAX)
        parkings, dying = put_off.take_parkings(), put_off.take_dying()
        covered, self._parked.covered = self._parked.covered[:_COVERED_MAX], self._parked.covered[_COVERED_MAX:]
        self._called = bool(given_up.deaths or parkings or self._parked.covered)
        retries, ended = put_off.take_changes()
        full = self._quotas.take_changes()
        rows = [] if given_up.deaths else purge
        return Page(deaths, retries, ended, given_up.take_withdrawn(), full, parkings, dying, covered, rows)

    def write(self, page: Page) -> Written:
        """In the transaction that purges the page's rows, before it does."""
        died, deaths = self._dying(page)
        moved = [self._dead.bury(deaths)] if deaths else []
        if page.retries or page.ended:
            self._schedule.write(page.retries, page.ended)
        if page.withdrawn:
            self._dead.withdraw(page.withdrawn)
        self._quotas.write(page.full)
        size = self._parked.park(page.parkings)
        gone = page.covered + [(death.seq, death.user) for death in deaths]
        gone += [(seq, user) for seq, user, _message_id in page.withdrawn]
        dropped = self._parked.drop(gone)
        purged = self._parked.keep(page.purge) if page.purge else []
        if purged:
            moved.append(self._dead.purged(ranges(sorted(purged))))
        return Written(purged, moved, size, died, dropped)

    def _dying(self, page: Page) -> tuple[list[tuple[Dying, list[Death], int | None]], list[Death]]:
        """What dies of what is parked; and with it all deaths of the page."""
        died: list[tuple[Dying, list[Death], int | None]] = []
        deaths = list(page.deaths)
        size = sum(death.size for death in deaths)
        for dying in page.dying:
            some, deadline_us = self._parked.deaths(dying, _DEATHS_MAX - len(deaths), _DEATHS_BYTES_MAX - size)
            died.append((dying, some, deadline_us))
            deaths += some
            size += sum(death.size for death in some)
        return died, deaths

    def committed(self, page: Page, written: Written) -> None:
        for one in written.moved:
            self._dead.committed(one)
        self._put_off.parked_for_good(page.parkings, written.parked_bytes)
        for dying, deaths, deadline_us in written.died:
            self._put_off.died(dying, deaths, deadline_us)
        self._parked.dropped(page.covered)
        self._backlog.dropped(*written.dropped)

    def give_back(self, page: Page) -> None:
        """It was rolled back."""
        self._put_off.given_up.not_noted(page.deaths, page.withdrawn)
        self._put_off.not_written(page.retries, page.ended)
        self._quotas.not_written(page.full)
        self._put_off.not_parked(page.parkings)
        self._put_off.not_dead(page.dying)
        self._parked.covered[:0] = page.covered
