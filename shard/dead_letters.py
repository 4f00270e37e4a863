"""Letters that were given up: what could not be stored in one box, kept for people to decide about.

A letter dies for one target, in one transaction of the journal and never later than its row there goes: at any moment
it either waits or is dead. The journal's row may stay, for other targets; ``dead_targets`` then says for whom it is no
more, so that no replay tries again what died. Requeued, a letter is a new row of the journal, in the transaction that
takes it from here.

What was requeued, deleted or dropped leaves its name for as long as somebody may ask for the receipt, or a box may be
restored from the history: a target that failed is counted by these rows alone, who asks twice to requeue hears the same
twice, and what was given up comes back in no restored box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apsw
import msgspec

from node import ops
from shard import gone

_SCHEMA = """
CREATE TABLE IF NOT EXISTS dead_letters(
    user_id TEXT NOT NULL, message_id TEXT NOT NULL, state INTEGER NOT NULL, reason TEXT NOT NULL,
    tries INTEGER NOT NULL, first_us INTEGER NOT NULL, died_us INTEGER NOT NULL, accepted_us INTEGER NOT NULL,
    channel_id TEXT NOT NULL, title TEXT NOT NULL, priority INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (user_id, message_id));
CREATE INDEX IF NOT EXISTS dead_letters_died ON dead_letters(state, died_us, user_id, message_id);
CREATE INDEX IF NOT EXISTS dead_letters_message ON dead_letters(message_id);
CREATE TABLE IF NOT EXISTS dead_targets(
    seq INTEGER NOT NULL, user_id TEXT NOT NULL, PRIMARY KEY (seq, user_id)) WITHOUT ROWID;
"""
DEAD, REQUEUED, _GONE = 0, 1, 2
"""the state of a row; of the last two only the name is kept"""
_COLUMNS = "user_id, message_id, reason, tries, first_us, died_us, accepted_us, channel_id, title, priority"
_BURY = f"""
INSERT INTO dead_letters(state, {_COLUMNS}, body) VALUES({DEAD},?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT DO UPDATE SET state={DEAD}, reason=excluded.reason, tries=excluded.tries, first_us=excluded.first_us,
    died_us=excluded.died_us, body=excluded.body"""
_TARGET = "INSERT OR IGNORE INTO dead_targets(seq, user_id) VALUES(?,?)"
_SETTLE = "UPDATE dead_letters SET state=?, body=x'' WHERE user_id=? AND message_id=?"
_FIND = "SELECT state, body FROM dead_letters WHERE user_id=? AND message_id=?"
_FAILED = f"SELECT count(*) FROM dead_letters WHERE message_id=? AND state<>{REQUEUED}"
_OLDEST = f"""
SELECT user_id, message_id, died_us, length(body) FROM dead_letters
WHERE state={DEAD} ORDER BY died_us, user_id, message_id LIMIT ?"""
_FORGET = f"""
DELETE FROM dead_letters WHERE rowid IN (
    SELECT rowid FROM dead_letters WHERE state<>{DEAD} AND died_us<?
        AND NOT EXISTS(SELECT 1 FROM receipts r WHERE r.id=message_id) LIMIT ?)"""
_OF_USER = "SELECT message_id, state, length(body) FROM dead_letters WHERE user_id=?"
_GIVEN_UP = f"SELECT message_id, accepted_us FROM dead_letters WHERE user_id=? AND state<>{REQUEUED}"
_SWEEP_PORTION = 1_000

_letter = msgspec.msgpack.Decoder(ops.Letter).decode


class Death(NamedTuple):
    """Letter ``seq`` of the journal can't be stored for ``user``: given up at ``died_us`` for ``reason`` (one of
    ``shard.trouble.REASONS``), after ``tries``, the first of which was at ``first_us``."""

    seq: int
    user: str
    message_id: str
    reason: str
    tries: int
    first_us: int
    died_us: int
    size: int = 0
    """bytes of its body, of which each target gets a copy"""


class Moved(NamedTuple):
    """What a transaction changes in the counts, once it is committed."""

    letters: int
    bytes: int
    dropped: int = 0
    targets: int = 0


def make_tables(db: apsw.Connection) -> None:
    """Where they are missing."""
    db.execute(_SCHEMA).fetchall()


def targets(db: apsw.Connection) -> dict[int, set[str]]:
    """For whom the letters of the journal are no more, by their numbers."""
    found: dict[int, set[str]] = {}
    for seq, user in db.execute("SELECT seq, user_id FROM dead_targets"):
        found.setdefault(seq, set()).add(user)
    return found


def letters_dead_for(db: apsw.Connection, user: str) -> set[int]:
    """Numbers of letters that are in the journal still, and no more for ``user``."""
    return {seq for (seq,) in db.execute("SELECT seq FROM dead_targets WHERE user_id=?", (user,))}


def given_up(db: apsw.Connection, user: str) -> dict[str, int]:
    """What of ``user``'s mail is dead, or was forgotten as such: ids, and when each was accepted."""
    return dict(db.execute(_GIVEN_UP, (user,)))


def rows(db: apsw.Connection) -> Iterator[tuple[Any, ...]]:
    """All of them, for another shard to :func:`put`; the user comes first."""
    return db.execute(f"SELECT {_COLUMNS}, state, body FROM dead_letters")


def rows_of(db: apsw.Connection, user: str) -> list[tuple[Any, ...]]:
    """Those of ``user``, as :func:`rows`."""
    return list(db.execute(f"SELECT {_COLUMNS}, state, body FROM dead_letters WHERE user_id=?", (user,)))


def put(db: apsw.Connection, row: tuple[Any, ...]) -> None:
    """Take over what another shard had."""
    assert db.in_transaction
    db.execute(f"INSERT OR REPLACE INTO dead_letters({_COLUMNS}, state, body) VALUES(?,?,?,?,?,?,?,?,?,?,?,?)", row)


class DeadLetters:
    """On the journal's connection; at most ``count_max`` of them, with bodies of ``bytes_max``, for ``keep_s``; names
    of what was forgotten for ``names_s`` at least."""

    def __init__(
        self, db: apsw.Connection, *, count_max: int, bytes_max: int, keep_s: float, names_s: float = 0
    ) -> None:
        self._db = db
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._keep_us = int(keep_s * 1e6)
        self._names_us = int(names_s * 1e6)
        make_tables(db)
        count, size = self._one(f"SELECT count(*), coalesce(sum(length(body)),0) FROM dead_letters WHERE state={DEAD}")
        self.count: int = count
        self.bytes: int = size
        self._targets: int = self._one("SELECT count(*) FROM dead_targets")[0]
        self.dropped = 0
        """dead letters that had to go since the start: too many, too large, or too old"""

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        row = self._db.execute(sql, values).fetchone()
        assert row is not None
        return row

    # -- inside a transaction of the journal -------------------------------------------------------

    def bury(self, deaths: Iterable[Death]) -> Moved:
        """Write ``deaths`` down; the oldest of all go if that is too many. Their rows are still in the journal."""
        assert self._db.in_transaction
        count = size = targets = seq = 0
        body = b""
        for death in deaths:
            self._db.execute(_TARGET, (death.seq, death.user))
            targets += self._db.changes()
            if death.seq != seq:  # one letter that dies for many is read once
                seq, body = death.seq, self._one("SELECT body FROM letters WHERE seq=?", (death.seq,))[0]
            known = self._db.execute(_FIND, (death.user, death.message_id)).fetchone()
            if known is not None and known[0] == DEAD:  # a second row of one message for one target is one failure
                continue
            letter = _letter(body)
            self._db.execute(
                _BURY,
                (death.user, death.message_id, death.reason, death.tries, death.first_us, death.died_us,
                 letter.accepted_us, letter.channel_id, letter.title, letter.priority, body),
            )  # fmt: skip
            count += 1
            size += len(body)
        dropped = self._drop(self.count + count - self._count_max, self.bytes + size - self._bytes_max, 0)
        return Moved(count + dropped.letters, size + dropped.bytes, dropped.dropped, targets)

    def _drop(self, surplus: int, surplus_bytes: int, before_us: int) -> Moved:
        """Let the oldest go: ``surplus`` of them, with ``surplus_bytes`` at least, and (a portion of) those that died
        before ``before_us``."""
        count = size = 0
        rows: list[Any] = self._db.execute(_OLDEST, (max(surplus, _SWEEP_PORTION),)).fetchall()
        for user, message_id, died_us, length in rows:
            if count >= surplus and size >= surplus_bytes and died_us >= before_us:
                break
            self._db.execute(_SETTLE, (_GONE, user, message_id))
            count, size = count + 1, size + length
        return Moved(-count, -size, count)

    def purged(self, ranges: Iterable[tuple[int, int]]) -> Moved:
        """These rows leave the journal: for whom they are no more is no question any longer."""
        assert self._db.in_transaction
        before = self._db.total_changes()
        if self._targets:
            self._db.executemany("DELETE FROM dead_targets WHERE seq BETWEEN ? AND ?", ranges)
        return Moved(0, 0, 0, before - self._db.total_changes())

    def requeue(self, user: str, message_id: str) -> tuple[bool, bytes | None]:
        """Whether there is, or was, such a dead letter; and its body, for the journal, if it is one still."""
        assert self._db.in_transaction
        known = self._db.execute(_FIND, (user, message_id)).fetchone()
        if known is None or known[0] == _GONE:
            return False, None
        if known[0] == REQUEUED:
            return True, None
        self._db.execute(_SETTLE, (REQUEUED, user, message_id))
        return True, known[1]

    def delete(self, user: str, message_id: str) -> Moved | None:
        """Forget a dead letter for good; None if there is none."""
        assert self._db.in_transaction
        known = self._db.execute(_FIND, (user, message_id)).fetchone()
        if known is None or known[0] != DEAD:
            return None
        self._db.execute(_SETTLE, (_GONE, user, message_id))
        return Moved(-1, -len(known[1]))

    def withdraw(self, targets: Iterable[tuple[int, str, str]]) -> None:
        """Take targets who were deleted off their receipts, each once."""
        gone.withdraw(self._db, targets)

    def delete_all(self, user: str) -> Moved:
        """Forget all that was given up for ``user``, who is there no more: a target of nothing."""
        assert self._db.in_transaction
        count = size = 0
        rows: list[Any] = self._db.execute(_OF_USER, (user,)).fetchall()
        for message_id, state, length in rows:
            if state != REQUEUED:
                self._db.execute(gone.SHRINK, (message_id,))
            if state == DEAD:
                count, size = count + 1, size + length
        self._db.execute("DELETE FROM dead_letters WHERE user_id=?", (user,))
        return Moved(-count, -size)

    def sweep(self, now_us: int, receipt_us: int) -> Moved:
        """Let go of what died too long ago, and of names that no receipt of the last ``receipt_us`` asks for."""
        assert self._db.in_transaction
        self._db.execute(_FORGET, (now_us - max(receipt_us, self._names_us), _SWEEP_PORTION))
        return self._drop(0, 0, now_us - self._keep_us)

    def committed(self, moved: Moved) -> None:
        """The transaction that changed so much is on disk."""
        self.count += moved.letters
        self.bytes += moved.bytes
        self.dropped += moved.dropped
        self._targets += moved.targets

    # -- queries -----------------------------------------------------------------------------------

    def has_old(self, now_us: int, receipt_us: int) -> bool:
        """Whether :meth:`sweep` would find something; it looks at the oldest only."""
        oldest = self._db.execute(_OLDEST, (1,)).fetchone()
        if oldest is not None and oldest[2] < now_us - self._keep_us:
            return True
        name = f"SELECT 1 FROM dead_letters WHERE state<>{DEAD} AND died_us<? LIMIT 1"
        return self._db.execute(name, (now_us - max(receipt_us, self._names_us),)).fetchone() is not None

    def failed(self, message_id: str) -> int:
        """For how many targets here the message was given up, and not requeued."""
        return int(self._one(_FAILED, (message_id,))[0])

    def page(
        self, user: str | None, reason: str | None, before: tuple[int, str, str] | None, limit: int
    ) -> list[ops.DeadLetter]:
        """``limit`` dead letters, the newest first, from ``before`` (died_us, user, message id) on."""
        where, values = [f"state={DEAD}"], list[Any]()
        for column, value in (("user_id", user), ("reason", reason)):
            if value is not None:
                where.append(f"{column}=?")
                values.append(value)
        if before is not None:
            where.append("(died_us, user_id, message_id) < (?,?,?)")
            values += before
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM dead_letters WHERE {' AND '.join(where)}"
            " ORDER BY died_us DESC, user_id DESC, message_id DESC LIMIT ?",
            (*values, limit),
        )
        return [ops.DeadLetter(*row) for row in rows]
