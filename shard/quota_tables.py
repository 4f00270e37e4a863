"""What a journal's database has of quotas (:mod:`shard.quotas`): who has one of their own, and whose boxes are full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

_SCHEMA = """
CREATE TABLE IF NOT EXISTS quotas(
    user_id TEXT PRIMARY KEY NOT NULL, messages INTEGER, bytes INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS full_boxes(
    user_id TEXT PRIMARY KEY NOT NULL, messages INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
"""
_TABLES = ("quotas", "full_boxes")
_COLUMNS = "user_id, messages, bytes"


def make_tables(db: apsw.Connection) -> None:
    """Where they are missing."""
    db.execute(_SCHEMA).fetchall()


def rows(db: apsw.Connection) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """All there is, by table, for another shard to :func:`put`; the user comes first."""
    for table in _TABLES:
        for row in db.execute(f"SELECT {_COLUMNS} FROM {table}"):
            yield table, row


def rows_of(db: apsw.Connection, user: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Those of ``user``, as :func:`rows`."""
    return [
        (table, row)
        for table in _TABLES
        for row in db.execute(f"SELECT {_COLUMNS} FROM {table} WHERE user_id=?", (user,))
    ]


def put(db: apsw.Connection, table: str, row: tuple[Any, ...]) -> None:
    """Take over what another shard had."""
    assert db.in_transaction
    db.execute(f"INSERT OR REPLACE INTO {table}({_COLUMNS}) VALUES(?,?,?)", row)


def drop(db: apsw.Connection, user: str) -> None:
    """All that is known of ``user``."""
    assert db.in_transaction
    for table in _TABLES:
        db.execute(f"DELETE FROM {table} WHERE user_id=?", (user,))
