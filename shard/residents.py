"""Who is this shard's to serve: by the table that counts, and while people leave, by the next one as well.

A slot that came from another shard has a beginning here, a number of the journal's clock (:data:`BEYOND` for who isn't
here at all). What this journal has for its people from before that was stored, or handed over, before they came or
went; it is nobody's business here any more. Clocks are handed over with the slots, so all that a person gets has
rising numbers, whichever shard gave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import apsw

from node import ops
from node.clock import now_us
from node.errors import Moving
from node.placement import Placement
from node.slots import Table
from shard.sqlite import has_table

BEYOND = 2**63 - 1
"""a number that no letter has"""
NOWHERE = -1
"""in place of a shard: from that number on a slot was on its way"""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS stays(
    slot INTEGER NOT NULL, since INTEGER NOT NULL, shard INTEGER NOT NULL, PRIMARY KEY(slot, since)) WITHOUT ROWID"""
_PUT = "INSERT OR REPLACE INTO stays(slot, since, shard) VALUES(?,?,?)"

_CAME = """
CREATE TABLE IF NOT EXISTS came(id TEXT NOT NULL, began INTEGER NOT NULL, at_us INTEGER NOT NULL,
    PRIMARY KEY(id, began)) WITHOUT ROWID"""
_PUT_CAME = "INSERT OR REPLACE INTO came(id, began, at_us) VALUES(?,?,?)"
_PUT_GONE = """
INSERT OR REPLACE INTO came(id, began, at_us)
    SELECT '', began, max(at_us) FROM came WHERE id<>'' AND at_us<? GROUP BY began"""
_CAME_US = 600_000_000
COUNTED_US = 60_000_000
"""how long before people move the messages are named that were taken for them: they may well be sent again by somebody
who waits for an answer, or for a shard that is down"""

Stay = tuple[int, int, int]
"""a slot, from which number on it was there, and at which shard"""


class Residents:
    """Of shard ``index``, by ``placement``; ``look`` is called when somebody goes by another table."""

    def __init__(self, index: int, placement: Placement, db: apsw.Connection) -> None:
        self.index = index
        self.look: Callable[[], None] = lambda: None
        self.leaving: Table | None = None
        """by which table people are about to leave"""
        self.closed = False
        """their boxes are, too"""
        self._db = db
        self._since: dict[int, int] = {}
        self._counted: dict[str, list[int]] = {}
        self._named_from_us: dict[int, int] = {}
        self.take(placement)
        self.load()

    def take(self, placement: Placement) -> None:
        """``placement`` counts from now on."""
        self.placement = placement
        self.table = placement.table
        self.owned = self.table.owned(self.index)
        self.leaving, self.closed = None, False
        self.anybody_moved = placement.number > 0
        """while the node ran, in this layout or in one before it"""

    def load(self) -> None:
        """Take the stays from disk."""
        self._since = {}
        self._stays: dict[int, list[tuple[int, int]]] = {}
        rows = "SELECT slot, since, shard FROM stays ORDER BY slot, since"
        for slot, since, shard in self._db.execute(rows) if has_table(self._db, "stays") else ():
            self._stays.setdefault(slot, []).append((since, shard))
            if shard == self.index:
                self._since[slot] = max(since, self._since.get(slot, 0))
        self._counted, self._named_from_us = {}, {}
        if has_table(self._db, "came"):
            for id, began, at_us in self._db.execute("SELECT id, began, at_us FROM came"):
                if id:
                    self._counted.setdefault(id, []).append(began)
                else:
                    self._named_from_us[began] = at_us

    # -- asked for each letter ---------------------------------------------------------------------

    def before(self, user: str) -> int:
        """Letters up to this number are not for ``user``: he was not here, or has gone."""
        if not self.anybody_moved:
            return 0
        slot, owner = self.table.place(user)
        return self._since.get(slot, 0) if owner == self.index else BEYOND

    def since(self, slot: int) -> int:
        """From which number on ``slot`` is here."""
        return self._since.get(slot, 0)

    def was_here(self, slot: int, seq: int) -> bool:
        """Whether ``slot`` was this shard's when its clock gave out number ``seq``."""
        here = True
        for since, shard in self.stays(slot):
            if since < seq:
                here = shard == self.index
        return here

    def counted(self, message_id: str, known_us: int) -> frozenset[int]:
        """The numbers with which people came here whom the receipt at their former shard counts as targets of this
        message: those are named with them that were taken in the moments before. One that was known before these, at
        ``known_us`` (0: it was not), and is sent again, was taken for everybody, as far as anybody can tell."""
        if not self._named_from_us or not (known_us or message_id in self._counted):
            return frozenset()
        long_before = {began for began, from_us in self._named_from_us.items() if 0 < known_us < from_us}
        return frozenset(long_before.union(self._counted.get(message_id, ())))

    def spans(self, user: str) -> list[tuple[int, int, int]]:
        """Which shards have had ``user``: the shard, behind which number, and up to which."""
        stays = self.stays(self.table.slot(user)) or [(0, self.index)]
        ends = [since for since, _shard in stays[1:]] + [BEYOND]
        return [(shard, since, end) for (since, shard), end in zip(stays, ends, strict=True) if shard != NOWHERE]

    def stays(self, slot: int) -> list[tuple[int, int]]:
        """Where ``slot`` has been, also if it was here once: from which number on, at which shard; nothing if it was
        always here."""
        return self._stays.get(slot, [])

    @property
    def last_beginning(self) -> int:
        """No letter that comes may have a number up to this one."""
        return max(self._since.values(), default=0)

    @property
    def beginnings(self) -> list[int]:
        """The numbers with which slots began here that came from elsewhere."""
        return sorted(set(self._since.values()))

    def is_mine(self, user: str) -> bool:
        """Whether ``user`` belongs here, by the table that counts."""
        return self.table.shard_of(user) == self.index

    def is_leaving(self, user: str) -> bool:
        """Whether ``user`` is here still and goes by the next table."""
        return self.leaving is not None and self.is_mine(user) and self.leaving.shard_of(user) != self.index

    def is_away(self, user: str) -> bool:
        """Whether nobody here may open what is ``user``'s."""
        if not self.anybody_moved and self.leaving is None:
            return False
        return not self.is_mine(user) or (self.closed and self.is_leaving(user))

    # -- asked for each question -------------------------------------------------------------------

    def stranger(self, number: int, slots: Iterable[int]) -> Moving | None:
        """The refusal of what isn't this shard's to answer by table ``number``, None if it is."""
        if number != self.table.number:
            self.look()
        if number != self.table.number or not self.owned.issuperset(slots):
            return Moving()
        return None

    def check(self, number: int, slots: Iterable[int]) -> None:
        """Raises what :meth:`stranger` returns."""
        refusal = self.stranger(number, slots)
        if refusal is not None:
            raise refusal

    def check_user(self, q: ops.AboutUser) -> None:
        """The same for a question about one person."""
        self.check(q.table, (q.slot,))
        if self.is_leaving(q.user):
            raise Moving()

    def check_all(self, number: int) -> None:
        """The same for what concerns every shard, and everybody there; 0 for who goes by no table."""
        if number:
            self.check(number, ())
        if self.leaving is not None:
            raise Moving()

    # -- on disk -----------------------------------------------------------------------------------

    def note(self, stays: Iterable[Stay]) -> None:
        """In a transaction of the journal."""
        assert self._db.in_transaction
        self._db.execute(_SCHEMA).fetchall()
        self._db.executemany(_PUT, list(stays))

    def note_counted(self, message_ids: Iterable[str], from_us: int, began: int) -> None:
        """In a transaction of the journal: see :meth:`counted`; ``message_ids`` are all that were taken from
        ``from_us`` on. Names from long ago go: then whatever was known before those people came counts as taken."""
        assert self._db.in_transaction
        now = now_us()
        self._db.execute(_CAME).fetchall()
        self._db.execute(_PUT_GONE, (now - _CAME_US,)).fetchall()
        self._db.execute("DELETE FROM came WHERE at_us<? AND id<>''", (now - _CAME_US,)).fetchall()
        self._db.execute(_PUT_CAME, ("", began, from_us)).fetchall()
        self._db.executemany(_PUT_CAME, [(id, began, now) for id in message_ids])
