"""What waits behind the windows: letters that are in the journal only, and where they are found.

A message is held in memory or it stands in the tail, never both: its rows here come in the transaction
that journals the letter (or at a start, for what the windows don't hold), and go in the one that takes it
into memory. Each lane is taken up oldest first; ``tail_users`` finds what a reader must not wait for.
Letters to channels have one row, and are found by who was a member when.

A reader is given copies: the letters stay, and are delivered again when their turn comes, which changes
nothing in his box. Only then are they counted as stored, so that every target is counted once.

Everything here runs with the journal's lock held, in its thread or before there is one.
"""

from __future__ import annotations

from collections.abc import Iterable

import apsw
import msgspec

from node import ops
from shard import backlog as letters_of
from shard.backlog import Letter
from shard.journal import LetterRow
from shard.lanes import LANES
from shard.members import Members

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tail(
    lane INTEGER NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL, targets INTEGER NOT NULL, bytes INTEGER NOT NULL,
    channel TEXT, PRIMARY KEY (lane, seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tail_id ON tail(id);
CREATE INDEX IF NOT EXISTS tail_channel ON tail(channel, seq) WHERE channel IS NOT NULL;
CREATE TABLE IF NOT EXISTS tail_users(user TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (user, seq)) WITHOUT ROWID;
"""
_ADD = "INSERT INTO tail(lane, seq, id, targets, bytes, channel) VALUES(?,?,?,?,?,?)"
_ADD_USER = "INSERT INTO tail_users(user, seq) VALUES(?,?)"
_COUNTS = "SELECT lane, count(*), sum(targets), sum(bytes), min(seq) FROM tail GROUP BY lane"
_PENDING = "SELECT targets FROM tail WHERE id=?"
_NEXT = """
SELECT l.seq, l.targets, l.channel, l.users, l.body FROM tail t JOIN letters l ON l.seq=t.seq
WHERE t.lane=? ORDER BY t.seq"""
_DROP = "DELETE FROM tail WHERE lane=? AND seq<=?"
_DROP_USER = "DELETE FROM tail_users WHERE user=? AND seq=?"
_OF_USER = "SELECT seq FROM tail_users WHERE user=? AND seq>? ORDER BY seq LIMIT ?"
_OF_CHANNEL = "SELECT seq FROM tail WHERE channel=? AND seq>? AND seq<? ORDER BY seq LIMIT ?"
_HAS_CHANNELS = "SELECT EXISTS(SELECT 1 FROM tail WHERE channel IS NOT NULL)"
_ONE = "SELECT targets, channel, body FROM letters WHERE seq=?"
_OTHERS = f"""
SELECT seq, kind, id, targets, channel, users, body FROM letters l
WHERE seq>? AND NOT EXISTS(SELECT 1 FROM tail t WHERE t.lane IN {tuple(range(len(LANES)))} AND t.seq=l.seq)
    AND NOT EXISTS(SELECT 1 FROM parked p WHERE p.seq=l.seq AND p.alone)
ORDER BY seq"""

_STRAYS = """
SELECT (SELECT count(*) FROM tail t WHERE NOT EXISTS(
        SELECT 1 FROM letters l WHERE l.seq=t.seq AND l.kind=0 AND l.id=t.id AND l.targets=t.targets
        AND l.channel IS t.channel AND length(l.body)=t.bytes))
    + abs((SELECT count(*) FROM tail_users) - (SELECT coalesce(sum(targets), 0) FROM tail WHERE channel IS NULL))"""
_LANES_OF = f"SELECT lane FROM tail WHERE lane IN {tuple(range(len(LANES)))} AND seq=?"
_HAS_USER = "SELECT 1 FROM tail_users WHERE user=? AND seq=?"

_LETTERS_MAX = 1_000
_TARGETS_MAX = 10_000
_BYTES_MAX = 4 * 1024**2
READ_MAX = 256
_NO_END = 2**63 - 1

_body = msgspec.msgpack.Decoder(ops.Letter).decode


class Lane(msgspec.Struct, frozen=True):
    """What one lane's tail holds."""

    letters: int = 0
    targets: int = 0
    bytes: int = 0
    first: int = _NO_END
    """the oldest letter's number"""


class Tail:
    """The tail on the journal's connection ``db``."""

    def __init__(self, db: apsw.Connection, members: Members) -> None:
        self._db = db
        self._members = members
        db.execute(_SCHEMA).fetchall()

    def lanes(self) -> list[Lane]:
        """By lane; reads all of it."""
        found = {row[0]: Lane(*row[1:]) for row in self._db.execute(_COUNTS)}
        return [found.get(lane, Lane()) for lane in range(len(LANES))]

    def add(self, letters: Iterable[tuple[Letter, list[str]]]) -> None:
        """Let messages that have their journal row in this transaction wait here."""
        assert self._db.in_transaction
        rows = [(letter, users) for letter, users in letters]
        self._db.executemany(
            _ADD, [(one.lane, one.seq, one.id, one.left, one.size, one.channel) for one, _users in rows]
        )
        self._db.executemany(_ADD_USER, sorted((user, letter.seq) for letter, users in rows for user in users))

    def take(self, lane: int, targets_max: int, bytes_max: int) -> list[tuple[Letter, list[str]]]:
        """The oldest of ``lane``, which are the caller's from now on: at least one if there is any, and no more than
        reach the bounds, or are taken at a time."""
        assert self._db.in_transaction
        taken: list[tuple[Letter, list[str]]] = []
        targets, size = min(targets_max, _TARGETS_MAX), min(bytes_max, _BYTES_MAX)
        rows = self._db.execute(_NEXT, (lane,))
        for seq, count, channel, users, body in rows:
            names = users.split("\n") if users else []
            taken.append((letters_of.message(seq, count, channel, _body(body), len(body)), names))
            targets -= max(1, len(names))
            size -= len(body)
            if targets <= 0 or size <= 0 or len(taken) == _LETTERS_MAX:
                break
        rows.close()
        if taken:
            self._db.execute(_DROP, (lane, taken[-1][0].seq))
            self._db.executemany(_DROP_USER, sorted((name, letter.seq) for letter, names in taken for name in names))
        return taken

    def of(self, user: str, after: int) -> list[Letter]:
        """Copies of the next that wait for ``user``, after letter ``after``, in order; empty if there are no more."""
        seqs = {row[0] for row in self._db.execute(_OF_USER, (user, after, READ_MAX))}
        if any(row[0] for row in self._db.execute(_HAS_CHANNELS)):
            for channel, joined, left in self._members.spans(user):
                span = (channel, max(after, joined), _NO_END if left is None else left, READ_MAX)
                seqs.update(row[0] for row in self._db.execute(_OF_CHANNEL, span))
        found: list[Letter] = []
        size = 0
        for seq in sorted(seqs)[:READ_MAX]:
            for targets, channel, body in self._db.execute(_ONE, (seq,)):
                found.append(letters_of.message(seq, targets, channel, _body(body), len(body)))
                size += len(body)
            if size >= _BYTES_MAX:
                break
        return found

    def pending(self, message_id: str) -> int:
        """Targets of a message that wait here."""
        return sum(row[0] for row in self._db.execute(_PENDING, (message_id,)))

    def others(self, after: int) -> list[LetterRow]:
        """A portion of the journal's letters after ``after`` that neither wait here nor are parked alone, in
        order."""
        found: list[LetterRow] = []
        size = 0
        rows = self._db.execute(_OTHERS, (after,))
        for row in rows:
            found.append(row)
            size += len(row[6])
            if size >= _BYTES_MAX or len(found) == _LETTERS_MAX:
                break
        rows.close()
        return found

    # -- for the doctor ----------------------------------------------------------------------------

    def strays(self) -> int:
        """Rows that no letter of the journal accounts for, or that are missing; 0 if all is well."""
        return sum(row[0] for row in self._db.execute(_STRAYS))

    def is_right(self, seq: int, lane: int, users: list[str], *, may_wait: bool) -> bool:
        """Whether a letter doesn't stand in the tail, or, if it ``may_wait`` there, once, in its lane, and is found by
        ``users``."""
        lanes = [row[0] for row in self._db.execute(_LANES_OF, (seq,))]
        if not lanes:
            return True
        return (
            may_wait and lanes == [lane] and all(self._db.execute(_HAS_USER, (user, seq)).fetchall() for user in users)
        )
