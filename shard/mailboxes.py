"""The boxes of a shard: which are open, who holds one, and what is done to them in the background.

At most ``open_max`` boxes are open; the one that was used longest ago goes first. A box has one
holder at a time. On the loop a delivery needs no holding, since nothing runs beside it; whatever
waits in a thread (opening, reading, checkpoint) holds the box, and whoever comes next waits in
line. Opening and checkpoints touch the disk and therefore run in threads, in portions.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw
import structlog

from node import paths
from node.clock import iso, now_us
from node.errors import DiskFull
from shard.disk import Disk
from shard.mailbox import CORRUPT_AT_OPENING, FILE, Mailbox, torn_at_birth

T = TypeVar("T")
log = structlog.get_logger()

_FDS_A_BOX = 3
_FDS_KEPT = 256
_PORTION = 32


class _Line:
    """Who holds a box, and who waits to."""

    __slots__ = ("length", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.length = 0


class Mailboxes:
    """The open boxes under ``data``; ``template`` is an empty box's file."""

    def __init__(
        self, disk: Disk, template: bytes, *, open_max: int, wal_pages_max: int, vfs: str | None = None
    ) -> None:
        self._disk = disk
        self._template = template
        self._vfs = vfs
        self._wal_pages_max = wal_pages_max
        fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.open_max = max(16, min(open_max, (fds - _FDS_KEPT) // _FDS_A_BOX))
        self._open: OrderedDict[str, Mailbox] = OrderedDict()
        self._lines: dict[str, _Line] = {}
        self._opener = ThreadPoolExecutor(1, "opener")
        self._reader = ThreadPoolExecutor(1, "reader")
        self._keeper = ThreadPoolExecutor(1, "keeper")
        self._to_open: list[tuple[str, bool, asyncio.Future[Mailbox | None]]] = []
        self._opening: asyncio.Future[None] | None = None
        self._unsound: set[str] = set()  # boxes whose checkpoint failed: they are left alone
        self._written: dict[str, int] = {}  # pages written to a box's log, roughly, since its last checkpoint
        self._newborn: dict[str, int] = {}  # user → number of barriers begun before the birth
        self._barriers_begun = 0
        self._may_checkpoint = False
        self.damaged = 0

    # -- holding ---------------------------------------------------------------------------------

    def free(self, user: str) -> Mailbox | None:
        """The box if it is open and nobody holds it: the loop may use it at once, till it awaits."""
        box = self._open.get(user)
        if box is None or user in self._lines:
            return None
        self._open.move_to_end(user)
        return box

    @contextlib.asynccontextmanager
    async def hold(self, user: str, *, create: bool) -> AsyncIterator[Mailbox | None]:
        """Hold ``user``'s box, opened if need be, made if ``create``; None if there is none.

        Whoever comes first holds it first. Raises ``apsw.BusyError`` if another process has it
        open, :class:`DiskFull` at birth.
        """
        line = self._lines.get(user)
        if line is None:
            line = self._lines[user] = _Line()
        line.length += 1
        try:
            async with line.lock:
                box = self._open.get(user)
                if box is None:
                    box = await self._open_box(user, create)
                else:
                    self._open.move_to_end(user)
                yield box
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[user]

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
            portion, self._to_open = self._to_open[:_PORTION], self._to_open[_PORTION:]
            try:
                opened = await loop.run_in_executor(self._opener, self._open_many, portion)
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
        self._open[user] = outcome
        if user not in self._unsound:
            self._written[user] = outcome.log_pages()
        if outcome.newborn:  # maybe while a barrier ran: only the next one covers it
            self._newborn[user] = self._barriers_begun

    def _open_many(
        self, portion: list[tuple[str, bool, asyncio.Future[Mailbox | None]]]
    ) -> list[Mailbox | Exception | None]:
        """In the opener's thread: a box, None, or the error for each."""
        outcomes: list[Mailbox | Exception | None] = []
        for user, create, _future in portion:
            try:
                outcomes.append(self._open_one(user, create))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _open_one(self, user: str, create: bool) -> Mailbox | None:
        path = paths.user_dir(self._disk.data, user) / FILE
        born = False
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            if not create:
                return None
            born = True
        else:
            if size <= len(self._template):
                born = torn_at_birth(path.read_bytes(), self._template)
        if born:
            self._give_birth(path)
        try:
            box = Mailbox(user, path, self._vfs)
        except CORRUPT_AT_OPENING as error:
            self.set_aside(path, error)
            self._give_birth(path)
            born = True
            box = Mailbox(user, path, self._vfs)
        box.newborn = born
        return box

    def _give_birth(self, path: Path) -> None:
        """An empty box, or the template's bytes once more for one that lost some of them."""
        try:
            self._disk.make_directory(path.parent)
            self._disk.write(path, self._template)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull() from error
            raise

    def set_aside(self, path: Path, error: Exception) -> None:
        """Keep a damaged file under another name, for whoever wants to look into it."""
        self.damaged += 1
        stamp = iso(now_us()).replace(":", "")
        # The log first: a new box must never find the log of another one.
        for name in (path.with_name(path.name + "-wal"), path):
            if name.exists():
                self._disk.rename(name, name.with_name(f"{name.name}.damaged-{stamp}"))
        log.error("mailbox damaged, set aside", user=path.parent.name, error=str(error), stamp=stamp)

    # -- in the background -----------------------------------------------------------------------

    def wrote(self, user: str, rows: int) -> None:
        """Note a commit of ``rows`` rows: four index pages and about six rows to a page of data."""
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
            try:
                await asyncio.get_running_loop().run_in_executor(self._keeper, held.checkpoint, self._disk)
            except apsw.Error as error:
                self.discard(user)
                if not isinstance(error, apsw.FullError):
                    self._unsound.add(user)
                    log.error("a mailbox could not be checkpointed; its log grows", user=user, error=str(error))
                return False
        return True

    def _evict(self) -> None:
        surplus = len(self._open) - self.open_max
        if surplus <= 0:
            return
        for user in list(self._open):
            box = self._open[user]
            if user in self._lines:
                continue
            del self._open[user]
            self._written.pop(user, None)
            box.close()
            surplus -= 1
            if surplus <= 0:
                return

    def discard(self, user: str, error: Exception | None = None) -> None:
        """Close a box that can't be trusted; with ``error`` its file is set aside."""
        box = self._open.pop(user, None)
        self._written.pop(user, None)
        if box is not None:
            path = box.path
            box.close()
            if error is not None:
                self.set_aside(path, error)

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """Close all boxes; whoever calls has stopped everything else."""
        for pool in (self._opener, self._reader, self._keeper):
            pool.shutdown()
        while self._open:
            self._open.popitem()[1].close()
