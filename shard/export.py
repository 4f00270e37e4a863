"""What a person takes along that devices don't get: their read marks and their archive, as files that never change.

They lie with the copies for devices, and go as those do; whoever wants them opens them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from node import ops
from shard import archive
from shard.copying import copy_whole
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
        async with self._box(q.user) as box:
            for source in archive.files(box):
                path = self._snapshots.place(source.stat().st_size)
                await self._mailboxes.read(lambda: _copy(source, path))  # noqa: B023
                made.append(self._take(q.user, f"archive/{source.name}", path))
        path = self._snapshots.place(0)
        if await self._statuses.copy(q.user, path):
            made.append(self._take(q.user, FILE, path))
        return made

    def _take(self, user: str, name: str, path: Path) -> ops.ExportFile:
        kept = self._snapshots.take(user, path)
        return ops.ExportFile(name, str(kept.path.relative_to(self._data)), kept.size)


def _copy(source: Path, path: Path) -> None:
    with full_is_507(), archive.reading(source) as db:
        copy_whole(db, path)
