"""Who leaves a shard by one handover, and what of theirs goes along.

It is found out while the shard works, which may take its time, and looked at once more when the shard takes nothing any
more (:mod:`shard.handovers`): then only what came in between is new. What is packed is what stands in no box: see
:mod:`shard.parcel`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from node.clock import now_us
from node.errors import Unavailable
from node.placement import Placement
from node.slots import SLOTS, slot_of
from shard import parcel, parked
from shard.journal import Journal
from shard.loader import Loader
from shard.members import Members
from shard.parcel import Parcel
from shard.parked import Parked
from shard.postmen import Postmen
from shard.put_off import PutOff
from shard.residents import COUNTED_US, Residents, Stay
from shard.roster import names_in
from shard.tail import Tail

_COUNTED_MAX = 20_000


class Departure:
    """From the shard of ``residents`` to whom the placement ``new`` says."""

    def __init__(
        self,
        data: Path,
        residents: Residents,
        new: Placement,
        *,
        journal: Journal,
        members: Members,
        postmen: Postmen,
        loader: Loader,
        tail: Tail,
        put_off: PutOff,
        parked_letters: Parked,
        is_expanding: Callable[[], bool],
    ) -> None:
        self._data = data
        self._residents = residents
        self._new = new
        self._journal = journal
        self._members = members
        self._postmen = postmen
        self._loader = loader
        self._tail = tail
        self._put_off = put_off
        self._parked = parked_letters
        self._is_expanding = is_expanding
        self.table = new.table
        self._slots = residents.owned - self.table.owned(residents.index)
        """that go as a whole"""
        self._ends = new.shards <= residents.index
        self._receipts_go = self._ends or any(slot < SLOTS for slot in self._slots)
        self.people: set[str] = set()
        self._receipts: dict[str, parcel.Receipt] = {}
        self._receipts_to = 0
        """up to which number they were looked at"""

    async def look_round(self) -> None:
        """Find who is to leave, and the receipts that go; there may be more of both when nothing is taken any more."""
        after = ""
        while names := await self._journal.read(lambda: parcel.member_names(self._journal, after)):  # noqa: B023
            after = names[-1]
            self.people.update(name for name in names if self._goes(name))
        await self.look_again(lambda: None)

    async def look_again(self, in_time: Callable[[], None]) -> None:
        """Who, and what, has come since; ``in_time`` raises if that takes too long."""
        self.people |= await self._named_now()
        while await self._more_receipts():
            in_time()

    def with_mail(self) -> list[str]:
        """For whom of those who leave something waits, or may wait; in order."""
        waiting = {user for user in self._postmen.with_mail() if self._goes(user)}
        if self._is_expanding():  # or stands in the tail: found by who is in which channel, and by name
            waiting |= self.people
        return sorted(waiting)

    def _goes(self, user: str) -> bool:
        return self._residents.is_mine(user) and self.table.shard_of(user) != self._residents.index

    async def _named_now(self) -> set[str]:
        """Who is to leave, of those who have a box or something in the database that is soon read through."""

        def work() -> set[str]:
            left = {slot for slot in self._slots if slot < SLOTS}
            alone = {slot_of(user) for user in self._new.users if self._goes(user)}
            return {name for slot in left | alone for name in names_in(self._data, slot)}

        boxes = await asyncio.to_thread(work)
        others = await self._journal.read(lambda: parcel.other_names(self._journal))
        return {name for name in boxes | others | self._postmen.with_mail() if self._goes(name)}

    async def _more_receipts(self) -> bool:
        """The next portion; False if there are no more. Of ids whose home moves only what was sent is told; a shard
        that is to end leaves what it counts of every one."""
        first, index = self._receipts_to, self._residents.index
        if not self._receipts_go:
            return False
        rows = await self._journal.read(lambda: self._journal.receipts_after(first, 2_000))
        for seq, id, digest, accepted_us, targets, failed in rows:
            self._receipts_to = seq
            if self._ends:
                self._receipts[id] = (id, digest, accepted_us, targets, failed)
            elif self._residents.table.home(id) == index != self.table.home(id):
                self._receipts[id] = (id, digest, accepted_us, 0, 0)
        return bool(rows)

    # -- packing: when nothing is taken any more, and all that can be is in the boxes --------------------

    async def pack(self) -> dict[int, Parcel]:
        """A parcel for each shard that gets something."""
        table, index = self.table, self._residents.index
        to: dict[int, list[str]] = {}
        for user in sorted(self.people):
            to.setdefault(table.shard_of(user), []).append(user)
        slots: dict[int, list[int]] = {}
        for slot in sorted(self._slots):
            slots.setdefault(table.owner(slot), []).append(slot)
        for user, slot in self._new.users.items():
            if self._goes(user) and slot not in slots.setdefault(table.owner(slot), []):
                slots[table.owner(slot)].append(slot)
        of_home: dict[int, list[parcel.Receipt]] = {}
        for receipt in self._receipts.values():
            of_home.setdefault(table.home(receipt[0]), []).append(receipt)
        shards = to.keys() | slots.keys() | of_home.keys()
        after = max((self._residents.since(slot) for of_one in slots.values() for slot in of_one), default=0)
        since_us = now_us() - COUNTED_US
        taken = await self._journal.read(lambda: self._journal.taken_since(since_us, after, _COUNTED_MAX))
        packed: dict[int, Parcel] = {}
        for shard in sorted(shards - {index}):
            stays = self._stays(slots.get(shard, []))
            mine = to.get(shard, [])
            one = await self._journal.read(lambda: parcel.pack(self._journal, self._members, mine, stays))  # noqa: B023
            for user in mine:
                retry = self._put_off.retry_of(user)
                if retry is not None:
                    one.retries.append(retry)
                one.letters += await self._undelivered(user)
            one.receipts = of_home.get(shard, [])
            if mine:
                one.counted, one.counted_from_us = taken
            packed[shard] = one
        return packed

    def _stays(self, slots: list[int]) -> list[Stay]:
        """Where ``slots`` were until now; somebody's own slot was where his name's was before."""
        residents = self._residents
        before = {slot: slot_of(user) for user, slot in self._new.users.items()}
        found: list[Stay] = []
        for slot in slots:
            stays = residents.stays(slot) or residents.stays(before.get(slot, slot)) or [(0, residents.index)]
            found += [(slot, since, shard) for since, shard in stays]
        return found

    async def _undelivered(self, user: str) -> list[tuple[int, str, str, bytes]]:
        """Rows of the journal that could not be stored in the box of ``user``."""
        seqs = {letter.seq for letter in self._postmen.waiting_for(user)}
        if (pile := self._parked.pile(user)) is not None:
            got = pile.got
            seqs.update(await self._journal.read(lambda: parked.waiting_for(self._journal.db, user, got)))
        if user in self._loader.debtors:
            after = self._residents.before(user)
            while letters := await self._journal.read(lambda: self._tail.of(user, after)):  # noqa: B023
                seqs.update(letter.seq for letter in letters)
                after = letters[-1].seq
        if any(letter.seq not in seqs for letter in self._postmen.waiting_for(user)):
            raise Unavailable("Mail that is put off is just being parked")
        if not seqs:
            return []

        def work() -> list[tuple[int, str, str, bytes]]:
            rows = [self._journal.body(seq) for seq in sorted(seqs)]
            return [(row[0], row[1], user, row[2]) for row in rows if row is not None]

        return await self._journal.read(work)
