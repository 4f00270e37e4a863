"""The tables of a ``read_status.db``, and how an empty one comes to be: whole and durable, or not at all.

Its owner's directory was made without a flush (a barrier covers it in time), so all names above the file are made
durable with it: the first commit is answered right afterwards.
"""

from __future__ import annotations

from pathlib import Path

from node.placement import sync_directory
from shard.disk import Disk, full_is_507
from shard.sqlite import empty_file

FILE = "read_status.db"
SCHEMA_VERSION = 1

SCHEMA = f"""
CREATE TABLE read_status(
    message_id TEXT PRIMARY KEY NOT NULL, read_at DATETIME NOT NULL, read_device TEXT,
    archived_at DATETIME, starred_at DATETIME, metadata JSON, channel_id TEXT NOT NULL,
    read_us INTEGER NOT NULL, read_by TEXT NOT NULL, archived_us INTEGER NOT NULL, archived_by TEXT NOT NULL,
    starred_us INTEGER NOT NULL, starred_by TEXT NOT NULL, stamp_us INTEGER NOT NULL);
CREATE UNIQUE INDEX read_status_stamp ON read_status(stamp_us);
CREATE TABLE read_stats(
    date TEXT PRIMARY KEY NOT NULL, total_read INTEGER NOT NULL, channel_stats JSON NOT NULL,
    updated_at DATETIME) WITHOUT ROWID;
CREATE TABLE reading_position(
    channel_id TEXT PRIMARY KEY NOT NULL, last_read_message_id TEXT, last_read_at DATETIME, position INTEGER,
    said_us INTEGER NOT NULL, stamp_us INTEGER NOT NULL);
CREATE UNIQUE INDEX reading_position_stamp ON reading_position(stamp_us);
CREATE TABLE since(id INTEGER PRIMARY KEY CHECK(id=1), first_us INTEGER NOT NULL);
PRAGMA user_version={SCHEMA_VERSION};
"""


def template() -> bytes:
    """The bytes of an empty file."""
    return empty_file(SCHEMA)


def give_birth(path: Path, content: bytes, disk: Disk) -> None:
    """An empty file at ``path``, whole and durable, or none. Raises :class:`DiskFull`."""
    fresh = path.with_name(path.name + ".new")
    with full_is_507():
        log = path.with_name(path.name + "-wal")
        if log.exists():  # of a file that somebody took away: its pages must not get into this one
            disk.remove_log(log)
        disk.write(fresh, content)
        disk.sync_file(fresh)
        disk.rename(fresh, path)
        for directory in (path.parent.parent, path.parent.parent.parent):
            sync_directory(directory)
