"""People taken out of a copy of a journal, as if they had never been in it.

What was theirs up to their deletion goes, and what names them: targets of letters, memberships, dead letters, devices.
Counts follow, so that a node made of the copy finds everything in order. Whoever has the same name now, in a copy from
later on, is left alone: a letter's number tells.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Iterable
from pathlib import Path

import apsw

from shard import backup_files as files
from shard import deeds, gone
from shard.dead_letters import REQUEUED
from shard.erased import Erased
from shard.journal import MESSAGE
from shard.keyring import JOURNAL, Keyring, head_of, is_encrypted, key_at
from shard.sqlite import LOCKLESS, has_table, unlock, way

_NAMING = {
    "members": "user_id",
    "tail_users": "user",
    "dead_letters": "user_id",
    "dead_targets": "user_id",
    "parked_targets": "user_id",
    "subscriptions": "user_id",
    "retries": "user_id",
    "quotas": "user_id",
    "full_boxes": "user_id",
    "gone": "user_id",
    "withdrawn": "user_id",
}
"""beside ``letters``: the tables that name people, and their column for it"""
_TIMELESS = ("retries", "quotas", "full_boxes")
_NAMED = "instr(char(10)||users||char(10), char(10)||?||char(10))"


def mentions(path: Path, people: Iterable[Erased], keyring: Keyring | None = None) -> bool:
    """Whether the copy at ``path`` names one of ``people``, or somebody who is called so: in a row, or anywhere in the
    file, where what was deleted long ago may still lie. Of an encrypted one that can't be seen: it may."""
    if is_encrypted(head_of(path)):
        return True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if any(content.find(one.user.encode()) >= 0 for one in people):
            return True
    with contextlib.closing(files.reading(path, JOURNAL, keyring)) as db:  # a long row may be in pieces
        queries = [f"SELECT 1 FROM letters WHERE {_NAMED}"]
        there = [(table, column) for table, column in _NAMING.items() if has_table(db, table)]
        queries += [f"SELECT 1 FROM {table} WHERE {column}=?" for table, column in there]
        return any(db.execute(f"{query} LIMIT 1", (one.user,)).fetchone() for one in people for query in queries)


def scrub(path: Path, layout: int, made_us: int, people: Iterable[Erased], keyring: Keyring | None = None) -> None:
    """Take ``people`` out of the copy at ``path`` of a journal of ``layout``, made at ``made_us`` or before. Nobody
    else has it, and a kill leaves it damaged. To be sealed."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
    key = key_at(path, keyring, JOURNAL)
    with contextlib.closing(apsw.Connection(str(path), flags=flags, vfs=way(key, LOCKLESS))) as db:
        unlock(db, key)
        db.pragma("locking_mode", "exclusive")
        for name, value in (("journal_mode", "off"), ("synchronous", "off"), ("temp_store", "memory")):
            db.pragma(name, value)
        for one in people:
            if (last := one.last(layout, made_us)) >= 0:
                _scrub(db, one, last)
        db.execute("VACUUM").fetchall()  # what was deleted is not in the file any more


def _scrub(db: apsw.Connection, one: Erased, last: int) -> None:
    is_marked = any(user == one.user and seq == one.seq for user, seq, *_rest in gone.stored(db))
    is_from_before = last == sys.maxsize and not is_marked
    if is_marked:
        last = min(last, one.seq)
    counted = {seq for seq, user in gone.withdrawn(db) if user == one.user}  # no target of these on a receipt
    if has_table(db, "dead_targets"):  # dead, they are counted below
        counted |= {seq for (seq,) in db.execute("SELECT seq FROM dead_targets WHERE user_id=?", (one.user,))}
    shrunk: list[tuple[str]] = []  # messages with a target fewer
    for seq, kind, message_id, users, body in list(
        db.execute(
            f"SELECT seq, kind, id, users, body FROM letters WHERE seq<=? AND channel IS NULL AND {_NAMED}",
            (last, one.user),
        )
    ):
        left = [name for name in users.split("\n") if name != one.user]
        if kind == MESSAGE and seq not in counted:
            shrunk.append((message_id,))
        if left:
            fresh = "\n".join(left), len(left), deeds.without(kind, body, one.user), seq
            db.execute("UPDATE letters SET users=?, targets=?, body=? WHERE seq=?", fresh)
            db.execute("UPDATE tail SET targets=? WHERE seq=?", (len(left), seq))
        else:
            db.execute("DELETE FROM letters WHERE seq=?", (seq,))
            db.execute("DELETE FROM tail WHERE seq=?", (seq,))
    for channel, joined, end in list(
        db.execute(
            "SELECT channel_id, joined_seq, left_seq FROM members WHERE user_id=? AND joined_seq<=?", (one.user, last)
        )
    ):
        span = (channel, joined, sys.maxsize if end is None else end)
        found = db.execute("SELECT id, seq FROM letters WHERE channel=? AND seq>? AND seq<?", span)
        shrunk += [(str(message_id),) for message_id, seq in found if seq not in counted]
        for table in ("letters", "tail"):
            db.execute(f"UPDATE {table} SET targets=targets-1 WHERE channel=? AND seq>? AND seq<?", span)
        if end is None:
            db.execute("UPDATE channels SET members=members-1 WHERE id=?", (channel,))
    db.execute("DELETE FROM members WHERE user_id=? AND joined_seq<=?", (one.user, last))
    if has_table(db, "parked"):
        _unpark(db, one, last)
    db.execute("DELETE FROM tail_users WHERE user=? AND seq<=?", (one.user, last))
    if has_table(db, "dead_letters"):
        dead = db.execute(
            "SELECT message_id, state FROM dead_letters WHERE user_id=? AND died_us<=?", (one.user, one.at_us)
        ).fetchall()
        shrunk += [(str(message_id),) for message_id, state in dead if state != REQUEUED]
        db.execute("DELETE FROM dead_letters WHERE user_id=? AND died_us<=?", (one.user, one.at_us))
        db.execute("DELETE FROM dead_targets WHERE user_id=? AND seq<=?", (one.user, last))
    if has_table(db, "subscriptions"):
        db.execute("DELETE FROM subscriptions WHERE user_id=? AND created_us<=?", (one.user, one.at_us))
    for table in _TIMELESS:
        if is_from_before and has_table(db, table):
            db.execute(f"DELETE FROM {table} WHERE user_id=?", (one.user,))
    if has_table(db, "gone"):
        db.execute("DELETE FROM gone WHERE user_id=? AND seq<=?", (one.user, last))
        db.execute("DELETE FROM withdrawn WHERE user_id=? AND seq<=?", (one.user, last))
    db.executemany(gone.SHRINK, shrunk)


def _unpark(db: apsw.Connection, one: Erased, last: int) -> None:
    """What was parked for them waits for the others, if there are any."""
    mine = db.execute("SELECT seq FROM parked_targets WHERE user_id=? AND seq<=?", (one.user, last)).fetchall()
    db.execute("DELETE FROM parked_targets WHERE user_id=? AND seq<=?", (one.user, last))
    for (seq,) in mine:
        left = db.execute("UPDATE parked SET targets=targets-1 WHERE seq=? RETURNING targets, alone", (seq,)).fetchall()
        if left and not left[0][0]:
            db.execute("DELETE FROM parked WHERE seq=?", (seq,))
            if left[0][1]:  # the others have had it
                db.execute("DELETE FROM letters WHERE seq=?", (seq,))
