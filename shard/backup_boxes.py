"""Copies of boxes for the backup of a day, into each person's directory: of those that were written since the last one.

A box is copied while it is held; a large one in portions, between which it takes mail. One that was not written since
its last backup is not even opened: that backup is today's too, under another name.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec
import structlog

from node import ops, paths
from node.clock import DAY_US, now_us
from node.config import Config
from node.errors import DiskFull, PoboxError, Unsure
from node.placement import Placement
from shard import archive, leftovers
from shard import backup_files as files
from shard.archive_copies import DAMAGED, ArchiveCopy
from shard.backlog import Backlog
from shard.backup_set import first_day
from shard.copying import Copy, seal
from shard.disk import Disk, full_is_507
from shard.keyring import Keyring
from shard.mailbox import FILE, Mailbox
from shard.mailboxes import Away, Mailboxes
from shard.person_copies import Made, PersonCopies
from shard.postmen import Postmen
from shard.statuses import Statuses

T = TypeVar("T")
log = structlog.get_logger()

_PORTION_PAGES = 2_000
_BATCH = 32
_TRIES = 3
_SURE_NS = 2_000_000_000


class BoxCopies:
    """Of boxes on ``disk``, under the layout ``placement``; disk waits are in ``thread``. ``give_way`` pauses after
    work that began at a time."""

    def __init__(
        self,
        config: Config,
        placement: Placement,
        disk: Disk,
        *,
        backlog: Backlog,
        mailboxes: Mailboxes,
        statuses: Statuses,
        postmen: Postmen,
        give_way: Callable[[float], Awaitable[None]],
        thread: ThreadPoolExecutor,
        keyring: Keyring | None = None,
    ) -> None:
        self._keyring = keyring
        self._keep_days = config.backup.keep_days
        self._reserve_bytes = config.shard.disk_reserve_bytes
        self._layout = placement.version
        self._disk = disk
        self._backlog = backlog
        self._mailboxes = mailboxes
        self._statuses = statuses
        self._postmen = postmen
        self._give_way = give_way
        self._thread = thread

    async def copy_all(self, users: list[str], state: ops.BackupState) -> None:
        """Of ``users``, those that changed, and the others' last backups as today's; ``state`` counts."""
        for first in range(0, len(users), _BATCH):
            batch = users[first : first + _BATCH]
            began = time.monotonic()
            # Looked at before the files are: what comes after changes them.
            known = {user: self._backlog.last_seq if self._is_settled(user) else None for user in batch}
            await self._in_thread(lambda: self._age_out(batch))  # noqa: B023
            changed = await self._in_thread(lambda: [u for u in known if not self._link(u, known[u], state)])  # noqa: B023
            await self._give_way(began)
            for user in changed:
                began = time.monotonic()
                try:
                    await self._copy(user, state)
                except (DiskFull, Unsure):
                    raise
                except (PoboxError, apsw.Error, OSError, files.Damaged) as error:
                    state.failed += 1
                    log.error("no backup of a mailbox", user=user, error=str(error) or repr(error))
                await self._give_way(began)

    def _age_out(self, users: list[str]) -> None:
        """What restores left goes with the backups of its day."""
        now = now_us()
        for user in users:
            with contextlib.suppress(OSError):
                leftovers.age_out(paths.user_dir(self._disk.data, user), now - self._keep_days * DAY_US, now)

    def _is_settled(self, user: str) -> bool:
        return self._postmen.is_settled(user) and not self._mailboxes.is_held(user)

    def _link(self, user: str, seq: int | None, state: ops.BackupState) -> bool:
        """Whether nothing was written since the last backup, which then is that of today too; in the thread."""
        box = paths.user_dir(self._disk.data, user)
        if not (box / FILE).exists():
            return True
        at_us = now_us()
        place = files.directory(self._disk.data, user)
        index = files.load(place)
        found = {kind: self._unchanged(path, place, index, kind) for kind, path in files.sources(box).items()}
        if seq is None or None in found.values():
            return False
        today: dict[str, files.Entry] = {}
        for kind, previous in found.items():
            if previous:
                day, entry = previous
                with full_is_507():
                    files.link(files.file(place, kind, day), files.file(place, kind, state.day))
                today[kind] = msgspec.structs.replace(entry, at_us=at_us, layout=self._layout, seq=seq)
        index[state.day] = today
        self._keep(place, index, durably=False)
        state.linked += 1
        state.done += 1
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

    async def _copy(self, user: str, state: ops.BackupState) -> None:
        if not await self._copied(user, state, together=False):
            await self._copied(user, state, together=True)

    async def _copied(self, user: str, state: ops.BackupState, *, together: bool) -> bool:
        """Copies of all files of ``user``, of box and archive ``together`` while the box is held, if that is asked for.
        False, and nothing is kept, if what the copy of the box names is not in those of its archive: then it is to be
        asked for."""
        box = paths.user_dir(self._disk.data, user)
        place = files.directory(self._disk.data, user)
        index, size = await self._in_thread(lambda: self._prepare(box, place))
        self._check_room(size)
        async with contextlib.AsyncExitStack() as parts:
            one = PersonCopies(user, place, state.day, index, lambda target: files.making(target, self._thread), parts)
            async with self._mailboxes.lend(user, self._thread) if together else contextlib.nullcontext() as held:
                part = await one.part("messages")
                if not together:
                    copied = await self._copy_box(user, part, large=size > _PORTION_PAGES * 4096)
                else:
                    copied = await self._copy_at_once(held, part)
                if copied is None:
                    return True
                one.made["messages"] = Made(part, copied)
                await self._copy_archive(one, box, held)
            statuses = box / files.KINDS["read_status"]
            mark = await self._in_thread(lambda: files.mark_of(statuses) if statuses.exists() else None)
            if mark is not None:
                at_us, part = now_us(), await one.part("read_status")
                if await self._statuses.copy(user, part):
                    one.made["read_status"] = Made(part, files.Entry(0, "", -1, "", mark, at_us))
            await self._in_thread(lambda: self._check(one))
            lacking = await self._in_thread(lambda: one.lacking(self._keyring))
            if lacking and not together:
                return False
            if lacking:
                log.error("archived messages are missing from a mailbox, and from its backup", user=user, count=lacking)
            await self._in_thread(lambda: self._take(one, state))
        state.copied += 1
        state.done += 1
        state.failed += one.has_failed
        return True

    def _prepare(self, box: Path, place: Path) -> tuple[files.Index, int]:
        """What backups there are, and how much of the box there is to copy."""
        with full_is_507():
            place.mkdir(mode=0o700, exist_ok=True)
        index = files.load(place)
        files.prune(place, index, first_day(self._keep_days))
        mark = files.mark_of(box / FILE)
        return index, mark.size + mark.log_size

    def _check_room(self, size: int) -> None:
        if self._disk.free_bytes() - size < self._reserve_bytes:
            raise DiskFull()

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
                            closing.push_async_callback(self._let_go, user, copy)
                        if box is not first:
                            break  # it was closed meanwhile: that copy is at an end
                        if in_portions and await self._in_thread(partial(copy.step, _PORTION_PAGES)) > _PORTION_PAGES:
                            began = time.monotonic()
                        else:
                            entry = await self._last_portion(box, copy)
                            closing.pop_all()
                            return entry
                    await self._give_way(began)
        raise AssertionError("the last try is whole")

    async def _copy_at_once(self, box: Mailbox | None, part: Path) -> files.Entry | None:
        """The same while ``box`` is held; None if there is none."""
        if box is None:
            return None
        async with contextlib.AsyncExitStack() as closing:
            copy = await self._in_thread(lambda: box.copy(part))
            closing.push_async_callback(self._in_thread, copy.close)
            entry = await self._last_portion(box, copy)
            closing.pop_all()
            return entry

    async def _copy_archive(self, one: PersonCopies, box: Path, held: Mailbox | None) -> None:
        """The files of the archive, those that changed: in portions between which the box takes mail, unless it is
        ``held``. One that can't be read is as it was when it was copied last."""
        for year in await self._in_thread(lambda: archive.years_in(box / archive.DIRECTORY)):
            kind = files.archive_kind(year)
            path = files.source(box, kind)
            at_us = now_us()
            known = await self._in_thread(lambda: self._unchanged(path, one.place, one.index, kind))  # noqa: B023
            if known:
                day, entry = known
                one.keep(kind, day, msgspec.structs.replace(entry, at_us=at_us))
                continue
            try:
                self._check_room(path.stat().st_size)
                part = await one.part(kind)
                one.made[kind] = Made(part, await self._copy_year(one.user, path, part, is_held=held is not None))
            except (FileNotFoundError, apsw.CantOpenError, *DAMAGED) as error:
                if not path.exists():
                    continue  # it has gone, since it held nothing any more
                if not isinstance(error, DAMAGED):
                    raise
                one.fall_back(kind, error)

    async def _copy_year(self, user: str, path: Path, part: Path, *, is_held: bool) -> files.Entry:
        alone = contextlib.nullcontext if is_held else partial(self._mailboxes.alone, user)
        pages = -1 if is_held else _PORTION_PAGES
        async with contextlib.AsyncExitStack() as closing:
            copy: ArchiveCopy | None = None
            while True:
                async with alone():
                    began = time.monotonic()
                    if copy is None:
                        copy = await self._in_thread(lambda: ArchiveCopy(path, part, user, self._keyring))
                        closing.push_async_callback(self._let_go, user, copy, is_held=is_held)
                    if await self._in_thread(partial(copy.step, pages)) == 0:
                        mark, at_us = await self._in_thread(lambda: files.mark_of(path)), now_us()
                        return files.Entry(0, "", -1, "", mark, at_us)
                await self._give_way(began)

    async def _let_go(self, user: str, copy: Copy | ArchiveCopy, *, is_held: bool = False) -> None:
        """Close ``copy``, of which a step may still run: as long as it is open it is in the box of ``user``. At the end
        somebody else may be in there, and it ends with the box."""
        with contextlib.suppress(Away):
            async with contextlib.nullcontext() if is_held else self._mailboxes.alone(user):
                await self._in_thread(copy.close)

    async def _last_portion(self, box: Mailbox, copy: Copy) -> files.Entry:
        """The rest, and what the copy holds then."""
        seq, at_us = await self._postmen.settle(box), now_us()

        def work() -> files.Entry:
            with full_is_507():
                copy.step()
                rows, _removed = box.counts()
                version = box.version or ""
                copy.close()
            return files.Entry(0, "", rows, version, files.mark_of(box.path), at_us, self._layout, seq)

        return await self._in_thread(work)

    def _check(self, one: PersonCopies) -> None:
        """Check the copies that were made, and flush them; what each is."""
        for kind, made in list(one.made.items()):
            if not made.is_new:
                continue
            size, sha256 = seal(made.path, durably=True)
            try:
                rows = files.check(made.path, kind, one.user, self._keyring)
            except files.Damaged as error:
                if files.year_of(kind) is None:
                    raise
                one.fall_back(kind, error)
                continue
            if made.entry.rows not in (-1, rows):
                raise files.Damaged(f"{made.path.name}: {rows} rows of {made.entry.rows}")
            made.entry = msgspec.structs.replace(made.entry, size=size, sha256=sha256, rows=rows)

    def _take(self, one: PersonCopies, state: ops.BackupState) -> None:
        """Give the copies their names."""
        for kind, made in one.made.items():
            target = files.file(one.place, kind, one.day)
            previous = files.newest(one.index, kind, now_us())
            same = previous and previous[1].sha256 == made.entry.sha256 and files.file(one.place, kind, previous[0])
            if not made.is_new:
                files.link(made.path, target)
            elif same and same.exists():
                files.link(same, target)
            else:
                made.path.rename(target)
                state.bytes += made.entry.size
        one.index[one.day] = {kind: made.entry for kind, made in one.made.items()}
        self._keep(one.place, one.index, durably=True)

    def _keep(self, place: Path, index: files.Index, *, durably: bool) -> None:
        files.prune(place, index, first_day(self._keep_days))
        with full_is_507():
            files.save(place, index, durably=durably)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
