"""The copies of one person's files that are being made for the backup of a day: where they are until they have their
names, and what each of them is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog

from node.clock import now_us
from shard import backup_files as files
from shard.archive_copies import lacking
from shard.keyring import Keyring

log = structlog.get_logger()


class Made:
    """A copy at ``path``, and what it is; ``is_new``, or the backup of another day."""

    __slots__ = ("entry", "is_new", "path")

    def __init__(self, path: Path, entry: files.Entry, *, is_new: bool = True) -> None:
        self.path, self.entry, self.is_new = path, entry, is_new


class PersonCopies:
    """Whose copies are being made. ``making`` says where a file is made; it is there as long as ``parts`` is open."""

    def __init__(
        self,
        user: str,
        place: Path,
        day: str,
        index: files.Index,
        making: Callable[[Path], AbstractAsyncContextManager[Path]],
        parts: contextlib.AsyncExitStack,
    ) -> None:
        self.user = user
        self.place = place
        self.day = day
        self.index = index
        self._making = making
        self._parts = parts
        self.made: dict[str, Made] = {}
        """by kind"""
        self.has_failed = False
        """of a file there is no backup of today"""

    async def part(self, kind: str) -> Path:
        return await self._parts.enter_async_context(self._making(files.file(self.place, kind, self.day)))

    def keep(self, kind: str, day: str, entry: files.Entry) -> None:
        """The backup of ``day`` is that of today."""
        self.made[kind] = Made(files.file(self.place, kind, day), entry, is_new=False)

    def fall_back(self, kind: str, error: Exception) -> None:
        """The file can't be read: its last backup stays what there is of it, if there is one."""
        self.has_failed = True
        log.error("no backup of an archive", user=self.user, archive=kind, error=str(error) or repr(error))
        self.made.pop(kind, None)
        previous = files.newest(self.index, kind, now_us())
        if previous and files.file(self.place, kind, previous[0]).exists():
            self.keep(kind, *previous)

    def lacking(self, keyring: Keyring | None) -> int:
        """As :func:`shard.archive_copies.lacking`."""
        years = {year: made.path for kind, made in self.made.items() if (year := files.year_of(kind)) is not None}
        return lacking(self.made["messages"].path, years, self.user, keyring)
