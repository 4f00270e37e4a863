"""Rows of a table of messages, in a box or in its archive, and pages of them: newest first, by ``created_at``, then as
they came.

A page ends where it is long enough, in messages or in characters, and its cursor says where: behind what, not how many
on. So what comes or goes meanwhile moves no other message from one page to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apsw
import msgspec

from node.errors import BadField
from node.model import Message, Messages

COLUMNS = "id, channel_id, title, content, message_type, priority, sender, created_at, updated_at, metadata"
Row = tuple[str, str, str, str, str, int, str | None, str, str, str | None]
"""the values of :data:`COLUMNS`"""
Place = tuple[str, int]
"""created_at, and row number where that is the same"""
Placed = tuple[str, str, str, str, str, int, str | None, str, str, str | None, int]
"""a :data:`Row`, and its number"""

_PAGE_CHARS = 4 * 1024 * 1024  # of a page of messages; one more message at the most goes beyond it


def one(db: apsw.Connection, message_id: str) -> Message | None:
    """The message of ``db`` with that id."""
    row = db.execute(f"SELECT {COLUMNS} FROM messages WHERE id=?", (message_id,)).fetchone()
    return None if row is None else _message_of(row)


def position(cursor: str) -> Place:
    """Where a page that ended with ``cursor`` ended. Raises :class:`BadField`."""
    created_at, _, number = cursor.partition("~")
    if not number.isdecimal() or len(number) > 18:
        raise BadField("cursor is not one of ours", field="cursor")
    return created_at, int(number)


def placed_rows(
    db: apsw.Connection, number: str, channel_id: str | None, most: int, place: Place | None
) -> Iterator[Placed]:
    """Up to ``most`` messages of ``db`` after ``place``, newest first; column ``number`` tells in which order those of
    one time came."""
    where, values = ["TRUE"], list[Any]()
    if channel_id is not None:
        where.append("channel_id=?")
        values.append(channel_id)
    if place is not None:
        where.append(f"(created_at, {number}) < (?, ?)")
        values += place
    return db.execute(
        f"SELECT {COLUMNS}, {number} FROM messages WHERE {' AND '.join(where)}"
        f" ORDER BY created_at DESC, {number} DESC LIMIT ?",
        (*values, most),
    )


def paged(found: Iterable[Placed], limit: int) -> Messages:
    """The first ``limit`` of ``found`` as a page, fewer where they are long."""
    rows: list[Placed] = []
    size, more = 0, False
    for row in found:
        if len(rows) == limit or size > _PAGE_CHARS:
            more = True
            break
        rows.append(row)
        size += sum(len(value) for value in row if isinstance(value, str))
    return Messages(
        messages=[_message_of(row) for row in rows],
        cursor=f"{rows[-1][7]}~{rows[-1][10]}" if more else None,
    )


def _message_of(row: Iterable[Any]) -> Message:
    """A row of ``messages`` as callers see it."""
    i, channel_id, title, content, message_type, priority, sender, created_at, updated_at, metadata, *_ = row
    return Message(
        id=i,
        channel_id=channel_id,
        title=title,
        content=content,
        message_type=message_type,
        priority=priority,
        sender=sender,
        created_at=created_at,
        updated_at=updated_at,
        metadata=None if metadata is None else msgspec.json.decode(metadata),
    )
