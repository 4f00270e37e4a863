"""The boxes of a shard: which are open, who holds one, and what is done to them in the background.

At most ``open_max`` boxes are open, and fewer while memory is short (``shard.warmth``); the one that was used longest
ago goes first. But mail for another doesn't push it out unless that one was used in half that time: its box is opened,
written and closed at one go (:meth:`Mailboxes.visit`), and stays open when more mail comes soon. Otherwise a message to
everybody, or mail for more people than may be open, would have each box opened anew. A box that nobody has used for a
long while is cold: it is checkpointed and closed.

A box has one holder at a time. On the loop a delivery needs no holding, since nothing runs beside it; whatever
waits in a thread (opening, reading, checkpoint) holds the box, and whoever comes next waits in
line. Opening and checkpoints touch the disk and therefore run in threads, in portions.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import resource
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

import apsw
import structlog

from node.metrics import Histogram
from shard.disk import Disk
from shard.keyring import Keyring
from shard.lines import Lines
from shard.mailbox import Mailbox
from shard.opener import Errand, Opener, Visit
from shard.volumes import Volumes

T = TypeVar("T")
log = structlog.get_logger()

_FDS_A_BOX = 3
_FDS_KEPT = 2_048  # sockets, status files, snapshots
PORTION = 32
"""boxes that are opened at one go"""
_CLOSE_PORTION = 64
"""boxes that are closed at one go: some 50 us each, on the loop"""


class Away(apsw.BusyError):
    """The box is another shard's, or about to be."""


_AWAY = "it is moving to another shard"


class Mailboxes:
    """The open boxes under ``data``; ``template`` is an empty box's file."""

    def __init__(
        self,
        disk: Disk,
        template: bytes,
        *,
        open_max: int,
        wal_pages_max: int,
        vfs: str | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self.opener = Opener(disk, template, wal_pages_max=wal_pages_max, vfs=vfs, keyring=keyring)
        self.volumes = Volumes(disk.data)
        self._disk = disk
        self._wal_pages_max = wal_pages_max
        fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.open_max = max(16, min(open_max, (fds - _FDS_KEPT) // _FDS_A_BOX))
        self._open: OrderedDict[str, Mailbox] = OrderedDict()
        self._used_s: OrderedDict[str, float] = OrderedDict()  # of boxes that are closed: when, of late
        self._lines = Lines(self._wait)
        self._openers = ThreadPoolExecutor(1, "opener")
        self._visitor = ThreadPoolExecutor(1, "visitor")  # a reader doesn't wait behind a message to everybody
        self._reader = ThreadPoolExecutor(1, "reader")
        self._keeper = ThreadPoolExecutor(1, "keeper")
        self._to_open: list[tuple[str, bool, asyncio.Future[Mailbox | None]]] = []
        self._opening: asyncio.Future[None] | None = None
        self._unsound: set[str] = set()  # boxes whose checkpoint failed: they are left alone
        self._written: dict[str, int] = {}  # pages written to a box's log, roughly, since its last checkpoint
        self._newborn: dict[str, int] = {}  # user → number of barriers begun before the birth
        self._barriers_begun = 0
        self._may_checkpoint = False
        self._is_at_end = False
        self.is_away: Callable[[str], bool] = lambda _user: False
        """whether a box is another shard's to open"""
        self._in_line: dict[object, float] = {}  # who waits for a holder, and since when; the oldest first
        self._longest_s = 0.0
        self.opened = self.visited = 0
        """boxes that were opened to stay open, and for one errand"""
        self.holds = 0
        """how often a box was held; deliveries to an open box don't hold it"""
        self.line_s = Histogram()
        """how long those waited who found a box held"""
        self.checkpoint_s = Histogram()

    # -- holding ---------------------------------------------------------------------------------

    def free(self, user: str) -> Mailbox | None:
        """The box if it is open and nobody holds it: the loop may use it at once, till it awaits."""
        box = self._open.get(user)
        if box is None or user in self._lines or self.volumes.is_down(user) or self.is_away(user):
            return None
        self._use(box)
        return box

    @contextlib.asynccontextmanager
    async def hold(self, user: str, *, create: bool | Callable[[], bool]) -> AsyncIterator[Mailbox | None]:
        """Hold ``user``'s box, opened if need be, made if ``create`` (asked when it is held); None if there is none.

        Whoever comes first holds it first. Raises ``apsw.BusyError`` if another process has it
        open, :class:`DiskFull` at birth, :class:`VolumeDown` while the disk under it is left alone, :class:`Away`.
        """
        self.holds += 1
        async with self._lines.hold(user):
            self._check(user)
            if not self.volumes.knows(user):
                await asyncio.get_running_loop().run_in_executor(self._openers, self.volumes.learn, user)
            ticket = self.volumes.enter(user)
            try:
                box = self._open.get(user)
                if box is None:
                    box = await self._open_box(user, create() if callable(create) else create)
                else:
                    self._use(box)
                yield box
            except BaseException as error:
                self.volumes.ended(user, ticket, error)
                raise
            self.volumes.ended(user, ticket, None)

    async def _wait(self, lock: asyncio.Lock) -> None:
        """Wait for the holder, and note how long that takes."""
        ticket, since = object(), monotonic()
        self._in_line[ticket] = since
        try:
            await lock.acquire()
        finally:
            del self._in_line[ticket]
            waited_s = monotonic() - since
            self.line_s.observe(waited_s)
            self._longest_s = max(self._longest_s, waited_s)

    def longest_wait_s(self) -> float:
        """The longest wait for a holder that lasts, or has ended since this was asked last."""
        longest_s, self._longest_s = self._longest_s, 0.0
        oldest = next(iter(self._in_line.values()), None)
        return longest_s if oldest is None else max(longest_s, monotonic() - oldest)

    def _use(self, box: Mailbox) -> None:
        box.used_s = monotonic()
        self._open.move_to_end(box.user)

    def is_crowded(self, user: str) -> bool:
        """Whether to open the box of ``user`` would close one that is used about as often."""
        if len(self._open) < self.open_max:
            return False
        now = monotonic()
        oldest = next(iter(self._open.values()))
        return now - self._used_s.get(user, -math.inf) > (now - oldest.used_s) / 2

    def is_at_rest(self, user: str) -> bool:
        """Whether the box is neither open nor held, nor waited for."""
        return user not in self._open and user not in self._lines

    def is_held(self, user: str) -> bool:
        """Whether somebody holds the box, or waits to."""
        return user in self._lines

    async def visit(self, errands: list[tuple[str, Errand]], *, create: bool = True) -> list[Exception | None]:
        """Do each errand in its user's box, made if need be and ``create``, in a thread; what each failed with. The
        boxes must be at rest, and are so again afterwards."""
        assert all(self.is_at_rest(user) for user, _errand in errands)
        away = {user for user, _errand in errands if self.is_away(user)}
        if away:
            there = iter(await self.visit([errand for errand in errands if errand[0] not in away], create=create))
            return [Away(_AWAY) if user in away else next(there) for user, _errand in errands]
        async with contextlib.AsyncExitStack() as lines:
            for user, _errand in errands:
                await lines.enter_async_context(self._lines.hold(user))  # nobody is in it: no waiting
            loop = asyncio.get_running_loop()
            self.visited += len(errands)
            self.holds += len(errands)
            visits = await loop.run_in_executor(self._visitor, self._visits, errands, create)
            for (user, _errand), visit in zip(errands, visits, strict=True):
                if visit.kept is not None:
                    self._opened(user, visit.kept)
                    continue
                self._closed(user, monotonic())
                if visit.born:
                    self._newborn[user] = self._barriers_begun
            self._evict()
        for (user, _errand), visit in zip(errands, visits, strict=True):
            self.volumes.ended(user, None, visit.error)
        return [visit.error for visit in visits]

    def _visits(self, errands: list[tuple[str, Errand]], create: bool) -> list[Visit]:
        """In the thread."""
        for user, _errand in errands:
            if not self.volumes.knows(user):
                self.volumes.learn(user)
        return self.opener.visit_many(errands, create)

    @contextlib.asynccontextmanager
    async def lend(self, user: str, thread: ThreadPoolExecutor) -> AsyncIterator[Mailbox | None]:
        """As :meth:`hold`; but a box that isn't open is opened for this alone, in ``thread``, and pushes out none."""
        async with self._lines.hold(user):
            self._check(user)
            self.holds += 1
            if (box := self._open.get(user)) is not None:
                yield box
                return
            run = asyncio.get_running_loop().run_in_executor
            lent = await run(thread, lambda: self.opener.open(user, create=False))
            try:
                yield lent
            finally:
                if lent is not None:
                    if lent.newborn:
                        self._newborn[user] = self._barriers_begun
                    self._written.pop(user, None)
                    await run(thread, lent.close)

    @contextlib.asynccontextmanager
    async def seize(self, user: str) -> AsyncIterator[None]:
        """Hold ``user``'s box and close it, so that its file may be replaced; afterwards it is another box."""
        async with self._lines.hold(user):
            self._check(user)
            self.holds += 1
            self.discard(user)
            yield
            self._unsound.discard(user)
            self.opener.condemned.pop(user, None)

    @contextlib.asynccontextmanager
    async def alone(self, user: str) -> AsyncIterator[None]:
        """Be the one who may be in ``user``'s box, without asking for it: open or not, here or away. Raises
        :class:`Away` at the end."""
        async with self._lines.hold(user):
            self._check_end()
            yield

    async def vacate(self) -> None:
        """Close every box that is away by now; nobody holds one when this returns. Raises :class:`Away` at the end."""
        for user in [user for user in {*self._open, *self._lines} if self.is_away(user)]:
            async with self._lines.hold(user):
                self._check_end()
                self.discard(user)

    def _check_end(self) -> None:
        """At the end a line may be free and a thread still in the box."""
        if self._is_at_end:
            raise Away("the shard is ending")

    def _check(self, user: str) -> None:
        if self.is_away(user):
            raise Away(_AWAY)

    async def read(self, function: Callable[[], T]) -> T:
        """Run a query on a held box off the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, function)

    # -- opening ---------------------------------------------------------------------------------

    async def _open_box(self, user: str, create: bool) -> Mailbox | None:
        future: asyncio.Future[Mailbox | None] = asyncio.get_running_loop().create_future()
        self._to_open.append((user, create, future))
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open_portions())
        return await future

    async def _open_portions(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # whoever else asks in this turn of the loop comes along
        while self._to_open:
            portion, self._to_open = self._to_open[:PORTION], self._to_open[PORTION:]
            wanted = [(user, create) for user, create, _future in portion]
            try:
                opened = await loop.run_in_executor(self._openers, self.opener.open_many, wanted)
                for (user, _create, future), outcome in zip(portion, opened, strict=True):
                    self._opened(user, outcome)
                    if future.done():
                        continue
                    if isinstance(outcome, Exception):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)
                self._evict()
            except Exception as error:  # nobody waits for this task: those who wait for a box are told
                for _user, _create, future in portion:
                    if not future.done():
                        future.set_exception(error)
        self._opening = None

    def _opened(self, user: str, outcome: Mailbox | Exception | None) -> None:
        if not isinstance(outcome, Mailbox):
            return
        self.opened += 1
        self._open[user] = outcome
        self._used_s.pop(user, None)
        outcome.used_s = monotonic()
        if user not in self._unsound:
            self._written[user] = outcome.log_pages()
        if outcome.newborn:  # maybe while a barrier ran: only the next one covers it
            self._newborn[user] = self._barriers_begun

    # -- in the background -----------------------------------------------------------------------

    def wrote(self, user: str, rows: int) -> None:
        """Note a commit of ``rows`` rows: four index pages and about six rows to a page of data."""
        if self.volumes.are_in_doubt:
            self.volumes.ended(user, None, None)
        if user in self._unsound:
            return
        self._written[user] = self._written.get(user, 0) + 5 + rows // 5

    def barrier_begun(self) -> int:
        self._barriers_begun += 1
        return self._barriers_begun

    def barrier_done(self, number: int) -> None:
        """Births from before barrier ``number`` are durable: those boxes may be checkpointed."""
        self._may_checkpoint = True
        for user in [user for user, begun in self._newborn.items() if begun < number]:
            del self._newborn[user]
            box = self._open.get(user)
            if box is not None:
                box.newborn = False

    async def tend(self) -> int:
        """Checkpoint the boxes with a long log; how many there were. Run again and again."""
        if not self._may_checkpoint:
            return 0
        long = [user for user, pages in self._written.items() if pages >= self._wal_pages_max]
        return sum([await self._checkpoint(user) for user in long])

    def bound(self, most: int) -> None:
        """At most ``most`` are to be open; what is too many goes in portions, one a call."""
        self.open_max = most
        self._evict()

    async def cool(self, idle_s: float) -> int:
        """Checkpoint and close some of the boxes that nobody has used for ``idle_s``; how many were closed. Their next
        opening has no log to take up, and a copy of such a box is one file."""
        if not self._may_checkpoint:
            return 0
        before_s, closed = monotonic() - idle_s, 0
        cold: list[str] = []
        for user, box in self._open.items():  # the one that was used longest ago comes first
            if box.used_s > before_s or len(cold) == PORTION:
                break
            if user not in self._lines and user not in self._newborn and user not in self._unsound:
                cold.append(user)
        for user in cold:
            async with self._lines.hold(user):
                found = self._open.get(user)
                if found is None or found.used_s > before_s:
                    continue
                if not found.log_pages() or await self._checkpointed(found):
                    self._close(user)
                    closed += 1
        return closed

    async def _checkpoint(self, user: str) -> bool:
        if self.free(user) is None or user in self._newborn:
            return False
        async with self.hold(user, create=False) as held:
            if held is None or user in self._newborn:
                return False
            if held.log_pages() < self._wal_pages_max:
                self._written[user] = held.log_pages()
                return False
            self._written.pop(user, None)
            return await self._checkpointed(held)

    async def _checkpointed(self, held: Mailbox) -> bool:
        """Checkpoint a box that is held; if that can't be done it is closed, and False."""
        began = monotonic()
        try:
            await asyncio.get_running_loop().run_in_executor(self._keeper, held.checkpoint, self._disk)
            self.checkpoint_s.observe(monotonic() - began)
        except apsw.Error as error:
            self.discard(held.user)
            if not isinstance(error, apsw.FullError):
                self._unsound.add(held.user)
                log.error("a mailbox could not be checkpointed; its log grows", user=held.user, error=str(error))
            return False
        return True

    def _evict(self) -> None:
        """Close those that are too many, some at one go, the one that was used longest ago first."""
        surplus = min(len(self._open) - self.open_max, _CLOSE_PORTION)
        if surplus > 0:
            at_rest = (user for user in self._open if user not in self._lines)
            for user in list(itertools.islice(at_rest, surplus)):
                self._close(user)

    def _close(self, user: str) -> None:
        self._written.pop(user, None)
        box = self._open.pop(user)
        self._closed(user, box.used_s)
        box.close()

    def _closed(self, user: str, used_s: float) -> None:
        """Remember when a box was used that is closed now; of as many as may be open."""
        self._used_s[user] = used_s
        self._used_s.move_to_end(user)
        while len(self._used_s) > self.open_max:
            self._used_s.popitem(last=False)

    def discard(self, user: str, error: Exception | None = None) -> None:
        """Close a box that can't be trusted; with ``error`` its file is set aside by whoever opens it next, in their
        thread."""
        box = self._open.pop(user, None)
        self._written.pop(user, None)
        if box is not None:
            box.close()
        if error is not None:
            self.opener.condemned[user] = error

    def __len__(self) -> int:
        return len(self._open)

    def end(self) -> None:
        """Nobody gets a box any more, and none is closed before :meth:`close`. To be called before whoever may hold one
        is cancelled: the box is let go then, but the thread that works in it goes on, and a connection that two threads
        use brings the process down."""
        self.is_away = lambda _user: True
        self._is_at_end = True
        self.bound(sys.maxsize)

    @property
    def damaged(self) -> int:
        """Boxes that were set aside."""
        return self.opener.damaged

    def close(self) -> None:
        """Close all boxes; whoever calls has stopped everything else."""
        for pool in (self._openers, self._visitor, self._reader, self._keeper):
            pool.shutdown()
        while self._open:
            self._open.popitem()[1].close()
