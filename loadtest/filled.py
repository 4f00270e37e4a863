"""Boxes with many messages in them, made by plain SQL before anybody opens them."""

from __future__ import annotations

import random
from pathlib import Path

import apsw

from node.clock import iso
from node.ids import new_id
from shard.mailbox import template
from shard.rows import Row as Message

CHANNELS = 20
_PORTION = 50_000
_BEGIN_US = 1_700_000_000_000_000
_INSERT = (
    "INSERT INTO messages(id, channel_id, title, content, message_type, priority, sender, created_at, updated_at, "
    "metadata) VALUES(?,?,?,?,?,?,?,?,?,?)"
)


class Writer:
    """Messages of about 600 B, each a second after the one before."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._at_us = _BEGIN_US

    def take(self, count: int) -> list[Message]:
        return [self._message() for _ in range(count)]

    def _message(self) -> Message:
        self._at_us += 1_000_000
        at, pick = iso(self._at_us), self._random.randrange
        content = f"message {self._at_us}: " + "so many words in a message. " * 15
        priority = 5 if pick(10) else 1 + pick(10)
        return (new_id(), f"channel-{pick(CHANNELS)}", f"title {pick(10**9):030d}", content, "text", priority,
                f"u{pick(1_000):010d}", at, at, None)  # fmt: skip


def seed(path: Path, writer: Writer, rows: int) -> None:
    """Put ``rows`` messages into the box at ``path``; it ends without a log."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    db.execute("PRAGMA synchronous=off; PRAGMA cache_size=-200000; PRAGMA wal_autocheckpoint=0")
    for start in range(0, rows, _PORTION):
        with db:
            db.executemany(_INSERT, writer.take(min(_PORTION, rows - start)))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def fill(path: Path, bytes_min: int) -> int:
    """A new box at ``path``, with messages of about 600 B till it has ``bytes_min``; how many they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(template())
    writer, rows = Writer(1), 0
    while path.stat().st_size < bytes_min:
        more = max(500, (bytes_min - path.stat().st_size) // 1_000)
        seed(path, writer, more)
        rows += more
    return rows
