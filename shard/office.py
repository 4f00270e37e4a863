"""The counter: takes letters in, journals them in groups, answers when they are on disk.

While one commit waits for the disk the next group gathers, and goes with one flush. Nothing is
answered before its commit has ended; a group that finds the disk full is refused as a whole and
leaves nothing behind. If the flush itself fails, nobody knows what is stored: no answer, the
process ends and replays (:class:`node.errors.Unsure`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from time import perf_counter

import apsw
import msgspec

from node import ops
from node.changes import Changes
from node.clock import now_us
from node.errors import Conflict, DiskFull, NotFound, Overloaded, PoboxError
from node.metrics import Histogram
from shard import backlog as letters_of
from shard.backlog import Backlog, Letter
from shard.expander import Expander
from shard.journal import HANDED_OVER, MESSAGE, Journal, LetterRow, ReceiptRecord, ReceiptRow
from shard.ledger import Ledger, Page, Written
from shard.members import Members
from shard.pressure import Pressure, Room
from shard.residents import BEYOND, Residents
from shard.tail import Tail
from shard.window import Group

_GROUP_MAX = 512
_GROUP_S = 0.004
_BUSY_RATE = 1_000.0
_ENTRIES_MAX = 20_000
_ENTRIES_BYTES_MAX = 64 * 1024 * 1024
_PURGE_MAX = 5_000
_RATE_S = 0.5
_LULL_S = 0.1
_FULL_PAUSE_S = 0.5
SHED = "shed"
"""where a code says why a letter was refused: routers did it, for what they had been told a moment before"""

Answer = Callable[[bytes], None]
_body = msgspec.msgpack.Decoder(ops.Letter).decode
_taken: dict[int, msgspec.Raw] = {}


def _done(rid: int, targets: int, known_us: int = 0) -> bytes:
    if known_us:
        return ops.encode(ops.Done(rid, msgspec.Raw(ops.encode(ops.Taken(targets, known_us)))))
    raw = _taken.get(targets)
    if raw is None:
        raw = msgspec.Raw(ops.encode(ops.Taken(targets)))
        if len(_taken) < 1_000:
            _taken[targets] = raw
    return ops.encode(ops.Done(rid, raw))


class Office:
    """For the people of ``residents``."""

    def __init__(
        self,
        journal: Journal,
        members: Members,
        backlog: Backlog,
        expander: Expander,
        tail: Tail,
        ledger: Ledger,
        *,
        residents: Residents,
        changes: Changes,
        rows_max: int,
        waiting_max: int,
        bytes_max: int,
        wait_max_s: float,
        pressure: Pressure,
        wake: asyncio.Event,
    ) -> None:
        self._journal = journal
        self._members = members
        self._backlog = backlog
        self._expander = expander
        self._tail = tail
        self._ledger = ledger
        self._residents = residents
        self._changes = changes
        self._rows_max = rows_max
        self._waiting_max = waiting_max
        self._bytes_max = bytes_max
        self._wait_max_s = wait_max_s
        self._pressure = pressure
        self._wake_postmen = wake
        self._entries: list[tuple[ops.Deliver, Answer, float]] = []
        self._entries_bytes = 0
        self._to_purge: list[int] = []
        self._kept: list[int] | None = None
        self._all_kept = True
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._arrived = 0
        self._rated_at = self._last_at = 0.0
        self.rate = 0.0
        """deliveries (letters times targets) accepted a second, of late"""
        self.letters = self.accepted = 0
        """journaled since the start: letters, and letters times targets"""
        self.refused: Counter[str] = Counter()
        """letters, by the code of the problem, or :data:`SHED`"""
        self.accept_s = Histogram()
        """from a letter's coming in to its being on disk"""
        self.commit_s = Histogram()
        self.closed: PoboxError | None = None
        """why nothing is accepted just now"""
        self._paused = False

    def take(self, request: ops.Deliver, answer: Answer) -> None:
        """Accept a letter; ``answer`` is called with the frame when it is on disk, or refused."""
        if request.shed:
            self.refused[SHED] += request.shed
            self._pressure.shed(request.shed, self._room())
        error = self._refusal(request)
        if error is not None:
            self.refused[error.code] += 1
            answer(ops.failed(request.rid, error))
            return
        self._entries.append((request, answer, perf_counter()))
        self._entries_bytes += memoryview(request.letter).nbytes
        self._work.set()

    def _refusal(self, request: ops.Deliver) -> PoboxError | None:
        stranger = self._residents.stranger(request.table, request.slots)
        if stranger is not None:
            return stranger
        if len(self._entries) >= _ENTRIES_MAX or self._entries_bytes >= _ENTRIES_BYTES_MAX:
            return Overloaded()
        return self.refusal(request.priority)

    async def pause(self) -> None:
        """Journal nothing that comes from now on, and keep whoever asks waiting, until :meth:`resume`. What came before
        stands in the lanes when this returns."""
        self._paused = True
        async with self._journal.lock:
            return

    def resume(self) -> None:
        """Go on; what isn't this shard's by now is refused, so that it is asked elsewhere."""
        self._paused = False
        waiting, self._entries = self._entries, []
        for request, answer, since in waiting:
            stranger = self._residents.stranger(request.table, request.slots)
            if stranger is None:
                self._entries.append((request, answer, since))
            else:
                self._entries_bytes -= memoryview(request.letter).nbytes
                answer(ops.failed(request.rid, stranger))
        self._work.set()

    def refusal(self, priority: int = 10) -> PoboxError | None:
        """Why nothing of ``priority`` that is to be journaled is taken just now, None if it is."""
        if self.closed is not None:
            return self.closed
        refusal = self._pressure.ask(priority, self._room(), self._backlog.drain_s)
        return None if refusal is None else refusal.error()

    def _room(self) -> Room:
        backlog = self._backlog
        return Room(
            letters=backlog.waiting / self._waiting_max,
            bytes=backlog.bytes / self._bytes_max,
            rows=self._journal.rows / self._rows_max,
            wait=backlog.drain_s / self._wait_max_s,
        )

    def fill(self) -> float:
        """How much of the room for waiting mail is taken; 1 is all of it."""
        return max(self._backlog.waiting / self._waiting_max, self._backlog.bytes / self._bytes_max)

    def nudge(self) -> None:
        """See to what has to be noted down, though no letter comes."""
        self._ledger.call()
        if self._ledger.is_due:
            self._work.set()

    def let_go(self, seqs: list[int]) -> None:
        """A barrier has covered the delivery of these; their rows go with the next commits."""
        if self._kept is not None:
            if self._journal.rows < self._rows_max / 2:
                self._kept += seqs
                return
            self._all_kept = False
        self._to_purge += seqs
        self._work.set()

    @contextlib.asynccontextmanager
    async def nothing_goes(self) -> AsyncIterator[Callable[[], bool]]:
        """Letters that are let go meanwhile stay in the journal, as long as it is not half full; whether all did."""
        self._kept, self._all_kept = [], True
        try:
            yield lambda: self._all_kept
        finally:
            kept, self._kept = self._kept, None
            self.let_go(kept)

    async def run(self) -> None:
        """Commit until cancelled; :class:`Unsure` ends the process."""
        while True:
            if not (self._entries and not self._paused) and not self._to_purge and not self._ledger.is_due:
                self._work.clear()
                self._idle.set()
                await self._work.wait()
                self._idle.clear()
            if self.rate > _BUSY_RATE and len(self._entries) < _GROUP_MAX:
                # A commit costs as much as fifty letters: under load they go by the dozen.
                await asyncio.sleep(_GROUP_S)
            async with self._journal.lock:
                in_order = await self._commit_group()
            if not in_order and not self._entries:
                await asyncio.sleep(_FULL_PAUSE_S)  # only housekeeping is left: not again at once

    async def drain(self) -> None:
        """Until everything taken in has been answered."""
        while self._entries or not self._idle.is_set():
            await asyncio.sleep(0.01)

    async def note(self) -> None:
        """Commit now what there is to be noted, as far as it fits into one transaction. Raises :class:`DiskFull`."""
        async with self._journal.lock:
            if not await self._commit_group():
                raise DiskFull()

    async def close_books(self) -> None:
        """Note what is to be noted, and let go of what may go: the last transaction before the end."""
        seqs, self._to_purge = self._to_purge, []
        page = self._ledger.take(seqs)

        def work() -> tuple[Written, int]:
            written = self._ledger.write(page)
            return written, self._journal.purge(written.purged)

        written, count = await self._journal.write(work)
        self._ledger.committed(page, written)
        self._journal.rows -= count

    async def _commit_group(self) -> bool:
        """Journal and answer what has gathered; False if the disk is full."""
        count = 0 if self._paused else _GROUP_MAX
        group, self._entries = self._entries[:count], self._entries[count:]
        self._entries_bytes -= sum(memoryview(request.letter).nbytes for request, _answer, _since in group)
        purge, self._to_purge = self._to_purge[:_PURGE_MAX], self._to_purge[_PURGE_MAX:]
        page = self._ledger.take(purge)
        rows: list[LetterRow] = []
        receipts: list[ReceiptRow] = []
        answers: list[tuple[Answer, bytes]] = []
        fresh: list[tuple[Letter, list[str]]] = []
        later: list[tuple[Letter, list[str]]] = []
        room = self._backlog.window.group()
        now = now_us()
        seen: dict[str, tuple[bytes, int]] = {}
        began = perf_counter()
        try:
            self._journal.begin()
            for request, answer, _since in group:
                try:
                    frame = self._enter(request, now, seen, rows, receipts, room, fresh, later)
                except PoboxError as error:
                    self.refused[error.code] += 1
                    answers.append((answer, ops.failed(request.rid, error)))
                else:
                    answers.append((answer, frame))
            self._journal.add(rows, receipts)
            written = await self._journal.commit(lambda: self._note(page, later))
        except (DiskFull, apsw.FullError):
            self._journal.rollback()
            self._to_purge += purge
            self._ledger.give_back(page)
            refusal = DiskFull()
            self.refused[DiskFull.code] += len(group)
            for request, answer, _since in group:
                answer(ops.failed(request.rid, refusal))
            return False
        self._ledger.committed(page, written)
        if not page.purge:
            self._to_purge += purge
        on_disk_at = perf_counter()
        self.commit_s.observe(on_disk_at - began)
        for _request, _answer, since in group:
            self.accept_s.observe(on_disk_at - since)
        self._journal.rows += len(rows)
        self._journal.receipts += len(receipts)
        for letter, users in fresh + later:  # before anybody hears of it
            if letter.channel is None:
                self._changes.for_users(users)
            else:
                self._changes.for_anybody()
        for answer, frame in answers:
            answer(frame)
        self._hand_over(fresh, later)
        return True

    def _note(self, page: Page, later: list[tuple[Letter, list[str]]]) -> tuple[list[int], Written]:
        """What belongs into the transaction beside the letters themselves, and which letters leave the journal."""
        if later:
            self._tail.add(later)
        written = self._ledger.write(page)
        return written.purged, written

    def _enter(
        self,
        request: ops.Deliver,
        now: int,
        seen: dict[str, tuple[bytes, int]],
        rows: list[LetterRow],
        receipts: list[ReceiptRow],
        room: Group,
        fresh: list[tuple[Letter, list[str]]],
        later: list[tuple[Letter, list[str]]],
    ) -> bytes:
        """Add one letter to the group; the frame that will answer it. Raises what refuses it. If the window has no
        room for it, it is for ``later``."""
        record: ReceiptRecord | None = None
        late: list[str] | None = None
        channel, users = request.channel, request.users
        if not request.fresh:
            known = seen.get(request.id)
            if known is None:
                record = self._journal.receipt(request.id)
                if record is not None:
                    known = record.digest, record.targets
                    if record.moved and record.digest == request.digest:
                        # It may be only a part that was accepted before the shards changed. Delivering
                        # the whole again doubles nothing, and gives the receipt its parts back.
                        known = None
                    else:
                        late = self._late(request, record)
            if known is not None:
                if known[0] != request.digest:
                    raise Conflict(field="id")
                if not late:
                    return _done(request.rid, known[1], record.accepted_us if record else now)
        known_us = record.accepted_us if record else request.known_us
        if late:
            # Their shard of then may not have had it. Delivering again doubles nothing.
            channel, users = None, late
        elif channel is not None and known_us:
            of_then = self._members_of_then(channel, known_us)
            if of_then is not None:
                channel, users = None, of_then
        targets = len(users)
        if channel is not None:
            record_of = self._members.channels.get(channel)
            if record_of is None and (request.claim or self._residents.table.home(channel) == self._residents.index):
                raise NotFound("no such channel", field="channelId")
            targets = record_of.members if record_of else 0
        seq = self._journal.next_seq()
        if targets:
            body = bytes(request.letter)
            try:
                letter = letters_of.message(seq, targets, channel, _body(body), len(body))
            except msgspec.MsgspecError as error:  # a router of another version: its letter, not the group's
                raise PoboxError() from error
            rows.append((seq, MESSAGE, request.id, targets, channel, "\n".join(users), body))
            (fresh if room.holds(letter.lane, len(users), len(body)) else later).append((letter, users))
        counts = targets - self._counted(request, channel, users, known_us)
        if record is not None:
            self._journal.drop_receipt(request.id)
            if late or record.moved == HANDED_OVER:
                counts += record.targets
            if late:
                targets += record.targets
        receipts.append((seq, request.id, request.digest, known_us or now, counts))
        if not request.fresh:
            seen[request.id] = (request.digest, targets)
        return _done(request.rid, targets, record.accepted_us if record else 0)

    def _counted(self, request: ops.Deliver, channel: str | None, users: list[str], known_us: int) -> int:
        """How many of the targets, all members of ``channel`` or ``users``, another shard's receipt counts, since it
        took the same for them before they came."""
        counted = frozenset[int]() if request.fresh else self._residents.counted(request.id, known_us)
        if not counted:
            return 0
        if channel is not None:
            return len(self._members.came(channel, list(counted), BEYOND))
        residents = self._residents
        return sum(residents.since(residents.table.slot(user)) in counted for user in users)

    def _late(self, request: ops.Deliver, record: ReceiptRecord) -> list[str]:
        """Targets of a letter that is known here who came after it: what is known of it says nothing of them. Who had
        been here then, and has come back, had it from here."""
        residents, seq = self._residents, record.seq
        if request.channel is None:
            return [
                user
                for user, slot in zip(request.users, request.slots, strict=True)
                if residents.since(slot) > seq and not residents.was_here(slot, seq)
            ]
        if not (later := [since for since in residents.beginnings if since > seq]):
            return []
        came = self._members.came(request.channel, later, record.accepted_us)
        return [user for user in came if not residents.was_here(residents.table.slot(user), seq)]

    def _members_of_then(self, channel: str, known_us: int) -> list[str] | None:
        """Who gets a letter to ``channel`` that was taken at ``known_us`` elsewhere, and is sent again: whoever was a
        member by then, since it may be from before anybody was here. None if nobody ever moved: all there are."""
        if not self._residents.anybody_moved or channel not in self._members.channels:
            return None
        return self._members.joined_by(channel, known_us)

    def _hand_over(self, fresh: list[tuple[Letter, list[str]]], later: list[tuple[Letter, list[str]]]) -> None:
        """What is on disk goes to the lanes, as far as the window holds it."""
        if not fresh and not later:
            return
        now = asyncio.get_running_loop().time()
        self.letters += len(fresh) + len(later)
        for letter, users in fresh:
            self._backlog.enter(letter)
            self._arrived += letter.left
            self.accepted += letter.left
            if letter.channel is None:
                self._backlog.put(letter, users, now)
            else:
                self._expander.put(letter)
        for letter, _users in later:
            self._arrived += letter.left
            self.accepted += letter.left
            self._backlog.enter_behind(letter)
        self._last_at = now
        if now - self._rated_at >= _RATE_S:
            self.rate += 0.5 * (self._arrived / (now - self._rated_at) - self.rate)
            self._arrived, self._rated_at = 0, now
        self._wake_postmen.set()

    def rate_now(self) -> float:
        """Deliveries accepted a second, of late; 0 as soon as nothing comes any more."""
        now = asyncio.get_running_loop().time()
        if now - self._last_at > _LULL_S:
            self.rate, self._arrived, self._rated_at = 0.0, 0, now
        return self.rate
