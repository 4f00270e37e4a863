"""One person's ``read_status.db``: what was read, archived and starred, and how far each channel was read.

What is answered as accepted is on disk, through a power cut: every commit waits for it (``Sync.FULL``), and
the file with all names above it was durable before the first one.

Every row carries the number of its last visible change (``stamp_us``): the node's time, but always later than
all before, across both tables, and no two rows have the same. So "what changed after" needs no more than
one number, and a page may end anywhere. A number from before ``since.first_us``, or later than any that
was given out, belongs to another life of this file: who has it gets everything.

``read_stats`` is kept in the same transaction (:mod:`shard.read_stats`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

from node import clock, ops
from node.errors import DiskFull, Unsure
from node.model import ReadingPosition, ReadStatus, Status, StatusConflict, Timestamp
from shard import notes, read_stats
from shard.copying import Hidden, copy_out, copy_whole
from shard.keyring import Keyring, keys_of
from shard.merge import Mark, Marks, Place, effective_us
from shard.sqlite import Locked, Sync

NOTE = "read_sync.json"
_LAST = """
SELECT coalesce((SELECT first_us FROM since),0), max(coalesce((SELECT first_us FROM since),0),
    coalesce((SELECT max(stamp_us) FROM read_status),0), coalesce((SELECT max(stamp_us) FROM reading_position),0)),
    (SELECT EXISTS(SELECT 1 FROM read_stats))"""
_FIRST = "INSERT INTO since(id, first_us) VALUES(1,?) ON CONFLICT(id) DO UPDATE SET first_us=excluded.first_us"
_NUMBERS = """
SELECT stamp_us, 0 FROM read_status UNION ALL SELECT stamp_us, 1 FROM reading_position ORDER BY 1"""
_RENUMBER = "UPDATE read_status SET stamp_us=? WHERE stamp_us=?"
_RENUMBER_PLACE = "UPDATE reading_position SET stamp_us=? WHERE stamp_us=?"
_MARKS = """
SELECT message_id, channel_id, read_at, read_us, read_by, read_device, coalesce(archived_at,''), archived_us,
    archived_by, coalesce(starred_at,''), starred_us, starred_by
FROM json_each(?) JOIN read_status ON message_id=value"""
_KEEP = """
INSERT INTO read_status(message_id, channel_id, read_at, read_us, read_by, read_device, archived_at, archived_us,
    archived_by, starred_at, starred_us, starred_by, stamp_us) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,coalesce(?,0))
ON CONFLICT(message_id) DO UPDATE SET read_at=excluded.read_at, read_us=excluded.read_us,
    read_by=excluded.read_by, read_device=excluded.read_device, archived_at=excluded.archived_at,
    archived_us=excluded.archived_us, archived_by=excluded.archived_by, starred_at=excluded.starred_at,
    starred_us=excluded.starred_us, starred_by=excluded.starred_by, stamp_us=coalesce(?13, stamp_us)"""
_PLACES = """
SELECT channel_id, last_read_message_id, position, last_read_at, said_us
FROM json_each(?) JOIN reading_position ON channel_id=value"""
_KEEP_PLACE = """
INSERT INTO reading_position(channel_id, last_read_message_id, position, last_read_at, said_us, stamp_us)
    VALUES(?,?,?,?,?,coalesce(?,0))
ON CONFLICT(channel_id) DO UPDATE SET last_read_message_id=excluded.last_read_message_id,
    position=excluded.position, last_read_at=excluded.last_read_at, said_us=excluded.said_us,
    stamp_us=coalesce(?6, stamp_us)"""
_STATUS = "message_id, nullif(read_at,''), read_device, archived_at, starred_at"
_POSITION = "channel_id, last_read_message_id, last_read_at, position"
_PULL = f"SELECT stamp_us, {_STATUS} FROM read_status WHERE stamp_us>? ORDER BY stamp_us LIMIT ?"
_PULL_PLACES = f"SELECT stamp_us, {_POSITION} FROM reading_position WHERE stamp_us>? ORDER BY stamp_us LIMIT ?"
_STATUSES = f"SELECT {_STATUS} FROM json_each(?) JOIN read_status ON message_id=value"
_POSITIONS = f"SELECT {_POSITION} FROM json_each(?) JOIN reading_position ON channel_id=value"
_READ_IDS = "SELECT json_group_array(message_id) FROM (SELECT message_id FROM read_status WHERE read_at<>'' ORDER BY 1)"
_READ_AMONG = "SELECT message_id FROM json_each(?) JOIN read_status ON message_id=value WHERE read_at<>''"

_CACHE_PAGES = 16
_LOG_PAGES = 256  # of the write-ahead log, then it is checkpointed
_LOG_BYTES = 1_048_576  # what a long one is cut to


class Note(msgspec.Struct):
    """``read_sync.json``: the last number that was given out."""

    since: Timestamp


class Merged(msgspec.Struct):
    """What came of a device's changes. ``turned``: each message whose read mark is another now, and whether
    it is read."""

    accepted: int
    conflicts: list[StatusConflict]
    turned: dict[str, bool]


def unknown(changes: list[ops.StatusRow], positions: list[ops.PositionRow]) -> list[StatusConflict]:
    """What becomes of changes of which not one is about a message in the box."""
    named = [(change.message_id, change.status) for change in changes]
    named += [(position.message_id, "position") for position in positions]
    return [_conflict(index, *one, "no_message") for index, one in enumerate(named)]


def nothing(since_us: int | None) -> ReadStatus:
    """What a person without a file is told."""
    return ReadStatus(since=clock.iso(0), full=since_us != 0, more=False, statuses=[], positions=[])


class StatusFile:
    """An open file. Used by one thread at a time: whoever holds it (see ``shard.statuses``)."""

    def __init__(self, path: Path, vfs: str | None = None, keyring: Keyring | None = None) -> None:
        """Open the file at ``path``; raises ``apsw.BusyError`` if somebody else has it open, :class:`KeyLost`."""
        self.path = path
        self._file = Locked(
            path,
            sync=Sync.FULL,
            cache_pages=_CACHE_PAGES,
            statements=32,
            vfs=vfs,
            key_for=keys_of(keyring, path.parent.name),
        )
        self._db = self._file.db
        try:
            self._db.pragma("wal_autocheckpoint", _LOG_PAGES)
            self._db.pragma("journal_size_limit", _LOG_BYTES)
            row = self._db.execute(_LAST).fetchone()
            assert row is not None
            self._first_us: int = row[0]
            self._last_us: int = row[1]
            self._check_note()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def copy_to(self, path: Path) -> bool:
        """The whole of it, log included, as a new file at ``path``, with the same key."""
        copy_whole(self._db, path, self._file.key)
        return True

    def copy_out(self, path: Path) -> Hidden:
        """The same for somebody else: what is encrypted is so with a passing key."""
        return copy_out(self._db, path, self._file.key)

    def checkpoint(self) -> None:
        """Move the log into the file, durably, and cut it to nothing."""
        self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    # -- what a device is told -----------------------------------------------------------------------

    def pull(self, since_us: int | None, limit: int) -> ReadStatus:
        """What changed after ``since_us``, oldest change first; everything if that isn't of this file's life."""
        full = since_us is None or not self._first_us <= since_us <= self._last_us
        after = -1 if since_us is None or full else since_us
        found: list[tuple[int, Status | ReadingPosition]] = [
            (row[0], _status(row[1:])) for row in self._db.execute(_PULL, (after, limit + 1))
        ]
        found += [(row[0], _position(row[1:])) for row in self._db.execute(_PULL_PLACES, (after, limit + 1))]
        found.sort(key=lambda one: one[0])
        more = len(found) > limit
        found = found[:limit]
        return ReadStatus(
            since=clock.iso(found[-1][0] if more else self._last_us),
            full=full,
            more=more,
            statuses=[what for _, what in found if isinstance(what, Status)],
            positions=[what for _, what in found if isinstance(what, ReadingPosition)],
        )

    def statuses(self, message_ids: list[str]) -> list[Status]:
        return [_status(row) for row in self._db.execute(_STATUSES, (_json(message_ids),))]

    def positions(self, channels: list[str]) -> list[ReadingPosition]:
        return [_position(row) for row in self._db.execute(_POSITIONS, (_json(channels),))]

    def read_ids(self) -> str:
        """The ids of all messages with a read mark, also those that are gone, in order: a JSON array."""
        row = self._db.execute(_READ_IDS).fetchone()
        assert row is not None
        return str(row[0])

    def read_among(self, message_ids: list[str]) -> set[str]:
        """Those of ``message_ids`` that have a read mark."""
        return {row[0] for row in self._db.execute(_READ_AMONG, (_json(message_ids),))}

    # -- what is past its time -----------------------------------------------------------------------

    def forget(self, message_ids: list[str], now_us: int) -> int:
        """Forget the marks on messages that are no more, durably; how many there were. Raises :class:`DiskFull`,
        :class:`Unsure`."""
        marks = [_marks(row) for row in self._db.execute(_MARKS, (_json(sorted(set(message_ids))),))]
        for mark in marks:
            mark.read = Mark("", 0, "")
        if marks:
            with self._transaction():
                read_stats.keep(self._db, marks, clock.iso(now_us))
                ids = [(mark.message_id,) for mark in marks]
                self._db.executemany("DELETE FROM read_status WHERE message_id=?", ids)
        return len(marks)

    # -- what a device says --------------------------------------------------------------------------

    def merge(
        self,
        changes: list[ops.StatusRow],
        positions: list[ops.PositionRow],
        channels: dict[str, str],
        *,
        skew_us: int,
        now_us: int,
    ) -> Merged:
        """Merge in one transaction, on disk when this returns. ``channels``: the channel of each of the messages
        named that is in the box.

        Raises :class:`DiskFull`, nothing was written then; :class:`Unsure` if that isn't known.
        """
        merged = Merged(0, [], {})
        marks = self._merge_marks(changes, channels, merged, skew_us, now_us)
        places = self._merge_places(positions, channels, merged, skew_us, now_us, len(changes))
        if marks or places:
            self._keep(marks, places, now_us)
        for mark in marks:
            if bool(mark.was_read_at) != bool(mark.read.at):
                merged.turned[mark.message_id] = bool(mark.read.at)
        return merged

    def _merge_marks(
        self, changes: list[ops.StatusRow], channels: dict[str, str], merged: Merged, skew_us: int, now_us: int
    ) -> list[Marks]:
        known: dict[str, Marks] = {}
        if changes:
            for row in self._db.execute(_MARKS, (_json(sorted({c.message_id for c in changes})),)):
                known[row[0]] = _marks(row)
                known[row[0]].not_after(now_us)
        for index, change in enumerate(changes):
            channel = channels.get(change.message_id)
            if channel is None:
                merged.conflicts.append(_conflict(index, change.message_id, change.status, "no_message"))
                continue
            mark = known.get(change.message_id)
            if mark is None:
                mark = known[change.message_id] = Marks(change.message_id, channel)
            if mark.merge(change.status, effective_us(change.at_us, skew_us, now_us), change.device):
                merged.accepted += 1
            else:
                merged.conflicts.append(_conflict(index, change.message_id, change.status, "newer"))
        return [mark for mark in known.values() if mark.touched]

    def _merge_places(
        self,
        positions: list[ops.PositionRow],
        channels: dict[str, str],
        merged: Merged,
        skew_us: int,
        now_us: int,
        first_index: int,
    ) -> list[Place]:
        known: dict[str, Place] = {}
        if positions:
            for row in self._db.execute(_PLACES, (_json(sorted({p.channel_id for p in positions})),)):
                place = known[row[0]] = Place(*row)
                if place.us > now_us:  # said while the clock was ahead
                    place.us = 0
        for index, position in enumerate(positions, first_index):
            if channels.get(position.message_id) != position.channel_id:
                merged.conflicts.append(_conflict(index, position.message_id, "position", "no_message"))
                continue
            place = known.setdefault(position.channel_id, Place(position.channel_id))
            us = effective_us(position.at_us, skew_us, now_us)
            if place.merge(position.message_id, position.position, us):
                merged.accepted += 1
            else:
                merged.conflicts.append(_conflict(index, position.message_id, "position", "newer"))
        return [place for place in known.values() if place.touched]

    def _keep(self, marks: list[Marks], places: list[Place], now_us: int) -> None:
        """One durable transaction; each visible change gets the next number."""
        numbers = count(max(now_us, self._last_us + 1))
        last_us, first_us = self._last_us, self._first_us
        if not first_us:  # the first of all
            first_us = next(numbers)
        rows: list[tuple[Any, ...]] = []
        for mark in marks:
            if mark.seen or mark.is_new:
                last_us = next(numbers)
                rows.append((*_row(mark), last_us))
            else:
                rows.append((*_row(mark), None))
        place_rows: list[tuple[Any, ...]] = []
        for place in places:
            stamp = None
            if place.seen:
                stamp = last_us = next(numbers)
            place_rows.append((place.channel_id, place.message_id, place.position, place.at, place.us, stamp))
        with self._transaction():
            if first_us != self._first_us:
                self._db.execute(_FIRST, (first_us,))
            self._db.executemany(_KEEP, rows)
            self._db.executemany(_KEEP_PLACE, place_rows)
            read_stats.keep(self._db, marks, clock.iso(now_us))
        self._first_us = first_us
        if last_us != self._last_us:
            self._last_us = last_us
            notes.save(self.path.parent, NOTE, {"since": clock.iso(last_us)})

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Durable at the end, or not at all; raises :class:`DiskFull`, or :class:`Unsure` if that isn't known."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._commit()
        except apsw.FullError as error:
            self._rollback()
            raise DiskFull() from error
        except BaseException:
            self._rollback()
            raise

    def _commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except apsw.FullError:
            raise
        except apsw.Error as error:  # a failed flush says nothing about what is on disk
            raise Unsure(f"commit of {self.path}: {error}") from error

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _check_note(self) -> None:
        """If later numbers were given out than this file knows, somebody put an older one here: all rows get new
        numbers, in their order, and whoever has an old number gets everything."""
        note = notes.load(self.path.parent, NOTE, Note)
        noted_us = 0 if note is None else clock.us_of(note.since)
        if not self._last_us < noted_us < clock.now_us() + clock.DAY_US:
            return
        first_us = noted_us + 1
        found = self._db.execute(_NUMBERS).fetchall()
        with self._transaction():
            self._db.execute(_FIRST, (first_us,))
            numbered = [(number, *row) for number, row in enumerate(found, first_us + 1)]
            self._db.executemany(_RENUMBER, [(number, old) for number, old, is_place in numbered if not is_place])
            self._db.executemany(_RENUMBER_PLACE, [(number, old) for number, old, is_place in numbered if is_place])
        self._first_us, self._last_us = first_us, first_us + len(found)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _marks(row: tuple[Any, ...]) -> Marks:
    message_id, channel_id, read_at, read_us, read_by, read_device, *others = row
    archived_at, archived_us, archived_by, starred_at, starred_us, starred_by = others
    return Marks(
        message_id,
        channel_id,
        Mark(read_at, read_us, read_by),
        Mark(archived_at, archived_us, archived_by),
        Mark(starred_at, starred_us, starred_by),
        read_device,
        is_new=False,
        was_read_at=read_at,
    )


def _row(marks: Marks) -> tuple[Any, ...]:
    read, archived, starred = marks.read, marks.archived, marks.starred
    return (
        marks.message_id, marks.channel_id, read.at, read.us, read.by, marks.read_device, archived.at or None,
        archived.us, archived.by, starred.at or None, starred.us, starred.by,
    )  # fmt: skip


def _status(row: tuple[Any, ...]) -> Status:
    message_id, read_at, read_device, archived_at, starred_at = row
    return Status(
        message_id=message_id,
        read_at=read_at,
        read_device=read_device,
        archived_at=archived_at,
        starred_at=starred_at,
    )


def _position(row: tuple[Any, ...]) -> ReadingPosition:
    channel_id, message_id, at, position = row
    return ReadingPosition(channel_id=channel_id, last_read_message_id=message_id, last_read_at=at, position=position)


def _conflict(index: int, message_id: str, status: str, reason: Literal["newer", "no_message"]) -> StatusConflict:
    return StatusConflict(index=index, message_id=message_id, status=status, reason=reason)
