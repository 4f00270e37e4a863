"""What the archive of a box lacks that is being restored, out of its backups.

The box names what counts (:mod:`shard.archive`). So what is put into the files for one that doesn't have its place yet
changes nothing for the one that has it, and nothing is taken out: a kill in between leaves the old box with all that is
its own. What the box names and no file of its archive holds was deleted since, or was in a file that was lost.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import structlog

from node.placement import sync_directory
from shard import archive, leftovers, mailbox
from shard import backup_files as files
from shard.archive_copies import ArchiveCopy
from shard.copying import seal
from shard.disk import Disk
from shard.mailbox import Mailbox

log = structlog.get_logger()

_PORTION = 500
Pinned = dict[int, tuple[Path, files.Entry]]
"""by year, a backup under a name of its own, which stays when the backup goes, and what it is"""


def pin(box: Path, index: files.Index, day: str, ending: str) -> Pinned:
    """The archive as of ``day``, of the person whose directory is ``box``; to be unpinned."""
    unpin(box, ending)
    pinned: Pinned = {}
    for kind, entry in index[day].items():
        if (year := files.year_of(kind)) is not None:
            name = box / f"{kind}.db.{ending}"
            with contextlib.suppress(FileNotFoundError):
                os.link(files.file(box / "backups", kind, day), name)
                os.utime(name)  # else it would pass for what a kill left long ago
                pinned[year] = name, entry
    return pinned


def unpin(box: Path, ending: str) -> None:
    for path in box.glob(f"archive_*.db.{ending}"):
        path.unlink(missing_ok=True)


def revive(box: Mailbox, disk: Disk, pinned: Pinned) -> int:
    """Put what ``box`` names and its archive lacks into it, out of what is ``pinned`` and else of any backup; how many
    messages are nowhere. A file that can't be read is set aside. For a thread that holds the box which is in its place.
    Raises :class:`DiskFull`."""
    lost = 0
    for year in box.shelf_years():
        aside = None if archive.is_whole(box, year) else archive.set_aside(box, year, disk)
        missing = archive.missing(box, year)
        for path, entry in _backups(box, year, pinned):
            if not missing:
                break
            try:
                files.check_against(path, files.archive_kind(year), entry, box.keyring, box.user)
            except files.Damaged as error:
                log.error("a backup is damaged", user=box.user, error=str(error))
                continue
            with contextlib.closing(files.reading(path, box.user, box.keyring)) as source:
                archive.put_back(box, year, source, missing)
            missing = archive.missing(box, year)
        if aside is not None and not missing:
            leftovers.mark(aside)
        lost += len(missing)
    return lost


def _backups(box: Mailbox, year: int, pinned: Pinned) -> Iterator[tuple[Path, files.Entry]]:
    """Of a year: that which fits to the box, then the others, the last one first; one content once."""
    seen: set[str] = set()
    kind, place = files.archive_kind(year), box.path.parent / "backups"
    if year in pinned:
        seen.add(pinned[year][1].sha256)
        yield pinned[year]
    for day, entries in sorted(files.load(place).items(), reverse=True):
        entry = entries.get(kind)
        if entry is not None and entry.sha256 not in seen:
            seen.add(entry.sha256)
            yield files.file(place, kind, day), entry


def keep_aside(old: apsw.Connection, box: Mailbox, directory: Path) -> None:
    """Copy into ``directory`` the files of those years in which the box that ``old`` has open names what ``box``
    doesn't know: the next sweep takes that out of the archive."""
    for year in mailbox.shelf_years(old):
        path = archive.path_of(box.path.with_name(archive.DIRECTORY), year)
        if not path.exists() or not _names_more(old, box, year):
            continue
        directory.mkdir(mode=0o700, exist_ok=True)
        target = archive.path_of(directory, year)
        with contextlib.closing(ArchiveCopy(path, target, box.user, box.keyring)) as copy:
            copy.step(-1)
        seal(target, durably=True)
        sync_directory(directory)


def _names_more(old: apsw.Connection, box: Mailbox, year: int) -> bool:
    named = mailbox.shelved_in(old, year)
    while ids := list(itertools.islice(named, _PORTION)):
        strangers = set(ids) - box.find(ids).keys() - box.shelved(ids).keys()
        if any(not box.knows(message_id) for message_id in strangers):
            return True
    return False
