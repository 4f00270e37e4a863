"""Which boxes are tried again when, on disk: so a pause goes on after a restart where it was, and tries that were made
stay counted.

A row is about one user. It is written with the next commit of the journal, never with a flush of its own; one that was
not written yet costs a few tries more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apsw
import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS retries(
    user_id TEXT PRIMARY KEY NOT NULL, attempts INTEGER NOT NULL, reason TEXT NOT NULL, first_us INTEGER NOT NULL,
    next_us INTEGER NOT NULL, tries BLOB NOT NULL) WITHOUT ROWID"""
_PUT = "INSERT OR REPLACE INTO retries(user_id, attempts, reason, first_us, next_us, tries) VALUES(?,?,?,?,?,?)"
_ALL = "SELECT user_id, attempts, reason, first_us, next_us, tries FROM retries"
_runs = msgspec.msgpack.Decoder(list[tuple[int, int]]).decode


class Retry(NamedTuple):
    """``attempts`` to write the box of ``user`` failed one after the other since ``first_us``, the last for
    ``reason``; the next is due at ``next_us``. Of which letters they were: see :class:`shard.retry.Tries`."""

    user: str
    attempts: int
    reason: str
    first_us: int
    next_us: int
    runs: list[tuple[int, int]]


class Schedule:
    """On the journal's connection."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        db.execute(_SCHEMA).fetchall()

    def load(self) -> Iterator[Retry]:
        for user, attempts, reason, first_us, next_us, runs in self._db.execute(_ALL):
            yield Retry(user, attempts, reason, first_us, next_us, _runs(runs))

    def write(self, retries: Iterable[Retry], ended: Iterable[str]) -> None:
        """Note ``retries`` down; the users ``ended`` are in no trouble any more."""
        assert self._db.in_transaction
        self._db.executemany(_PUT, [(*retry[:5], msgspec.msgpack.encode(retry.runs)) for retry in retries])
        self._db.executemany("DELETE FROM retries WHERE user_id=?", [(user,) for user in ended])
