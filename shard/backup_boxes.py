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
from shard import backup_files as files
from shard import leftovers
from shard.backlog import Backlog
from shard.backup_set import first_day
from shard.copying import Copy, seal
from shard.disk import Disk, full_is_507
from shard.keyring import Keyring
from shard.mailbox import FILE, Mailbox
from shard.mailboxes import Mailboxes
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
        box = paths.user_dir(self._disk.data, user)
        place = files.directory(self._disk.data, user)
        today: dict[str, files.Entry] = {}
        index, size = await self._in_thread(lambda: self._prepare(box, place))
        if self._disk.free_bytes() - size < self._reserve_bytes:
            raise DiskFull()
        async with files.making(files.file(place, "messages", state.day), self._thread) as part:
            copied = await self._copy_box(user, part, large=size > _PORTION_PAGES * 4096)
            if copied is None:
                return
            today["messages"] = await self._in_thread(lambda: self._take(place, part, index, "messages", copied, state))
        statuses = box / files.KINDS["read_status"]
        if (mark := await self._in_thread(lambda: files.mark_of(statuses) if statuses.exists() else None)) is not None:
            at_us = now_us()
            async with files.making(files.file(place, "read_status", state.day), self._thread) as marks:
                if await self._statuses.copy(user, marks):
                    said = files.Entry(0, "", -1, "", mark, at_us)
                    today["read_status"] = await self._in_thread(
                        lambda: self._take(place, marks, index, "read_status", said, state)
                    )
        index[state.day] = today
        await self._in_thread(lambda: self._keep(place, index, durably=True))
        state.copied += 1
        state.done += 1

    def _prepare(self, box: Path, place: Path) -> tuple[files.Index, int]:
        """What backups there are, and how much there is to copy."""
        with full_is_507():
            place.mkdir(mode=0o700, exist_ok=True)
        index = files.load(place)
        files.prune(place, index, first_day(self._keep_days))
        mark = files.mark_of(box / FILE)
        return index, mark.size + mark.log_size

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

    async def _let_go(self, user: str, copy: Copy) -> None:
        """Close ``copy``, of which a step may still run: as long as it is open it is in the box of ``user``."""
        async with self._mailboxes.alone(user):
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

    def _take(
        self, place: Path, part: Path, index: files.Index, kind: str, said: files.Entry, state: ops.BackupState
    ) -> files.Entry:
        """Check the copy at ``part``, flush it and give it its name; what it is."""
        target = files.file(place, kind, state.day)
        size, sha256 = seal(part, durably=True)
        rows = files.check(part, kind, place.parent.name, self._keyring)
        if said.rows not in (-1, rows):
            raise files.Damaged(f"{part.name}: {rows} rows of {said.rows}")
        previous = files.newest(index, kind, now_us())
        same = previous and previous[1].sha256 == sha256 and files.file(place, kind, previous[0])
        if same and same.exists():
            files.link(same, target)
        else:
            part.rename(target)
            state.bytes += size
        return msgspec.structs.replace(said, size=size, sha256=sha256, rows=rows)

    def _keep(self, place: Path, index: files.Index, *, durably: bool) -> None:
        files.prune(place, index, first_day(self._keep_days))
        with full_is_507():
            files.save(place, index, durably=durably)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
