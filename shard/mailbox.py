"""One person's ``messages.db``: its tables, and everything that is done to them.

A delivery is one transaction with all that waits. Inserting is harmless to repeat (the message id
is the key), a removed message leaves a tombstone and never comes back, a membership is written as
the state it should have. So the journal may be replayed over a box at any time.

Commits don't wait for the disk (``Sync.OFF``); a barrier does that for all boxes at once. What
that asks for in return: a checkpoint flushes log and database itself, cuts the log to nothing and
makes the cut durable before a new frame is written, so that old and new frames can never mix.

A version names one content, and never another. It is issued into the box itself, as ``clean``; the first
transaction that changes anything takes that away. Since a power cut leaves whole transactions, from the
first on, a box that still says ``clean`` is what it was when the version was issued.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import apsw
import msgspec

from node.clock import iso, us_of
from node.errors import Unsure
from node.model import Message, Messages, UserChannel, UserChannels
from shard.copying import Copy, Hidden, copy_out
from shard.disk import Disk
from shard.keyring import Keyring, keys_of
from shard.rows import COLUMNS, Place, Placed, Row, one, paged, placed_rows, position
from shard.sqlite import Locked, Sync, empty_file, has_table

SCHEMA_VERSION = 3
"""1 had no ``sync_version``, 2 no ``muted_until``: a box gets what it lacks when that is first needed. A later program
only adds, so what it added is left alone"""
FILE = "messages.db"

_SYNC_VERSION = """
CREATE TABLE IF NOT EXISTS sync_version(
    id INTEGER PRIMARY KEY CHECK(id=1), version TEXT NOT NULL, clean INTEGER NOT NULL);
"""
Arrival = tuple[int, str, str]
"""row number, id, channel_id"""


class Held(NamedTuple):
    """What is in a box; ``bytes`` of titles, texts and metadata."""

    messages: int
    bytes: int


class Standing(NamedTuple):
    """How a person is in a channel: since when, and whether it is muted; till a moment, or without end."""

    joined_at: str
    is_muted: bool = False
    muted_until: str | None = None


SCHEMA = f"""
CREATE TABLE messages(
    id TEXT PRIMARY KEY NOT NULL, channel_id TEXT NOT NULL, title TEXT NOT NULL, content TEXT NOT NULL,
    message_type TEXT DEFAULT 'text', priority INTEGER DEFAULT 5, sender TEXT,
    created_at DATETIME, updated_at DATETIME, metadata JSON);
CREATE INDEX messages_channel ON messages(channel_id, created_at);
CREATE INDEX messages_created ON messages(created_at);
CREATE INDEX messages_priority ON messages(priority);
CREATE TABLE channels(
    id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, description TEXT, created_by TEXT,
    created_at DATETIME, last_message_at DATETIME) WITHOUT ROWID;
CREATE TABLE user_channels(
    channel_id TEXT NOT NULL, user_id TEXT NOT NULL, joined_at DATETIME, is_muted BOOLEAN DEFAULT FALSE,
    muted_until DATETIME, PRIMARY KEY (channel_id, user_id)) WITHOUT ROWID;
CREATE TABLE removed(message_id TEXT PRIMARY KEY NOT NULL, removed_at DATETIME) WITHOUT ROWID;
{_SYNC_VERSION}PRAGMA user_version={SCHEMA_VERSION};
"""
_INSERT = f"INSERT INTO messages({COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
_TOUCH = "UPDATE channels SET last_message_at=?1 WHERE id=?2 AND coalesce(last_message_at,'')<?1"
_JOIN_CHANNEL = """
INSERT INTO channels(id, name, description, created_by, created_at) VALUES(?,?,?,?,?)
ON CONFLICT(id) DO UPDATE SET name=excluded.name, description=excluded.description,
    created_by=excluded.created_by, created_at=excluded.created_at
WHERE (name, description, created_by, created_at) IS NOT
    (excluded.name, excluded.description, excluded.created_by, excluded.created_at)"""
_JOIN = """
INSERT INTO user_channels(channel_id, user_id, joined_at, is_muted, muted_until) VALUES(?,?,?,?,?)
ON CONFLICT DO UPDATE SET joined_at=excluded.joined_at, is_muted=excluded.is_muted, muted_until=excluded.muted_until
WHERE (joined_at, is_muted, muted_until) IS NOT (excluded.joined_at, excluded.is_muted, excluded.muted_until)"""
_LEAVE = "DELETE FROM user_channels WHERE channel_id=? AND user_id=?"
_ARCHIVED = """
CREATE TABLE IF NOT EXISTS archived(message_id TEXT PRIMARY KEY NOT NULL, year INTEGER NOT NULL) WITHOUT ROWID"""
_SHELVE = "INSERT INTO archived(message_id, year) VALUES(?,?) ON CONFLICT DO UPDATE SET year=excluded.year"
_SHELVED = "SELECT message_id, year FROM json_each(?) JOIN archived ON message_id=value"
_EXPIRED = """
CREATE TABLE IF NOT EXISTS expired(message_id TEXT PRIMARY KEY NOT NULL, expired_at DATETIME) WITHOUT ROWID"""
_EXPIRE = "INSERT INTO expired(message_id, expired_at) VALUES(?,?) ON CONFLICT DO NOTHING"
_OUTDATED = "SELECT id FROM messages WHERE created_at<?1 AND updated_at<?1 ORDER BY created_at LIMIT ?2"
_BURY = "INSERT INTO removed(message_id, removed_at) VALUES(?,?) ON CONFLICT DO NOTHING"

_SIZE = " + ".join(f"coalesce(octet_length({name}),0)" for name in ("title", "content", "metadata"))
_COUNT_ALL = f"SELECT count(*), coalesce(sum({_SIZE}),0) FROM messages"
_METER = f"""
CREATE TABLE usage(
    id INTEGER PRIMARY KEY CHECK(id=1), messages INTEGER NOT NULL, bytes INTEGER NOT NULL, last INTEGER NOT NULL);
INSERT INTO usage(id, messages, bytes, last)
    SELECT 1, *, (SELECT coalesce(max(rowid),0) FROM messages) FROM ({_COUNT_ALL});
"""
"""what the messages up to row ``last`` come to"""
_COUNT_IN = f"""
UPDATE usage SET messages=messages+fresh.number, bytes=usage.bytes+fresh.size, last=fresh.highest FROM (
    SELECT count(*) AS number, coalesce(sum({_SIZE}),0) AS size, max(rowid) AS highest FROM messages
    WHERE rowid>(SELECT last FROM usage)) AS fresh
WHERE fresh.number>0"""
_COUNT_OUT = f"""
UPDATE usage SET messages=messages-gone.number, bytes=usage.bytes-gone.size FROM (
    SELECT count(*) AS number, coalesce(sum({_SIZE}),0) AS size FROM json_each(?) JOIN messages m ON m.id=value
    WHERE m.rowid<=(SELECT last FROM usage)) AS gone"""
_COUNTED = "UPDATE usage SET last=min(last, (SELECT coalesce(max(rowid),0) FROM messages))"
"""after a deletion: should the last row be gone, its number is given anew"""

_OPEN = """
SELECT (SELECT EXISTS(SELECT 1 FROM removed)), (SELECT json_group_array(id) FROM channels),
    (SELECT EXISTS(SELECT 1 FROM messages)), (SELECT EXISTS(SELECT 1 FROM user_channels)),
    (SELECT json_group_array(name) FROM sqlite_schema WHERE type='table')"""
_OPEN_VERSION = ", (SELECT version FROM sync_version), (SELECT clean FROM sync_version)"
_ISSUE = """
INSERT INTO sync_version(id, version, clean) VALUES(1,?,1)
ON CONFLICT(id) DO UPDATE SET version=excluded.version, clean=1"""
SOIL = "UPDATE sync_version SET clean=0"

_FIND = "SELECT m.id, m.rowid, channel_id FROM json_each(?) JOIN messages m ON m.id=value"
_CHANNELS = """
SELECT c.id, c.name, u.joined_at, u.is_muted, {until} FROM user_channels u JOIN channels c ON c.id=u.channel_id
WHERE u.user_id=? ORDER BY c.id"""
_LAST = "SELECT rowid, id FROM messages ORDER BY rowid DESC LIMIT 1"
_COUNT = "SELECT channel_id, count(*) FROM messages GROUP BY channel_id"
_COUNT_READ = "SELECT channel_id, count(*) FROM json_each(?) JOIN messages m ON m.id=value GROUP BY channel_id"
_EXTENT = "SELECT count(*), (SELECT updated_at FROM messages ORDER BY rowid DESC LIMIT 1) FROM messages"
_ARRIVALS = "SELECT rowid, id, channel_id FROM messages WHERE rowid>? ORDER BY rowid LIMIT ?"

_CACHE_PAGES = 10
"""five trees, of two levels from some hundred messages on: each transaction goes to the last leaf of all of them"""
_STEP_US = 1_000_000
_US_MAX = 253_402_300_799_999_999  # the end of the year 9999

CORRUPT = (apsw.CorruptError, apsw.NotADBError)
"""what a damaged file shows itself by"""
CORRUPT_AT_OPENING = (*CORRUPT, apsw.SQLError, UnicodeDecodeError, msgspec.MsgspecError)
"""the same, with a table that isn't there and text that is none"""


def template() -> bytes:
    """The bytes of an empty box."""
    return empty_file(SCHEMA)


def torn_at_birth(content: bytes, template: bytes) -> bool:
    """Whether ``content`` is an empty box of which the disk lost a part.

    A box is not checkpointed before a barrier has covered its birth. So until then its file is
    the template, short of the sectors that a power cut took: they read as zeros, or are missing
    at the end. What was delivered since lies in the log or in the journal.
    """
    if content == template or len(content) > len(template):
        return False
    zero = bytes(512)
    return all(
        content[at : at + 512] in (template[at : at + len(content[at : at + 512])], zero[: len(content) - at])
        for at in range(0, len(content), 512)
    )


def torn_when_encrypted(content: bytes, size: int) -> bool:
    """Whether an encrypted file of ``size`` bytes lost some of them: noise has no sector of zeros."""
    return len(content) < size or any(not any(content[at : at + 512]) for at in range(0, len(content), 512))


def facts_of(db: apsw.Connection) -> tuple[int, int, str, int]:
    """Of the box that ``db`` has open: messages, removed ones, a checksum of the messages, by id, and how many are
    archived."""
    digest, count = hashlib.sha256(), 0
    for row in db.execute(f"SELECT {COLUMNS} FROM messages ORDER BY id"):
        digest.update(msgspec.msgpack.encode(row))
        count += 1
    (removed,) = db.execute("SELECT count(*) FROM removed").fetchone() or (0,)
    return count, int(removed), f"sha256:{digest.hexdigest()}", count_archived(db)


def count_archived(db: apsw.Connection) -> int:
    """How many messages the box that ``db`` has open names in its archive."""
    if not has_table(db, "archived"):
        return 0
    (count,) = db.execute("SELECT count(*) FROM archived").fetchone() or (0,)
    return int(count)


def shelf_years(db: apsw.Connection) -> list[int]:
    """The years in which the box that ``db`` has open names archived messages, in order."""
    if not has_table(db, "archived"):
        return []
    return [year for (year,) in db.execute("SELECT DISTINCT year FROM archived ORDER BY year")]


def shelved_in(db: apsw.Connection, year: int) -> Iterator[str]:
    """The messages that it names in one of :func:`shelf_years`, in order."""
    for (message_id,) in db.execute("SELECT message_id FROM archived WHERE year=? ORDER BY message_id", (year,)):
        yield message_id


def counts_right(db: apsw.Connection) -> bool:
    """Whether the box that ``db`` has open, and that keeps count, holds what it says."""
    return db.execute("SELECT messages, bytes FROM usage").fetchone() == db.execute(_COUNT_ALL).fetchone()


def later(now_us: int, *earlier: str | None) -> str:
    """An ISO time: ``now_us``, or later than the latest of ``earlier`` if the clock is behind it.

    By how much is left to chance, so that a version that a power cut took back is not issued again for other content.
    What is no time among them, or leaves none after it, counts for nothing.
    """
    us = now_us
    for version in earlier:
        with contextlib.suppress(ValueError, TypeError):
            given_us = us_of(datetime.fromisoformat(version or ""))
            if us <= given_us < _US_MAX - _STEP_US:
                us = given_us + 1 + random.randrange(_STEP_US)
    return iso(us)


class Mailbox:
    """An open box. Used by one thread at a time: whoever holds it (see ``shard.mailboxes``)."""

    __slots__ = (
        "_changes", "_channels", "_db", "_expiring", "_file", "_has_grown", "_removed", "clean", "key", "keyring",
        "metered", "newborn", "path", "removals", "shelves", "used_s", "user", "version",
    )  # fmt: skip

    def __init__(self, user: str, path: Path, vfs: str | None = None, keyring: Keyring | None = None) -> None:
        """Open the file at ``path``; raises ``apsw.BusyError`` if somebody else has it open, :class:`KeyLost`."""
        self.user = user
        self.path = path
        self.removals = 0
        """how often something was removed since it was opened"""
        self.newborn = False
        """no barrier has covered its birth yet: it must not be checkpointed"""
        self.used_s = 0.0
        """when it was used last, by the monotonic clock; kept by whoever keeps it open"""
        self.keyring = keyring
        self._file = Locked(
            path,
            sync=Sync.OFF,
            cache_pages=_CACHE_PAGES,
            statements=16,
            vfs=vfs,
            key_for=keys_of(keyring, user),
        )
        self.key = self._file.key
        """what it is encrypted with, None if it isn't"""
        self._has_grown = False
        self._db = self._file.db
        try:
            # One read transaction reads the schema and recovers the log.
            try:
                found = self._db.execute(_OPEN + _OPEN_VERSION, can_cache=False).fetchone()
            except apsw.SQLError:
                if self._db.pragma("user_version") != 1:
                    raise
                found = (*(self._db.execute(_OPEN).fetchone() or ()), None, None)
            assert found is not None
            self._removed = bool(found[0])
            self._channels: set[str] = set(msgspec.json.decode(found[1]))
            tables = msgspec.json.decode(found[4])
            self.shelves = "archived" in tables
            """whether some of its messages are in an archive beside it (``shard.archive``)"""
            self.metered = "usage" in tables
            """whether it keeps count of what it holds"""
            self._expiring = "expired" in tables
            self.version: str | None = found[5]
            """the last that was issued; None before the first"""
            self.clean = bool(found[6])
            """nothing was changed since"""
            self._changes = self._db.total_changes()
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        if self.metered:
            self._db.execute(_COUNT_IN)
        if self.clean and self._db.total_changes() != self._changes:
            self._db.execute(SOIL)
            self._db.execute("COMMIT")
            self.clean = False
        else:
            self._db.execute("COMMIT")

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._changes = self._db.total_changes()

    def issue(self, now_us: int, after: str | None) -> str:
        """A version for what the box holds now, later than every one before and than ``after``."""
        version = later(now_us, self.version, after)
        self.begin()
        try:
            if self.version is None:
                self._bring_up_to_date()
            self._db.execute(_ISSUE, (version,))
            self._db.execute("COMMIT")
        except BaseException:
            self.rollback()
            raise
        self.version, self.clean, self._changes = version, True, self._db.total_changes()
        return version

    def copy_to(self, path: Path) -> Hidden:
        """The whole box, log included, as a new file at ``path``; one content always gives the same bytes, once they
        are plain. Of an encrypted box it is encrypted, with a passing key. Raises ``apsw.FullError``
        if there is no room; what was written until then stays."""
        return copy_out(self._db, path, self.key)

    def copy(self, path: Path) -> Copy:
        """A copy with the key of the box, to be made in portions; it is at an end when this box is closed."""
        return Copy(self._db, path, self.key)

    def counts(self) -> tuple[int, int]:
        """How many messages are here, and how many were removed."""
        row = self._db.execute("SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM removed)").fetchone()
        assert row is not None
        return row[0], row[1]

    def facts(self) -> tuple[int, int, str, int]:
        """As :func:`facts_of`."""
        return facts_of(self._db)

    def channel_ids(self) -> set[str]:
        """The channels that its owner is in."""
        return {
            row[0] for row in self._db.execute("SELECT channel_id FROM user_channels WHERE user_id=?", (self.user,))
        }

    def insert(self, rows: list[Row]) -> None:
        """Store messages; those that are there already, or were removed, are left as they are."""
        assert self._db.in_transaction
        if self._removed or self._expiring:
            gone = {row[0] for row in rows if self._is_gone(row[0])}
            rows = [row for row in rows if row[0] not in gone]
        if self.shelves:
            shelved = self.shelved([row[0] for row in rows])
            rows = [row for row in rows if row[0] not in shelved]
        if len(rows) == 1:
            self._db.execute(_INSERT, rows[0])
        else:
            self._db.executemany(_INSERT, rows)
        if self._channels:
            latest: dict[str, str] = {}
            for row in rows:
                if row[1] in self._channels and row[7] > latest.get(row[1], ""):
                    latest[row[1]] = row[7]
            self._db.executemany(_TOUCH, [(at, channel) for channel, at in latest.items()])

    def upgrade(self) -> bool:
        """The same in the background; whether there was anything to do."""
        if self._db.pragma("user_version") >= SCHEMA_VERSION:
            return False
        self.begin()
        try:
            self._bring_up_to_date()
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return True

    def _bring_up_to_date(self) -> None:
        """Give a box of an older schema what it lacks; not at its opening, since it may lie on a full disk."""
        assert self._db.in_transaction
        found = self._db.pragma("user_version")
        if found >= SCHEMA_VERSION:
            return
        self._db.execute(_SYNC_VERSION)
        self._db.execute("ALTER TABLE user_channels ADD COLUMN muted_until DATETIME")
        self._db.pragma("user_version", SCHEMA_VERSION)
        self._changes = -1  # SQLite doesn't count it as a change, but a copy shows it

    def join(self, channel: tuple[str, str, str | None, str | None, str], standing: Standing) -> None:
        """Be in ``channel`` (id, name, description, created_by, created_at)."""
        assert self._db.in_transaction
        self._bring_up_to_date()
        self._db.execute(_JOIN_CHANNEL, channel)
        self._db.execute(_JOIN, (channel[0], self.user, *standing))
        self._channels.add(channel[0])

    def leave(self, channel_id: str) -> None:
        """Be out of the channel; its messages stay, they are the person's."""
        assert self._db.in_transaction
        self._db.execute(_LEAVE, (channel_id, self.user))

    def remove(self, message_id: str, at: str) -> None:
        """Delete a message for good."""
        assert self._db.in_transaction
        self.removals += 1
        self._delete([message_id])
        if self.shelves:
            self._db.execute("DELETE FROM archived WHERE message_id=?", (message_id,))
        self._db.execute(_BURY, (message_id, at))
        self._removed = True

    def older(self, before: str, most: int) -> list[Placed]:
        """Up to ``most`` messages that were made and accepted before ``before``, the oldest first; never the last."""
        found: Iterator[Placed] = self._db.execute(
            f"SELECT {COLUMNS}, rowid FROM messages WHERE created_at<?1 AND updated_at<?1"
            " AND rowid<(SELECT max(rowid) FROM messages) ORDER BY created_at LIMIT ?2",
            (before, most),
        )
        return list(found)

    def shelve(self, places: list[tuple[str, int]]) -> None:
        """Let go of messages that are in the archive now, (id, year)."""
        assert self._db.in_transaction
        self._db.execute(_ARCHIVED)
        self._db.executemany(_SHELVE, places)
        self._delete([message_id for message_id, _year in places])
        self.removals += 1
        self.shelves = True

    def shelved(self, message_ids: list[str]) -> dict[str, int]:
        """The year of those of ``message_ids`` that are archived."""
        if not self.shelves:
            return {}
        return dict(self._db.execute(_SHELVED, (msgspec.json.encode(message_ids).decode(),)))

    def count_archived(self) -> int:
        return count_archived(self._db)

    def shelf_years(self) -> list[int]:
        """The years of all that is archived, in order."""
        return shelf_years(self._db)

    def shelved_in(self, year: int) -> Iterator[str]:
        """What is archived of a year, in order."""
        return shelved_in(self._db, year)

    def meter(self) -> None:
        """Keep count from now on; it takes a look at everything, once. Raises ``apsw.FullError``."""
        self.begin()
        try:
            self._db.execute(_METER).fetchall()
            self.commit()
        except BaseException:
            self.rollback()
            raise
        self.metered = True

    def usage(self) -> Held:
        """What it holds, in this transaction: at once where it keeps count, else by a look at everything."""
        if self.metered and self._db.in_transaction:
            self._db.execute(_COUNT_IN)
        row = self._db.execute("SELECT messages, bytes FROM usage" if self.metered else _COUNT_ALL).fetchone()
        assert row is not None
        return Held(*row)

    def _delete(self, message_ids: list[str]) -> None:
        """Take messages out, and off the count."""
        if self.metered:
            self._db.execute(_COUNT_OUT, (msgspec.json.encode(message_ids).decode(),))
        self._db.executemany("DELETE FROM messages WHERE id=?", [(message_id,) for message_id in message_ids])
        if self.metered:
            self._db.execute(_COUNTED)

    def knows(self, message_id: str) -> bool:
        """Whether it has a message, or had it."""
        return self.has(message_id) or self._is_gone(message_id) or message_id in self.shelved([message_id])

    def outdated(self, before: str, most: int) -> list[str]:
        """Up to ``most`` messages that were made and accepted before ``before``, the oldest first."""
        return [row[0] for row in self._db.execute(_OUTDATED, (before, most))]

    def expire(self, message_ids: list[str], at: str) -> None:
        """Let go for good of messages, here or archived; of each a name stays, till :meth:`forget_expired`."""
        assert self._db.in_transaction
        self._db.execute(_EXPIRED)
        ids = [(message_id,) for message_id in message_ids]
        self._delete(message_ids)
        if self.shelves:
            self._db.executemany("DELETE FROM archived WHERE message_id=?", ids)
        self._db.executemany(_EXPIRE, [(message_id, at) for message_id in message_ids])
        self.removals += 1
        self._expiring = True

    def expired(self) -> list[str]:
        """The names that are left of them."""
        return [row[0] for row in self._db.execute("SELECT message_id FROM expired")] if self._expiring else []

    def forget_expired(self, before: str) -> None:
        """Drop the names of those that went before ``before``."""
        if not self._expiring:
            return
        self.begin()
        try:
            self._db.execute("DELETE FROM expired WHERE expired_at<?", (before,))
            self.commit()
        except BaseException:
            self.rollback()
            raise

    def _is_gone(self, message_id: str) -> bool:
        """Whether it was removed, or is past its time."""
        found = self._db.execute("SELECT 1 FROM removed WHERE message_id=?", (message_id,)).fetchone()
        if found is None and self._expiring:
            found = self._db.execute("SELECT 1 FROM expired WHERE message_id=?", (message_id,)).fetchone()
        return found is not None

    def read(self, message_id: str) -> Message | None:
        return one(self._db, message_id)

    def has(self, message_id: str) -> bool:
        return self._db.execute("SELECT 1 FROM messages WHERE id=?", (message_id,)).fetchone() is not None

    def find(self, message_ids: list[str]) -> dict[str, tuple[int, str]]:
        """Row and channel of those of ``message_ids`` that are here."""
        rows = self._db.execute(_FIND, (msgspec.json.encode(message_ids).decode(),))
        return {message_id: (row, channel) for message_id, row, channel in rows}

    def count_unread(self, read_ids: str) -> tuple[int, dict[str, int]]:
        """The last row, and by channel how many messages are not in ``read_ids`` (a JSON array, in order)."""
        last = self._db.execute("SELECT coalesce(max(rowid),0) FROM messages").fetchone()
        assert last is not None
        counts = dict(self._db.execute(_COUNT))
        for channel, read in self._db.execute(_COUNT_READ, (read_ids,)):
            counts[channel] -= read
        return last[0], {channel: count for channel, count in counts.items() if count}

    def arrivals(self, after: int, limit: int) -> list[Arrival]:
        """``limit`` messages that came after row ``after``, in order."""
        return [(row, message_id, channel) for row, message_id, channel in self._db.execute(_ARRIVALS, (after, limit))]

    def page(self, channel_id: str | None, limit: int, cursor: str | None) -> Messages:
        """``limit`` messages from ``cursor`` on, newest first (by created_at, then as they came); fewer, and
        a cursor, where they are long."""
        return paged(self.rows(channel_id, limit + 1, None if cursor is None else position(cursor)), limit)

    def rows(self, channel_id: str | None, most: int, place: Place | None) -> Iterator[Placed]:
        """Up to ``most`` messages after ``place``, newest first."""
        return placed_rows(self._db, "rowid", channel_id, most, place)

    def channels(self, now_us: int) -> UserChannels:
        """Those the person is in; what was muted till before ``now_us`` is so no more."""
        found = []
        for channel_id, name, joined_at, muted, until in self._db.execute(self._with_until(_CHANNELS), (self.user,)):
            is_muted = _holds(muted, until, now_us)
            channel = UserChannel(id=channel_id, name=name, joined_at=joined_at, is_muted=is_muted)
            channel.muted_until = until if is_muted else None
            found.append(channel)
        return UserChannels(channels=found)

    def _with_until(self, sql: str) -> str:
        """``sql`` for the schema that the box has."""
        return sql.format(until="muted_until" if self._db.pragma("user_version") >= SCHEMA_VERSION else "NULL")

    def last(self) -> tuple[int, str]:
        """Row and id of the message that came last; 0 and nothing if there is none.

        Later ones get higher rows, as long as this one is in its place: only when the last is removed, its row is
        given anew."""
        return self._db.execute(_LAST).fetchone() or (0, "")

    def is_at(self, row: int, message_id: str) -> bool:
        """Whether that message is in that row."""
        return self._db.execute("SELECT id FROM messages WHERE rowid=?", (row,)).fetchone() == (message_id,)

    def extent(self) -> tuple[int, str | None]:
        """How many messages there are, and when the last one was accepted."""
        row = self._db.execute(_EXTENT).fetchone()
        assert row is not None
        return row[0], row[1]

    def log_pages(self) -> int:
        """The length of the write-ahead log, in pages."""
        try:
            return max(0, self.log_path.stat().st_size - 32) // 4120
        except FileNotFoundError:
            return 0

    @property
    def log_path(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def bytes(self) -> int:
        """What the box takes up at most when its log is moved into it."""
        return self.path.stat().st_size + self.log_pages() * 4096

    def checkpoint(self, disk: Disk) -> None:
        """Move the log into the database, durably, and cut it to nothing, durably.

        If SQLite can't (``apsw.Error``: no room, a bad sector) nothing is lost, but this connection's
        picture of the log may be: it must be closed, and the next one reads the log as it is. If the
        cut isn't durable, old and new frames could mix: :class:`Unsure`.
        """
        assert not self.newborn
        if self.keyring is not None and self.key is not None and not self._has_grown:
            self.keyring.grow(self.key)
            self._has_grown = True
        self._db.pragma("synchronous", Sync.FULL.value)
        try:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            disk.sync_file(self.log_path)
        except OSError as error:
            raise Unsure(f"checkpoint of {self.path.parent.name}: {error}") from error
        finally:
            self._db.pragma("synchronous", Sync.OFF.value)

    def close(self) -> None:
        """Without a checkpoint: the log stays and is taken up at the next opening."""
        self._file.close()


def _holds(muted: int, until: str | None, now_us: int) -> bool:
    return bool(muted) and (until is None or until > iso(now_us))
