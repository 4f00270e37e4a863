"""The backup of a shard's boxes and of its journal, made in the background when somebody asks: once a day, mostly
(:mod:`node.daily`).

It gives way: a box at a time, in portions, in a thread of its own, with pauses that are longer than the work while
mail is being stored. A box that was not written since its last backup is not even opened.

A set is whole when its manifest is on disk, and that comes last: after all copies, and a flush of all names. It fits
together: boxes that got mail after they were copied are copied again at the end, and from then until the journal has
been copied no letter is let go. So what the journal's copy doesn't hold is in the copy of its box.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw
import structlog

from node import ops, paths
from node.clock import now_us
from node.config import Config
from node.errors import DiskFull, PoboxError
from node.placement import sync_directory
from shard import backup_files as files
from shard import history, pushed
from shard.backlog import Backlog
from shard.backup_boxes import BoxCopies
from shard.backup_set import Manifest, Part, day_of, first_day, last_set_us, last_whole, part_of, prune
from shard.copying import Copy, seal
from shard.disk import Disk
from shard.journal import Journal
from shard.keyring import JOURNAL, Keyring
from shard.mailboxes import Mailboxes
from shard.office import Office
from shard.postmen import Postmen
from shard.residents import Residents
from shard.roster import boxes_of
from shard.statuses import Statuses

T = TypeVar("T")
log = structlog.get_logger()

_PORTION_PAGES = 500
_PASSES = 3
_FEW = 64
_MOVING_S = 0.05
_LOOK_S = 1.0
_FORGET_S = 60.0


class Backups:
    """Of the shard of ``residents`` on ``disk``."""

    def __init__(
        self,
        config: Config,
        residents: Residents,
        disk: Disk,
        *,
        journal: Journal,
        backlog: Backlog,
        mailboxes: Mailboxes,
        statuses: Statuses,
        postmen: Postmen,
        office: Office,
        keyring: Keyring | None = None,
    ) -> None:
        self._keyring = keyring
        self._settings = config.backup
        self._reserve_bytes = config.shard.disk_reserve_bytes
        self._residents = residents
        self._index = residents.index
        self._disk = disk
        self._journal = journal
        self._backlog = backlog
        self._office = office
        self._thread = ThreadPoolExecutor(1, "backup")
        self._asked = asyncio.Event()
        self._boxes = BoxCopies(
            config,
            residents.placement,
            disk,
            backlog=backlog,
            mailboxes=mailboxes,
            statuses=statuses,
            postmen=postmen,
            give_way=self._give_way,
            thread=self._thread,
            keyring=keyring,
        )
        self._touched: set[str] | None = None
        self.are_moving: Callable[[], bool] = lambda: False
        """whether people leave or come just now: a backup begins afterwards"""
        self.state = ops.BackupState()
        self.whole_us = last_whole(disk.data, residents.placement, residents.index)
        """when the last whole set was made, 0 for never"""
        self._begun_us = _node_begun_us(disk.data)
        self._due_since_us = last_set_us(disk.data) or self._begun_us
        self.looks_off_site = bool(config.backup.store) and residents.index == 0
        """it is one for all shards, so the first sees to it"""
        self.offsite_us = pushed.day_and_us(disk.data)[1] if self.looks_off_site else 0
        """when the last set that is off-site as a whole was made, as looked up last; 0 for none"""

    # -- when --------------------------------------------------------------------------------------

    async def begin(self, _q: ops.BackUp) -> ops.BackupState:
        if not self.state.running:
            self.state = ops.BackupState(day=_today(), running=True, began_us=now_us())
            self._asked.set()
        return self.state

    async def ask(self, _q: ops.AskBackup) -> ops.BackupState:
        return self.state

    def age_s(self, time_us: int) -> float:
        """How old the last whole backup is, of this layout or an earlier one, and where there is none, the node; 0
        where no daily backup is made."""
        return self._since_s(max(self.whole_us, self._due_since_us), time_us)

    def offsite_age_s(self, time_us: int) -> float:
        """The same of what is off-site, 0 where nothing is to go there."""
        return self._since_s(self.offsite_us or self._begun_us, time_us) if self.looks_off_site else 0.0

    def _since_s(self, us: int, time_us: int) -> float:
        return max(0.0, (time_us - us) / 1e6) if self._settings.at else 0.0

    def stored(self, user: str) -> None:
        """Something was stored for ``user``."""
        if self._touched is not None:
            self._touched.add(user)

    async def run(self) -> None:
        """Make a backup when it is asked for, until cancelled."""
        forgot_at = 0.0
        if self._part(_today()).begun.exists():
            await self.begin(ops.BackUp(0))  # a kill cut it short
        while True:
            if self._asked.is_set():
                self._asked.clear()
                while self.are_moving():
                    await asyncio.sleep(_MOVING_S)
                await self._make()
            if time.monotonic() - forgot_at >= _FORGET_S:
                forgot_at = time.monotonic()
                await self._in_thread(self._forget_history)
                await self._in_thread(self._look_off_site)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._asked.wait()

    def _forget_history(self) -> None:
        before_us = now_us() - int(self._settings.history_s * 1e6)
        history.forget(self._disk.data, before_us, self._residents.placement, self._index)

    def _look_off_site(self) -> None:
        if self.looks_off_site:
            _day, self.offsite_us = pushed.day_and_us(self._disk.data)

    # -- one set -----------------------------------------------------------------------------------

    async def _make(self) -> None:
        state = self.state
        part = self._part(state.day)
        self._touched = set()
        try:
            await self._in_thread(part.open)
            users = await self._in_thread(self._users)
            state.boxes = len(users)
            await self._boxes.copy_all(users, state)
            for _ in range(_PASSES):
                if len(self._touched) <= _FEW:
                    break
                await self._boxes.copy_all(self._take_touched(), state)
            await self._finish(part, state)
        except (PoboxError, OSError, apsw.Error, files.Damaged) as error:
            state.error = str(error) or (error.title if isinstance(error, PoboxError) else repr(error))
            log.error("the backup is not whole", day=state.day, error=state.error)
        finally:
            self._touched = None
            state.running, state.ended_us = False, now_us()

    async def _finish(self, part: Part, state: ops.BackupState) -> None:
        async with self._office.nothing_goes() as all_kept:
            await self._boxes.copy_all(self._take_touched(), state)
            sha256, size = await self._copy_journal(part.journal)
            exact = all_kept()
        await self._in_thread(self._disk.flush)
        manifest = Manifest(
            day=state.day,
            layout=self._residents.placement.version,
            shards=self._residents.placement.shards,
            shard=self._index,
            ended_us=now_us(),
            boxes=state.done,
            failed=state.failed,
            exact=exact,
            journal_size=size,
            journal_sha256=sha256,
            placement=self._residents.placement,
        )
        await self._in_thread(lambda: self._close_set(part, manifest))
        self.whole_us = manifest.ended_us
        state.whole = True
        log.info("backup made", day=state.day, boxes=state.done, copied=state.copied, failed=state.failed)

    def _take_touched(self) -> list[str]:
        touched, self._touched = self._touched or set(), set()
        return sorted(touched)

    def _close_set(self, part: Part, manifest: Manifest) -> None:
        part.close(manifest)
        if self._index == 0:
            prune(self._disk.data, first_day(self._settings.keep_days))

    def _part(self, day: str) -> Part:
        return part_of(self._disk.data, day, self._residents.placement.version, self._index)

    def _users(self) -> list[str]:
        """Who has a box here."""
        table = self._residents.table
        slots = table.directories(self._index)
        return sorted(user for slot in slots for user in boxes_of(self._disk.data, table, self._index, slot))

    async def _give_way(self, began: float) -> None:
        """A pause: four times as long as the work was, where mail is being stored."""
        took_s = time.monotonic() - began
        await asyncio.sleep(took_s * 4 if self._backlog.due or self._office.rate_now() else took_s / 4)

    # -- the journal -------------------------------------------------------------------------------

    async def _copy_journal(self, target: Path) -> tuple[str, int]:
        """``shard.db`` into the set, in portions between which it is written; SHA-256 and size."""
        if self._disk.free_bytes() - await self._journal.read(self._journal.used_bytes) < self._reserve_bytes:
            raise DiskFull()
        async with files.making(target, self._thread) as part:
            copy = await self._journal.read(lambda: Copy(self._journal.db, part, self._journal.key))
            try:
                while True:
                    began = time.monotonic()
                    if await self._journal.read(lambda: copy.step(_PORTION_PAGES)) == 0:
                        break
                    await self._give_way(began)
            finally:
                await self._journal.read(copy.close)

            def work() -> tuple[str, int]:
                size, sha256 = seal(part, durably=True)
                files.check(part, "journal", JOURNAL, self._keyring)
                part.rename(target)
                sync_directory(target.parent)
                return sha256, size

            return await self._in_thread(work)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        self._thread.shutdown()


def _node_begun_us(data: Path) -> int:
    """When the node began: its first shard's lock is made then, and never written."""
    try:
        return paths.shard_lock(data, 0).stat().st_mtime_ns // 1_000
    except FileNotFoundError:
        return now_us()


def _today() -> str:
    return day_of(now_us())
