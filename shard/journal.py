"""``shard.db``: what was accepted and may not be in its boxes yet. On disk before the 202.

One connection, one user at a time: ``journal.lock`` (an asyncio lock) is held from the first
statement of a transaction to the end of its commit. The statements of a delivery run on the loop, a
few microseconds each; the commit, which waits for the disk, and everything that may read much runs
in the journal's thread.

A letter's row goes only after a barrier. Its receipt stays for a configurable time: it is the
memory of which ids were used, and with which body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from node.errors import DiskFull, Unsure
from shard.disk import full_is_507
from shard.keyring import JOURNAL, Keyring, head_of, keys_of
from shard.sqlite import Sync, connect

T = TypeVar("T")

MESSAGE, MEMBERSHIP, REMOVAL = 0, 1, 2
"""kinds of letters"""

HANDED_OVER = 2
"""in a receipt's ``moved``: what another shard of this layout counted for people of its own, who have moved"""

SCHEMA_VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS letters(
    seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, id TEXT NOT NULL, targets INTEGER NOT NULL,
    channel TEXT, users TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS receipts(
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL, accepted_us INTEGER NOT NULL,
    targets INTEGER NOT NULL, failed INTEGER NOT NULL DEFAULT 0, moved INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS channels(
    id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, description TEXT, created_by TEXT,
    created_us INTEGER NOT NULL, members INTEGER NOT NULL DEFAULT 0, open INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members(
    channel_id TEXT NOT NULL, user_id TEXT NOT NULL, joined_seq INTEGER NOT NULL, left_seq INTEGER,
    joined_us INTEGER NOT NULL, muted_us INTEGER, PRIMARY KEY (channel_id, user_id, joined_seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS members_user ON members(user_id);
CREATE INDEX IF NOT EXISTS members_left ON members(left_seq) WHERE left_seq IS NOT NULL;
PRAGMA user_version={SCHEMA_VERSION};
"""
_ADD_LETTER = "INSERT INTO letters(seq, kind, id, targets, channel, users, body) VALUES(?,?,?,?,?,?,?)"
_ADD_RECEIPT = "INSERT INTO receipts(seq, id, digest, accepted_us, targets) VALUES(?,?,?,?,?)"
_MERGE_RECEIPT = """
INSERT INTO receipts(seq, id, digest, accepted_us, targets, failed, moved) VALUES(?,?,?,?,?,?,?)
ON CONFLICT(id) DO UPDATE SET digest=max(digest, excluded.digest), targets=targets+excluded.targets,
    accepted_us=min(accepted_us, excluded.accepted_us), failed=failed+excluded.failed, moved=moved+excluded.moved-1"""
_TAKE_RECEIPT = f"""
INSERT INTO receipts(seq, id, digest, accepted_us, targets, failed, moved) VALUES(?,?,?,?,?,?,{HANDED_OVER})
ON CONFLICT(id) DO UPDATE SET targets=targets+excluded.targets, failed=failed+excluded.failed"""
_RECEIPTS = "SELECT seq, id, digest, accepted_us, targets, failed FROM receipts WHERE seq>? ORDER BY seq LIMIT ?"
_TAKEN = "SELECT id, accepted_us FROM receipts WHERE seq>? AND moved=0 ORDER BY seq DESC LIMIT ?"
_WHOLE = "SELECT id, digest, accepted_us FROM receipts WHERE moved=? ORDER BY seq"
_SETTLE = "UPDATE receipts SET moved=iif(moved=?, 0, 1) WHERE moved>0"
_RECEIPT = "SELECT seq, digest, accepted_us, targets, failed, moved FROM receipts WHERE id=?"
_OLDEST_RECEIPTS = "SELECT seq, accepted_us FROM receipts WHERE seq>? ORDER BY seq LIMIT ?"
_FORGET = "DELETE FROM receipts WHERE seq>? AND seq<=? AND NOT EXISTS(SELECT 1 FROM letters l WHERE l.seq=receipts.seq)"
_LETTERS = "SELECT seq, kind, id, targets, channel, users, body FROM letters ORDER BY seq"
_LAST_SEQ = """
SELECT max((SELECT coalesce(max(seq),0) FROM letters), (SELECT coalesce(max(seq),0) FROM receipts),
    (SELECT coalesce(max(max(joined_seq, coalesce(left_seq,0))),0) FROM members),
    (SELECT coalesce(max(seq),0) FROM clock))"""
_CLOCK = "CREATE TABLE IF NOT EXISTS clock(id INTEGER PRIMARY KEY CHECK(id=1), seq INTEGER NOT NULL)"
_SET_CLOCK = "INSERT OR REPLACE INTO clock(id, seq) VALUES(1,?)"
_OLDEST_US = """
SELECT coalesce((SELECT accepted_us FROM receipts WHERE seq>=(SELECT min(seq) FROM letters) ORDER BY seq LIMIT 1), 0)"""
_GOING = "SELECT seq, kind, id, channel, users, body FROM letters WHERE seq BETWEEN ? AND ?"
_FOR_ONE = """
SELECT seq, kind, id, channel, users, body FROM letters
WHERE seq>? AND seq<=? AND (channel IS NOT NULL OR instr(char(10)||users||char(10), char(10)||?||char(10)))"""
_PURGE = "DELETE FROM letters WHERE seq BETWEEN ? AND ?"
_CHECKPOINT_PAGES = 2_000

LetterRow = tuple[int, int, str, int, str | None, str, bytes]
"""seq, kind, id, targets, channel (members of it) or None, users by newline, body"""
ReceiptRow = tuple[int, str, bytes, int, int]
"""seq, id, digest, accepted_us, targets"""


GoingRow = tuple[int, int, str, str | None, str, bytes]
"""seq, kind, id, channel, users, body"""


class ReceiptRecord(msgspec.Struct, frozen=True):
    seq: int
    digest: bytes
    accepted_us: int
    targets: int
    failed: int
    moved: int
    """1 for the sum of what some shards of an earlier layout had accepted, and maybe not all; :data:`HANDED_OVER`"""


class Journal:
    """Open (or make) the journal at ``path``. With a ``keyring`` a new one is encrypted."""

    def __init__(
        self, path: Path, *, sync: Sync = Sync.FULL, vfs: str | None = None, keyring: Keyring | None = None
    ) -> None:
        self.path = path
        head = head_of(path)
        self.key = keyring.new(JOURNAL, durably=True) if keyring and not head else keys_of(keyring, JOURNAL)(head)
        """what it is encrypted with, None if it isn't"""
        self.db = connect(path, sync=sync, cache_pages=4_000, statements=64, create=True, vfs=vfs, key=self.key)
        if self.db.pragma("user_version") < SCHEMA_VERSION:  # no write where none is needed: the disk may be full
            self.db.execute(_SCHEMA).fetchall()
        self.db.execute(_CLOCK)
        self.db.pragma("wal_autocheckpoint", _CHECKPOINT_PAGES)
        self.db.execute("PRAGMA secure_delete=fast").fetchall()  # a row that goes is written over, if its page stays
        self.lock = asyncio.Lock()
        self.keep: Callable[[list[GoingRow]], None] | None = None
        """gets what is purged, in the journal's thread, before it is gone; it is not if that raises"""
        self._thread = ThreadPoolExecutor(1, "journal")
        self._seq: int = self._one(_LAST_SEQ)
        self.rows: int = self._one("SELECT count(*) FROM letters")
        """letters not yet let go"""
        self.receipts: int = self._one("SELECT count(*) FROM receipts")
        self._oldest_receipt_us = 0  # not looked up yet
        self._forgot_to = 0

    def _one(self, sql: str) -> Any:
        row = self.db.execute(sql).fetchone()
        assert row is not None
        return row[0]

    def next_seq(self) -> int:
        """The clock of this shard: what comes later has a higher number."""
        self._seq += 1
        return self._seq

    def skip_to(self, seq: int) -> None:
        """Give out no number up to ``seq`` any more."""
        self._seq = max(self._seq, seq)

    @property
    def last_seq(self) -> int:
        """The number that was given out last."""
        return self._seq

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run ``function`` in the journal's thread. The lock must be held."""
        assert self.lock.locked()
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def read(self, function: Callable[[], T]) -> T:
        """Run a query between two transactions."""
        async with self.lock:
            return await self.in_thread(function)

    async def write(self, function: Callable[[], T]) -> T:
        """Run ``function`` as one durable transaction, off the loop."""

        def work() -> T:
            try:
                self.begin()
                result = function()
                self._commit()
            except apsw.FullError as error:
                self.rollback()
                raise DiskFull() from error
            except BaseException:
                self.rollback()
                raise
            return result

        async with self.lock:
            return await self.in_thread(work)

    # -- the pieces of a transaction; the lock must be held ---------------------------------------

    def begin(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def add(self, letters: Iterable[LetterRow], receipts: Iterable[ReceiptRow]) -> None:
        assert self.db.in_transaction
        self.db.executemany(_ADD_LETTER, letters)
        self.db.executemany(_ADD_RECEIPT, receipts)

    def add_one(self, kind: int, name: str, users: list[str], body: bytes) -> int:
        """A letter of this shard's own to ``users``, about a message or channel ``name``; its number."""
        seq = self.next_seq()
        self.add([(seq, kind, name, len(users), None, "\n".join(users), body)], [])
        return seq

    def merge_receipt(
        self, message_id: str, digest: bytes, accepted_us: int, targets: int, failed: int, parts: int = 0
    ) -> None:
        """Take over a receipt from another layout, one part or an unknown number (0) of them; they add up."""
        assert self.db.in_transaction
        row = (self.next_seq(), message_id, digest, accepted_us, targets, failed, 1 + parts)
        self.db.execute(_MERGE_RECEIPT, row)

    def take_receipt(self, message_id: str, digest: bytes, accepted_us: int, targets: int, failed: int) -> bool:
        """Take over a receipt from another shard: what it counts is added to what is counted here. One that was not
        known here says nothing of this shard's own people: sent again, the letter is delivered to them once more.
        Whether it is new."""
        assert self.db.in_transaction
        is_new = self.receipt(message_id) is None
        self.db.execute(_TAKE_RECEIPT, (self.next_seq(), message_id, digest, accepted_us, targets, failed))
        return is_new

    def receipts_after(self, seq: int, limit: int) -> list[tuple[int, str, bytes, int, int, int]]:
        """Number, id, digest, time of acceptance, targets and failed of the next receipts, in order."""
        return list(self.db.execute(_RECEIPTS, (seq, limit)))

    def taken_since(self, us: int, after: int, limit: int) -> tuple[list[str], int]:
        """Ids of the last messages, ``limit`` at most, that were accepted at or after ``us``, with a number above
        ``after``; and from when on these are all."""
        rows = list(self.db.execute(_TAKEN, (after, limit)))
        if len(rows) == limit:
            us = max(us, rows[-1][1])
        return [id for id, accepted_us in rows if accepted_us >= us], us

    def body(self, seq: int) -> tuple[int, str, bytes] | None:
        """Kind, id and body of a letter that is here still."""
        return self.db.execute("SELECT kind, id, body FROM letters WHERE seq=?", (seq,)).fetchone()

    def settle_receipts(self, parts: int) -> list[tuple[str, bytes, int]]:
        """All parts are here: the receipts that have ``parts`` of them are whole, and no different from
        those that were made here. Returns these: id, digest, time of acceptance."""
        assert self.db.in_transaction
        whole = [(id, digest, at) for id, digest, at in self.db.execute(_WHOLE, (1 + parts,))]
        self.db.execute(_SETTLE, (1 + parts,))
        return whole

    def drop_receipt(self, message_id: str) -> None:
        assert self.db.in_transaction
        self.db.execute("DELETE FROM receipts WHERE id=?", (message_id,))
        self.receipts -= 1

    def purge(self, seqs: list[int]) -> int:
        """Let letters go; the caller knows that a barrier has covered their delivery. How many went."""
        assert self.db.in_transaction
        going = list(ranges(sorted(seqs)))
        if going and self.keep is not None:
            self.keep([row for first, last in going for row in self.db.execute(_GOING, (first, last))])
        before = self.db.total_changes()
        self.db.executemany(_PURGE, going)
        count = self.db.total_changes() - before
        if going:  # backups and the history know these numbers: they never come again
            self.db.execute(_SET_CLOCK, (self._seq,))
        return count

    async def commit(self, note: Callable[[], tuple[list[int], T]]) -> T:
        """On disk when this returns, with what ``note`` writes, and without the letters whose numbers it gives. Raises
        :class:`DiskFull` (nothing was written) or :class:`Unsure`.

        What is noted, and then let go of, is part of it, and of the thread's work: freeing the pages of long letters
        may read the disk.
        """

        def work() -> tuple[int, T]:
            going, noted = note()
            count = self.purge(going)
            self._commit()
            return count, noted

        try:
            count, noted = await self.in_thread(work)
        except apsw.FullError as error:
            self.rollback()
            raise DiskFull() from error
        self.rows -= count
        return noted

    def _commit(self) -> None:
        try:
            self.db.execute("COMMIT")
        except apsw.FullError:
            raise
        except apsw.Error as error:
            # A failed flush says nothing about what is on disk: neither "stored" nor "not stored" is true.
            raise Unsure(f"commit of the journal: {error}") from error

    def rollback(self) -> None:
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    # -- queries -----------------------------------------------------------------------------------

    def receipt(self, message_id: str) -> ReceiptRecord | None:
        row = self.db.execute(_RECEIPT, (message_id,)).fetchone()
        return None if row is None else ReceiptRecord(*row)

    def letters(self) -> Iterator[LetterRow]:
        """Everything that waits, in the order of acceptance."""
        return self.db.execute(_LETTERS)

    def letters_for(self, user: str, after: int, last: int) -> list[GoingRow]:
        """Rows of letters numbered after ``after``, up to ``last``, that are, or may be since he may be in the channel,
        for ``user``."""
        return list(self.db.execute(_FOR_ONE, (after, last, user)))

    def oldest_seq(self) -> int:
        """The oldest letter's number; the next number if there is none."""
        oldest = self._one("SELECT min(seq) FROM letters")
        return self._seq + 1 if oldest is None else int(oldest)

    def may_forget(self, before_us: int, surplus: int) -> bool:
        """Whether :meth:`forget` would find something, as far as is known without looking."""
        return self._forgot_to > 0 or surplus > 0 or (self.receipts > 0 and self._oldest_receipt_us < before_us)

    def forget(self, before_us: int, surplus: int, portion: int = 2_000) -> int:
        """Drop the oldest receipts: those from before ``before_us``, and ``surplus`` in any case.

        At most ``portion`` at a time, the next call goes on from there; a receipt stays as long as its
        letter. Returns how many went.
        """
        assert self.db.in_transaction
        first = last = self._forgot_to
        oldest: list[Any] = self.db.execute(_OLDEST_RECEIPTS, (first, portion)).fetchall()
        self._forgot_to, self._oldest_receipt_us = 0, before_us
        for index, (seq, accepted_us) in enumerate(oldest):
            if accepted_us >= before_us and index >= surplus:
                self._oldest_receipt_us = accepted_us
                break
            last = seq
        else:
            if len(oldest) == portion:
                self._forgot_to = last
        self.db.execute(_FORGET, (first, last))
        return self.db.changes()

    async def rewrite(self) -> None:
        """Write the file anew: it holds nothing then of rows that are deleted. Letters wait until what is left has been
        written. Raises :class:`DiskFull`."""

        def work() -> None:
            with full_is_507():
                self.db.pragma("cache_spill", "on")  # or all of it would be in memory twice
                try:
                    self.db.execute("VACUUM").fetchall()
                finally:
                    self.db.pragma("cache_spill", "off")

        await self.read(work)

    async def cut_log(self) -> None:
        """All of the log is in the file, and the log holds nothing any more. Raises :class:`DiskFull`."""

        def work() -> None:
            with full_is_507():
                self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

        await self.read(work)

    def used_bytes(self) -> int:
        """What the rows take; pages that were let go are used again and don't count."""
        used: int = self.db.pragma("page_count") - self.db.pragma("freelist_count")
        return used * 4096

    def extent(self) -> tuple[int, int]:
        """:meth:`used_bytes`, and when the oldest letter that is here was accepted (or the one after it, if that is no
        message): microseconds since 1970, 0 if there is none."""
        return self.used_bytes(), int(self._one(_OLDEST_US))

    def close(self) -> None:
        self._thread.shutdown()
        self.db.close()


def ranges(seqs: list[int]) -> Iterator[tuple[int, int]]:
    """Sorted numbers as runs: 3, 4, 5, 9 → (3, 5), (9, 9)."""
    if not seqs:
        return
    first = last = seqs[0]
    for seq in seqs[1:]:
        if seq != last + 1:
            yield first, last
            first = seq
        last = seq
    yield first, last
