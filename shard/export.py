"""What a person takes along that devices don't get: their read marks and their archive, as files that never change.

They lie with the copies for devices, and go as those do; whoever wants them opens them at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from node import ops
from shard import archive
from shard.copying import Hidden, copy_out
from shard.disk import full_is_507
from shard.mailbox import Mailbox
from shard.mailboxes import Mailboxes
from shard.snapshots import Snapshots
from shard.status_birth import FILE
from shard.statuses import Statuses


class Exports:
    """``box`` holds a person's box."""

    def __init__(
        self,
        data: Path,
        snapshots: Snapshots,
        statuses: Statuses,
        mailboxes: Mailboxes,
        box: Callable[[str], AbstractAsyncContextManager[Mailbox]],
    ) -> None:
        self._data = data
        self._snapshots = snapshots
        self._statuses = statuses
        self._mailboxes = mailboxes
        self._box = box

    async def files(self, q: ops.Export) -> list[ops.ExportFile]:
        made: list[ops.ExportFile] = []

        async def add(name: str, size: int, copy: Callable[[Path], Awaitable[Hidden | None]]) -> None:
            kept = await self._snapshots.other(q.user, size, copy)
            if kept is not None:
                made.append(ops.ExportFile(name, str(kept.path.relative_to(self._data)), kept.size, kept.hidden_by))

        async with self._box(q.user) as box:
            for source in archive.files(box):
                await add(
                    f"archive/{source.name}",
                    source.stat().st_size,
                    lambda path: self._mailboxes.read(lambda: _copy(box, source, path)),  # noqa: B023
                )
        await add(FILE, 0, lambda path: self._statuses.copy_out(q.user, path))
        return made


def _copy(box: Mailbox, source: Path, path: Path) -> Hidden:
    with full_is_507(), archive.reading(box, source) as (db, key):
        return copy_out(db, path, key)
