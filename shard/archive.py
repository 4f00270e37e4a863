"""What a person got long ago, out of the box that devices carry: ``archive/messages_YYYY.db``, by ``created_at``.

The box itself says what is archived (its table ``archived``), the files only hold it: a message counts if the box names
it, and in the year it names. So moving, deleting and a power cut each turn on one transaction of the box. A message is
on disk in its year's file before the box lets go of it; a box that a cut has set back still has it, and what lies in
the files unnamed is written over, or swept, when the archive is next added to.

Never the message that came last: its row is the mark from which rows are counted on.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import structlog

from node.clock import iso, now_us
from node.errors import Unavailable
from node.model import Message, Messages
from node.placement import sync_directory
from shard.disk import Disk, full_is_507
from shard.keyring import KeyLost, Keyring, key_at
from shard.mailbox import CORRUPT, Mailbox
from shard.rows import COLUMNS, Place, Placed, one, paged, placed_rows, position
from shard.sqlite import Key, Sync, unlock, way

log = structlog.get_logger()

DIRECTORY = "archive"
SCHEMA_VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS messages(
    id TEXT PRIMARY KEY NOT NULL, channel_id TEXT NOT NULL, title TEXT NOT NULL, content TEXT NOT NULL,
    message_type TEXT DEFAULT 'text', priority INTEGER DEFAULT 5, sender TEXT,
    created_at DATETIME, updated_at DATETIME, metadata JSON, place INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS messages_created ON messages(created_at, place);
PRAGMA user_version={SCHEMA_VERSION};
"""
_ADD = f"INSERT OR REPLACE INTO messages({COLUMNS}, place) VALUES(?,?,?,?,?,?,?,?,?,?,?)"
_TAKE = f"SELECT {COLUMNS}, place FROM messages WHERE id IN (SELECT value FROM json_each(?))"
_PORTION = 500
"""messages that are moved in one transaction"""


def move(box: Mailbox, before: str, most: int = _PORTION) -> int:
    """Move up to ``most`` messages that were made and accepted before ``before`` (an ISO time); how many there were.

    Blocks for the disk, three flushes a year: for a thread that holds the box. Raises :class:`DiskFull`.
    """
    old = box.older(before, most)
    if not old:
        return 0
    years: dict[int, list[Placed]] = defaultdict(list)
    for row in old:
        years[int(row[7][:4])].append(row)
    with full_is_507():
        make_directory(box)
        for year, rows in years.items():
            with _opened(box, year, create=True) as db, db:
                db.executemany(_ADD, rows)
        box.begin()
        try:
            box.shelve([(row[0], year) for year, rows in years.items() for row in rows])
            box.commit()
        except BaseException:
            box.rollback()
            raise
    return len(old)


def forget(box: Mailbox, message_id: str) -> None:
    """Take what the box doesn't name any more out of the files. For a thread; the box must be held."""
    if box.shelves and not box.shelved([message_id]):
        for year in _years(box):
            with _opened(box, year) as db, db:
                db.execute("DELETE FROM messages WHERE id=?", (message_id,))


def outdated(box: Mailbox, before: str, most: int) -> dict[int, list[str]]:
    """By year, up to ``most`` of what lies in the files, named or not, and was made and accepted before ``before``."""
    found: dict[int, list[str]] = {}
    for year in _years(box):
        if f"{year:04}" <= before[:4] and (left := most - sum(map(len, found.values()))) > 0:
            with _opened(box, year) as db:
                rows = db.execute(
                    "SELECT id FROM messages WHERE created_at<?1 AND updated_at<?1 LIMIT ?2", (before, left)
                ).fetchall()
            if rows:
                found[year] = [str(message_id) for (message_id,) in rows]
    return found


def overdue(box: Mailbox, before: str, most: int) -> Iterator[list[str]]:
    """In portions of ``most``, all that lies in the files and was made and accepted before ``before``."""
    for year in _years(box):
        if f"{year:04}" <= before[:4]:
            with _opened(box, year) as db:
                rows = db.execute("SELECT id FROM messages WHERE created_at<?1 AND updated_at<?1", (before,))
                while portion := [str(message_id) for (message_id,) in itertools.islice(rows, most)]:
                    yield portion


def drop(box: Mailbox, ids: dict[int, list[str]]) -> None:
    """Take messages, by year, out of the files; that the box doesn't name them any more is on disk. A file without any
    goes."""
    directory = _directory(box)
    for year, some in ids.items():
        with _opened(box, year) as db, db:
            db.executemany("DELETE FROM messages WHERE id=?", [(message_id,) for message_id in some])
            is_empty = db.execute("SELECT 1 FROM messages LIMIT 1").fetchone() is None
        if is_empty:
            path_of(directory, year).unlink()
            sync_directory(directory)


def sweep(box: Mailbox) -> int:
    """Take everything out of the files that the box doesn't name; how many messages that were."""
    swept = 0
    for year in _years(box):
        with _opened(box, year) as db, db:
            ids = [row[0] for row in db.execute("SELECT id FROM messages")]
            named = box.shelved(ids)
            strangers = [(message_id,) for message_id in ids if named.get(message_id) != year]
            db.executemany("DELETE FROM messages WHERE id=?", strangers)
            swept += len(strangers)
    return swept


def read(box: Mailbox, message_id: str) -> Message | None:
    """A message of the box, or of its archive."""
    found = box.read(message_id)
    if found is None and box.shelves and (year := box.shelved([message_id]).get(message_id)) is not None:
        if not path_of(_directory(box), year).exists():
            return None
        with _opened(box, year) as db:
            return one(db, message_id)
    return found


def page(box: Mailbox, channel_id: str | None, limit: int, cursor: str | None) -> Messages:
    """As :meth:`Mailbox.page`, with the archive as if it had never been moved."""
    if not box.shelves:
        return box.page(channel_id, limit, cursor)
    place = None if cursor is None else position(cursor)
    rows = heapq.merge(
        box.rows(channel_id, limit + 1, place), _rows(box, channel_id, limit + 1, place), key=_order, reverse=True
    )
    return paged(rows, limit)


def _order(row: Placed) -> Place:
    return row[7], row[10]


def _rows(box: Mailbox, channel_id: str | None, most: int, place: Place | None) -> Iterator[Placed]:
    """The messages that the box names, after ``place``, newest first; read in portions of ``most``."""
    for year in reversed(_years(box)):
        if place is not None and f"{year:04}" > place[0][:4]:
            continue
        after = place
        while True:
            with _opened(box, year) as db:
                rows = list(placed_rows(db, "place", channel_id, most, after))
            named = box.shelved([row[0] for row in rows])
            yield from (row for row in rows if named.get(row[0]) == year)
            if len(rows) < most:
                break
            after = _order(rows[-1])


def missing(box: Mailbox, year: int) -> list[str]:
    """What the box names in ``year``, and the year's file doesn't hold."""
    if year not in _years(box):
        return list(box.shelved_in(year))
    with _opened(box, year) as db:
        return list(absent(box.shelved_in(year), ids_in(db)))


def put_back(box: Mailbox, year: int, source: apsw.Connection, ids: list[str]) -> None:
    """Copy those of ``ids`` that ``source`` holds, a file of that year that nobody changes, into the year's file; they
    are on disk when it returns."""
    make_directory(box)
    with full_is_507(), _opened(box, year, create=True) as db, db:
        for first in range(0, len(ids), _PORTION):
            some = msgspec.json.encode(ids[first : first + _PORTION]).decode()
            db.executemany(_ADD, source.execute(_TAKE, (some,)))


def is_whole(box: Mailbox, year: int) -> bool:
    """Whether the year's file can be read, all of it, or isn't there."""
    if year not in _years(box):
        return True
    try:
        with _opened(box, year) as db:
            return db.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
    except (Unavailable, KeyLost, apsw.SQLError):
        return False


def set_aside(box: Mailbox, year: int, disk: Disk) -> Path:
    """Keep the year's file, which is damaged, under another name in the person's directory; where. What undoes it goes
    first: it must not meet another file."""
    path, stamp = path_of(_directory(box), year), iso(now_us()).replace(":", "")
    for ending in ("-journal", ""):
        old = path.with_name(f"{path.name}{ending}")
        aside = box.path.with_name(f"{DIRECTORY}_{year:04}.db{ending}.damaged-{stamp}")
        if old.exists():
            disk.rename(old, aside)
            sync_directory(old.parent)
    log.error("a part of an archive is damaged, set aside", user=box.user, year=year, stamp=stamp)
    return aside


def absent(named: Iterator[str], there: Iterator[str]) -> Iterator[str]:
    """What of ``named`` is not ``there``; both are in order."""
    other = next(there, None)
    for message_id in named:
        while other is not None and other < message_id:
            other = next(there, None)
        if other != message_id:
            yield message_id


def ids_in(db: apsw.Connection) -> Iterator[str]:
    """What the file of a year holds that ``db`` has open, in order."""
    for (message_id,) in db.execute("SELECT id FROM messages ORDER BY id"):
        yield message_id


def make_directory(box: Mailbox) -> None:
    """Where the files are; durably."""
    directory = _directory(box)
    if not directory.is_dir():
        directory.mkdir(mode=0o700)
        sync_directory(directory.parent)


def _directory(box: Mailbox) -> Path:
    return box.path.with_name(DIRECTORY)


def path_of(directory: Path, year: int) -> Path:
    """The file of a year."""
    return directory / f"messages_{year:04}.db"


def files(box: Mailbox) -> list[Path]:
    """Those that there are, by year."""
    return [path_of(_directory(box), year) for year in _years(box)]


@contextlib.contextmanager
def reading(box: Mailbox, path: Path) -> Iterator[tuple[apsw.Connection, Key | None]]:
    """One of :func:`files`, and its key."""
    key = key_at(path, box.keyring, box.user)
    with _opened(box, int(path.stem[-4:])) as db:
        yield db, key


def years_in(directory: Path) -> list[int]:
    """Those that have a file in an archive, in order."""
    return sorted(int(path.stem[-4:]) for path in directory.glob("messages_[0-9][0-9][0-9][0-9].db"))


def _years(box: Mailbox) -> list[int]:
    return years_in(_directory(box))


@contextlib.contextmanager
def _opened(box: Mailbox, year: int, *, create: bool = False) -> Iterator[apsw.Connection]:
    """The file of a year; what is committed to it is on disk. ``apsw.BusyError`` while another program writes. A new
    one is encrypted if the box is."""
    path = path_of(_directory(box), year)
    is_new = create and (not path.exists() or not path.stat().st_size)
    if is_new and box.key is not None and box.keyring is not None:
        key: Key | None = box.keyring.new(box.user, durably=True)
    else:
        key = key_at(path, box.keyring, box.user)
    db = _connection(path, key, create=create)
    try:
        db.pragma("synchronous", Sync.EXTRA.value)
        if create and db.pragma("user_version") != SCHEMA_VERSION:  # or a kill was quicker than the tables
            db.execute(_SCHEMA).fetchall()
            sync_directory(path.parent)
        yield db
    except CORRUPT as error:  # not the box's own file: that one is in order
        raise Unavailable("A part of the mailbox's archive can't be read") from error
    finally:
        db.close()


def connect(path: Path, owner: str, keyring: Keyring | None) -> tuple[apsw.Connection, Key | None]:
    """The file of a year at ``path``, of a box that is held, to be copied; and its key. Raises :class:`KeyLost`."""
    key = key_at(path, keyring, owner)
    return _connection(path, key), key


def _connection(path: Path, key: Key | None, *, create: bool = False) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX | (apsw.SQLITE_OPEN_CREATE if create else 0)
    db = apsw.Connection(str(path), flags=flags, vfs=way(key, None), statementcachesize=0)
    try:
        unlock(db, key)
    except BaseException:
        db.close()
        raise
    return db
