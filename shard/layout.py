"""``python -m shard.layout``: lays the data directory out for the configured number of shards.

Run before anything listens. Where the number has changed, a new set of journals is written beside
the old one: every letter, receipt, channel and membership, and whatever could not be stored, goes to the
shard that owns it under the new table. Then ``placement.json`` is replaced, in one rename: before it the
old journals count, after it the new ones, and a kill at any moment leaves one of the two whole. Mailboxes
lie under their slot and don't move. What belongs to no shard any more is swept away, at every start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from node import paths, placement
from node.config import load
from node.errors import ConfigError
from node.placement import Placement
from node.slots import SLOTS
from shard import dead_letters, gone, parcel, parked, quota_tables, schedule, sqlite, subscriptions
from shard.journal import MESSAGE, Journal
from shard.keyring import Keyring, open_keyring
from shard.members import Members
from shard.residents import Residents

_PORTION = 2_000
_OF_A_SHARD = re.compile(r"(?:shard|changes)-(\d+)(?:\.sock)?")


class Move(msgspec.Struct):
    """What a change of layout did."""

    slots: int
    """that changed hands, of 4096"""
    letters: int
    receipts: int
    memberships: int


def lay_out(data: Path, shards: int, keyring: Keyring | None = None) -> Move | None:
    """Make ``data`` fit ``shards``; None if it does already. With a ``keyring`` new journals are encrypted.

    Raises :class:`ConfigError` if there is no telling which journals count, or if the number is to change while a shard
    runs.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in (paths.run_dir(data), paths.boxes_dir(data)):
        directory.mkdir(mode=0o700, exist_ok=True)
    if not paths.vapid_path(data).exists():
        from shard import vapid  # at the first start only: the libraries of keys take longer than most of what is here

        vapid.make(data)
    old = placement.load(data)
    if old is None:
        _check_empty(data, keyring)
    sweep(data, old)
    if old is not None and old.shards == shards:
        return None
    with nobody_at_work(data, old), placement.changing(data):
        placement.call_off(data)
        return _lay_out_anew(data, old, shards, keyring)


def _lay_out_anew(data: Path, old: Placement | None, shards: int, keyring: Keyring | None) -> Move:
    new = _after(old, shards)
    directory = paths.journals_dir(data, new.version)
    directory.mkdir(mode=0o700)
    journals = [Journal(paths.shard_db(data, new.version, index), keyring=keyring) for index in range(shards)]
    try:
        move = _Mover(journals, new).move(data, old, keyring) if old else Move(4096, 0, 0, 0)
        for journal in journals:
            journal.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        for journal in journals:
            journal.close()
    placement.sync_directory(directory)
    placement.sync_directory(data)
    placement.save(data, new)
    sweep(data, new)
    return move


def _after(old: Placement | None, shards: int) -> Placement:
    """The next layout. People who were moved by themselves stay where they are, as long as there is such a shard."""
    if old is None:
        return Placement(version=1, shards=shards)
    users = {user: slot for user, slot in old.users.items() if old.slots[slot] < shards}
    return Placement(
        version=old.version + 1,
        shards=shards,
        number=old.number + 1 if old.number else 0,
        format=old.format if old.number else 1,
        slots={slot: old.slots[slot] for slot in users.values()},
        users=users,
    )


@contextlib.contextmanager
def nobody_at_work(data: Path, old: Placement | None) -> Iterator[None]:
    """Hold the lock of every shard there is. Raises :class:`ConfigError` if one runs: what it accepts while its
    journal is copied would be left behind."""
    with contextlib.ExitStack() as held:
        for index in range(old.processes if old else 0):
            fd = os.open(paths.shard_lock(data, index), os.O_RDWR | os.O_CREAT, 0o600)
            held.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"shard {index} is running: stop the node before the number of shards is changed"
                ) from None
        yield


def _check_empty(data: Path, keyring: Keyring | None) -> None:
    """Without a placement there may be journals of a first start that was cut short: empty ones."""
    for path in data.glob("journals-*/shard-*.db"):
        journal = Journal(path, keyring=keyring)
        try:
            if journal.rows or journal.receipts or Members(journal.db).channels:
                raise ConfigError(f"{path} is in use, but placement.json is missing: put it back")
        finally:
            journal.close()


def sweep(data: Path, current: Placement | None) -> None:
    """Remove the journals of other layouts, an old one or one that was not finished, and what shards that are
    no more had beside theirs."""
    keep = paths.journals_dir(data, current.version).name if current else ""
    for directory in data.glob("journals-*"):
        if directory.name != keep:
            shutil.rmtree(directory)
    if current is not None:
        _sweep_shards(data, current.processes)


def _sweep_shards(data: Path, shards: int) -> None:
    """Remove copies, counters and sockets from shard ``shards`` on. Locks stay: one may be held still, and whoever
    made its name anew would hold another."""
    for place in (paths.snapshots_dir, paths.changes_path, paths.socket_path):
        for path in place(data, 0).parent.glob("*-*"):
            number = _OF_A_SHARD.fullmatch(path.name)
            if number is None or int(number[1]) < shards or path != place(data, int(number[1])):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)  # copies alone: no reason not to start
            else:
                path.unlink(missing_ok=True)


class _Mover:
    """Distributes the rows of the old journals over the new ``journals``."""

    def __init__(self, journals: list[Journal], new: Placement) -> None:
        self._journals = journals
        self._table = new.table
        self._members = [Members(journal.db) for journal in journals]
        for journal in journals:
            dead_letters.make_tables(journal.db)
            quota_tables.make_tables(journal.db)
        self._schedules = [schedule.Schedule(journal.db) for journal in journals]
        self._residents: list[Residents] = []
        """of each old shard"""
        self._fewer: list[Counter[str]] = []
        """of each old shard, by message: targets who were deleted and are not off its receipt yet"""

    def move(self, data: Path, old: Placement, keyring: Keyring | None) -> Move:
        before = old.table
        moved = Move(
            slots=sum(before.owner(slot) != self._table.owner(slot) for slot in range(SLOTS)),
            letters=0,
            receipts=0,
            memberships=0,
        )
        sources = [Journal(paths.shard_db(data, old.version, index), keyring=keyring) for index in range(old.shards)]
        for index, source in enumerate(sources):  # what slots that changed hands had left to do
            residents = Residents(index, old, source.db)
            parcel.settle(source, Members(source.db), residents)
            self._residents.append(residents)
        for journal in self._journals:
            journal.begin()
        try:
            for source in sources:
                moved.memberships += self._move_members(source)
                self._move_subscriptions(source)
                self._move_deletions(source)
                self._move_quotas(source)
            for source, residents in zip(sources, self._residents, strict=True):
                moved.letters += self._move_letters(source, residents)
                self._move_troubles(source)
            moved.receipts = self._move_receipts(sources)
            for journal in self._journals:
                journal.db.execute("COMMIT")
        finally:
            for source in sources:
                source.close()
        return moved

    def _owner(self, user: str) -> int:
        return self._table.shard_of(user)

    def _move_members(self, source: Journal) -> int:
        """Channels to every shard, memberships of now to the user's; all begin before any letter."""
        count = 0
        joined: dict[tuple[int, str, int], list[str]] = defaultdict(list)
        mutes: list[tuple[int, str, str, int]] = []
        channels = Members(source.db).channels.values()
        for members in self._members:
            members.take(channels)
        rows = source.db.execute("SELECT channel_id, user_id, joined_us, muted_us FROM members WHERE left_seq IS NULL")
        for channel, user, joined_us, muted_us in rows:
            owner = self._owner(user)
            joined[owner, channel, joined_us].append(user)
            if muted_us is not None:
                mutes.append((owner, channel, user, muted_us))
            count += 1
        for (owner, channel, joined_us), users in joined.items():
            self._members[owner].change(channel, users, [], 0, joined_us)
        for owner, channel, user, muted_us in mutes:
            self._members[owner].mute(channel, user, muted_us)
        return count

    def _move_subscriptions(self, source: Journal) -> None:
        for subscription in subscriptions.stored(source.db):
            subscriptions.add(self._journals[self._owner(subscription.user)].db, subscription)

    def _move_quotas(self, source: Journal) -> None:
        quota_tables.make_tables(source.db)
        for table, row in quota_tables.rows(source.db):
            quota_tables.put(self._journals[self._owner(row[0])].db, table, row)

    def _move_deletions(self, source: Journal) -> None:
        """Those that are not finished. The letters from before stay behind, so the new clock knows of none."""
        for user, _seq, at_us, phase in gone.stored(source.db):
            if phase != gone.DONE:
                gone.put(self._journals[self._owner(user)].db, (user, 0, at_us, phase))

    def _move_letters(self, source: Journal, residents: Residents) -> int:
        """Each letter to the shards of its targets, without those who were deleted, or moved, since. A channel letter
        gets the names of its members: the clock that tells who they were stays behind."""
        count = 0
        members = Members(source.db)
        dead_letters.make_tables(source.db)
        dead = dead_letters.targets(source.db)
        parked.make_tables(source.db)
        alone = parked.targets(source.db, alone=True)
        up_to = gone.Gone(gone.stored(source.db)).up_to
        withdrawn = gone.withdrawn(source.db)
        fewer = Counter[str]()
        self._fewer.append(fewer)
        for seq, kind, message_id, _targets, channel, users, body in source.letters():
            names = users.split("\n") if users else []
            if seq in alone:
                names = sorted(alone[seq])
            elif channel is not None:
                names, after = [], ""
                while page := members.at(channel, seq, after, _PORTION):
                    names += page
                    after = page[-1]
            parts: dict[int, list[str]] = defaultdict(list)
            for name in names:
                if name in dead.get(seq, ()):
                    continue
                if seq <= up_to.get(name, 0):
                    fewer[message_id] += kind == MESSAGE and (seq, name) not in withdrawn
                    continue
                if seq <= residents.before(name):
                    continue  # it was in the box before that changed hands
                parts[self._owner(name)].append(name)
            for owner, part in parts.items():
                self._journals[owner].add_one(kind, message_id, part, body)
                count += 1
        return count

    def _move_troubles(self, source: Journal) -> None:
        """Dead letters, and who is tried again when, to the shard of their user. The letters that wait have new numbers
        there, and all their tries before them."""
        for row in dead_letters.rows(source.db):
            dead_letters.put(self._journals[self._owner(row[0])].db, row)
        for retry in schedule.Schedule(source.db).load():
            self._schedules[self._owner(retry.user)].write([retry._replace(runs=[])], [])

    def _move_receipts(self, sources: list[Journal]) -> int:
        """One receipt a message, at the home of its id, with the targets of all its parts.

        Where every old shard had a part, the message was accepted as a whole, and every new shard is to
        know it: sent again it isn't delivered again, to members of its channel who joined since.
        """
        count = 0
        for source, fewer in zip(sources, self._fewer, strict=True):
            rows = source.db.execute(
                "SELECT id, digest, accepted_us, targets, failed, moved FROM receipts ORDER BY seq"
            )
            for message_id, digest, accepted_us, targets, failed, moved in rows:
                journal = self._journals[self._table.home(message_id)]
                targets -= fewer[message_id]
                journal.merge_receipt(message_id, digest, accepted_us, targets, failed, 0 if moved else 1)
                count += 1
        whole = [journal.settle_receipts(len(sources)) for journal in self._journals]
        for journal in self._journals:
            for home, receipts in zip(self._journals, whole, strict=True):
                if home is not journal:
                    journal.add([], [(journal.next_seq(), id, digest, at, 0) for id, digest, at in receipts])
        return count


def main() -> None:
    try:
        config = load()
        sqlite.set_up()
        data = Path(config.node.data)
        keyring = open_keyring(config.encryption, data, make=True)
        move = lay_out(data, config.node.shards, keyring)
        if keyring is not None:
            keyring.close()
    except (ConfigError, apsw.Error, OSError) as error:
        raise SystemExit(f"the data directory can't be laid out: {error}") from error
    if move is not None and (move.letters or move.receipts or move.memberships):
        print(
            f"laid out for {config.node.shards} shards: {move.slots} of 4096 slots changed hands,"
            f" {move.letters} letters, {move.receipts} receipts and {move.memberships} memberships moved"
        )


if __name__ == "__main__":
    main()
