"""Who was deleted, and up to which letter: what was accepted for them until then goes to nobody.

A row comes first of all and is on disk before anything is taken away; it stays as long as the journal has a letter from
before. So a letter that is replayed, expanded late or taken up from the tail finds it, and counts its target as
withdrawn: the receipt's targets become one fewer, once, however often the letter is replayed. The journal's rows stay
as they are; they go when their other targets have been served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import apsw

from shard.journal import GoingRow
from shard.sqlite import has_table

MARKED, EMPTIED, DONE = 0, 1, 2
"""how far it is: the box is still there; it is out of its place; nothing is left"""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS gone(
    user_id TEXT PRIMARY KEY NOT NULL, seq INTEGER NOT NULL, at_us INTEGER NOT NULL, phase INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS withdrawn(
    seq INTEGER NOT NULL, user_id TEXT NOT NULL, PRIMARY KEY(seq, user_id)) WITHOUT ROWID;
"""
_ALL = "SELECT user_id, seq, at_us, phase FROM gone"
_PUT = "INSERT OR REPLACE INTO gone(user_id, seq, at_us, phase) VALUES(?,?,?,?)"
_PHASE = "UPDATE gone SET phase=? WHERE user_id=?"
_WITHDRAW = "INSERT OR IGNORE INTO withdrawn(seq, user_id) VALUES(?,?)"
SHRINK = "UPDATE receipts SET targets=targets-1 WHERE id=? AND targets>0"
"""one target fewer on the receipt of a message"""
_FORGET = "DELETE FROM gone WHERE phase=? AND seq<?"
_FORGET_WITHDRAWN = "DELETE FROM withdrawn WHERE seq<?"


class Numbered(Protocol):
    seq: int


Item = TypeVar("Item", bound=Numbered)
Tombstone = tuple[str, int, int, int]
"""user, the last letter that goes to nobody, when it was asked for, how far it is"""


def stored(db: apsw.Connection) -> list[Tombstone]:
    """All of the journal's database ``db``; none if there is no table."""
    if not has_table(db, "gone"):
        return []
    return list(db.execute(_ALL))


def withdrawn(db: apsw.Connection) -> set[tuple[int, str]]:
    """Which targets of which letters (number, user) were taken off their receipts already."""
    if not has_table(db, "gone"):
        return set()
    return {(seq, user) for seq, user in db.execute("SELECT seq, user_id FROM withdrawn")}


def put(db: apsw.Connection, tombstone: Tombstone) -> None:
    assert db.in_transaction
    db.execute(_SCHEMA).fetchall()
    db.execute(_PUT, tombstone)


def advance(db: apsw.Connection, user: str, phase: int) -> None:
    assert db.in_transaction
    db.execute(_PHASE, (phase, user))


def withdraw(db: apsw.Connection, targets: Iterable[tuple[int, str, str]]) -> None:
    """Take targets (letter's number, user, message id) off their receipts, each once."""
    assert db.in_transaction
    for seq, user, message_id in targets:
        db.execute(_WITHDRAW, (seq, user))
        if db.changes():
            db.execute(SHRINK, (message_id,))


def forget(db: apsw.Connection, before_seq: int) -> None:
    """Drop the rows of those who are gone without a trace, and whose letters were all before ``before_seq``."""
    assert db.in_transaction
    db.execute(_FORGET, (DONE, before_seq))
    db.execute(_FORGET_WITHDRAWN, (before_seq,))


class Gone:
    """Those of one journal, in memory; asked at each delivery."""

    def __init__(self, tombstones: Iterable[Tombstone] = ()) -> None:
        self.up_to: dict[str, int] = {}
        """by user, the last letter that goes to nobody"""
        self.phases: dict[str, int] = {}
        for user, seq, _at_us, phase in tombstones:
            self.up_to[user], self.phases[user] = seq, phase

    @property
    def last_seq(self) -> int:
        """No letter that comes may have a number up to this one."""
        return max(self.up_to.values(), default=0)

    def after(self, user: str, letters: Sequence[Item]) -> list[Item]:
        """Those of ``letters`` that are for whoever is called ``user`` now."""
        until = self.up_to.get(user, 0)
        return [letter for letter in letters if letter.seq > until]

    def without(self, rows: list[GoingRow]) -> list[GoingRow]:
        """``rows`` without the names of those who are gone; a row that named nobody else is left out."""
        if not self.up_to:
            return rows
        kept: list[GoingRow] = []
        for seq, kind, id, channel, users, body in rows:
            names = users.split("\n")
            left = [name for name in names if seq > self.up_to.get(name, 0)]
            if channel is not None or left:
                kept.append((seq, kind, id, channel, "\n".join(left) if len(left) < len(names) else users, body))
        return kept

    def may_retire(self, before_seq: int) -> list[str]:
        """Who would go by :meth:`retire`."""
        return [user for user, seq in self.up_to.items() if seq < before_seq and self.phases[user] == DONE]

    def retire(self, before_seq: int) -> None:
        """As :func:`forget`."""
        for user in self.may_retire(before_seq):
            del self.up_to[user], self.phases[user]
