"""A shard without its socket: the parts, wired, and the questions that may be asked of it.

``start`` replays the journal into the lanes before anything is accepted. ``run`` is the shard's
life: if one of its tasks fails, all end and the error comes out. ``drain`` stores what waits as far
as time allows and lets go of what it can; the rest is in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from node import ops, paths
from node.changes import Changes
from node.clock import iso, now_us
from node.config import Config
from node.errors import DiskFull, NotFound, Overloaded, PoboxError, Unavailable
from node.model import Channel, MemberChanged, Message, Messages, UserChannels
from node.placement import Placement
from node.slots import table_for
from shard import backlog as letters_of
from shard import replay
from shard.backlog import Backlog
from shard.barrier import Barrier
from shard.disk import Disk
from shard.expander import Expander
from shard.journal import MEMBERSHIP, REMOVAL, Journal
from shard.lanes import gather_s
from shard.mailbox import Mailbox, template
from shard.mailboxes import Mailboxes
from shard.members import ChannelRecord, Members
from shard.office import Office
from shard.postmen import Postmen
from shard.snapshots import Snapshots
from shard.sqlite import Sync
from shard.statuses import Statuses
from shard.sync import Devices

T = TypeVar("T")
_HOUSE_S = 0.5
_FORGET_PORTIONS = 20
_DRAIN_S = 5.0


class Shard:
    """Shard number ``index`` of the layout ``placement``, on the data directory ``disk.data``."""

    def __init__(
        self,
        config: Config,
        placement: Placement,
        index: int,
        disk: Disk,
        *,
        vfs: str | None = None,
        journal_sync: Sync = Sync.FULL,
    ) -> None:
        settings = config.shard
        self.index = index
        self._settings = settings
        self._placement = placement
        self._disk = disk
        data: Path = disk.data
        owned = frozenset(s for s, owner in enumerate(table_for(placement.shards)) if owner == index)
        self._wake = asyncio.Event()
        self.journal = Journal(paths.shard_db(data, placement.version, index), sync=journal_sync, vfs=vfs)
        self.members = Members(self.journal.db)
        self.backlog = Backlog()
        self.mailboxes = Mailboxes(
            disk,
            template(),
            open_max=settings.mailboxes_open_max,
            wal_pages_max=settings.wal_pages_max,
            vfs=vfs,
        )
        self.statuses = Statuses(
            disk,
            self.mailboxes,
            self._box,
            late=lambda user: self.postmen.waits_for(user),
            changed=lambda user: self.changes.for_users([user]),
            accepting=self._accepting,
            open_max=settings.statuses_open_max,
            vfs=vfs,
        )
        self.changes = Changes(paths.changes_path(data, index))
        self.snapshots = Snapshots(
            paths.snapshots_dir(data, index),
            bytes_max=settings.snapshot_bytes_max,
            keep_s=settings.snapshot_s,
            room_bytes=lambda: disk.free_bytes() - settings.disk_reserve_bytes,
        )
        self.devices = Devices(
            data,
            self.snapshots,
            self._box,
            late=lambda user: self.postmen.waits_for(user),
            wrote=self.mailboxes.wrote,
            changed=lambda user: self.changes.for_users([user]),
        )
        self.expander = Expander(self.backlog, self.journal, self.members, self._wake)
        self.office = Office(
            self.journal,
            self.members,
            self.backlog,
            self.expander,
            table=placement.version,
            owned=owned,
            changes=self.changes,
            rows_max=settings.journal_rows_max,
            waiting_max=settings.waiting_max,
            bytes_max=settings.waiting_bytes_max,
            wake=self._wake,
        )
        self.postmen = Postmen(
            self.backlog,
            self.mailboxes,
            self.expander,
            wake=self._wake,
            count=settings.postmen,
            slice_ms=settings.slice_ms,
            gather=lambda: gather_s(self.office.rate_now(), settings.gather_max_s),
            no_room=self._no_room,
            stored=lambda user: self.changes.for_users((user,)),
        )
        self.barrier = Barrier(disk, self.backlog, self.mailboxes, self.office.let_go, every_s=settings.barrier_s)
        self._full_until = 0.0
        self._stopping = False

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what the journal holds."""
        replay.load(self.journal, self.members, self.backlog, self.expander)

    async def run(self) -> None:
        """Work until cancelled; raises what ended it."""
        async with asyncio.TaskGroup() as group:
            for work in (self.office, self.expander, self.postmen, self.barrier):
                group.create_task(work.run(), name=type(work).__name__)
            group.create_task(self._keep_house(), name="house")
            group.create_task(self._tend(), name="tend")

    async def drain(self) -> None:
        """Store what waits, within a bound, and let it go. Nothing new must come in any more."""
        self._stopping = True
        self.office.closed = Unavailable("The node is stopping")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await self.office.drain()
                self._wake.set()
                while self.backlog.waiting:
                    await asyncio.sleep(0.02)
        await self.barrier.flush()
        with contextlib.suppress(DiskFull):  # the rows stay, and are delivered again: harmless
            await self.journal.write(self.office.purge_all)

    def close(self) -> None:
        self.barrier.close()
        self.statuses.close()
        self.devices.close()
        self.mailboxes.close()
        self.journal.close()
        self.changes.close()

    async def _keep_house(self) -> None:
        """Look at disk and journal; forget old receipts."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        damaged = 0
        while True:
            if self.mailboxes.damaged != damaged:  # a box was begun anew, and nothing came for it
                damaged = self.mailboxes.damaged
                self.changes.for_anybody()
            self.snapshots.sweep()
            long = await self.journal.read(self.journal.used_bytes) > settings.journal_bytes_max
            if self._stopping:
                self.office.closed = Unavailable("The node is stopping")
            elif loop.time() < self._full_until or self._disk.free_bytes() < settings.disk_reserve_bytes:
                self.office.closed = DiskFull()
            elif long:
                self.office.closed = Overloaded("The journal is full", retry_after=5)
            else:
                self.office.closed = None
            self.office.nudge()
            with contextlib.suppress(PoboxError):  # no room, or stopping: the old ones stay a little longer
                await self._forget()
            await asyncio.sleep(_HOUSE_S)

    async def _forget(self) -> None:
        """Receipts past their time; memberships that no letter asks for."""
        before = now_us() - int(self._settings.receipt_s * 1e6)

        def work() -> int:
            return self.journal.forget(before, self.journal.receipts - self._settings.receipts_max)

        def has_ended() -> bool:
            return self.members.has_ended(self.journal.oldest_seq())

        if await self.journal.read(has_ended):
            await self._change(lambda: self.members.sweep(self.journal.oldest_seq()))
        for _ in range(_FORGET_PORTIONS):
            if not self.journal.may_forget(before, self.journal.receipts - self._settings.receipts_max):
                return
            self.journal.receipts -= await self.journal.write(work)

    async def _tend(self) -> None:
        while True:
            if not await self.mailboxes.tend():
                await asyncio.sleep(_HOUSE_S)

    def _no_room(self) -> None:
        """A delivery met a full disk: take nothing more for a moment."""
        self.office.closed = DiskFull()
        self._full_until = asyncio.get_running_loop().time() + 1.0

    # -- questions ---------------------------------------------------------------------------------

    def check(self, table: int, slots: list[int]) -> None:
        """Refuse what isn't this shard's to answer."""
        stranger = self.office.stranger(table, slots)
        if stranger is not None:
            raise stranger

    @contextlib.asynccontextmanager
    async def _box(self, user: str) -> AsyncIterator[Mailbox]:
        """``user``'s box, with everything that waits for him in it."""
        await self.postmen.deliver_now(user)
        try:
            async with self.mailboxes.hold(user, create=False) as box:
                if box is None:
                    raise NotFound("no such user", field="userId")
                yield box
        except apsw.BusyError as error:
            raise Unavailable("The mailbox is in use by another program") from error

    async def page(self, q: ops.Page) -> Messages:
        async with self._box(q.user) as box:
            return await self.mailboxes.read(lambda: box.page(q.channel, q.limit, q.cursor))

    async def read_one(self, q: ops.ReadOne) -> Message:
        async with self._box(q.user) as box:
            found = await self.mailboxes.read(lambda: box.read(q.id))
        if found is None:
            raise NotFound("no such message", field="id")
        return found

    async def user_channels(self, q: ops.AskUserChannels) -> UserChannels:
        async with self._box(q.user) as box:
            return await self.mailboxes.read(box.channels)

    async def remove(self, q: ops.Remove) -> None:
        """Journaled first, like everything that changes a box."""
        self._accepting()
        async with self._box(q.user) as box:
            if not await self.mailboxes.read(lambda: box.has(q.id)):
                raise NotFound("no such message", field="id")

        def work() -> int:
            seq = self.journal.next_seq()
            self.journal.add([(seq, REMOVAL, q.id, 1, None, q.user, b"")], [])
            return seq

        seq = await self.journal.write(work)
        self._enter(letters_of.removal(seq, q.id), [q.user])
        await self.postmen.deliver_now(q.user)

    async def receipt(self, q: ops.AskReceipt) -> ops.ReceiptPart:
        record = await self.journal.read(lambda: self.journal.receipt(q.id))
        pending = self.backlog.pending(q.id)
        if record is None:
            return ops.ReceiptPart(0, 0, pending, 0)
        return ops.ReceiptPart(record.accepted_us, record.targets, pending, record.failed)

    async def put_channel(self, q: ops.PutChannel) -> bool:
        return await self._change(lambda: self.members.put(q.id, q.name, q.description, q.created_by, q.now_us))

    async def get_channel(self, q: ops.GetChannel) -> Channel:
        return self.members.channel(q.id).outward()

    async def list_channels(self, q: ops.ListChannels) -> list[Channel]:
        def work() -> list[Channel]:
            channels = self.members.channels
            names = sorted(name for name in channels if name > q.after)[: q.limit]
            return [channels[name].outward() for name in names]

        return await self.journal.read(work)  # between two changes: they are made in that thread

    async def list_members(self, q: ops.ListMembers) -> list[str]:
        self.members.channel(q.channel)
        return await self.journal.read(lambda: self.members.now(q.channel, q.after, q.limit))

    async def drop_channel(self, q: ops.DropChannel) -> bool:
        if q.id not in self.members.channels:
            return False

        def work() -> tuple[int, list[str]]:
            if q.id not in self.members.channels:
                return 0, []
            left = self.members.drop(q.id, self.journal.next_seq())
            seq = self.journal.next_seq()
            if left:
                self.journal.add([(seq, MEMBERSHIP, q.id, len(left), None, "\n".join(left), b"\xc0")], [])
            return seq, left

        seq, left = await self._change(work)
        if left:
            self._enter(letters_of.membership(seq, q.id, None, dict.fromkeys(left)), left)
        return True

    async def change_members(self, q: ops.ChangeMembers) -> MemberChanged:
        self.check(q.table, q.slots)

        def work() -> tuple[int, list[str], list[str], ChannelRecord]:
            # The numbers are taken here, in the transaction: a letter that is accepted before it
            # must not count who joins in it.
            record = self.members.channel(q.channel)
            joined, left = self.members.change(q.channel, q.add, q.remove, self.journal.next_seq(), q.now_us)
            seq = self.journal.next_seq()
            users = list(dict.fromkeys(joined + left))  # who joins and leaves in one change is in both
            if users:
                body = msgspec.msgpack.encode(record.row())
                self.journal.add([(seq, MEMBERSHIP, q.channel, len(users), None, "\n".join(users), body)], [])
            return seq, joined, left, self.members.channel(q.channel)

        seq, joined, left, record = await self._change(work)
        if joined or left:
            state: dict[str, str | None] = dict.fromkeys(joined, iso(q.now_us))
            state.update(dict.fromkeys(left))
            self._enter(letters_of.membership(seq, q.channel, record.row(), state), list(state))
        return MemberChanged(added=len(joined), removed=len(left), members=record.members)

    async def ping(self, _q: ops.Ping) -> ops.State:
        return ops.State(
            shard=self.index,
            table=self._placement.version,
            shards=self._placement.shards,
            waiting=self.backlog.waiting,
            journal_rows=self.journal.rows,
            stored=self.backlog.stored,
            open_mailboxes=len(self.mailboxes),
            transactions=self.postmen.transactions,
        )

    # -- helpers -----------------------------------------------------------------------------------

    def _accepting(self) -> None:
        refusal = self.office.refusal()
        if refusal is not None:
            raise refusal

    async def _change(self, work: Callable[[], T]) -> T:
        """A durable change of channels or members."""
        self._accepting()
        try:
            return await self.journal.write(work)
        except Exception:
            self.members.load()  # what memory says must be what was committed
            raise

    def _enter(self, letter: letters_of.Letter, users: list[str]) -> None:
        """A letter that was journaled here goes to the lanes."""
        self.changes.for_users(users)
        self.journal.rows += 1
        self.backlog.enter(letter)
        self.backlog.put(letter, users, asyncio.get_running_loop().time())
        self._wake.set()
