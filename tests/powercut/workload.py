"""A shard's life in small, recorded; and its next start, on whatever a power cut has left.

Both run the real shard without its socket. The life has everything in it that a power cut could
catch half done: births, groups of letters, letters to a channel, joins and leaves, removals, the
same letter sent twice, barriers and purges, checkpoints of boxes and journal, boxes closed and
opened again. Its letters are few, since every write of it is cut. If asked for, there is trouble in it:
somebody's box can't be written for a while, and her letters are put off and parked; later they die, and
one is requeued, one deleted.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import apsw
import msgspec

from node import ops, paths
from node.clock import iso
from node.config import Config, Retry
from node.config import Shard as Settings
from node.placement import Placement
from node.slots import slot_of
from shard.backlog import Letter
from shard.copying import reveal, seal
from shard.core import Shard
from shard.disk import Disk
from shard.layout import lay_out
from shard.mailbox import FILE, Mailbox
from shard.sqlite import LOCKLESS, Sync
from tests import encrypted

from .recorder import Ack, Fact, Offer, Purge, Recording, RecordingDisk, RecordingVFS
from .replayer import Place

USERS = ["ada", "bo", "cy", "di"]
TROUBLED = "eve"
CHANNEL = "news"
_LAYOUT = Placement(version=1, shards=1)
_CONFIG = Config(
    shard=Settings(postmen=2, barrier_s=3600, wal_pages_max=8, window_letters=1),  # the tail is used
    retry=Retry(base_s=0.02, cap_s=0.02, tries_max=60),
)
_JOURNAL_PAGES = 40  # its log is checkpointed when it is this long: in a short life more than once
_OPEN_MAX = 3
_START_US = 1_795_000_000_000_000
_ROUNDS = 4
_numbers = itertools.count()  # what SQLite has built on top of a way to the disk outlives it: none comes again
_PATIENCE_S = 60  # for what takes ten milliseconds


class Life:
    """Asks a shard for things, and records what it was asked for and what it answered."""

    def __init__(self, shard: Shard, disk: RecordingDisk, recording: Recording, rng: random.Random) -> None:
        self._shard = shard
        self._disk = disk
        self._recording = recording
        self._rng = rng
        self._sent: dict[str, ops.Deliver] = {}
        self._members: set[str] = set()
        self._removed: set[tuple[str, str]] = set()
        self._in_trouble = False
        write = shard.postmen._write

        def failing(box: Mailbox, letters: list[Letter]) -> list[Letter]:
            if box.user == TROUBLED and self._in_trouble:
                raise apsw.BusyError("as if")
            return write(box, letters)

        setattr(shard.postmen, "_write", failing)  # noqa: B010

    async def live(self) -> None:
        await self._shard.channels.put(ops.PutChannel(0, CHANNEL, "News", None, None, _START_US))
        for round_ in range(_ROUNDS):
            await asyncio.gather(*(self._send(self._some()) for _ in range(3)))
            joining = [user for user in self._some() if user not in self._members]
            leaving = [user for user in self._some() if user in self._members]
            await self._change_members(joining, leaving)
            await asyncio.gather(self._send(None), self._send(self._some()), self._send_again())
            await self._delivered()
            await self._check()
            if round_ % 2:
                await self._remove()
            await self._flush_and_go_on(f"newcomer{round_}")
            await self._shard.mailboxes.tend()
            await self._check()
            await self._send(self._some())
        await self._delivered()

    async def live_in_trouble(self) -> None:
        await self._shard.channels.put(ops.PutChannel(0, CHANNEL, "News", None, None, _START_US))
        for till_death in (False, True):
            await self._be_in_trouble(till_death=till_death)

    async def _be_in_trouble(self, *, till_death: bool) -> None:
        """Letters for somebody whose box can't be written: parked until it can, or till they are dead."""
        shard = self._shard
        self._in_trouble = True
        targets = ([TROUBLED], ["ada", TROUBLED], [TROUBLED])
        mine = [await self._send(users) for users in targets]
        await self._change_members([TROUBLED] if TROUBLED not in self._members else [], [])
        mine.append(await self._send(None))
        parked, before = shard.parked, shard.put_off.given_up.by_reason.total()
        while parked.count < (1 if till_death else len(mine)):
            await self._noted()
        await shard.barrier.flush()
        while till_death and shard.put_off.given_up.by_reason.total() - before < len(mine):
            await self._noted()
        await self._noted()
        self._in_trouble = False
        if till_death:
            await self._noted()
            await shard.barrier.flush()
            await self._requeue(mine[0])
            await self._drop(mine[1])
        await self._delivered()
        await shard.barrier.flush()
        await self._noted()
        await shard.barrier.flush()
        await self._noted()

    async def _noted(self) -> None:
        """A page of the ledger, if there is something to note."""
        self._shard.office.nudge()
        await self._shard.office.drain()
        await asyncio.sleep(0.02)

    async def _requeue(self, message_id: str) -> None:
        facts = (Fact(TROUBLED, "dead_letters", message_id, holds=False), Fact(TROUBLED, "messages", message_id))
        self._recording.add(Offer(facts))
        await self._shard.morgue.requeue(ops.RequeueDeadLetter(0, 1, slot_of(TROUBLED), TROUBLED, message_id))
        self._recording.add(Ack(facts))

    async def _drop(self, message_id: str) -> None:
        facts = tuple(Fact(TROUBLED, table, message_id, holds=False) for table in ("dead_letters", "messages", "kept"))
        self._recording.add(Offer(facts))
        await self._shard.morgue.drop(ops.DropDeadLetter(0, 1, slot_of(TROUBLED), TROUBLED, message_id))
        self._recording.add(Ack(facts))

    async def _flush_and_go_on(self, newcomer: str) -> None:
        """While a barrier runs mail comes in and is delivered, and a box is born: it covers none of that."""
        self._disk.meanwhile = threading.Event()
        flush = asyncio.create_task(self._shard.barrier.flush())
        await self._send(self._some())
        for _ in range(2):
            await self._send([newcomer])
            await self._delivered()
        self._disk.meanwhile.set()
        await flush
        self._disk.meanwhile = None

    def _some(self) -> list[str]:
        return sorted(self._rng.sample(USERS, self._rng.randint(1, 3)))

    async def _delivered(self) -> None:
        while self._shard.backlog.waiting:
            await asyncio.sleep(0.001)

    async def _send(self, users: list[str] | None) -> str:
        """To ``users``, or to the channel; the letter's id."""
        message_id = f"m{len(self._sent):03}"
        now = iso(_START_US + len(self._sent))
        content = "x" * self._rng.choice([10, 700])
        channel = CHANNEL if users is None else None
        priority = self._rng.randint(1, 10)
        letter = ops.Letter(
            message_id, channel or "direct", "T", content, "text", priority, None, now, now, None, _START_US
        )
        targets = users or []
        raw = msgspec.Raw(ops.encode(letter))
        slots = [slot_of(user) for user in targets]
        request = ops.Deliver(0, 1, message_id, b"digest", False, True, channel, targets, slots, raw)
        self._sent[message_id] = request
        await self._deliver(request, targets if users is not None else sorted(self._members))
        return message_id

    async def _send_again(self) -> None:
        """A letter that the sender believes unanswered."""
        request = self._rng.choice([r for r in self._sent.values() if r.channel is None and TROUBLED not in r.users])
        await self._deliver(request, [user for user in request.users if (user, request.id) not in self._removed])

    async def _deliver(self, request: ops.Deliver, targets: list[str]) -> None:
        facts = tuple(Fact(user, "kept" if user == TROUBLED else "messages", request.id) for user in targets)
        self._recording.add(Offer(self._either(request.id, targets)))
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer(frame: bytes) -> None:
            assert isinstance(ops.decode_answer(frame), ops.Done)
            self._recording.add(Ack(facts))
            answered.set_result(None)

        self._recording.add(Offer(facts))
        self._shard.office.take(request, answer)
        await answered

    def _either(self, message_id: str, targets: list[str]) -> tuple[Fact, ...]:
        """Where a letter may be that may die: never answered."""
        tables = ("messages", "dead_letters") if TROUBLED in targets else ()
        return tuple(Fact(TROUBLED, table, message_id) for table in tables)

    async def _change_members(self, joining: list[str], leaving: list[str]) -> None:
        facts = tuple(
            Fact(user, "user_channels", CHANNEL, holds)
            for users, holds in ((joining, True), (leaving, False))
            for user in users
        )
        self._recording.add(Offer(facts))
        slots = [slot_of(user) for user in joining + leaving]
        await self._shard.channels.change_members(ops.ChangeMembers(0, 1, CHANNEL, joining, leaving, slots, _START_US))
        self._recording.add(Ack(facts))
        self._members = (self._members | set(joining)) - set(leaving)

    async def _check(self) -> None:
        """A device asks what there is."""
        for user in self._some():
            state = await self._shard.devices.check(ops.AskSync(0, 1, slot_of(user), user, None))
            self._recording.versions[user, state.version] = state.checksum

    async def _remove(self) -> None:
        request = self._rng.choice([r for r in self._sent.values() if r.channel is None and TROUBLED not in r.users])
        user = request.users[0]
        if (user, request.id) in self._removed:
            return
        fact = Fact(user, "messages", request.id, holds=False)
        self._removed.add((user, request.id))
        self._recording.add(Offer((fact,)))
        await self._shard.desk.remove(ops.Remove(0, 1, slot_of(user), user, request.id))
        self._recording.add(Ack((fact,)))


def record(
    data: Path,
    *,
    seed: int,
    disk: type[RecordingDisk] = RecordingDisk,
    journal: Sync = Sync.FULL,
    trouble: bool = False,
) -> Recording:
    """One life in the directory ``data``, which is made; the same for the same seed but for chance in threads."""
    lay_out(data, _LAYOUT.shards, encrypted.keyring(data))
    return asyncio.run(_recorded(data, disk, journal, seed, trouble=trouble))


def restart_recorded(data: Path) -> Recording:
    """The next start on ``data``, recorded: replay, delivery, barrier and purge."""
    return asyncio.run(_recorded(data, RecordingDisk, Sync.FULL, None))


async def _recorded(
    data: Path, kind: type[RecordingDisk], journal: Sync, seed: int | None, *, trouble: bool = False
) -> Recording:
    keyring = encrypted.keyring(data)
    if keyring is not None:
        keyring.new("nobody")  # a batch that is durable before anything else; what is noted in it later is always lost
    recording = Recording(data)
    way = f"powercut-{next(_numbers)}"
    vfs = RecordingVFS(way, recording, LOCKLESS)
    disk = kind(recording)
    try:
        shard = Shard(_CONFIG, _LAYOUT, 0, disk, keyring=keyring, vfs=way, journal_sync=journal)
        shard.journal.db.pragma("wal_autocheckpoint", _JOURNAL_PAGES)
        shard.mailboxes.open_max = _OPEN_MAX
        _record_purges(shard, recording)
        shard.start()
        life = asyncio.create_task(shard.run())
        if seed is None:
            await _settle(shard, life)
        else:
            lived = Life(shard, disk, recording, random.Random(seed))
            await _or_its_end(asyncio.ensure_future(lived.live_in_trouble() if trouble else lived.live()), life)
        await _or_its_end(asyncio.ensure_future(shard.drain()), life)
        await _end(shard, life)
    finally:
        disk.close()
        vfs.unregister()
    return recording


def _record_purges(shard: Shard, recording: Recording) -> None:
    purge = shard.journal.purge

    def recorded(seqs: list[int]) -> int:
        if seqs:
            recording.add(Purge(tuple(seqs)))
        return purge(seqs)

    setattr(shard.journal, "purge", recorded)  # noqa: B010


async def _or_its_end(work: asyncio.Future[Any], life: asyncio.Task[None]) -> None:
    """Wait for ``work``; what ends the shard meanwhile is raised."""
    await asyncio.wait([work, life], return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
        life.result()
    work.result()


async def _settle(shard: Shard, life: asyncio.Task[None]) -> None:
    """Until everything that was in the journal is in its boxes. TimeoutError: it never will be."""

    async def delivered() -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while shard.backlog.waiting:
                await asyncio.sleep(0.0005)

    await _or_its_end(asyncio.ensure_future(delivered()), life)


async def _end(shard: Shard, life: asyncio.Task[None]) -> None:
    """A box that a thread is just opening would outlive its shard, and stay locked, here where the process goes on."""
    boxes, visited = shard.mailboxes, -1
    while visited != boxes.visited or boxes._opening:
        visited = boxes.visited
        await asyncio.get_running_loop().run_in_executor(boxes._visitor, lambda: None)
    life.cancel()
    await asyncio.wait([life])
    shard.close()


async def recover(data: Path) -> int:
    """The next start on ``data``: replay and deliver, then end. How many boxes were set aside as damaged."""
    disk = Disk(data)
    try:
        shard = Shard(_CONFIG, _LAYOUT, 0, disk, keyring=encrypted.keyring(data))
        shard.start()
        life = asyncio.create_task(shard.run())
        try:
            await _settle(shard, life)
        finally:
            await _end(shard, life)
        return shard.mailboxes.damaged
    finally:
        disk.close()


def broken_promises(data: Path, promised: Mapping[Place, frozenset[bool]]) -> list[str]:
    """What is missing, twice, or not to be found in the boxes under ``data``; empty if all is well."""
    broken: list[str] = []
    found: Counter[Place] = Counter()
    for box in sorted((data / "user_storage").glob(f"*/*/{FILE}")):
        user = box.parent.name
        try:
            found.update(_facts(user, box))
        except (apsw.Error, AssertionError) as error:
            broken.append(f"{user}: {error}")
    found.update(_dead(data))
    broken += [f"twice: {place}" for place, count in found.items() if count > 1]
    broken += [f"never asked for: {place}" for place in found if place not in promised]
    for place, states in promised.items():
        if (place in found) not in states:
            broken.append(f"{'should be gone' if place in found else 'lost'}: {place}")
    return broken


def _dead(data: Path) -> Iterable[Place]:
    """The dead letters; of whoever may have some they are kept, as much as what is in a box."""
    db = encrypted.opened(paths.shard_db(data, 1, 0), data)
    try:
        for user, message_id in db.execute("SELECT user_id, message_id FROM dead_letters WHERE state=0"):
            yield Place(user, "dead_letters", message_id)
            if user == TROUBLED:
                yield Place(user, "kept", message_id)
    finally:
        db.close()


def broken_versions(data: Path, versions: Mapping[tuple[str, str], str]) -> list[str]:
    """Which boxes under ``data`` claim to be a version of which a device was told something else."""
    broken: list[str] = []
    for path in sorted((data / "user_storage").glob(f"*/*/{FILE}")):
        box = Mailbox(path.parent.name, path, keyring=encrypted.keyring(data))
        try:
            told = versions.get((box.user, box.version or "")) if box.clean else None
            if told is not None:
                copy = data / "copy.db"
                hidden = box.copy_to(copy)
                if hidden.key is None:
                    _size, sha256 = seal(copy)
                else:
                    plain = data / "plain.db"
                    _size, sha256 = reveal(copy, hidden.key, plain, b"")
                    plain.unlink()
                copy.unlink()
                if f"sha256:{sha256}" != told:
                    broken.append(f"another content under a version that was told: {box.user} {box.version}")
        finally:
            box.close()
    return broken


def _facts(user: str, box: Path) -> Iterable[Place]:
    assert paths.user_dir(box.parents[3], user) == box.parent
    db = encrypted.opened(box, box.parents[3])
    try:
        assert db.pragma("integrity_check") == "ok", "damaged"
        for (id_,) in db.execute("SELECT id FROM messages NOT INDEXED"):
            yield Place(user, "messages", id_)
            if user == TROUBLED:
                yield Place(user, "kept", id_)
        for channel, owner in db.execute("SELECT channel_id, user_id FROM user_channels"):
            assert owner == user
            yield Place(user, "user_channels", channel)
    finally:
        db.close()
