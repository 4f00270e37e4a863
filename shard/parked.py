"""Put-off mail that is held on disk alone: which letters of the journal wait for which box in trouble.

A letter waits for one user in memory or it is parked for him, never both. Its row here comes in the transaction after
which memory lets go of it. It goes when a barrier has covered its delivery, or in the transaction that notes that the
letter died, or that its user is no more. As long as a letter is parked for anybody its row in the journal stays.

``alone`` says that nobody else waits for the letter: a start then delivers it to no others.

Rows of a user come, and die, only while nobody holds his box. Whoever holds it reads them in portions, under the
journal's lock; so what he has read is his to store. Portions come in the order of parking: messages commute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import apsw
import msgspec

from node import ops
from shard import backlog as letters_of
from shard import gone
from shard.backlog import Backlog, Letter
from shard.dead_letters import Death
from shard.journal import Journal, ranges
from shard.retry import Tries
from shard.trouble import EXPIRED

_SCHEMA = """
CREATE TABLE IF NOT EXISTS parked(
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, bytes INTEGER NOT NULL, deadline_us INTEGER NOT NULL,
    targets INTEGER NOT NULL, alone INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS parked_id ON parked(id);
CREATE TABLE IF NOT EXISTS parked_targets(
    user_id TEXT NOT NULL, number INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (user_id, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS parked_targets_seq ON parked_targets(seq, user_id);
"""
_ADD = "INSERT OR IGNORE INTO parked(seq, id, bytes, deadline_us, targets, alone) VALUES(?,?,?,?,0,0)"
_COUNT = """
UPDATE parked SET targets=targets+?2, alone=max(alone, targets+?2=(SELECT l.targets FROM letters l WHERE l.seq=?1))
WHERE seq=?1"""
_ADD_TARGET = "INSERT INTO parked_targets(user_id, number, seq) VALUES(?,?,?)"
_DROP_TARGET = "DELETE FROM parked_targets WHERE seq=? AND user_id=?"
_UNCOUNT = "UPDATE parked SET targets=targets-? WHERE seq=? RETURNING targets, alone, bytes"
_LEAVE_ALONE = "UPDATE parked SET alone=1 WHERE seq BETWEEN ? AND ? RETURNING seq"
_DROP = "DELETE FROM parked WHERE seq=?"
_AHEAD = """
SELECT t.number, l.seq, l.targets, l.channel, l.body FROM parked_targets t JOIN letters l ON l.seq=t.seq
WHERE t.user_id=? AND t.number>? ORDER BY t.number"""
_DYING = """
SELECT t.seq, p.id, p.bytes, p.deadline_us FROM parked_targets t JOIN parked p ON p.seq=t.seq
WHERE t.user_id=? AND t.number>? AND (t.seq<=? OR p.deadline_us BETWEEN 1 AND ?) ORDER BY t.number"""
_NEXT_DEADLINE = """
SELECT coalesce(min(p.deadline_us), 0) FROM parked_targets t JOIN parked p ON p.seq=t.seq
WHERE t.user_id=? AND t.number>? AND t.seq>? AND p.deadline_us>?"""
_OF_USER = """
SELECT t.seq, p.id FROM parked_targets t JOIN parked p ON p.seq=t.seq
WHERE t.user_id=? AND t.number>? AND t.seq<=? LIMIT ?"""
_PILES = """
SELECT t.user_id, count(*), min(t.seq), max(t.seq), coalesce(min(nullif(p.deadline_us, 0)), 0), max(t.number)
FROM parked_targets t JOIN parked p ON p.seq=t.seq GROUP BY t.user_id"""
_EXTENT = "SELECT coalesce(sum(bytes), 0), coalesce(sum(alone), 0) FROM parked"
_STRAYS = """
SELECT count(*) FROM parked p WHERE p.targets<>(SELECT count(*) FROM parked_targets t WHERE t.seq=p.seq)
    OR NOT EXISTS(SELECT 1 FROM letters l WHERE l.seq=p.seq AND l.kind=0 AND l.id=p.id AND length(l.body)=p.bytes)
UNION ALL SELECT count(*) FROM parked_targets t WHERE NOT EXISTS(SELECT 1 FROM parked p WHERE p.seq=t.seq)"""

READ_MAX = 256
_READ_BYTES_MAX = 4 * 1024**2
_WITHDRAW_MAX = 1_000

_body = msgspec.msgpack.Decoder(ops.Letter).decode

Pair = tuple[int, str]
"""a letter's number and one of its users"""


class Pile:
    """What is parked for one user and not in his box yet."""

    __slots__ = ("count", "deadline_us", "got", "newest", "oldest")

    def __init__(self, got: int) -> None:
        self.count = 0
        self.oldest = 2**63 - 1
        """no letter here has a lower number"""
        self.newest = 0
        self.deadline_us = 0
        """when the first of them is wanted no more; 0 for never"""
        self.got = got
        """the rows up to this one are in the box"""

    def add(self, letter: Letter) -> None:
        self.count += 1
        self.oldest, self.newest = min(self.oldest, letter.seq), max(self.newest, letter.seq)
        if letter.deadline_us and (not self.deadline_us or letter.deadline_us < self.deadline_us):
            self.deadline_us = letter.deadline_us


class Parking(NamedTuple):
    """Letter ``letter`` is to be parked for ``user``, as row ``number``."""

    letter: Letter
    user: str
    number: int


class Dying(NamedTuple):
    """Of what is parked for ``user`` beyond row ``got``, the letters up to ``worn`` have had their last try, which
    failed for ``why`` at ``now_us``; those that are wanted no more die, too."""

    user: str
    got: int
    worn: int
    why: str
    tries: Tries
    first_us: int
    now_us: int


class Dropped(NamedTuple):
    """Which letters are parked for nobody any more, and their bytes; and those of them that wait for nobody else."""

    bytes: int = 0
    freed: tuple[int, ...] = ()


class Parked:
    """On the journal's connection."""

    def __init__(self, journal: Journal, backlog: Backlog) -> None:
        self._journal = journal
        self._db = journal.db
        self._backlog = backlog
        make_tables(self._db)
        self._piles: dict[str, Pile] = {}
        self._last = 0
        self._stored: list[Pair] = []
        self._stored_of: Counter[int] = Counter()  # by letter: targets that are in their boxes, their rows here still
        self.covered: list[Pair] = []
        """whose delivery a barrier has covered: their rows may go"""
        self.count = 0
        """letters times targets that are parked, and not in their boxes"""
        self.alone = 0
        """letters that waited for nobody else, at the start"""

    def load(self) -> None:
        """Take up what is on disk: once, at a start."""
        size, self.alone = next(self._db.execute(_EXTENT))
        for user, count, oldest, newest, deadline_us, last in self._db.execute(_PILES):
            pile = self._piles[user] = Pile(0)
            pile.count, pile.oldest, pile.newest, pile.deadline_us = count, oldest, newest, deadline_us
            self.count += count
            self._last = max(self._last, last)
        self._backlog.count_parked(self.count, size)
        self._backlog.put_off += self.count

    # -- of one user -------------------------------------------------------------------------------

    def users(self) -> list[str]:
        return list(self._piles)

    def pile(self, user: str) -> Pile | None:
        """None if nothing is parked for ``user``; what is just being written down is counted."""
        return self._piles.get(user)

    async def ahead(self, user: str) -> tuple[int, list[Letter]]:
        """The next for ``user``, whose box is held, and the number of their last row; none if there are no more."""
        pile = self._piles.get(user)
        if pile is None:
            return 0, []
        return await self._journal.read(lambda: self._read(user, pile.got))

    def _read(self, user: str, got: int) -> tuple[int, list[Letter]]:
        found: list[Letter] = []
        size = 0
        rows = self._db.execute(_AHEAD, (user, got))
        for number, seq, targets, channel, body in rows:
            found.append(letters_of.message(seq, targets, channel, _body(body), len(body)))
            got, size = number, size + len(body)
            if len(found) == READ_MAX or size >= _READ_BYTES_MAX:
                break
        rows.close()
        return got, found

    def stored(self, user: str, got: int, letters: list[Letter], *, left_out: int = 0) -> None:
        """What :meth:`ahead` gave is in the box of ``user``, but for what was left out of it, which is to die."""
        self._piles[user].got = got
        self._stored += [(letter.seq, user) for letter in letters]
        self._stored_of.update(letter.seq for letter in letters)
        self._less(user, len(letters) + left_out)
        self._backlog.stored_parked(len(letters))
        self._backlog.count_parked(-left_out, 0)

    def _less(self, user: str, count: int) -> None:
        self.count -= count
        self._backlog.put_off -= count
        pile = self._piles[user]
        pile.count -= count
        if not pile.count:
            del self._piles[user]

    # -- on the loop, around a transaction ---------------------------------------------------------

    def begin(self, user: str, letters: list[Letter]) -> list[Parking]:
        """``letters`` are about to be parked for ``user``."""
        pile = self._piles.setdefault(user, Pile(self._last))  # his rows up to here are in his box
        parkings = []
        for letter in letters:
            self._last += 1
            pile.add(letter)
            parkings.append(Parking(letter, user, self._last))
        self.count += len(letters)
        self._backlog.put_off += len(letters)
        return parkings

    def give_back(self, parkings: list[Parking]) -> None:
        """They could not be written down."""
        for parking in parkings:
            self._less(parking.user, 1)

    def died(self, dying: Dying, count: int, *, deadline_us: int | None) -> None:
        """So many are dead now, on disk; all that were to die if ``deadline_us`` says what is the next to come."""
        pile = self._piles[dying.user]
        if deadline_us is not None:
            pile.oldest, pile.deadline_us = max(pile.oldest, dying.worn + 1), deadline_us
        self._less(dying.user, count)

    def dropped(self, pairs: list[Pair]) -> None:
        """The rows of what was ``covered`` are gone."""
        for seq, _user in pairs:
            self._stored_of[seq] -= 1
            if not self._stored_of[seq]:
                del self._stored_of[seq]

    def take_stored(self) -> list[Pair]:
        """What was stored since this was asked last: a barrier that begins now covers it."""
        stored, self._stored = self._stored, []
        return stored

    # -- inside a transaction of the journal -------------------------------------------------------

    def park(self, parkings: Iterable[Parking]) -> int:
        """Write them down; bytes of the letters that were parked for nobody before."""
        assert self._db.in_transaction
        parkings = list(parkings)
        counts: dict[int, int] = {}
        letters: dict[int, Letter] = {}
        for parking in parkings:
            letters[parking.letter.seq] = parking.letter
            counts[parking.letter.seq] = counts.get(parking.letter.seq, 0) + 1
        self._db.executemany(_ADD_TARGET, [(one.user, one.number, one.letter.seq) for one in parkings])
        size = 0
        for seq, letter in letters.items():
            self._db.execute(_ADD, (seq, letter.id, letter.size, letter.deadline_us))
            size += letter.size * self._db.changes()
            self._db.execute(_COUNT, (seq, counts[seq]))
        return size

    def drop(self, pairs: Iterable[Pair]) -> Dropped:
        """Let the rows of ``pairs`` go."""
        assert self._db.in_transaction
        counts = Counter[int]()
        for pair in pairs:
            self._db.execute(_DROP_TARGET, pair)
            counts[pair[0]] += self._db.changes()
        size, freed = 0, list[int]()
        for seq, count in counts.items():
            rows: list[Any] = self._db.execute(_UNCOUNT, (count, seq)).fetchall()
            for targets, alone, length in rows:
                if not targets:
                    self._db.execute(_DROP, (seq,))
                    size += length
                    freed += [seq] * alone
        return Dropped(size, tuple(freed))

    def keep(self, seqs: list[int]) -> list[int]:
        """Of letters that would leave the journal now, those that may: the others are parked, for those alone."""
        assert self._db.in_transaction
        if not self._db.execute("SELECT 1 FROM parked LIMIT 1").fetchall():
            return seqs
        kept = set[int]()
        for first, last in ranges(sorted(seqs)):
            rows: list[Any] = self._db.execute(_LEAVE_ALONE, (first, last)).fetchall()
            kept |= {row[0] for row in rows}
        return [seq for seq in seqs if seq not in kept]

    def deaths(self, dying: Dying, count_max: int, bytes_max: int) -> tuple[list[Death], int | None]:
        """Who dies now, at most so many, with bodies of so many bytes and one more; and, if these are all, when the
        next of the others is wanted no more."""
        found: list[Death] = []
        size = 0
        rows = self._db.execute(_DYING, (dying.user, dying.got, dying.worn, dying.now_us))
        for seq, message_id, length, deadline_us in rows:
            if len(found) >= count_max or size >= bytes_max:
                rows.close()
                return found, None
            reason = EXPIRED if 0 < deadline_us <= dying.now_us else dying.why
            tries = dying.tries.of(seq)
            found.append(Death(seq, dying.user, message_id, reason, tries, dying.first_us, dying.now_us, length))
            size += length
        ((deadline_us,),) = self._db.execute(_NEXT_DEADLINE, (dying.user, dying.got, dying.worn, dying.now_us))
        return found, deadline_us

    async def withdraw(self, user: str, last: int, *, counts: bool = True) -> None:
        """What is parked for ``user`` up to letter ``last`` goes to nobody here: he, whose box is held, is there no
        more, and no target if that ``counts``."""

        def work(got: int) -> tuple[list[Pair], Dropped]:
            rows: list[Any] = self._db.execute(_OF_USER, (user, got, last, _WITHDRAW_MAX)).fetchall()
            if counts:
                gone.withdraw(self._db, [(seq, user, message_id) for seq, message_id in rows])
            pairs = [(seq, user) for seq, _id in rows]
            return pairs, self.drop(pairs)

        while (pile := self._piles.get(user)) is not None and pile.oldest <= last:
            pairs, dropped = await self._journal.write(partial(work, pile.got))
            if len(pairs) < _WITHDRAW_MAX:
                pile.oldest = last + 1
            self._less(user, len(pairs))
            self._backlog.count_parked(-len(pairs), 0)
            self._backlog.dropped(*dropped)

    # -- queries -----------------------------------------------------------------------------------

    def of_message(self, message_id: str) -> list[tuple[int, int]]:
        """Rows of a message: number and targets."""
        return list(self._db.execute("SELECT seq, targets FROM parked WHERE id=?", (message_id,)))

    def pending(self, rows: list[tuple[int, int]]) -> int:
        """Of what :meth:`of_message` found a moment ago, the targets that are not in their boxes."""
        return sum(targets - self._stored_of[seq] for seq, targets in rows)


def waiting_for(db: apsw.Connection, user: str, got: int) -> list[int]:
    """Numbers of the letters that are parked for ``user`` beyond row ``got``."""
    return [seq for (seq,) in db.execute("SELECT seq FROM parked_targets WHERE user_id=? AND number>?", (user, got))]


def clear(db: apsw.Connection, is_mine: Callable[[str], bool]) -> None:
    """Nobody is at work: drop what is parked for those who aren't ours. The letters stay, for others."""
    assert db.in_transaction
    for (user,) in list(db.execute("SELECT DISTINCT user_id FROM parked_targets")):
        if not is_mine(user):
            for seq in waiting_for(db, user, -1):
                db.execute(_DROP_TARGET, (seq, user))
                db.execute("UPDATE parked SET targets=targets-1, alone=0 WHERE seq=?", (seq,))
                db.execute("DELETE FROM parked WHERE seq=? AND targets<=0", (seq,))


def make_tables(db: apsw.Connection) -> None:
    """Where they are missing."""
    db.execute(_SCHEMA).fetchall()


def targets(db: apsw.Connection, *, alone: bool) -> dict[int, set[str]]:
    """For whom which letters are parked, by number: the letters that wait for nobody else, or all others."""
    found: dict[int, set[str]] = {}
    rows = "SELECT t.seq, t.user_id FROM parked_targets t JOIN parked p ON p.seq=t.seq WHERE p.alone=?"
    for seq, user in db.execute(rows, (alone,)):
        found.setdefault(seq, set()).add(user)
    return found


def strays(db: apsw.Connection) -> int:
    """Rows that don't fit together, or belong to no letter; 0 if all is well."""
    return sum(row[0] for row in db.execute(_STRAYS))
