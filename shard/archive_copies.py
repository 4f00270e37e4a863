"""Copies of archives for the backup of a day, beside the copy of the box that says what counts in them.

The box is copied first, then its archive, a file at a time; each copy is whole, and as its file was at its own moment.
What is moved in between is in both copies, and counts once: the copy of the box doesn't name it. What is taken out in
between, since it was deleted, would be named and missing: :func:`lacking` looks for that, and whoever copies begins
anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import apsw

from shard import archive, mailbox
from shard import backup_files as files
from shard.copying import Copy
from shard.keyring import KeyLost, Keyring

DAMAGED = (*mailbox.CORRUPT, apsw.SQLError, KeyLost, files.Damaged)
"""what a file of an archive that can't be read shows itself by"""


class ArchiveCopy:
    """Of the file at ``path``, of ``owner``, to a new file at ``part``, in portions; the key is that of the file. For
    one thread. Nobody else may be in the file during a portion; what is changed between two begins it anew. To be
    closed."""

    def __init__(self, path: Path, part: Path, owner: str, keyring: Keyring | None) -> None:
        self._db, key = archive.connect(path, owner, keyring)
        try:
            self._copy = Copy(self._db, part, key)
        except BaseException:
            self._db.close()
            raise

    def step(self, pages: int) -> int:
        """As :meth:`shard.copying.Copy.step`."""
        return self._copy.step(pages)

    def close(self) -> None:
        try:
            self._copy.close()
        finally:
            self._db.close()


def lacking(box: Path, years: Mapping[int, Path], owner: str, keyring: Keyring | None) -> int:
    """How many messages the copy of a box names that the copies of its archive, by year, don't hold."""
    count = 0
    with contextlib.closing(files.reading(box, owner, keyring)) as db:
        for year in mailbox.shelf_years(db):
            named = mailbox.shelved_in(db, year)
            if year in years:
                with contextlib.closing(files.reading(years[year], owner, keyring)) as copy:
                    named = archive.absent(named, archive.ids_in(copy))
                    count += sum(1 for _ in named)
            else:
                count += sum(1 for _ in named)
    return count
