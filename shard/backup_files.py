"""The backups in a person's directory: ``backups/messages_YYYYMMDD.db``, ``read_status_YYYYMMDD.db``, and of each year
of the archive ``archive_YYYY_YYYYMMDD.db``; and what they are.

A file under its name is whole: it was written as ``.part``, checked, flushed, then renamed. One that did not change
is the file of the day before under another name (a hard link). They are SQLite files without a log, encrypted with
the key of what they are copies of if that is, and never change. ``index.json`` says of each day what its files hold,
and up to which letter; where it is lost, so is only that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from pathlib import Path

import apsw
import msgspec

from node import paths
from node.placement import replace, write_all
from shard import archive
from shard.disk import full_is_507
from shard.keyring import KeyLost, Keyring, key_at
from shard.mailbox import CORRUPT
from shard.sqlite import MODE_AT, WAL_MODE, immutable

INDEX = "index.json"
KINDS = {"messages": "messages.db", "read_status": "read_status.db"}
"""a backup's name, and the file that it is of; that of a year of the archive has a name as :func:`archive_kind` says"""
_ARCHIVE = re.compile("archive_([0-9]{4})")
_NAME = re.compile(r"(.+)_([0-9]{8})\.db")
_PORTION = 1024 * 1024
_TABLE = {"read_status": "read_status", "journal": "letters"}


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """Of a database and its log, modification times (ns) and sizes: where they are the same, and older than the copy,
    nothing was written since."""

    changed_ns: int
    size: int
    log_changed_ns: int
    log_size: int


class Entry(msgspec.Struct, frozen=True):
    """One file of one day. ``at_us``: it is as the box was then, with all letters up to ``seq`` of ``layout``."""

    size: int
    sha256: str
    rows: int
    """messages, or read marks"""
    version: str
    mark: Mark
    at_us: int
    layout: int = 0
    seq: int = 0


Index = dict[str, dict[str, Entry]]
"""by day, by kind"""


class Damaged(Exception):
    """A backup isn't what it was."""


def directory(data: Path, user: str) -> Path:
    return paths.user_dir(data, user) / "backups"


def file(place: Path, kind: str, day: str) -> Path:
    return place / f"{kind}_{day}.db"


def archive_kind(year: int) -> str:
    return f"archive_{year:04}"


def year_of(kind: str) -> int | None:
    """Of which year of an archive a backup is; None if it is of another file."""
    found = _ARCHIVE.fullmatch(kind)
    return int(found[1]) if found else None


def source(box: Path, kind: str) -> Path:
    """What a backup is of, in the directory ``box`` of a person. Raises :class:`KeyError` for what is no kind."""
    year = year_of(kind)
    return box / KINDS[kind] if year is None else archive.path_of(box / archive.DIRECTORY, year)


def sources(box: Path) -> dict[str, Path]:
    """By kind, all that a backup of the person whose directory is ``box`` is of; that of the box comes first."""
    kinds = [*KINDS, *map(archive_kind, archive.years_in(box / archive.DIRECTORY))]
    return {kind: source(box, kind) for kind in kinds}


def found(place: Path) -> Iterator[tuple[str, str, Path]]:
    """Kind, day and path of each backup in ``place``."""
    for path in sorted(place.glob("*.db")):
        named = _NAME.fullmatch(path.name)
        if named is not None and (named[1] in KINDS or year_of(named[1]) is not None):
            yield named[1], named[2], path


def load(place: Path) -> Index:
    """What the backups in ``place`` hold; nothing if that is lost."""
    try:
        return msgspec.json.decode((place / INDEX).read_bytes(), type=Index)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return {}


def save(place: Path, index: Index, *, durably: bool) -> None:
    replace(place / INDEX, msgspec.json.encode(index), durably=durably)


def exist(box: Path) -> bool:
    """Whether the person whose directory is ``box`` has backups."""
    return (box / "backups" / INDEX).exists()


def newest(index: Index, kind: str, before_us: int) -> tuple[str, Entry] | None:
    """The last backup of ``kind`` that is not later than ``before_us``, and its day."""
    days = [(day, entries[kind]) for day, entries in index.items() if kind in entries]
    return max(
        ((day, entry) for day, entry in days if entry.at_us <= before_us),
        key=lambda found: found[1].at_us,
        default=None,
    )


def mark_of(path: Path) -> Mark:
    """Of the database at ``path``."""
    status = path.stat()
    try:
        log = path.with_name(f"{path.name}-wal").stat()
    except FileNotFoundError:
        return Mark(status.st_mtime_ns, status.st_size, 0, 0)
    return Mark(status.st_mtime_ns, status.st_size, log.st_mtime_ns, log.st_size)


def check(path: Path, kind: str, owner: str = "", keyring: Keyring | None = None) -> int:
    """The rows in a backup that SQLite finds in order; raises :class:`Damaged`, also for one whose key is lost."""
    try:
        with contextlib.closing(reading(path, owner, keyring)) as db:
            said = [str(line) for (line,) in db.execute("PRAGMA integrity_check(3)")]
            if said != ["ok"]:
                raise Damaged(f"{path.name}: {'; '.join(said)}")
            (rows,) = db.execute(f"SELECT count(*) FROM {_TABLE.get(kind, 'messages')}").fetchone() or (0,)
            return int(rows)
    except (*CORRUPT, apsw.SQLError, KeyLost) as error:
        raise Damaged(f"{path.name}: {error}") from error


def check_against(
    path: Path, kind: str, entry: Entry, keyring: Keyring | None = None, owner: str | None = None
) -> None:
    """Raise :class:`Damaged` unless the file is what ``entry`` says; of ``owner``, or of whose directory it is in among
    the backups."""
    try:
        size, sha256 = path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror}") from error
    if (size, sha256) != (entry.size, entry.sha256):
        raise Damaged(f"{path.name}: its content is not what was backed up")
    if check(path, kind, owner or path.parent.parent.name, keyring) != entry.rows:
        raise Damaged(f"{path.name}: it does not hold {entry.rows} rows")


def reading(path: Path, owner: str = "", keyring: Keyring | None = None) -> apsw.Connection:
    """A file of ``owner`` that never changes, to be read. Raises :class:`KeyLost`."""
    return immutable(path, key_at(path, keyring, owner))


def sha256_of(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def portions(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while portion := source.read(_PORTION):
            yield portion


def thaw(source: Path, target: Path) -> None:
    """A new file at ``target``, a database to work with, from the backup ``source``; not flushed."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for portion in portions(source):
            write_all(fd, portion)
        os.pwrite(fd, WAL_MODE, MODE_AT)
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def making(target: Path, thread: Executor) -> AsyncIterator[Path]:
    """Where ``target`` is made; nothing is left there, and what has to go, goes in ``thread``: a large file takes the
    disk a while. A full disk is :class:`DiskFull`."""
    part = target.with_name(f"{target.name}.part")
    run = asyncio.get_running_loop().run_in_executor
    await run(thread, part.unlink, True)
    try:
        with full_is_507():
            yield part
    finally:
        await run(thread, part.unlink, True)


def link(source: Path, target: Path) -> None:
    """``target`` is ``source`` under another name, whatever lay there."""
    if target.exists() and target.samefile(source):
        return
    fresh = target.with_name(f"{target.name}.part")
    fresh.unlink(missing_ok=True)
    os.link(source, fresh)
    fresh.rename(target)


def prune(place: Path, index: Index, before_day: str) -> None:
    """Remove what is from days before ``before_day``, and what a kill left unfinished; ``index`` follows."""
    for day in [day for day in index if day < before_day]:
        del index[day]
    for path in place.glob("*.part"):
        path.unlink(missing_ok=True)
    for _kind, day, path in found(place):
        if day < before_day:
            path.unlink(missing_ok=True)
