"""Who of this shard's users is in which channel, and who was at the time of a letter.

A membership is valid for the letters between ``joined_seq`` and ``left_seq``, both numbers of the
journal's clock. So a channel letter can be expanded at any later time, also after a restart, and
still goes to exactly those who were members when it was accepted. A row that has ended stays until
no letter from before its end is left.

Whether a member has muted the channel is part of the membership, and ends with it: who joins anew hears it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import apsw
import msgspec

from node.clock import iso
from node.errors import NotFound
from node.model import Channel
from shard.mailbox import Standing

_ADD = """
INSERT INTO members(channel_id, user_id, joined_seq, joined_us)
SELECT ?1, ?2, ?3, ?4
WHERE NOT EXISTS(SELECT 1 FROM members WHERE channel_id=?1 AND user_id=?2 AND left_seq IS NULL)"""
_END = "UPDATE members SET left_seq=?3 WHERE channel_id=?1 AND user_id=?2 AND left_seq IS NULL"
_END_ALL = "UPDATE members SET left_seq=?2 WHERE channel_id=?1 AND left_seq IS NULL"
_AT = """
SELECT user_id FROM members
WHERE channel_id=?1 AND user_id>?2 AND joined_seq<?3 AND (left_seq IS NULL OR left_seq>?3)
ORDER BY user_id LIMIT ?4"""
_NOW = """
SELECT user_id FROM members
WHERE channel_id=?1 AND user_id>?2 AND user_id>=?3 AND user_id<?3||char(127) AND left_seq IS NULL
ORDER BY user_id LIMIT ?4"""
_BEGUN = "SELECT user_id, joined_seq, joined_us FROM members WHERE channel_id=? AND left_seq IS NULL"
_SPANS = "SELECT channel_id, joined_seq, left_seq FROM members WHERE user_id=?"
_MUTES = "SELECT user_id, channel_id, muted_us FROM members WHERE muted_us IS NOT NULL AND left_seq IS NULL"
_MUTES_INDEX = "CREATE INDEX IF NOT EXISTS members_muted ON members(user_id) WHERE muted_us IS NOT NULL"
_OF = "SELECT channel_id, joined_us, muted_us FROM members WHERE user_id=? AND left_seq IS NULL"
_STATES = "SELECT user_id, joined_us, muted_us FROM members WHERE channel_id=? AND left_seq IS NULL"
_STATE = f"{_STATES} AND user_id=?"
_MUTE = """
UPDATE members SET muted_us=?3 WHERE channel_id=?1 AND user_id=?2 AND left_seq IS NULL AND muted_us IS NOT ?3"""
_ENDED = "FROM members WHERE left_seq IS NOT NULL AND left_seq < ?"
_HAS_ENDED = f"SELECT EXISTS(SELECT 1 {_ENDED})"
_SET_COUNT = "UPDATE channels SET members=? WHERE id=?"
_PUT = """
INSERT INTO channels(id, name, description, created_by, created_us, open) VALUES(?,?,?,?,?,?)
ON CONFLICT(id) DO UPDATE SET name=excluded.name, description=excluded.description, created_by=excluded.created_by,
    open=excluded.open"""
_LATER_COLUMNS = (("channels", "open", "INTEGER NOT NULL DEFAULT 0"), ("members", "muted_us", "INTEGER"))
"""that a journal from before them lacks"""

FOR_GOOD_US = 0
"""till when a mute holds that has no end"""


class ChannelRecord(msgspec.Struct, frozen=True):
    id: str
    name: str
    description: str | None
    created_by: str | None
    created_us: int
    members: int
    """of this shard"""
    open: bool = False
    """everybody may join"""

    def outward(self) -> Channel:
        return Channel(
            id=self.id,
            name=self.name,
            description=self.description,
            created_by=self.created_by,
            created_at=iso(self.created_us),
            members=self.members,
            open=self.open,
        )

    def row(self) -> tuple[str, str, str | None, str | None, str]:
        """As it stands in a box's ``channels``."""
        return self.id, self.name, self.description, self.created_by, iso(self.created_us)


class Members:
    """Channels and members on the journal's connection. Writing ones run inside its transaction."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        for table, column, kind in _LATER_COLUMNS:
            if column not in {row[1] for row in db.execute(f"PRAGMA table_info({table})")}:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        db.execute(_MUTES_INDEX)
        self.channels: dict[str, ChannelRecord] = {}
        self._mutes: dict[tuple[str, str], int] = {}  # user and channel → until when
        self.load()

    def load(self) -> None:
        """Take channels and mutes from disk: at start, and after a transaction that was rolled back."""
        rows = self._db.execute("SELECT id, name, description, created_by, created_us, members, open FROM channels")
        self.channels = {
            id: ChannelRecord(id, name, about, by, at, count, bool(open))
            for id, name, about, by, at, count, open in rows
        }
        self._mutes = {(user, channel): until_us for user, channel, until_us in self._db.execute(_MUTES)}

    @contextlib.contextmanager
    def as_committed(self) -> Iterator[None]:
        """Around a transaction that changes channels or members: should it fail, memory says again what is on disk,
        before anybody else gets the journal."""
        try:
            yield
        except Exception:
            self.load()
            raise

    def channel(self, channel_id: str) -> ChannelRecord:
        record = self.channels.get(channel_id)
        if record is None:
            raise NotFound("no such channel", field="channelId")
        return record

    def put(
        self,
        channel_id: str,
        name: str | None,
        description: str | None,
        created_by: str | None,
        now_us: int,
        open: bool | None = None,
    ) -> bool:
        """Make or change a channel; whether it is new."""
        old = self.channels.get(channel_id)
        if old is None:
            record = ChannelRecord(channel_id, name or channel_id, description, created_by, now_us, 0, bool(open))
        else:
            record = msgspec.structs.replace(
                old,
                name=name or old.name,
                description=old.description if description is None else description,
                created_by=old.created_by if created_by is None else created_by,
                open=old.open if open is None else open,
            )
        self._db.execute(
            _PUT,
            (record.id, record.name, record.description, record.created_by, record.created_us, record.open),
        )
        self.channels[channel_id] = record
        return old is None

    def take(self, channels: Iterable[ChannelRecord]) -> None:
        """Make those of another shard's ``channels`` that are not known here, with no members."""
        for record in channels:
            if record.id not in self.channels:
                self.put(record.id, record.name, record.description, record.created_by, record.created_us, record.open)

    def drop(self, channel_id: str, seq: int) -> list[str]:
        """Forget the channel; who was in it until ``seq``."""
        left = [row[0] for row in self._db.execute(_NOW, (channel_id, "", "", -1))]
        self._db.execute(_END_ALL, (channel_id, seq))
        self._db.execute("DELETE FROM channels WHERE id=?", (channel_id,))
        del self.channels[channel_id]
        for user in left:
            self._mutes.pop((user, channel_id), None)
        return left

    def change(
        self, channel_id: str, add: list[str], remove: list[str], seq: int, now_us: int
    ) -> tuple[list[str], list[str]]:
        """Who really joined and who really left at ``seq``; repeating it changes nothing."""
        joined, left = list[str](), list[str]()
        for user in add:
            self._db.execute(_ADD, (channel_id, user, seq, now_us))
            if self._db.changes():
                joined.append(user)
        for user in remove:
            self._db.execute(_END, (channel_id, user, seq))
            if self._db.changes():
                left.append(user)
                self._mutes.pop((user, channel_id), None)
        if joined or left:
            old = self.channels[channel_id]
            record = msgspec.structs.replace(old, members=old.members + len(joined) - len(left))
            self._db.execute(_SET_COUNT, (record.members, channel_id))
            self.channels[channel_id] = record
        return joined, left

    def at(self, channel_id: str, seq: int, after: str, limit: int) -> list[str]:
        """Members at the time of letter ``seq``, by name, from ``after`` on."""
        return [row[0] for row in self._db.execute(_AT, (channel_id, after, seq, limit))]

    def now(self, channel_id: str, after: str, limit: int, prefix: str = "") -> list[str]:
        """Members of now whose names begin with ``prefix``, by name, from ``after`` on."""
        return [row[0] for row in self._db.execute(_NOW, (channel_id, after, prefix, limit))]

    def spans(self, user: str) -> list[tuple[str, int, int | None]]:
        """When ``user`` was in which channel: (channel, joined_seq, left_seq)."""
        return list(self._db.execute(_SPANS, (user,)))

    def of(self, user: str) -> dict[str, Standing]:
        """The channels that ``user`` is in, and how."""
        return {channel: _standing(*state) for channel, *state in self._db.execute(_OF, (user,))}

    def came(self, channel_id: str, seqs: list[int], before_us: int) -> list[str]:
        """Members of now whose membership began here with one of the numbers ``seqs``, which is to say that they were
        moved here, and who had joined by ``before_us``."""
        begun = set(seqs)
        return [
            user
            for user, seq, joined_us in self._db.execute(_BEGUN, (channel_id,))
            if seq in begun and joined_us <= before_us
        ]

    def joined_by(self, channel_id: str, before_us: int) -> list[str]:
        """Members of now who had joined by ``before_us``."""
        return [user for user, _seq, joined_us in self._db.execute(_BEGUN, (channel_id,)) if joined_us <= before_us]

    def mute(self, channel_id: str, user: str, until_us: int | None) -> bool:
        """Mute the channel for a member of now, till ``until_us`` (or :data:`FOR_GOOD_US`), or no longer (None);
        whether that changed anything."""
        self._db.execute(_MUTE, (channel_id, user, until_us))
        if not self._db.changes():
            return False
        if until_us is None:
            self._mutes.pop((user, channel_id), None)
        else:
            self._mutes[user, channel_id] = until_us
        return True

    def is_muted(self, channel_id: str, user: str, now_us: int) -> bool:
        """Whether ``user`` wants to hear nothing of the channel at ``now_us``. From memory: asked at each delivery."""
        until_us = self._mutes.get((user, channel_id))
        return until_us is not None and (until_us == FOR_GOOD_US or until_us > now_us)

    def standing(self, channel_id: str, user: str) -> Standing | None:
        """How ``user`` is in the channel; None if not at all."""
        row = self._db.execute(_STATE, (channel_id, user)).fetchone()
        return None if row is None else _standing(row[1], row[2])

    def standings(self, channel_id: str) -> dict[str, Standing]:
        """How each member of now is in the channel."""
        return {user: _standing(*state) for user, *state in self._db.execute(_STATES, (channel_id,))}

    def has_ended(self, before_seq: int) -> bool:
        """Whether :meth:`sweep` would find something."""
        row = self._db.execute(_HAS_ENDED, (before_seq,)).fetchone()
        return row is not None and bool(row[0])

    def sweep(self, before_seq: int) -> None:
        """Drop memberships that ended before ``before_seq``: no letter asks for them any more."""
        self._db.execute(f"DELETE {_ENDED}", (before_seq,))


def _standing(joined_us: int, muted_us: int | None) -> Standing:
    until = None if muted_us is None or muted_us == FOR_GOOD_US else iso(muted_us)
    return Standing(iso(joined_us), muted_us is not None, until)
