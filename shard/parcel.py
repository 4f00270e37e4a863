"""What goes from one shard to another with people who change hands: a parcel, packed here and unpacked there.

All that waited for them is in their boxes by then, and on disk. What is packed is what stands in the journal's database
for them: memberships with their mutes, letters that could not be stored and when that is tried again, dead letters,
devices that are pushed to, quotas; every channel, since the new owner may not know all; the receipts of ids
whose home changes hands. And the clock: numbers go on from there, so that to each person they rise.

The new owner keeps a parcel, durably, before the handover comes to its end, and unpacks it after that, in one
transaction; so nothing that isn't its own is ever among what is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import apsw
import msgspec

from node.clock import now_us
from shard import dead_letters, parked, quota_tables, subscriptions
from shard.dead_letters import Moved
from shard.journal import Journal, LetterRow
from shard.members import ChannelRecord, Members
from shard.residents import NOWHERE, Residents, Stay
from shard.schedule import Retry, Schedule
from shard.sqlite import has_table
from shard.subscriptions import Subscription

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS arriving(handover TEXT PRIMARY KEY NOT NULL, parcel BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cleared(id INTEGER PRIMARY KEY CHECK(id=1), number INTEGER NOT NULL)"""
_SET_CLEARED = "INSERT OR REPLACE INTO cleared(id, number) VALUES(1,?)"
_MEMBERS = "SELECT channel_id, joined_us, muted_us FROM members WHERE user_id=? AND left_seq IS NULL"
_PARKED_NAMES = "SELECT DISTINCT user_id FROM parked_targets"
_MEMBER_NAMES = "SELECT DISTINCT user_id FROM members WHERE user_id>? ORDER BY user_id LIMIT ?"
_OTHERS = ("dead_letters", "retries", "quotas", "full_boxes")
_PORTION = 2_000

Receipt = tuple[str, bytes, int, int, int]
"""id, digest, when it was accepted, and of its targets here: how many, how many failed"""


class Parcel(msgspec.Struct):
    """For one shard. ``seq`` is the clock of the shard that packed it; ``stays`` is where its slots were before."""

    seq: int
    stays: list[Stay]
    channels: list[ChannelRecord]
    members: list[tuple[str, str, int, int | None]]
    """channel, user, when he joined, till when he mutes it"""
    letters: list[tuple[int, str, str, bytes]]
    """kind, id, user, body; in the order of acceptance"""
    retries: list[Retry]
    dead: list[list[Any]]
    subscriptions: list[Subscription]
    quotas: list[tuple[str, list[Any]]]
    """of a table, and its row"""
    receipts: list[Receipt]
    counted: list[str]
    """messages that were taken a moment ago, of which receipts there count these people"""
    counted_from_us: int = 0
    """these are all that were taken from then on"""


class Unpacked(NamedTuple):
    """What is to be taken into memory, and what that changes in the counts."""

    letters: list[LetterRow]
    retries: list[Retry]
    subscriptions: list[Subscription]
    quotas: list[tuple[str, tuple[Any, ...]]]
    dead: Moved
    receipts: int


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Parcel).decode


# -- packing: with the journal's lock held -------------------------------------------------------------


def pack(journal: Journal, members: Members, people: Iterable[str], stays: list[Stay]) -> Parcel:
    """For ``people``; letters, retries and receipts are the caller's to add."""
    db = journal.db
    parcel = Parcel(journal.last_seq, stays, list(members.channels.values()), [], [], [], [], [], [], [], [])
    devices: dict[str, list[Subscription]] = {}
    for subscription in subscriptions.stored(db):
        devices.setdefault(subscription.user, []).append(subscription)
    for user in people:
        parcel.members += [(channel, user, joined, muted) for channel, joined, muted in db.execute(_MEMBERS, (user,))]
        parcel.dead += [list(row) for row in dead_letters.rows_of(db, user)]
        parcel.subscriptions += devices.get(user, ())
        parcel.quotas += [(table, list(row)) for table, row in quota_tables.rows_of(db, user)]
    return parcel


def member_names(journal: Journal, after: str) -> list[str]:
    """The next of all who are, or lately were, in a channel here, by name."""
    return [row[0] for row in journal.db.execute(_MEMBER_NAMES, (after, _PORTION))]


def other_names(journal: Journal) -> set[str]:
    """Who has something else in the journal's database, which may be nobody's who is in a channel."""
    tables = [table for table in _OTHERS if has_table(journal.db, table)]
    named = {row[0] for table in tables for row in journal.db.execute(f"SELECT user_id FROM {table}")}
    return named | {subscription.user for subscription in subscriptions.stored(journal.db)}


# -- kept until it is clear whose it is -----------------------------------------------------------------


def keep(journal: Journal, handover: str, parcel: bytes) -> None:
    """In a transaction."""
    assert journal.db.in_transaction
    journal.db.execute(_SCHEMA).fetchall()
    journal.db.execute("DELETE FROM arriving")
    journal.db.execute("INSERT INTO arriving(handover, parcel) VALUES(?,?)", (handover, parcel))


def kept(journal: Journal) -> tuple[str, bytes] | None:
    """The name of the handover, and the parcel; None if there is none."""
    if not has_table(journal.db, "arriving"):
        return None
    row = journal.db.execute("SELECT handover, parcel FROM arriving").fetchone()
    return None if row is None else (row[0], row[1])


def drop(journal: Journal) -> None:
    """It was called off. In a transaction."""
    assert journal.db.in_transaction
    journal.db.execute("DELETE FROM arriving")


# -- unpacking -------------------------------------------------------------------------------------------


def unpack(journal: Journal, members: Members, residents: Residents, parcel: Parcel) -> Unpacked:
    """In a transaction of its own, which the caller ends: all of it is this shard's now."""
    db = journal.db
    assert db.in_transaction
    journal.skip_to(parcel.seq)
    began = journal.next_seq()
    slots = {slot for slot, _since, _shard in parcel.stays}
    residents.note(parcel.stays)
    for slot in sorted(slots):
        residents.note([(slot, parcel.seq, NOWHERE), (slot, began, residents.index)])
    members.take(parcel.channels)
    for channel, user, joined_us, muted_us in parcel.members:
        members.change(channel, [user], [], began, joined_us)
        if muted_us is not None:
            members.mute(channel, user, muted_us)
    for subscription in parcel.subscriptions:
        subscriptions.add(db, subscription)
    for row in parcel.dead:
        dead_letters.put(db, tuple(row))
    for table, values in parcel.quotas:
        quota_tables.put(db, table, tuple(values))
    retries = [retry._replace(runs=[]) for retry in parcel.retries]  # of letters by their old numbers
    if retries:
        Schedule(db).write(retries, [])
    letters: list[LetterRow] = []
    for kind, id, user, body in parcel.letters:
        letters.append((journal.add_one(kind, id, [user], body), kind, id, 1, None, user, body))
    receipts = sum([journal.take_receipt(*receipt) for receipt in parcel.receipts])
    residents.note_counted(parcel.counted, parcel.counted_from_us, began)
    drop(journal)
    bodies = [len(row[-1]) for row in parcel.dead if row[-2] == dead_letters.DEAD]
    limits = [(table, tuple(values)) for table, values in parcel.quotas]
    return Unpacked(letters, retries, parcel.subscriptions, limits, Moved(len(bodies), sum(bodies)), receipts)


# -- leaving ---------------------------------------------------------------------------------------------


def clear(journal: Journal, members: Members, people: Iterable[str], number: int) -> Moved:
    """``people`` belong to other shards by table ``number``: what was packed for them goes, in a transaction. That they
    were members stays, for the letters from before. What that changes in the count of dead letters."""
    db = journal.db
    assert db.in_transaction
    db.execute(_SCHEMA).fetchall()
    now, seq = now_us(), journal.next_seq()
    names = list(people)
    bodies: list[int] = []
    for user in names:
        bodies += [len(row[-1]) for row in dead_letters.rows_of(db, user) if row[-2] == dead_letters.DEAD]
        for channel in members.of(user):
            members.change(channel, [], [user], seq, now)
        subscriptions.drop_all(db, user)
        quota_tables.drop(db, user)
    gone_from = [(user,) for user in names]
    db.executemany("DELETE FROM dead_letters WHERE user_id=?", gone_from)
    db.executemany("DELETE FROM retries WHERE user_id=?", gone_from)
    db.execute(_SET_CLEARED, (number,))
    return Moved(-len(bodies), -sum(bodies))


def is_clear(journal: Journal, number: int) -> bool:
    """Whether what others own by table ``number`` was cleared away."""
    if not has_table(journal.db, "cleared"):
        return False
    return journal.db.execute("SELECT number FROM cleared").fetchone() == (number,)


def strangers(journal: Journal, is_mine: Callable[[str], bool]) -> Iterator[str]:
    """Who has something here and belongs elsewhere. Reads much: at a start."""
    after = ""
    while names := member_names(journal, after):
        after = names[-1]
        yield from (name for name in names if not is_mine(name))
    yield from (name for name in sorted(other_names(journal)) if not is_mine(name))


# -- at a start ------------------------------------------------------------------------------------------


def settle(journal: Journal, members: Members, residents: Residents) -> bool:
    """Nobody is at work, and nothing of the journal but ``members`` and ``residents`` is in memory yet: make of it what
    the placement that counts says. A parcel that became this shard's is unpacked, what belongs to others is cleared
    away; False if the disk is too full for that, which does no harm: they get nothing here all the same."""
    placed = residents.placement
    if not placed.number:
        return True
    dead_letters.make_tables(journal.db)
    quota_tables.make_tables(journal.db)
    parked.make_tables(journal.db)
    Schedule(journal.db)
    found = kept(journal)
    if found is not None and found[0] == placed.handover:
        parcel = decode(found[1])
        unpacked = _transaction(journal, members, lambda: unpack(journal, members, residents, parcel))
        journal.rows += len(unpacked.letters)
        journal.receipts += unpacked.receipts
        residents.load()
    is_parked = any(not residents.is_mine(row[0]) for row in journal.db.execute(_PARKED_NAMES))
    if is_clear(journal, placed.table.number) and not is_parked and (found is None or found[0] == placed.handover):
        return True
    people = sorted(set(strangers(journal, residents.is_mine)))

    def work() -> None:
        parked.clear(journal.db, residents.is_mine)
        clear(journal, members, people, placed.table.number)
        drop(journal)

    try:
        _transaction(journal, members, work)
    except apsw.FullError:
        return False
    return True


def _transaction(journal: Journal, members: Members, work: Callable[[], T]) -> T:
    journal.begin()
    try:
        result = work()
        journal.db.execute("COMMIT")
    except BaseException:
        journal.rollback()
        members.load()
        raise
    return result
