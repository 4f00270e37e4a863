"""The daily backup of a shard's boxes and of its journal, made in the background.

It gives way: a box at a time, in portions, in a thread of its own, with pauses that are longer than the work while
mail is being stored. A box that was not written since its last backup is not even opened.

A set is whole when its manifest is on disk, and that comes last: after all copies, and a flush of all names. It fits
together: boxes that got mail after they were copied are copied again at the end, and from then until the journal has
been copied no letter is let go. So what the journal's copy doesn't hold is in the copy of its box.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec
import structlog

from node import ops, paths
from node.clock import iso, now_us
from node.config import Config
from node.errors import DiskFull, PoboxError, Unsure
from node.placement import Placement, sync_directory, write_durably
from node.slots import owned_by
from shard import backup_files as files
from shard import history
from shard.backlog import Backlog
from shard.backup_set import Manifest, begun_path, last_whole, manifest_path, set_dir
from shard.copying import Copy, seal
from shard.disk import Disk, full_is_507
from shard.history import History
from shard.journal import Journal
from shard.mailbox import FILE, Mailbox
from shard.mailboxes import Mailboxes
from shard.office import Office
from shard.postmen import Postmen
from shard.roster import names_in
from shard.statuses import Statuses

T = TypeVar("T")
log = structlog.get_logger()

_PORTION_PAGES = 2_000
_BATCH = 32
_TRIES = 3
_PASSES = 3
_FEW = 64
_SURE_NS = 2_000_000_000
_DAY_US = 86_400_000_000
_LATE_US = 26 * 3_600_000_000
_AGAIN_US = 3_600_000_000
_LOOK_S = 1.0
_FORGET_S = 60.0


class Backups:
    """Of shard ``index`` on ``disk``."""

    def __init__(
        self,
        config: Config,
        placement: Placement,
        index: int,
        disk: Disk,
        *,
        journal: Journal,
        backlog: Backlog,
        mailboxes: Mailboxes,
        statuses: Statuses,
        postmen: Postmen,
        office: Office,
        history: History,
    ) -> None:
        self._settings = config.backup
        self._reserve_bytes = config.shard.disk_reserve_bytes
        self._placement = placement
        self._index = index
        self._disk = disk
        self._journal = journal
        self._backlog = backlog
        self._mailboxes = mailboxes
        self._statuses = statuses
        self._postmen = postmen
        self._office = office
        self.history = history
        self._thread = ThreadPoolExecutor(1, "backup")
        self._asked = asyncio.Event()
        self._touched: set[str] | None = None
        self._not_before_us = 0
        """after one that failed, what is late waits until then"""
        self.state = ops.BackupState()
        self.whole_us = last_whole(disk.data, placement, index)
        """when the last whole set was made, 0 for never"""

    # -- when --------------------------------------------------------------------------------------

    async def begin(self, _q: ops.BackUp) -> ops.BackupState:
        if not self.state.running:
            self.state = ops.BackupState(day=_today(), running=True, began_us=now_us())
            self._asked.set()
        return self.state

    async def ask(self, _q: ops.AskBackup) -> ops.BackupState:
        return self.state

    def stored(self, user: str) -> None:
        """Something was stored for ``user``."""
        if self._touched is not None:
            self._touched.add(user)

    async def run(self) -> None:
        """Make a backup when it is time, or asked for, until cancelled."""
        before_us, forgot_at = now_us(), 0.0
        if begun_path(self._disk.data, _today(), self._placement, self._index).exists():
            await self.begin(ops.BackUp(0))  # a kill cut it short
        while True:
            now = now_us()
            if self._is_time(before_us, now):
                await self.begin(ops.BackUp(0))
            before_us = now
            if self._asked.is_set():
                self._asked.clear()
                await self._make()
            if time.monotonic() - forgot_at >= _FORGET_S:
                forgot_at = time.monotonic()
                await self._in_thread(self._forget_history)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._asked.wait()

    def _forget_history(self) -> None:
        before_us = now_us() - int(self._settings.history_s * 1e6)
        history.forget(self._disk.data, before_us, self._placement, self._index)

    def _is_time(self, before_us: int, now: int) -> bool:
        """Whether the time of the day came since ``before_us``; or was missed, on a node that has made backups."""
        if not self._settings.at:
            return False
        hours, minutes = map(int, self._settings.at.split(":"))
        due_us = now - now % _DAY_US + (hours * 60 + minutes) * 60_000_000
        is_late = self.whole_us > 0 and now - self.whole_us > _LATE_US
        return before_us < due_us <= now or (is_late and now >= self._not_before_us)

    # -- one set -----------------------------------------------------------------------------------

    async def _make(self) -> None:
        state = self.state
        place = set_dir(self._disk.data, state.day, self._placement)
        self._touched = set()
        try:
            await self._in_thread(lambda: self._open_set(place, state.day))
            users = await self._in_thread(self._users)
            state.boxes = len(users)
            await self._copy_all(users)
            for _ in range(_PASSES):
                if len(self._touched) <= _FEW:
                    break
                await self._copy_all(self._take_touched())
            await self._finish(place, state)
        except (PoboxError, OSError, apsw.Error, files.Damaged) as error:
            state.error = str(error) or (error.title if isinstance(error, PoboxError) else repr(error))
            log.error("the backup is not whole", day=state.day, error=state.error)
            self._not_before_us = now_us() + _AGAIN_US
        finally:
            self._touched = None
            state.running, state.ended_us = False, now_us()

    async def _finish(self, place: Path, state: ops.BackupState) -> None:
        async with self._office.nothing_goes() as all_kept:
            await self._copy_all(self._take_touched())
            sha256, size = await self._copy_journal(place)
            exact = all_kept()
        await self._in_thread(self._disk.flush)
        manifest = Manifest(
            day=state.day,
            layout=self._placement.version,
            shards=self._placement.shards,
            shard=self._index,
            ended_us=now_us(),
            boxes=state.done,
            failed=state.failed,
            exact=exact,
            journal_size=size,
            journal_sha256=sha256,
        )
        await self._in_thread(lambda: self._close_set(manifest))
        self.whole_us = manifest.ended_us
        state.whole = True
        log.info("backup made", day=state.day, boxes=state.done, copied=state.copied, failed=state.failed)

    def _take_touched(self) -> list[str]:
        touched, self._touched = self._touched or set(), set()
        return sorted(touched)

    def _open_set(self, place: Path, day: str) -> None:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A set that is made again is none until it is whole again.
        manifest_path(self._disk.data, day, self._placement, self._index).unlink(missing_ok=True)
        write_durably(begun_path(self._disk.data, day, self._placement, self._index), b"")
        for above in (place.parent, place.parent.parent, place.parent.parent.parent):
            sync_directory(above)

    def _close_set(self, manifest: Manifest) -> None:
        data = self._disk.data
        write_durably(
            manifest_path(data, manifest.day, self._placement, self._index), msgspec.json.encode(manifest) + b"\n"
        )
        begun_path(data, manifest.day, self._placement, self._index).unlink(missing_ok=True)
        if self._index == 0:
            before = self._first_day()
            for old in paths.backups_dir(data).iterdir():
                if old.is_dir() and old.name.isdigit() and old.name < before:
                    shutil.rmtree(old, ignore_errors=True)

    def _first_day(self) -> str:
        return _day(now_us() - self._settings.keep_days * _DAY_US)

    def _users(self) -> list[str]:
        """Who has a box here."""
        slots = owned_by(self._index, self._placement.shards)
        return sorted(user for slot in slots for user in names_in(self._disk.data, slot))

    # -- boxes -------------------------------------------------------------------------------------

    async def _copy_all(self, users: Iterable[str]) -> None:
        users = list(users)
        for first in range(0, len(users), _BATCH):
            batch = users[first : first + _BATCH]
            began = time.monotonic()
            # Looked at before the files are: what comes after changes them.
            known = {user: self._backlog.last_seq if self._is_settled(user) else None for user in batch}
            changed = await self._in_thread(lambda: [u for u in known if not self._link(u, known[u])])  # noqa: B023
            await self._give_way(began)
            for user in changed:
                began = time.monotonic()
                try:
                    await self._copy(user)
                except (DiskFull, Unsure):
                    raise
                except (PoboxError, apsw.Error, OSError, files.Damaged) as error:
                    self.state.failed += 1
                    log.error("no backup of a mailbox", user=user, error=str(error) or repr(error))
                await self._give_way(began)

    def _is_settled(self, user: str) -> bool:
        return self._postmen.is_settled(user) and not self._mailboxes.is_held(user)

    async def _give_way(self, began: float) -> None:
        """A pause: four times as long as the work was, where mail is being stored."""
        took_s = time.monotonic() - began
        await asyncio.sleep(took_s * 4 if self._backlog.waiting or self._office.rate_now() else took_s / 4)

    def _link(self, user: str, seq: int | None) -> bool:
        """Whether nothing was written since the last backup, which then is that of today too; in the thread."""
        box = paths.user_dir(self._disk.data, user)
        path = box / FILE
        if not path.exists():
            return True
        at_us = now_us()
        place = files.directory(self._disk.data, user)
        index = files.load(place)
        found = {kind: self._unchanged(box / name, place, index, kind) for kind, name in files.KINDS.items()}
        if seq is None or None in found.values():
            return False
        today: dict[str, files.Entry] = {}
        for kind, previous in found.items():
            if previous:
                day, entry = previous
                with full_is_507():
                    files.link(files.file(place, kind, day), files.file(place, kind, self.state.day))
                today[kind] = msgspec.structs.replace(entry, at_us=at_us, layout=self._placement.version, seq=seq)
        self._keep(place, index, today, durably=False)
        self.state.linked += 1
        self.state.done += 1
        return True

    def _unchanged(
        self, path: Path, place: Path, index: files.Index, kind: str
    ) -> tuple[str, files.Entry] | tuple[()] | None:
        """The last backup of ``kind`` if it is as ``path`` is, nothing if there is none to be made, None if there
        is."""
        previous = files.newest(index, kind, now_us())
        if not path.exists():
            return ()
        if previous is None or previous[1].mark != files.mark_of(path):
            return None
        mark = previous[1].mark
        if max(mark.changed_ns, mark.log_changed_ns) + _SURE_NS > previous[1].at_us * 1000:
            return None  # written so shortly before that its time may be the same afterwards
        return previous if files.file(place, kind, previous[0]).exists() else None

    async def _copy(self, user: str) -> None:
        box = paths.user_dir(self._disk.data, user)
        place = files.directory(self._disk.data, user)
        today: dict[str, files.Entry] = {}
        index = await self._in_thread(lambda: self._prepare(place))
        mark = await self._in_thread(lambda: files.mark_of(box / FILE))
        size = mark.size + mark.log_size
        if self._disk.free_bytes() - size < self._reserve_bytes:
            raise DiskFull()
        async with _part(files.file(place, "messages", self.state.day)) as part:
            copied = await self._copy_box(user, part, large=size > _PORTION_PAGES * 4096)
            if copied is None:
                return
            today["messages"] = await self._in_thread(lambda: self._take(place, part, index, "messages", copied))
        statuses = box / files.KINDS["read_status"]
        if statuses.exists():
            mark, at_us = files.mark_of(statuses), now_us()
            async with _part(files.file(place, "read_status", self.state.day)) as marks:
                if await self._statuses.copy(user, marks):
                    said = files.Entry(0, "", -1, "", mark, at_us)
                    today["read_status"] = await self._in_thread(
                        lambda: self._take(place, marks, index, "read_status", said)
                    )
        await self._in_thread(lambda: self._keep(place, index, today, durably=True))
        self.state.copied += 1
        self.state.done += 1

    def _prepare(self, place: Path) -> files.Index:
        with full_is_507():
            place.mkdir(mode=0o700, exist_ok=True)
        index = files.load(place)
        files.prune(place, index, self._first_day())
        return index

    async def _copy_box(self, user: str, part: Path, *, large: bool) -> files.Entry | None:
        """The box as a file at ``part``, with all that waits for it; None if there is none."""
        for attempt in range(_TRIES):
            in_portions = large and attempt < _TRIES - 1
            async with contextlib.AsyncExitStack() as closing:
                first: Mailbox | None = None
                copy: Copy | None = None
                while True:
                    held = (
                        self._mailboxes.hold(user, create=False) if large else self._mailboxes.lend(user, self._thread)
                    )
                    async with held as box:
                        if box is None:
                            return None
                        if copy is None:
                            first, copy = box, await self._in_thread(lambda: box.copy(part))
                            closing.push_async_callback(self._in_thread, copy.close)  # where a step may still run
                        if box is not first:
                            break  # it was closed meanwhile: that copy is at an end
                        if in_portions and await self._in_thread(partial(copy.step, _PORTION_PAGES)) > _PORTION_PAGES:
                            began = time.monotonic()
                        else:
                            return await self._last_portion(box, copy)
                    await self._give_way(began)
        raise AssertionError("the last try is whole")

    async def _last_portion(self, box: Mailbox, copy: Copy) -> files.Entry:
        """The rest, and what the copy holds then."""
        seq, at_us = await self._postmen.settle(box), now_us()

        def work() -> files.Entry:
            with full_is_507():
                copy.step()
                rows, _removed = box.counts()
                version = box.version or ""
                copy.close()
            return files.Entry(0, "", rows, version, files.mark_of(box.path), at_us, self._placement.version, seq)

        return await self._in_thread(work)

    def _take(self, place: Path, part: Path, index: files.Index, kind: str, said: files.Entry) -> files.Entry:
        """Check the copy at ``part``, flush it and give it its name; what it is."""
        target = files.file(place, kind, self.state.day)
        size, sha256 = seal(part, durably=True)
        rows = files.check(part, kind)
        if said.rows not in (-1, rows):
            raise files.Damaged(f"{part.name}: {rows} rows of {said.rows}")
        previous = files.newest(index, kind, now_us())
        same = previous and previous[1].sha256 == sha256 and files.file(place, kind, previous[0])
        if same and same.exists():
            files.link(same, target)
        else:
            part.rename(target)
            self.state.bytes += size
        return msgspec.structs.replace(said, size=size, sha256=sha256, rows=rows)

    def _keep(self, place: Path, index: files.Index, today: dict[str, files.Entry], *, durably: bool) -> None:
        index[self.state.day] = today
        files.prune(place, index, self._first_day())
        with full_is_507():
            files.save(place, index, durably=durably)

    # -- the journal -------------------------------------------------------------------------------

    async def _copy_journal(self, place: Path) -> tuple[str, int]:
        """``shard.db`` into the set, in portions between which it is written; SHA-256 and size."""
        if self._disk.free_bytes() - await self._journal.read(self._journal.used_bytes) < self._reserve_bytes:
            raise DiskFull()
        target = place / f"shard-{self._index}.db"
        async with _part(target) as part:
            copy = await self._journal.read(lambda: Copy(self._journal.db, part))
            try:
                while True:
                    began = time.monotonic()
                    if await self._journal.read(lambda: copy.step(_PORTION_PAGES // 4)) == 0:
                        break
                    await self._give_way(began)
            finally:
                await self._journal.read(copy.close)

            def work() -> tuple[str, int]:
                size, sha256 = seal(part, durably=True)
                files.check(part, "journal")
                part.rename(target)
                sync_directory(place)
                return sha256, size

            return await self._in_thread(work)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        self._thread.shutdown()


@contextlib.asynccontextmanager
async def _part(target: Path) -> AsyncIterator[Path]:
    """Where ``target`` is made; nothing is left there. A full disk is :class:`DiskFull`."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with full_is_507():
            yield part
    finally:
        part.unlink(missing_ok=True)


def _day(us: int) -> str:
    return iso(us)[:10].replace("-", "")


def _today() -> str:
    return _day(now_us())
