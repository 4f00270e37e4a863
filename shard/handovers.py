"""People change hands while the node runs: how a shard lets them go, and how it takes them in.

Who has them is said by ``placement.json`` alone, and changes with the one rename of it (:mod:`node.reshard`). Before:

1. The old owner delivers what waits for them, then takes nothing new for anybody, asks no more questions about them,
   delivers the rest, closes their boxes and flushes the disk. What can't be in their boxes it packs
   (:mod:`shard.departure`).
2. The new owner writes the parcel down, durably, and does nothing else with it.

Both then wait for the handover's end. If the rename has come, and is on disk, the old owner forgets the people and the
new one unpacks; where the handover was called off, it goes on as if nothing had been asked. A handover that doesn't
come to its end in time is called off by whoever waits for it: under the lock that the rename is made under, so it is
one of the two for everybody. A shard that is started calls off what is under way, and then goes by the file: what it
has of others' it clears away, what it has kept for itself it unpacks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import TypeVar

import msgspec
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node import ops, paths, placement
from node.errors import DiskFull, Unavailable
from node.placement import Placement, Watched
from shard import parcel, replay
from shard.backlog import Letter
from shard.backup import Backups
from shard.dead_letters import DeadLetters
from shard.departure import Departure
from shard.disk import full_is_507
from shard.gone import DONE, Gone
from shard.journal import Journal
from shard.keyring import Keyring
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
from shard.residents import BEYOND, Residents
from shard.restore import Restores
from shard.roster import Roster
from shard.sealing import seal, unseal
from shard.statuses import Statuses

T = TypeVar("T")
log = structlog.get_logger()

_LOOK_S = 0.005
_FROZEN_MAX_S = 2.0
"""for letting go; whoever asks meanwhile waits"""
_PATIENCE_S = 2.0
"""for the rename, after that"""
_ANSWERED_S = 0.1
_AGAIN_S = 0.5
_MOVING = "The mailbox is moving to another shard"
_CONCERNS_ALL = (ops.ChangeMembers, ops.PutChannel, ops.DropChannel)


class Handovers:
    """Of the shard of ``residents``. ``departure`` is who leaves for a placement that is to come; ``under_way`` are the
    questions that are being answered; ``flush`` makes what was delivered durable; ``enter`` takes a journaled letter
    and its targets; ``moved`` is called when others belong here, or are about to."""

    def __init__(
        self,
        data: Path,
        residents: Residents,
        departure: Callable[[Placement], Departure],
        *,
        journal: Journal,
        members: Members,
        office: Office,
        postmen: Postmen,
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
        flush: Callable[[], Awaitable[None]],
        enter: Callable[[Letter, list[str]], None],
        moved: Callable[[], None],
        keyring: Keyring | None = None,
    ) -> None:
        self._data = data
        self._residents = residents
        self._departure = departure
        self._journal = journal
        self._members = members
        self._office = office
        self._postmen = postmen
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
        self._flush = flush
        self._enter = enter
        self._moved = moved
        self._sealer = None if keyring is None else AESGCM(keyring.derived("parcels"))
        self._failures: asyncio.Queue[Exception] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "handover")
        self._busy = False
        self._waiting: asyncio.Task[None] | None = None
        self._placement = Watched(data)
        residents.look = self.look

    @property
    def busy(self) -> bool:
        """People are about to leave, or to come."""
        return self._busy

    async def run(self) -> None:
        """Until cancelled; raises what went wrong at the end of a handover."""
        raise await self._failures.get()

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
        self._check_free()
        going = self._departure(self._next(q.placement))
        self._busy = True
        try:
            await going.look_round()
            for user in going.with_mail():
                await self._postmen.deliver_now(user)
            await self._flush()
            return await self._freeze(q.name, going)
        except BaseException:
            self._busy = False
            raise

    def _check_free(self) -> None:
        self.look()
        if self._busy:
            raise Unavailable("People are moving already")
        if self._backups.state.running:
            raise Unavailable("A backup is being made: nobody moves meanwhile")

    def _next(self, content: bytes) -> Placement:
        now = self._residents.placement
        try:
            new = placement.decode(content)
        except (msgspec.DecodeError, ValueError) as error:
            raise Unavailable("a placement that can't be read") from error
        if new.version != now.version or new.table.number != now.table.number + 1:
            raise Unavailable("The placement has changed")
        return new

    async def _freeze(self, name: str, going: Departure) -> ops.HandedOver:
        """From here on nothing is taken. Nothing of it is broken off in the middle; where it takes too long, it is
        given up between two steps."""
        began = monotonic()

        def in_time() -> None:
            if monotonic() - began > _FROZEN_MAX_S:
                raise Unavailable("Too much waits for those who are to move", retry_after=2)

        self._residents.leaving = going.table
        self._moved()  # a router that goes by the old table for long must not take its last answer for the newest
        try:
            await self._office.pause()
            await self._answered(in_time)
            await going.look_again(in_time)
            for user in going.with_mail():
                in_time()
                await self._postmen.deliver_now(user)
            self._check(going.people)
            for user in sorted(self._put_off.users() & going.people):
                self._postmen.hold_back(user, _MOVING)
            self._residents.closed = True
            await self._statuses.vacate()
            await self._mailboxes.vacate()
            in_time()
            await self._flush()
            await self._office.note()
            while self._put_off.given_up.deaths:  # more than one transaction takes
                await self._office.note()
            packed = await going.pack()
            await self._in_thread(lambda: self._write(name, packed))
            in_time()
        except BaseException:
            self._thaw(going.people)
            raise
        self._waiting = asyncio.create_task(self._wait_for_end(name, going.people), name="handover")
        letters = sum(len(one.letters) for one in packed.values())
        return ops.HandedOver(sorted(packed), len(going.people), letters, int((monotonic() - began) * 1e6))

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
        self._check_free()
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
        journal, members = self._journal, self._members
        self._residents.take(found)
        for user in people:
            self._put_off.move_out(user)
            with contextlib.suppress(DiskFull):  # a start drops the rest
                await self._parked.withdraw(user, BEYOND - 1, counts=False)
            self._push.subscriptions.of.pop(user, None)
            self._quotas.dropped(user)
        try:
            with members.as_committed():
                number = found.table.number
                cleared = await journal.write(lambda: parcel.clear(journal, members, sorted(people), number))
            self._dead.committed(cleared)
        except DiskFull:  # they get nothing here all the same
            log.warning("the disk is too full to forget who moved away; the next start does it")
        self._office.resume()

    async def _arrive(self, found: Placement | None, body: bytes) -> None:
        if found is None:
            with contextlib.suppress(DiskFull):
                await self._journal.write(lambda: parcel.drop(self._journal))
            return
        journal, members, residents = self._journal, self._members, self._residents
        await self._office.pause()  # what is taken from now on is for those who came, too
        while True:
            try:
                with members.as_committed():
                    unpacked = await journal.write(
                        lambda: parcel.unpack(journal, members, residents, parcel.decode(body))
                    )
                break
            except DiskFull:  # it had room for the parcel a moment ago
                log.warning("the disk is too full to take over who has moved here; they wait")
                await asyncio.sleep(_AGAIN_S)
        await journal.read(residents.load)
        residents.take(found)
        self._dead.committed(unpacked.dead)
        journal.receipts += unpacked.receipts
        self._push.subscriptions.take(unpacked.subscriptions)
        self._quotas.take(unpacked.quotas)
        self._put_off.load(unpacked.retries)
        states: dict[str, dict[str, Standing]] = {}
        for row in unpacked.letters:
            letter, names = await journal.read(lambda: replay.letter_of(row, members, states))  # noqa: B023
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
