"""``read_status.db`` of a device: what has been read, and what the server hasn't been told yet.

An app may query it while it is written. It has the tables of the server's file; ``read_at`` is '' for what
is starred or archived and not read, and a message about which nothing is known has no row.

A mark is one durable transaction: into the outbox and into the table. It leaves the outbox when the server
has answered. Until then the table shows the mark whatever the server says, and ``word`` keeps what the server
said last; so when a mark is refused, or replaced, the table returns to the server's word.

When the server sends everything anew, rows get a new ``generation`` and the old ones go at the end: an app
never sees an empty table, and a sync that is killed goes on in the middle.

Rollback journal, not WAL: an app may well use another SQLite library than this one, and those before 3.51.3 can
corrupt a log that two connections checkpoint.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import apsw
import msgspec

from client.marks import CHANNEL, EFFECTS, FIELDS, MESSAGE, POSITION, Mark, Said, Waiting, after, holds, is_blank
from node.model import ReadingPosition, ReadStatus, Status
from node.placement import sync_directory

FILE = "read_status.db"
SCHEMA_VERSION = 1
_BUSY_MS = 10_000

_SCHEMA = f"""
CREATE TABLE read_status(
    message_id TEXT PRIMARY KEY NOT NULL, read_at DATETIME NOT NULL DEFAULT '', read_device TEXT,
    archived_at DATETIME, starred_at DATETIME, metadata JSON, generation INTEGER NOT NULL DEFAULT 0);
CREATE TABLE reading_position(
    channel_id TEXT PRIMARY KEY NOT NULL, last_read_message_id TEXT, last_read_at DATETIME, position INTEGER,
    generation INTEGER NOT NULL DEFAULT 0);
CREATE VIEW read_stats AS
    SELECT substr(read_at, 1, 10) AS date, count(*) AS total_read, NULL AS channel_stats, max(read_at) AS updated_at
    FROM read_status WHERE read_at<>'' GROUP BY 1;
CREATE TABLE outbox(
    seq INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, field TEXT NOT NULL, key TEXT NOT NULL,
    status TEXT NOT NULL, message_id TEXT NOT NULL, position INTEGER NOT NULL, at_us INTEGER NOT NULL,
    UNIQUE(user, field, key));
CREATE TABLE word(
    kind TEXT NOT NULL, key TEXT NOT NULL, said JSON, generation INTEGER NOT NULL,
    PRIMARY KEY(kind, key)) WITHOUT ROWID;
CREATE TABLE device(
    id INTEGER PRIMARY KEY CHECK(id=1), name TEXT NOT NULL, user TEXT, server TEXT, since TEXT,
    generation INTEGER NOT NULL DEFAULT 0, sweeping INTEGER NOT NULL DEFAULT 0);
PRAGMA user_version={SCHEMA_VERSION};
"""
_PUT_STATUS = """
INSERT INTO read_status(message_id, read_at, read_device, archived_at, starred_at, generation) VALUES(?,?,?,?,?,?)
ON CONFLICT DO UPDATE SET read_at=excluded.read_at, read_device=excluded.read_device,
    archived_at=excluded.archived_at, starred_at=excluded.starred_at, generation=excluded.generation"""
_PUT_POSITION = """
INSERT INTO reading_position(channel_id, last_read_message_id, last_read_at, position, generation) VALUES(?,?,?,?,?)
ON CONFLICT DO UPDATE SET last_read_message_id=excluded.last_read_message_id, last_read_at=excluded.last_read_at,
    position=excluded.position, generation=excluded.generation"""
_GET_STATUS = "SELECT message_id, read_at, read_device, archived_at, starred_at FROM read_status WHERE message_id=?"
_POSITION_NAMES = ("channelId", "lastReadMessageId", "lastReadAt", "position")
_GET_POSITION = """
SELECT channel_id, last_read_message_id, last_read_at, position FROM reading_position WHERE channel_id=?"""
_PUT_WORD = """
INSERT INTO word(kind, key, said, generation) VALUES(?,?,?,?)
ON CONFLICT DO UPDATE SET said=excluded.said, generation=excluded.generation"""
_QUEUE = "INSERT OR REPLACE INTO outbox(user, field, key, status, message_id, position, at_us) VALUES(?,?,?,?,?,?,?)"
_WAITING = "SELECT seq, field, key, status, message_id, position, at_us FROM outbox WHERE user=?"
_FORGET = {
    MESSAGE: "DELETE FROM read_status WHERE message_id=?",
    CHANNEL: "DELETE FROM reading_position WHERE channel_id=?",
}
_SWEEP = (
    """
DELETE FROM read_status WHERE generation<?
    AND message_id NOT IN (SELECT key FROM word WHERE kind='message')""",
    """
DELETE FROM reading_position WHERE generation<?
    AND channel_id NOT IN (SELECT key FROM word WHERE kind='channel')""",
)

DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, apsw.SchemaChangeError, msgspec.DecodeError)
"""what a file shows itself by that isn't ours, or no longer"""


class Statuses:
    """The file at ``path``, as ``user``'s. A context manager; for one thread, others open their own.

    For another user than last time the statuses are forgotten; what waits in the outbox stays there, for
    whoever it was.
    """

    def __init__(self, path: Path, user: str, *, name: str | None = None) -> None:
        is_new = not path.exists()
        self._user = user
        self._db = apsw.Connection(str(path))
        try:
            self._db.set_busy_timeout(_BUSY_MS)
            self._db.pragma("synchronous", "extra")
            with self._transaction():
                if not self._db.pragma("user_version"):
                    self._db.execute(_SCHEMA).fetchall()
                    given = name or f"device-{secrets.token_hex(4)}"
                    self._db.execute("INSERT INTO device(id, name) VALUES(1,?)", (given,))
                self._take_over(name)
            if is_new:
                path.chmod(0o600)
                sync_directory(path.parent)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Statuses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(apsw.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            raise

    def _take_over(self, name: str | None) -> None:
        row = self._db.execute("SELECT name, user FROM device").fetchone()
        if row is None:
            raise apsw.CorruptError("the row of the device is missing")
        self.name = name or str(row[0])
        if row[0] != self.name:
            self._db.execute("UPDATE device SET name=?", (self.name,))
        if row[1] == self._user:
            return
        self._db.execute("UPDATE device SET user=?, server=NULL, since=NULL, sweeping=0", (self._user,))
        for table in ("read_status", "reading_position", "word"):
            self._db.execute(f"DELETE FROM {table}")
        for mark in [Waiting(*row) for row in self._db.execute(_WAITING, (self._user,))]:
            self._show(mark.kind, mark.key)

    # -- what the person does ----------------------------------------------------------------------

    def mark(self, message_id: str, status: Mark, at_us: int) -> None:
        """Durable when this returns. ``at_us``: the device's clock."""
        self._queue(EFFECTS[status][0], message_id, status, message_id, 0, at_us)

    def move(self, channel_id: str, message_id: str, position: int, at_us: int) -> None:
        """The person has read in the channel up to ``position`` of the message. Durable when this returns."""
        self._queue(POSITION, channel_id, "", message_id, position, at_us)

    def _queue(self, field: str, key: str, status: str, message_id: str, position: int, at_us: int) -> None:
        """The last mark of a field counts alone: so the outbox is no longer than there are messages. Times in it
        never go back, even if the clock does: its order is the order of the marks."""
        with self._transaction():
            latest = self._db.execute("SELECT max(at_us) FROM outbox WHERE user=?", (self._user,)).get
            at_us = max(at_us, latest or 0)
            self._db.execute(_QUEUE, (self._user, field, key, status, message_id, position, at_us))
            self._show(CHANNEL if field == POSITION else MESSAGE, key)

    # -- what goes to the server -------------------------------------------------------------------

    def last(self) -> int:
        """The number of the newest in the outbox, 0 if there is none."""
        return self._db.execute("SELECT max(seq) FROM outbox WHERE user=?", (self._user,)).get or 0

    def waiting(self, last: int, limit: int) -> list[Waiting]:
        """The oldest ``limit`` up to ``last``."""
        return [
            Waiting(*row)
            for row in self._db.execute(f"{_WAITING} AND seq<=? ORDER BY seq LIMIT ?", (self._user, last, limit))
        ]

    def meet(self, server: str) -> None:
        """It is ``server`` that is talked to: what another one said last means nothing to it."""
        with self._transaction():
            self._db.execute(
                "UPDATE device SET server=?, since=NULL, sweeping=0 WHERE server IS NOT ?", (server, server)
            )

    @property
    def since(self) -> str | None:
        since: str | None = self._db.execute("SELECT since FROM device").get
        return since

    def forget_since(self) -> None:
        """The server can't make sense of it: everything is to come anew."""
        with self._transaction():
            self._db.execute("UPDATE device SET since=NULL, sweeping=0")

    # -- what the server says ----------------------------------------------------------------------

    def apply(
        self, answer: ReadStatus, sent: Sequence[Waiting] = (), refused: Collection[int] = (), now_us: int = 0
    ) -> None:
        """Take over a page of what the server says. It answered ``sent``, at ``now_us`` of the device's clock; all of
        them hold now but those whose index is in ``refused``."""
        with self._transaction():
            generation, sweeping = self._db.execute("SELECT generation, sweeping FROM device").get
            if answer.full:
                generation, sweeping = generation + 1, 1
            touched = self._answered(sent, refused, now_us, generation)
            kept = set(self._db.execute("SELECT kind, key FROM word"))
            rows: list[tuple[object, ...]] = []
            for status in answer.statuses:
                place = (MESSAGE, status.message_id)
                if place in kept:
                    self._hear(*place, None if is_blank(status) else status, generation)
                    touched.add(place)
                elif is_blank(status):
                    self._db.execute(_FORGET[MESSAGE], (status.message_id,))
                else:
                    rows.append((*_row(status), generation))
            self._db.executemany(_PUT_STATUS, rows)
            rows = []
            for position in answer.positions:
                place = (CHANNEL, position.channel_id)
                if place in kept:
                    self._hear(*place, position, generation)
                    touched.add(place)
                else:
                    rows.append((*msgspec.structs.astuple(position), generation))
            self._db.executemany(_PUT_POSITION, rows)
            if sweeping and not answer.more:
                touched |= self._sweep(generation)
                sweeping = 0
            self._db.execute(
                "UPDATE device SET since=?, generation=?, sweeping=?", (answer.since, generation, sweeping)
            )
            for kind, key in touched:
                self._show(kind, key)

    def drop(self, refused: Waiting) -> None:
        """The server can't take this one at all: the table shows its word again."""
        with self._transaction():
            self._db.execute("DELETE FROM outbox WHERE seq=?", (refused.seq,))
            self._show(refused.kind, refused.key)

    def _answered(
        self, sent: Sequence[Waiting], refused: Collection[int], now_us: int, generation: int
    ) -> set[tuple[str, str]]:
        touched = set()
        for index, mark in enumerate(sent):
            self._db.execute("DELETE FROM outbox WHERE seq=?", (mark.seq,))
            # A later mark of the same field must not look older to the server than this one, which it got late.
            self._db.execute(
                "UPDATE outbox SET at_us=max(at_us,?) WHERE user=? AND field=? AND key=?",
                (now_us, self._user, mark.field, mark.key),
            )
            said = self._said(mark.kind, mark.key)
            if index not in refused and not holds(said, mark):
                self._hear(mark.kind, mark.key, after(mark.kind, mark.key, said, [mark], self.name), generation)
            touched.add((mark.kind, mark.key))
        return touched

    def _sweep(self, generation: int) -> set[tuple[str, str]]:
        """All has come anew: what didn't come again is no more."""
        for sql in _SWEEP:
            self._db.execute(sql, (generation,))
        stale = set(self._db.execute("SELECT kind, key FROM word WHERE generation<?", (generation,)))
        self._db.execute("UPDATE word SET said=NULL WHERE generation<?", (generation,))
        return stale

    # -- the server's word, and what is shown ------------------------------------------------------

    def _said(self, kind: str, key: str) -> Said | None:
        """The server's word on ``key``: as kept, else as shown, which is then kept."""
        row = self._db.execute("SELECT said FROM word WHERE kind=? AND key=?", (kind, key)).fetchone()
        if row is None:
            said = self._shown(kind, key)
            self._hear(kind, key, said, self._generation)
            return said
        if row[0] is None:
            return None
        return (
            msgspec.json.decode(row[0], type=Status)
            if kind == MESSAGE
            else msgspec.json.decode(row[0], type=ReadingPosition)
        )

    def _hear(self, kind: str, key: str, said: Said | None, generation: int) -> None:
        text = None if said is None else msgspec.json.encode(said).decode()
        self._db.execute(_PUT_WORD, (kind, key, text, generation))

    def _shown(self, kind: str, key: str) -> Said | None:
        if kind == CHANNEL:
            row = self._db.execute(_GET_POSITION, (key,)).fetchone()
            return (
                None if row is None else msgspec.convert(dict(zip(_POSITION_NAMES, row, strict=True)), ReadingPosition)
            )
        row = self._db.execute(_GET_STATUS, (key,)).fetchone()
        if row is None:
            return None
        return Status(
            message_id=row[0], read_at=row[1] or None, read_device=row[2], archived_at=row[3], starred_at=row[4]
        )

    def _show(self, kind: str, key: str) -> None:
        """The table says of ``key`` what the server said, changed by what waits."""
        said = self._said(kind, key)
        waiting = [
            Waiting(*row)
            for field in FIELDS[kind]
            for row in self._db.execute(f"{_WAITING} AND field=? AND key=?", (self._user, field, key))
        ]
        shown = after(kind, key, said, waiting, self.name)
        if shown is None:
            self._db.execute(_FORGET[kind], (key,))
        elif isinstance(shown, ReadingPosition):
            self._db.execute(_PUT_POSITION, (*msgspec.structs.astuple(shown), self._generation))
        else:
            self._db.execute(_PUT_STATUS, (*_row(shown), self._generation))
        if not waiting:
            self._db.execute("DELETE FROM word WHERE kind=? AND key=?", (kind, key))

    @property
    def _generation(self) -> int:
        generation: int = self._db.execute("SELECT generation FROM device").get
        return generation


def _row(status: Status) -> tuple[str, str, str | None, str | None, str | None]:
    return status.message_id, status.read_at or "", status.read_device, status.archived_at, status.starred_at
