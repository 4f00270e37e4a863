"""A shard without its socket: the parts, wired, and how they begin, live and end together.

``start`` replays the journal into the lanes before anything is accepted. ``run`` is the shard's
life: if one of its tasks fails, all end and the error comes out. ``drain`` stores what waits as far
as time allows and lets go of what it can; the rest is in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from node import ops, paths
from node.changes import Changes
from node.clock import now_us
from node.config import Config
from node.errors import DiskFull
from node.model import UserBox
from node.placement import Placement
from shard import backlog as letters_of
from shard import dead_letters, gone, history, parcel, parked, replay
from shard.archivist import Archivist
from shard.backlog import Backlog
from shard.backup import Backups
from shard.barrier import Barrier
from shard.channels import Channels
from shard.dead_letters import DeadLetters
from shard.departure import Departure
from shard.desk import Desk
from shard.disk import Disk
from shard.erasures import Erasures
from shard.expander import Expander
from shard.export import Exports
from shard.gone import Gone
from shard.handovers import Handovers
from shard.history import History
from shard.house import House
from shard.journal import Journal, ReceiptRecord
from shard.keyring import Keyring
from shard.lanes import gather_s
from shard.ledger import Ledger
from shard.loader import Loader
from shard.mailbox import template
from shard.mailboxes import Mailboxes
from shard.members import Members
from shard.metrics import Metrics
from shard.morgue import Morgue
from shard.office import Office
from shard.parked import Parked
from shard.postmen import Postmen
from shard.pressure import Pressure
from shard.push import Push
from shard.put_off import PutOff
from shard.quotas import Quotas
from shard.residents import Residents
from shard.restore import Restores
from shard.retention import Retention
from shard.retry import Policy
from shard.roster import Roster
from shard.rounds import Chore, Rounds
from shard.schedule import Schedule
from shard.snapshots import Snapshots
from shard.sqlite import Sync
from shard.statuses import Statuses
from shard.sync import Devices
from shard.tail import Tail
from shard.upgrades import Upgrades
from shard.watch import Watch
from shard.window import Window

log = structlog.get_logger()
_TEND_S = 0.5
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
        keyring: Keyring | None = None,
        vfs: str | None = None,
        journal_sync: Sync = Sync.FULL,
    ) -> None:
        settings = config.shard
        self.index = index
        self._settings = settings
        self._disk = disk
        data: Path = disk.data
        self._keyring = keyring
        self.under_way: dict[asyncio.Task[None], ops.AnyRequest] = {}
        """questions that are being answered"""
        self.failed: Callable[[BaseException], None] = lambda _error: None
        """is told at once for what the process must end; where that ended a part, :meth:`run` raises it in the end"""
        self._wake = asyncio.Event()
        self.journal = Journal(
            paths.shard_db(data, placement.version, index), sync=journal_sync, vfs=vfs, keyring=keyring
        )
        self.residents = Residents(index, placement, self.journal.db)
        self.members = Members(self.journal.db)
        self.gone = Gone(gone.stored(self.journal.db))
        self.journal.skip_to(max(self.gone.last_seq, self.residents.last_beginning))
        # Before anybody counts, or takes into memory, what is on disk: it may not be all there is, nor all be ours.
        if not parcel.settle(self.journal, self.members, self.residents):
            log.warning("the disk is too full to forget who moved away; the next start does it")
        self.tail = Tail(self.journal.db, self.members)
        self.backlog = Backlog(Window(settings.window_letters, settings.window_bytes))
        self.changes = Changes(paths.changes_path(data, index))
        self.mailboxes = Mailboxes(
            disk,
            template(),
            open_max=settings.mailboxes_open_max,
            wal_pages_max=settings.wal_pages_max,
            vfs=vfs,
            keyring=keyring,
        )
        self.quotas = Quotas(self.journal, self.mailboxes, settings, self.changes)
        self.mailboxes.opener.opened = self.quotas.opened
        self.mailboxes.is_away = self.residents.is_away
        self.roster = Roster(data, self.residents, self.mailboxes)
        self.mailboxes.opener.born = self.roster.born
        self.snapshots = Snapshots(
            paths.snapshots_dir(data, index),
            bytes_max=settings.snapshot_bytes_max,
            keep_s=settings.snapshot_s,
            room_bytes=lambda: disk.free_bytes() - settings.disk_reserve_bytes,
        )
        self.pressure = Pressure()
        self.expander = Expander(self.backlog, self.journal, self.members, self._wake)
        self.loader = Loader(
            self.backlog,
            self.journal,
            self.tail,
            self.expander,
            wake=self._wake,
            damaged=lambda: self.mailboxes.damaged,
            gone=self.gone,
            before=self.residents.before,
        )
        retry = config.retry
        self.dead = DeadLetters(
            self.journal.db,
            count_max=retry.dead_letters_max,
            bytes_max=retry.dead_letters_bytes_max,
            keep_s=retry.dead_letters_s,
            names_s=config.backup.history_s + history.SEGMENT_S if config.backup.history_s else 0,
        )
        self.parked = Parked(self.journal, self.backlog)
        self.put_off = PutOff(
            Policy(retry.base_s, retry.cap_s, retry.jitter, retry.tries_max),
            self.backlog,
            self.parked,
            is_held=self.mailboxes.is_held,
            again=lambda user, letters: self.postmen.again(user, letters),
        )
        self.schedule = Schedule(self.journal.db)
        self.channels = Channels(
            self.journal, self.members, residents=self.residents, accepting=self._accepting, enter=self._enter
        )
        self.morgue = Morgue(self.journal, self.dead, self.quotas, accepting=self._accepting, enter=self._enter)
        ledger = Ledger(self.backlog, self.put_off, self.dead, self.schedule, self.quotas)
        self.office = Office(
            self.journal,
            self.members,
            self.backlog,
            self.expander,
            self.tail,
            ledger,
            residents=self.residents,
            changes=self.changes,
            rows_max=settings.journal_rows_max,
            waiting_max=settings.waiting_max,
            bytes_max=settings.waiting_bytes_max,
            wait_max_s=settings.wait_max_s,
            pressure=self.pressure,
            wake=self._wake,
        )
        self.push = Push(
            config.push,
            data,
            self.journal,
            accepting=self._accepting,
            muted=lambda channel, user: self.members.is_muted(channel, user, now_us()),
        )
        self.postmen = Postmen(
            self.backlog,
            self.mailboxes,
            self.expander,
            self.loader,
            self.put_off,
            self.quotas,
            wake=self._wake,
            count=settings.postmen,
            slice_ms=settings.slice_ms,
            gather=self._gather_s,
            no_room=lambda: self.house.no_room(),
            stored=self._stored,
            gone=self.gone,
            before=self.residents.before,
        )
        self.desk = Desk(
            self.mailboxes, self.postmen, self.journal, self.quotas, accepting=self._accepting, enter=self._enter
        )
        self.statuses = Statuses(
            disk,
            self.mailboxes,
            self.desk.box,
            late=self.postmen.waits_for,
            changed=self.changes.for_user,
            accepting=self._accepting,
            open_max=settings.statuses_open_max,
            vfs=vfs,
            keyring=keyring,
        )
        self.statuses.is_away = self.residents.is_away
        self.devices = Devices(
            data,
            self.snapshots,
            self.desk.box,
            late=self.postmen.waits_for,
            wrote=self.mailboxes.wrote,
            changed=self.changes.for_user,
        )
        self.devices.roll.pushed = lambda user, device: self.push.subscriptions.find(user, device) is not None
        self.upgrades = Upgrades(self.journal, data)
        self.archivist = Archivist(settings.archive_after_days)
        self.retention = Retention(
            disk,
            settings.retention_days,
            forget=self.statuses.forget_marks,
            oldest_us=lambda: self.house.journal_oldest_us,
            receipt_us=int(settings.receipt_s * 1e6),
        )
        self.rounds = Rounds(
            data,
            self.residents,
            self.mailboxes,
            self._chores(),
            may_work=lambda: not self.backlog.due,
            changed=self.changes.for_user,
        )
        self.barrier = Barrier(
            disk, self.backlog, self.parked, self.mailboxes, self.office.let_go, every_s=settings.barrier_s
        )
        self.house = House(
            settings,
            disk,
            journal=self.journal,
            members=self.members,
            backlog=self.backlog,
            mailboxes=self.mailboxes,
            snapshots=self.snapshots,
            changes=self.changes,
            office=self.office,
            postmen=self.postmen,
            pressure=self.pressure,
            dead=self.dead,
            change=self.channels.write,
        )
        self.history = History(data, placement, index, keyring)
        if config.backup.history_s:
            self.journal.keep = lambda rows: self.history.keep(self.gone.without(rows))
        self.backups = Backups(
            config,
            self.residents,
            disk,
            journal=self.journal,
            backlog=self.backlog,
            mailboxes=self.mailboxes,
            statuses=self.statuses,
            postmen=self.postmen,
            office=self.office,
            keyring=keyring,
        )
        self.restores = Restores(
            disk,
            self.residents,
            journal=self.journal,
            members=self.members,
            mailboxes=self.mailboxes,
            statuses=self.statuses,
            postmen=self.postmen,
            retention=self.retention,
            changed=self._is_another,
            reserve_bytes=settings.disk_reserve_bytes,
            keyring=keyring,
        )
        self.erasures = Erasures(
            disk,
            self.residents,
            gone=self.gone,
            journal=self.journal,
            members=self.members,
            mailboxes=self.mailboxes,
            statuses=self.statuses,
            postmen=self.postmen,
            devices=self.devices,
            push=self.push,
            roster=self.roster,
            restores=self.restores,
            history=self.history,
            dead=self.dead,
            quotas=self.quotas,
            changed=self.changes.for_user,
            keyring=keyring,
        )
        departure = partial(
            Departure,
            data,
            self.residents,
            journal=self.journal,
            members=self.members,
            postmen=self.postmen,
            loader=self.loader,
            tail=self.tail,
            put_off=self.put_off,
            parked_letters=self.parked,
            is_expanding=lambda: self.expander.busy or self.backlog.window.behind > 0,
        )
        self.handovers = Handovers(
            data,
            self.residents,
            departure,
            journal=self.journal,
            members=self.members,
            office=self.office,
            postmen=self.postmen,
            put_off=self.put_off,
            mailboxes=self.mailboxes,
            statuses=self.statuses,
            push=self.push,
            roster=self.roster,
            backups=self.backups,
            gone=self.gone,
            restores=self.restores,
            quotas=self.quotas,
            dead=self.dead,
            parked_letters=self.parked,
            under_way=self.under_way,
            flush=self.barrier.flush,
            enter=self._enter,
            moved=self.changes.for_anybody,
            keyring=keyring,
        )
        self.backups.are_moving = lambda: self.handovers.busy
        self.exports = Exports(data, self.snapshots, self.statuses, self.mailboxes, self.desk.box)
        self.watch = Watch(
            settings,
            backlog=self.backlog,
            mailboxes=self.mailboxes,
            put_off=self.put_off,
            house=self.house,
            backups=self.backups,
        )
        self.metrics = Metrics(
            settings,
            office=self.office,
            backlog=self.backlog,
            postmen=self.postmen,
            mailboxes=self.mailboxes,
            journal=self.journal,
            barrier=self.barrier,
            house=self.house,
            pressure=self.pressure,
            devices=self.devices,
            snapshots=self.snapshots,
            statuses=self.statuses,
            watch=self.watch,
            push=self.push,
            backups=self.backups,
            history=self.history,
            restores=self.restores,
            put_off=self.put_off,
            dead=self.dead,
            quotas=self.quotas,
            retention=self.retention,
        )

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what the journal holds."""
        self.erasures.start()
        self.push.begin(self.journal.next_seq())
        self.parked.load()
        self.put_off.load(self.schedule.load())
        others = dead_letters.targets(self.journal.db)
        for seq, users in parked.targets(self.journal.db, alone=False).items():
            others.setdefault(seq, set()).update(users)
        replay.load(self.journal, self.members, self.tail, self.parked, self.backlog, self.expander, others)

    async def run(self) -> None:
        """Work until cancelled; raises what ended it."""
        async with asyncio.TaskGroup() as group:
            keepers = (self.barrier, self.house, self.watch, self.push, self.backups, self.restores, self.rounds)
            workers = (self.office, self.loader, self.expander, self.postmen, self.erasures, self.quotas)
            for work in (*workers, self.handovers, *keepers):
                group.create_task(work.run(), name=type(work).__name__).add_done_callback(self._over)
            group.create_task(self._tend(), name="tend").add_done_callback(self._over)

    async def drain(self) -> None:
        """Store what waits, within a bound, and let it go. Nothing new must come in any more."""
        self.house.stop()
        await self.handovers.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await self.office.drain()
                self._wake.set()
                while self.backlog.due > 0:
                    await asyncio.sleep(0.02)
        await self.push.drain()
        await self.barrier.flush()
        with contextlib.suppress(DiskFull):  # the rows stay, and are delivered again: harmless
            await self.office.close_books()

    def close(self) -> None:
        self.handovers.close()
        self.put_off.close()
        self.barrier.close()
        self.rounds.close()
        self.quotas.close()
        self.backups.close()
        self.restores.close()
        self.erasures.close()
        self.statuses.close()
        self.roster.close()
        self.devices.close()
        self.mailboxes.close()
        if self._keyring is not None:
            self._keyring.close()
        self.journal.close()
        self.history.close()
        self.changes.close()

    async def _tend(self) -> None:
        while True:
            busy = await self.mailboxes.tend()
            if not self.backlog.due:  # it gives way to mail
                busy += await self.mailboxes.cool(self._settings.mailbox_idle_s)
            if not busy:
                await asyncio.sleep(_TEND_S)

    # -- questions ---------------------------------------------------------------------------------

    async def receipt(self, q: ops.AskReceipt) -> ops.ReceiptPart:
        def work() -> tuple[ReceiptRecord | None, int, int, list[tuple[int, int]]]:
            behind = self.tail.pending(q.id) if self.backlog.window.behind else 0
            return self.journal.receipt(q.id), behind, self.dead.failed(q.id), self.parked.of_message(q.id)

        record, pending, dead, rows = await self.journal.read(work)
        # At the same moment: between the two nothing is taken from the tail, or parked.
        pending += self.backlog.pending(q.id) + self.parked.pending(rows)
        not_noted, withdrawn = self.put_off.given_up.of_message(q.id)
        if record is None:
            return ops.ReceiptPart(0, 0, pending, dead + not_noted)
        failed = record.failed + dead + not_noted
        return ops.ReceiptPart(record.accepted_us, record.targets - withdrawn, pending, failed)

    async def boxes(self, q: ops.AskBoxes) -> list[UserBox]:
        self.residents.check(q.table, q.slots)
        return await self.roster.boxes(q)

    async def full(self, q: ops.AskFull) -> list[str]:
        self.residents.check(q.table, q.slots)
        return self.quotas.full_of(q.users)

    async def ping(self, _q: ops.Ping) -> ops.State:
        self.handovers.look()
        return ops.State(
            shard=self.index,
            table=self.residents.table.number,
            shards=self.residents.table.shards,
            waiting=self.backlog.waiting,
            journal_rows=self.journal.rows,
            stored=self.backlog.stored,
            open_mailboxes=len(self.mailboxes),
            transactions=self.postmen.transactions,
            moving=self.handovers.busy,
        )

    # -- helpers -----------------------------------------------------------------------------------

    def _over(self, work: asyncio.Task[None]) -> None:
        """Where a part failed all others are cancelled next, and may wait for their threads."""
        if not work.cancelled() and (error := work.exception()) is not None:
            self.mailboxes.end()
            self.failed(error)

    def _stored(self, user: str, letters: list[letters_of.Letter]) -> None:
        """``letters`` are in the box of ``user``."""
        self.changes.for_user(user)
        self.quotas.settle()
        self.backups.stored(user)
        if self.push.wants(user):
            self.push.stored(user, letters)

    def _is_another(self, user: str) -> None:
        """Another box took the place of ``user``'s."""
        self.changes.for_user(user)
        self.quotas.look_again(user)

    def _gather_s(self) -> float:
        """How long mail may wait for company. It must not fill the window; what stands behind it is company enough."""
        window = self.backlog.window
        if window.behind:
            return 0.0
        fill = max(self.office.fill(), window.fill / 2)
        return gather_s(self.office.rate_now(), self._settings.gather_max_s, fill)

    def _chores(self) -> list[Chore]:
        """What there is to do once a day. What is past its time goes first: it need not be archived."""
        settings, chores = self._settings, list[Chore]()
        if self.upgrades.is_due:
            chores.append(self.upgrades)
        if settings.retention_days:
            chores.append(self.retention)
        if settings.archive_after_days:
            chores.append(self.archivist)
        if self.quotas.is_on:
            chores.append(self.quotas)
        return chores

    def _accepting(self) -> None:
        refusal = self.office.refusal()
        if refusal is not None:
            raise refusal

    def _enter(self, letter: letters_of.Letter, users: list[str]) -> None:
        """A letter that was journaled here goes to the lanes."""
        self.changes.for_users(users)
        self.journal.rows += 1
        self.backlog.enter(letter)
        self.backlog.put(letter, users, asyncio.get_running_loop().time())
        self._wake.set()
