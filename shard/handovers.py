"""People change hands while the node runs: how a shard lets them go, and how it takes them in.

Who has them is said by ``placement.json`` alone, and changes with the one rename of it (:mod:`node.reshard`). Before:

1. The old owner delivers what waits for them, then takes nothing new for anybody, asks no more questions about them,
   delivers the rest, closes their boxes and flushes the disk. What can't be in their boxes it packs
   (:mod:`shard.parcel`).
2. The new owner writes the parcel down, durably, and does nothing else with it.

Both then wait for the handover's end. If the rename has come, and is on disk, the old owner forgets the people and the
new one unpacks; where the handover was called off, it goes on as if nothing had been asked. A handover that doesn't come to its end in time is
called off by whoever waits for it: under the lock that the rename is made under, so it is one of the two for everybody.
A shard that is started calls off what is under way, and then goes by the file: what it has of others' it clears away,
what it has kept for itself it unpacks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import TypeVar

import msgspec
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node import ops, paths, placement
from node.clock import now_us
from node.errors import DiskFull, Unavailable
from node.placement import Placement, Watched
from node.slots import SLOTS, Table, slot_of
from shard import parcel, parked, replay
from shard.backlog import Letter
from shard.backup import Backups
from shard.dead_letters import DeadLetters, Moved
from shard.disk import full_is_507
from shard.gone import DONE, Gone
from shard.journal import Journal
from shard.keyring import Keyring
from shard.loader import Loader
from shard.mailbox import Standing
from shard.mailboxes import Mailboxes
from shard.members import Members
from shard.office import Office
from shard.parcel import Parcel
from shard.parked import Parked
from shard.postmen import Postmen
from shard.push import Push
from shard.put_off import PutOff
from shard.quotas import Quotas
from shard.residents import BEYOND, COUNTED_US, Residents, Stay
from shard.restore import Restores
from shard.roster import Roster, names_in
from shard.sealing import seal, unseal
from shard.statuses import Statuses
from shard.tail import Tail

T = TypeVar("T")
log = structlog.get_logger()

_LOOK_S = 0.005
_FROZEN_MAX_S = 2.0
"""for letting go; whoever asks meanwhile waits"""
_PATIENCE_S = 2.0
"""for the rename, after that"""
_ANSWERED_S = 0.1
_COUNTED_MAX = 20_000
_AGAIN_S = 0.5
_MOVING = "The mailbox is moving to another shard"
_CONCERNS_ALL = (ops.ChangeMembers, ops.PutChannel, ops.DropChannel)


class Handovers:
    """Of the shard of ``residents``. ``under_way`` are the questions that are being answered; ``flush`` makes what was
    delivered durable; ``enter`` takes a journaled letter and its targets; ``moved`` is called when others belong here,
    or are about to."""

    def __init__(
        self,
        data: Path,
        residents: Residents,
        *,
        journal: Journal,
        members: Members,
        office: Office,
        postmen: Postmen,
        loader: Loader,
        tail: Tail,
        put_off: PutOff,
        mailboxes: Mailboxes,
        statuses: Statuses,
        push: Push,
        roster: Roster,
        backups: Backups,
        gone: Gone,
        restores: Restores,
        quotas: Quotas,
        dead: DeadLetters,
        parked_letters: Parked,
        under_way: Mapping[asyncio.Task[None], ops.AnyRequest],
        is_expanding: Callable[[], bool],
        flush: Callable[[], Awaitable[None]],
        enter: Callable[[Letter, list[str]], None],
        moved: Callable[[], None],
        keyring: Keyring | None = None,
    ) -> None:
        self._data = data
        self._residents = residents
        self._journal = journal
        self._members = members
        self._office = office
        self._postmen = postmen
        self._loader = loader
        self._tail = tail
        self._put_off = put_off
        self._mailboxes = mailboxes
        self._statuses = statuses
        self._push = push
        self._roster = roster
        self._backups = backups
        self._gone = gone
        self._restores = restores
        self._quotas = quotas
        self._dead = dead
        self._parked = parked_letters
        self._under_way = under_way
        self._is_expanding = is_expanding
        self._flush = flush
        self._enter = enter
        self._moved = moved
        self._sealer = None if keyring is None else AESGCM(keyring.derived("parcels"))
        self._failures: asyncio.Queue[Exception] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "handover")
        self._busy = False
        self._waiting: asyncio.Task[None] | None = None
        self._placement = Watched(data)
        self._receipts_to: int | None = None
        """up to which number the receipts were looked at; None if none of them go"""
        residents.look = self.look

    @property
    def busy(self) -> bool:
        """People are about to leave, or to come."""
        return self._busy

    async def run(self) -> None:
        """Until cancelled; raises what went wrong at the end of a handover."""
        raise await self._failures.get()

    def _unpack(self, body: bytes) -> parcel.Unpacked:
        return parcel.unpack(self._journal, self._members, self._residents, parcel.decode(body))

    def _clear(self, people: Iterable[str]) -> Moved:
        return parcel.clear(self._journal, self._members, people, self._residents.table.number)

    # -- a table that changed nothing here -----------------------------------------------------------

    def look(self) -> None:
        """Go by the file, if that is another by now."""
        if self._busy:
            return  # it is waited for
        found, residents = self._placement.news(), self._residents
        if found is None or found.version != residents.placement.version:
            return
        table = found.table
        if table.number >= residents.table.number and table.owned(residents.index) == residents.owned:
            residents.take(found)

    # -- letting go ----------------------------------------------------------------------------------

    async def hand_over(self, q: ops.HandOver) -> ops.HandedOver:
        """See :class:`node.ops.HandOver`."""
        new = self._next(q.placement)
        if self._backups.state.running:
            raise Unavailable("A backup is being made: nobody moves meanwhile")
        self._busy = True
        try:
            people, receipts = await self._look_round(new)
            for user in sorted(await self._with_mail(people, new.table)):
                await self._postmen.deliver_now(user)
            await self._flush()
            return await self._freeze(q.name, new, people, receipts)
        except BaseException:
            self._busy = False
            raise

    def _next(self, content: bytes) -> Placement:
        self.look()
        if self._busy:
            raise Unavailable("People are moving already")
        now = self._residents.placement
        try:
            new = placement.decode(content)
        except (msgspec.DecodeError, ValueError) as error:
            raise Unavailable("a placement that can't be read") from error
        if new.version != now.version or new.table.number != now.table.number + 1:
            raise Unavailable("The placement has changed")
        return new

    async def _look_round(self, new: Placement) -> tuple[set[str], dict[str, parcel.Receipt]]:
        """Who is to leave, and the receipts that go; there may be more of both when nothing is taken any more."""
        table = new.table
        people: set[str] = set()
        after = ""
        while names := await self._journal.read(lambda: parcel.member_names(self._journal, after)):  # noqa: B023
            after = names[-1]
            people.update(name for name in names if self._goes(name, table))
        receipts: dict[str, parcel.Receipt] = {}
        self._receipts_to = None
        if new.shards <= self._residents.index or self._homes_go(table):
            self._receipts_to = 0
            while await self._more_receipts(new, receipts):
                pass
        return people | await self._named_now(new), receipts

    def _goes(self, user: str, new: Table) -> bool:
        return self._residents.is_mine(user) and new.shard_of(user) != self._residents.index

    def _homes_go(self, new: Table) -> bool:
        return any(slot < SLOTS for slot in self._residents.owned - new.owned(self._residents.index))

    async def _named_now(self, new: Placement) -> set[str]:
        """Who is to leave, of those who have a box or something in the database that is soon read through."""
        table = new.table

        def work() -> list[str]:
            left = {slot for slot in self._residents.owned - table.owned(self._residents.index) if slot < SLOTS}
            alone = {slot_of(user) for user in new.users if self._goes(user, table)}
            return [name for slot in left | alone for name in names_in(self._data, slot)]

        names = {*await self._in_thread(work), *await self._journal.read(lambda: parcel.other_names(self._journal))}
        return {name for name in names | self._postmen.with_mail() if self._goes(name, table)}

    async def _more_receipts(self, new: Placement, receipts: dict[str, parcel.Receipt]) -> bool:
        """The next portion; False if there are no more. Of ids whose home moves only what was sent is told; a shard
        that is to end leaves what it counts of every one."""
        first, index, table = self._receipts_to, self._residents.index, new.table
        if first is None:
            return False
        rows = await self._journal.read(lambda: self._journal.receipts_after(first, 2_000))
        ends = new.shards <= index
        for seq, id, digest, accepted_us, targets, failed in rows:
            self._receipts_to = seq
            if ends:
                receipts[id] = (id, digest, accepted_us, targets, failed)
            elif self._residents.table.home(id) == index != table.home(id):
                receipts[id] = (id, digest, accepted_us, 0, 0)
        return bool(rows)

    async def _with_mail(self, people: set[str], new: Table) -> set[str]:
        """For whom of those who leave something waits, or may wait."""
        waiting = {user for user in self._postmen.with_mail() if self._goes(user, new)}
        if self._is_expanding():  # or stands in the tail: found by who is in which channel, and by name
            waiting |= {user for user in people if self._goes(user, new)}
        return waiting

    async def _freeze(
        self, name: str, new: Placement, people: set[str], receipts: dict[str, parcel.Receipt]
    ) -> ops.HandedOver:
        """From here on nothing is taken. Nothing of it is broken off in the middle; where it takes too long, it is
        given up between two steps."""
        began = monotonic()
        residents, table = self._residents, new.table

        def in_time() -> None:
            if monotonic() - began > _FROZEN_MAX_S:
                raise Unavailable("Too much waits for those who are to move", retry_after=2)

        residents.leaving = table
        self._moved()  # a router that goes by the old table for long must not take its last answer for the newest
        try:
            await self._office.pause()
            await self._answered(in_time)
            people |= await self._named_now(new)
            while await self._more_receipts(new, receipts):
                in_time()
            for user in sorted(await self._with_mail(people, table)):
                in_time()
                await self._postmen.deliver_now(user)
            self._check(people)
            for user in sorted(self._put_off.users() & people):
                self._postmen.hold_back(user, _MOVING)
            residents.closed = True
            await self._statuses.vacate()
            await self._mailboxes.vacate()
            in_time()
            await self._flush()
            packed = await self._pack(people, new, receipts)
            await self._in_thread(lambda: self._write(name, packed))
            in_time()
        except BaseException:
            self._thaw(people)
            raise
        self._waiting = asyncio.create_task(self._wait_for_end(name, people), name="handover")
        letters = sum(len(one.letters) for one in packed.values())
        return ops.HandedOver(sorted(packed), len(people), letters, int((monotonic() - began) * 1e6))

    async def _answered(self, in_time: Callable[[], None]) -> None:
        """Until the questions that were let in before, about those who leave, are answered."""
        me = asyncio.current_task()
        while asked := [task for task, q in self._under_way.items() if task is not me and self._concerns(q)]:
            in_time()
            await asyncio.wait(asked, timeout=_ANSWERED_S)
            await asyncio.sleep(0)

    def _concerns(self, q: ops.AnyRequest) -> bool:
        return isinstance(q, _CONCERNS_ALL) or (isinstance(q, ops.AboutUser) and self._residents.is_leaving(q.user))

    def _check(self, people: set[str]) -> None:
        """Who is being deleted or restored stays until that is done."""
        deleted = {user for user, phase in self._gone.phases.items() if phase != DONE}
        if people & (deleted | self._restores.at_work):
            raise Unavailable("Somebody who is to move is being deleted or restored")

    async def _pack(self, people: set[str], new: Placement, receipts: dict[str, parcel.Receipt]) -> dict[int, Parcel]:
        """A parcel for each shard that gets something."""
        table, index = new.table, self._residents.index
        to: dict[int, list[str]] = {}
        for user in sorted(people):
            to.setdefault(table.shard_of(user), []).append(user)
        slots: dict[int, list[int]] = {}
        for slot in sorted(self._residents.owned - table.owned(index)):
            slots.setdefault(table.owner(slot), []).append(slot)
        for user, slot in new.users.items():
            if self._goes(user, table) and slot not in slots.setdefault(table.owner(slot), []):
                slots[table.owner(slot)].append(slot)
        of_home: dict[int, list[parcel.Receipt]] = {}
        for receipt in receipts.values():
            of_home.setdefault(table.home(receipt[0]), []).append(receipt)
        await self._office.note()
        while self._put_off.given_up.deaths:  # more than one transaction takes
            await self._office.note()
        shards = to.keys() | slots.keys() | of_home.keys()
        after = max((self._residents.since(slot) for of_one in slots.values() for slot in of_one), default=0)
        since_us = now_us() - COUNTED_US
        counted = await self._journal.read(lambda: self._journal.taken_since(since_us, after, _COUNTED_MAX))
        packed: dict[int, Parcel] = {}
        for shard in sorted(shards - {index}):
            stays = self._stays(slots.get(shard, []), new)
            mine = to.get(shard, [])
            one = await self._journal.read(lambda: parcel.pack(self._journal, self._members, mine, stays))  # noqa: B023
            for user in mine:
                retry = self._put_off.retry_of(user)
                if retry is not None:
                    one.retries.append(retry)
                one.letters += await self._undelivered(user)
            one.receipts = of_home.get(shard, [])
            one.counted = counted if mine else []
            packed[shard] = one
        return packed

    def _stays(self, slots: list[int], new: Placement) -> list[Stay]:
        """Where ``slots`` were until now; somebody's own slot was where his name's was before."""
        known: dict[int, list[Stay]] = {}
        for stay in self._residents.stays():
            known.setdefault(stay[0], []).append(stay)
        before = {slot: slot_of(user) for user, slot in new.users.items()}
        found: list[Stay] = []
        for slot in slots:
            mine = known.get(slot) or known.get(before.get(slot, slot)) or [(slot, 0, self._residents.index)]
            found += [(slot, since, shard) for _slot, since, shard in mine]
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

    def _write(self, name: str, packed: Mapping[int, Parcel]) -> None:
        with full_is_507():
            for shard, one in packed.items():
                content = b"".join(seal([parcel.encode(one)], self._sealer))
                placement.replace(paths.parcel_path(self._data, name, shard), content, durably=False)

    def _thaw(self, people: set[str]) -> None:
        """Nobody leaves."""
        was_closed = self._residents.closed
        self._residents.leaving, self._residents.closed = None, False
        for user in self._put_off.users() & people if was_closed else ():
            self._postmen.let_in(user)
        self._office.resume()
        self._busy = False

    # -- taking in -----------------------------------------------------------------------------------

    async def take_over(self, q: ops.TakeOver) -> None:
        """See :class:`node.ops.TakeOver`."""
        self.look()
        if self._busy:
            raise Unavailable("People are moving already")
        if self._backups.state.running:
            raise Unavailable("A backup is being made: nobody moves meanwhile")
        self._busy = True
        try:
            path = paths.parcel_path(self._data, q.name, self._residents.index)
            body = await self._in_thread(lambda: b"".join(unseal([path.read_bytes()], self._sealer)))
            parcel.decode(body)
            await self._journal.write(lambda: parcel.keep(self._journal, q.name, body))
        except FileNotFoundError as error:
            self._busy = False
            raise Unavailable("The handover was called off") from error
        except BaseException:
            self._busy = False
            raise
        self._waiting = asyncio.create_task(self._wait_for_end(q.name, body=body), name="handover")

    # -- its end -------------------------------------------------------------------------------------

    async def _wait_for_end(self, name: str, people: set[str] | None = None, body: bytes = b"") -> None:
        """Until it is settled which placement counts; then what follows from that, for those who leave, or who come
        with the parcel ``body``."""
        try:
            found = await self._settled(name)
            began = monotonic()
            if people is not None:
                await self._leave(found, people)
            else:
                await self._arrive(found, body)
        except Exception as error:  # what is in memory may not be what is on disk: the next start knows
            self._failures.put_nowait(error)
            return
        self._busy = False
        if found is not None:
            self._moved()
            self._roster.forget()
            log.info("people moved", table=found.table.number, took_ms=round((monotonic() - began) * 1000))

    async def _settled(self, name: str) -> Placement | None:
        """The placement that handover ``name`` made, None if it was called off; here, when it has taken too long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_S
        while loop.time() < until and placement.under_way(self._data) == name:
            await asyncio.sleep(_LOOK_S)
        return await self._in_thread(lambda: self._call_off(name))

    def _call_off(self, name: str) -> Placement | None:
        """It is too late for the rename, if that has not come."""
        with placement.changing(self._data):
            if placement.under_way(self._data) == name:
                placement.call_off(self._data)
            found = placement.load_durable(self._data)
        return found if found is not None and found.handover == name else None

    async def _leave(self, found: Placement | None, people: set[str]) -> None:
        if found is None:
            self._thaw(people)
            return
        self._residents.take(found)
        for user in people:
            self._put_off.move_out(user)
            with contextlib.suppress(DiskFull):  # a start drops the rest
                await self._parked.withdraw(user, BEYOND - 1, counts=False)
            self._push.subscriptions.of.pop(user, None)
            self._quotas.dropped(user)
        try:
            with self._members.as_committed():
                self._dead.committed(await self._journal.write(lambda: self._clear(sorted(people))))
        except DiskFull:  # they get nothing here all the same
            log.warning("the disk is too full to forget who moved away; the next start does it")
        self._office.resume()

    async def _arrive(self, found: Placement | None, body: bytes) -> None:
        if found is None:
            with contextlib.suppress(DiskFull):
                await self._journal.write(lambda: parcel.drop(self._journal))
            return
        await self._office.pause()  # what is taken from now on is for those who came, too
        while True:
            try:
                with self._members.as_committed():
                    unpacked = await self._journal.write(lambda: self._unpack(body))
                break
            except DiskFull:  # it had room for the parcel a moment ago
                log.warning("the disk is too full to take over who has moved here; they wait")
                await asyncio.sleep(_AGAIN_S)
        await self._journal.read(self._residents.load)
        self._residents.take(found)
        self._dead.committed(unpacked.dead)
        self._journal.receipts += unpacked.receipts
        self._push.subscriptions.take(unpacked.subscriptions)
        self._quotas.take(unpacked.quotas)
        self._put_off.load(unpacked.retries)
        states: dict[str, dict[str, Standing]] = {}
        for row in unpacked.letters:
            letter, names = await self._journal.read(lambda: replay.letter_of(row, self._members, states))  # noqa: B023
            self._enter(letter, names)
        self._office.resume()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def end(self) -> None:
        """The shard stops: what is under way is settled now."""
        if self._waiting is not None and not self._waiting.done():
            await self._in_thread(lambda: placement.settle(self._data))
            await asyncio.wait([self._waiting])

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._thread.shutdown()
