"""The postmen: they take all that waits for a user and write it in one transaction.

Writing a box that is open takes some ten microseconds, on the loop, in slices of a few
milliseconds; between two slices the loop serves its sockets. One postman at a time has the floor.
Whatever has to wait (a box that must be opened, one that is being read) is waited for off the floor,
so that other users notice nothing.

A letter that can't be stored now is put off (:mod:`shard.put_off`) and tried again. Only errors that have a name
(:mod:`shard.trouble`) are met that way; any other ends the process, and the journal is replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic

from node.clock import iso, now_us
from node.errors import Unsure
from node.metrics import LONG_S, Histogram
from shard.backlog import Backlog, Letter
from shard.expander import Expander
from shard.gone import Gone
from shard.journal import MEMBERSHIP
from shard.lanes import LANES
from shard.loader import Loader
from shard.mailbox import CORRUPT, Mailbox
from shard.mailboxes import PORTION, Mailboxes
from shard.opener import Errand
from shard.put_off import PutOff
from shard.quotas import Quotas
from shard.rows import Row
from shard.trouble import BUSY, NAMED, NO_ROOM, VOLUME, word

_LULL_S = 0.1
_PORTION = 256  # letters in one transaction; of ordinary size a few milliseconds


class Postmen:
    """``count`` postmen over one backlog. ``gather`` tells how long a letter may wait for company; ``before`` up to
    which number letters are not for a user, since he was, or is, another shard's."""

    def __init__(
        self,
        backlog: Backlog,
        mailboxes: Mailboxes,
        expander: Expander,
        loader: Loader,
        put_off: PutOff,
        quotas: Quotas,
        *,
        wake: asyncio.Event,
        count: int,
        slice_ms: float,
        gather: Callable[[], float],
        no_room: Callable[[], None],
        stored: Callable[[str, list[Letter]], None],
        gone: Gone | None = None,
        before: Callable[[str], int] = lambda _user: 0,
    ) -> None:
        self._gone = gone or Gone()
        self._before = before
        self._backlog = backlog
        self._mailboxes = mailboxes
        self._expander = expander
        self._loader = loader
        self._put_off = put_off
        self._quotas = quotas
        self._count = count
        self._slice_s = slice_ms / 1000
        self._gather = gather
        self._no_room = no_room
        self._tell_stored = stored
        self._wake = wake
        self._floor = asyncio.Lock()
        self._in_hand: dict[str, list[list[Letter]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._at_work: set[int] = set()
        self._busy_s = self._rested_s = 0.0
        self._resting_since: float | None = None
        self.transactions = 0
        self.stored_s = tuple(Histogram(LONG_S) for _ in LANES)
        """by lane, from the acceptance of a transaction's oldest letter to its being stored"""

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self.staff(self._count)
            await asyncio.get_running_loop().create_future()  # till the group is cancelled

    def staff(self, count: int) -> None:
        """So many are to work from now on; those who are too many end when they have done what they are at."""
        if count < self._count:
            self._wake.set()  # whoever rests may be one of them
        self._count = count
        if self._group is not None:
            for number in range(count):
                if number not in self._at_work:
                    self._at_work.add(number)
                    self._group.create_task(self._work(number), name=f"postman {number}")

    def busy(self, passed_s: float) -> float:
        """The share of their time, of the ``passed_s`` since this was asked last, in which they were at work or waited
        for a box."""
        busy_s, self._busy_s = self._busy_s, 0.0
        return min(1.0, busy_s / (passed_s * self._count)) if passed_s > 0 else 0.0

    @property
    def number(self) -> int:
        """How many postmen there are to be."""
        return self._count

    @property
    def rested_s(self) -> float:
        """How long one of them had nothing to do, in seconds since the start."""
        since = self._resting_since
        return self._rested_s + (monotonic() - since if since is not None else 0.0)

    async def deliver_now(self, user: str) -> None:
        """Store everything that waits for ``user``, ahead of everybody else: reads go first."""
        behind = self._backlog.window.behind  # now: what waits there may go to the lanes at any moment
        await self._deliver_held(user)
        if behind:
            await self._deliver_tail(user)
            await self._deliver_held(user)  # and what went from the one place to the other meanwhile

    async def _deliver_held(self, user: str) -> None:
        early = await self._expander.early(user)
        letters = self._due(user, self._backlog.lanes.take_user(user) + early + self._put_off.take(user))
        if letters or self._put_off.is_parked(user):
            letters.sort(key=lambda letter: letter.seq)
            try:
                await self._deliver(user, letters, for_reader=True)
            except Exception as error:  # the letters are in no lane any more: only a replay finds them
                raise Unsure(f"delivery to a reader: {error!r}") from error

    async def _deliver_tail(self, user: str) -> None:
        """Store copies of what waits for ``user`` in the tail, a portion at a time."""
        while letters := await self._loader.ahead(user):
            try:
                copies = letters

                def is_due() -> bool:  # still, when nobody else holds the box
                    return bool(self._gone.after(user, copies))  # noqa: B023

                async with self._mailboxes.hold(user, create=is_due) as box:
                    if box is None:
                        return
                    self._write(box, self._gone.after(user, letters))
                    self._mailboxes.wrote(user, len(letters))
            except NAMED as error:
                self._loader.failed(user)
                if not self._put_off.has(user):  # else it is known, and tried again
                    self._trouble(user, [], error, for_reader=True)
                return
            self._loader.got(user, letters)
            self._tell_stored(user, [])  # who is pushed to hears of them when their turn comes
            self.transactions += 1

    def waits_for(self, user: str) -> bool:
        """Whether something for ``user`` could not be stored, and is to be tried again. Sure for who holds the box."""
        return self._put_off.has(user) or self._loader.owes(user)

    async def settle(self, box: Mailbox) -> int:
        """Store what waits for the owner of ``box``, which is held. Up to the number returned, all that was accepted
        for him is in it then, and nothing beyond."""
        user, seq = box.user, self._backlog.last_seq
        while self._backlog.window.behind and (copies := await self._loader.ahead(user)):
            copies = [letter for letter in copies if letter.seq <= seq]
            if not copies:
                break
            self._write(box, copies)
            self._mailboxes.wrote(user, len(copies))
            self._loader.got(user, copies)
        await self._store_parked(box)
        letters = await self._expander.early(user)
        letters += self._backlog.lanes.take_user(user) + self._put_off.take(user)
        for waiting in self._in_hand.get(user, ()):  # of those who are in line for this box
            letters += waiting
            waiting.clear()
        letters = self._due(user, letters)
        letters.sort(key=lambda letter: letter.seq)
        due = [letter for letter in letters if letter.seq <= seq]
        try:
            while due:
                self._store(box, due[:_PORTION])
                due = due[_PORTION:]
        finally:  # what is left is due as before
            if self._put_off.is_parked(user):
                self._put_off.go_on(user)
            self._backlog.lanes.put_back(user, due + [letter for letter in letters if letter.seq > seq])
            self._wake.set()
        return seq

    def with_mail(self) -> set[str]:
        """For whom something waits that is held in memory; not who is in a channel that a letter is on its way to."""
        return self._backlog.lanes.users() | self._in_hand.keys() | self._put_off.users()

    def waiting_for(self, user: str) -> list[Letter]:
        """What waits for ``user`` in memory, and goes on waiting."""
        in_hand = [letter for letters in self._in_hand.get(user, ()) for letter in letters]
        return self._backlog.lanes.of(user) + in_hand + self._put_off.waiting_for(user)

    def is_settled(self, user: str) -> bool:
        """Whether certainly nothing waits for ``user``."""
        lanes = self._backlog.lanes
        if self._backlog.window.behind or self._expander.busy:
            return False
        waits = self._put_off.has(user) or self._put_off.is_held_back(user)
        return not (waits or lanes.has(user) or user in self._in_hand)

    def hold_back(self, user: str, why: str) -> None:
        """Deliver nothing to ``user`` until :meth:`let_in`; who asks for the box hears ``why``."""
        self._put_off.hold_back(user, why)

    def check(self, user: str) -> None:
        """Raises :class:`Unavailable` while ``user`` is held back: the box is going, or another takes its place."""
        self._put_off.check(user)

    def let_in(self, user: str) -> None:
        """What was held back, or put off, is due now."""
        self._loader.forget(user)
        self._backlog.lanes.put_back(user, self._put_off.let_in(user))
        if self._put_off.is_parked(user):
            self._backlog.lanes.knock(user, asyncio.get_running_loop().time())
        self._wake.set()

    async def withdraw(self, user: str) -> None:
        """What waits for ``user``, who is held back and whose box is held, and was accepted before he was gone, goes to
        nobody."""
        self._put_off.withdraw_deaths(user)
        await self._put_off.parked.withdraw(user, self._gone.up_to[user])
        waiting = self._backlog.lanes.take_user(user) + self._put_off.take(user)
        self._put_off.join(user, self._due(user, waiting))
        for in_hand in self._in_hand.get(user, ()):
            in_hand[:] = self._due(user, in_hand)

    def _due(self, user: str, letters: list[Letter]) -> list[Letter]:
        """``letters`` without those from before ``user`` was gone, or came: these are not waited for any more."""
        until = self._gone.up_to.get(user)
        if until is not None:
            for letter in letters:
                if letter.seq <= until:
                    self._put_off.given_up.withdraw(letter, user)
            letters = self._gone.after(user, letters)
        before = self._before(user)
        if before:
            for letter in letters:
                if letter.seq <= before:
                    self._backlog.gave_up(letter)
            letters = [letter for letter in letters if letter.seq > before]
        return letters

    # -- one postman -------------------------------------------------------------------------------

    async def _work(self, number: int) -> None:
        time = asyncio.get_running_loop().time
        try:
            while number < self._count:
                async with self._floor:
                    if number >= self._count:
                        return
                    began, rested = time(), self._rested_s
                    errand = await self._slice()
                if errand is not None:
                    await errand
                self._busy_s += time() - began - (self._rested_s - rested if errand is None else 0.0)
        finally:
            self._at_work.discard(number)

    async def _slice(self) -> Awaitable[None] | None:
        """Deliver to open boxes for one slice, or until there is something to wait for."""
        time = asyncio.get_running_loop().time
        lanes = self._backlog.lanes
        gather = self._gather()
        now = time()
        until = now + self._slice_s
        visits: list[tuple[str, list[Letter]]] = []
        while now < until:
            taken = lanes.take(now, gather)
            if taken is None:
                if visits:
                    break
                await self._rest(lanes.due_in_s(now, gather))
                return None
            user, letters = taken[0], self._due(*taken)
            is_parked = self._put_off.is_parked(user)
            if (not letters and not is_parked) or self._put_off.join(user, letters):
                now = time()
                continue
            box = None if is_parked else self._mailboxes.free(user)
            if box is not None and len(letters) <= _PORTION:
                try:
                    self._store(box, letters)
                except NAMED as error:
                    self._mailboxes.volumes.ended(user, None, error)
                    self._trouble(user, letters, error)
            elif (
                not is_parked
                and len(letters) <= _PORTION
                and self._may_visit(user)
                and self._mailboxes.is_crowded(user)
            ):
                visits.append((user, letters))
                if len(visits) == PORTION:
                    break
            elif visits:
                lanes.put_back(user, letters)  # a read must find them, there or in the line for the box
                if is_parked:
                    lanes.knock(user, now)
                break
            else:
                return self._deliver(user, letters)
            now = time()
        if visits:
            return self._visit(visits)
        await asyncio.sleep(0)
        return None

    def _may_visit(self, user: str) -> bool:
        """Whether the box is closed, and nobody's; and its disk known to be well: a probe goes alone."""
        return self._mailboxes.is_at_rest(user) and not self._mailboxes.volumes.are_in_doubt

    async def _rest(self, due_in_s: float | None) -> None:
        """Until there is new mail, or the next is due; that may be sooner than it looks, when nothing
        more comes and nobody need wait for company."""
        self._wake.clear()
        began = self._resting_since = monotonic()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due_in_s is None else min(due_in_s, _LULL_S)):
                    await self._wake.wait()
        finally:
            self._resting_since = None
            self._rested_s += monotonic() - began

    async def _visit(self, visits: list[tuple[str, list[Letter]]]) -> None:
        """Store letters in boxes that are opened for nothing else, in a thread."""
        left_out: dict[str, list[Letter]] = {}

        def write(box: Mailbox, letters: list[Letter]) -> None:
            left_out[box.user] = self._write(box, letters)

        errands: list[tuple[str, Errand]] = [
            (addressee, partial(write, letters=letters)) for addressee, letters in visits
        ]
        failures = await self._mailboxes.visit(errands)
        for (addressee, letters), error in zip(visits, failures, strict=True):
            if error is None:
                self._stored(addressee, letters, left_out[addressee])
            elif isinstance(error, NAMED):
                self._trouble(addressee, letters, error)
            else:
                raise error

    async def _deliver(self, user: str, letters: list[Letter], *, for_reader: bool = False) -> None:
        """Store letters in a box that is not at hand (open it, or wait for its holder), or that are many:
        the loop gets its turn between two portions."""
        in_hand = self._in_hand.setdefault(user, [])
        registered = letters
        in_hand.append(registered)

        def is_due() -> bool:
            return bool(registered) or self._put_off.is_parked(user)

        try:
            async with self._mailboxes.hold(user, create=is_due) as box:
                if box is None or not is_due():  # whoever held it before has stored them, or withdrawn
                    return
                if self._put_off.has(user):  # whoever held it before had no luck: his letters first
                    letters = sorted(self._put_off.take(user) + letters, key=lambda letter: letter.seq)
                while letters:
                    self._store(box, letters[:_PORTION])
                    letters = letters[_PORTION:]
                    if letters:
                        await asyncio.sleep(0)
                await self._store_parked(box)
        except NAMED as error:
            self._trouble(user, letters, error, for_reader=for_reader)
        finally:
            in_hand[:] = [waiting for waiting in in_hand if waiting is not registered]
            if not in_hand:
                self._in_hand.pop(user, None)

    def _store(self, box: Mailbox, letters: list[Letter]) -> None:
        """One transaction; nothing runs beside it, and nothing is counted unless it was committed."""
        left_out = self._write(box, letters)
        self._mailboxes.wrote(box.user, len(letters))
        self._stored(box.user, letters, left_out)

    async def _store_parked(self, box: Mailbox) -> None:
        """Store what is parked for the owner of ``box``, which is held, a portion at a time."""
        user, parked = box.user, self._put_off.parked
        try:
            while self._put_off.is_parked(user):
                number, letters = await parked.ahead(user)
                if not letters:  # being written down, it met a full disk
                    break
                left_out = self._write(box, letters)
                self._mailboxes.wrote(user, len(letters))
                stored = [letter for letter in letters if letter not in left_out]
                parked.stored(user, number, stored, left_out=len(left_out))
                self._put_off.given_up.left_out(user, left_out)
                self._told(user, letters[0], stored)
        except NAMED:
            self._put_off.go_on(user)
            raise

    def _stored(self, user: str, letters: list[Letter], left_out: list[Letter]) -> None:
        """They are in the box of ``user``, but for those that were left out."""
        oldest = letters[0]
        if left_out:
            letters = [letter for letter in letters if letter not in left_out]
            self._put_off.given_up.left_out(user, left_out)
            for letter in left_out:
                self._backlog.gave_up(letter)
        self._backlog.stored_for_one(letters)
        self._told(user, oldest, letters)

    def _told(self, user: str, oldest: Letter, letters: list[Letter]) -> None:
        """Whoever is to know it hears that ``letters`` are in the box of ``user``."""
        self.transactions += 1
        if oldest.accepted_us:
            self.stored_s[oldest.lane].observe((now_us() - oldest.accepted_us) / 1e6)
        self._tell_stored(user, letters)
        if self._put_off:
            self._put_off.stored(user)

    def _write(self, box: Mailbox, letters: list[Letter]) -> list[Letter]:
        """The transaction; in the thread of whoever holds the box. Returns what of ``letters`` was left out: of
        channels, and the box is full."""
        left_out: list[Letter] = []
        box.begin()
        try:
            rows: list[Row] = []
            careful = self._quotas.is_on and self._quotas.may_refuse(box, letters)
            for letter in letters:
                if letter.row is not None:
                    if careful and letter.channel is not None:
                        box.insert(rows)
                        rows = []
                        if self._quotas.refuses(box, letter.id):
                            left_out.append(letter)
                            continue
                    rows.append(letter.row)
                    continue
                if rows:
                    box.insert(rows)
                    rows = []
                self._apply(box, letter)
            if rows:
                box.insert(rows)
            box.commit()
        except BaseException:
            box.rollback()
            raise
        if self._quotas.is_on:
            self._quotas.look(box)
        return left_out

    def _apply(self, box: Mailbox, letter: Letter) -> None:
        if letter.kind == MEMBERSHIP:
            standing = letter.standings[box.user]
            if standing is None or letter.channel_row is None:
                box.leave(letter.id)
            else:
                box.join(letter.channel_row, standing)
        else:
            box.remove(letter.id, iso(letter.removed_us or now_us()))

    def _trouble(self, user: str, letters: list[Letter], error: Exception, *, for_reader: bool = False) -> None:
        """The letters could not be stored: see to the box, and try again later."""
        why = word(error)
        if why == NO_ROOM:
            self._no_room()
        elif isinstance(error, CORRUPT):
            self._mailboxes.discard(user, error)
        elif why not in (BUSY, VOLUME):
            self._mailboxes.discard(user)
        if letters or self._put_off.is_parked(user):
            self._put_off.failed(user, letters, why, error, for_reader=for_reader)

    def again(self, user: str, letters: list[Letter]) -> None:
        """The turn of what was put off has come."""
        now = asyncio.get_running_loop().time()
        for letter in letters:
            self._backlog.lanes.put(user, letter, now)
        if not letters:
            self._backlog.lanes.knock(user, now)
        self._wake.set()
