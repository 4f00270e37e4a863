"""``python -m shard.doctor``: is everything on disk as it should be? The node must be stopped.

Every database is checked by SQLite itself; every mailbox lies under its slot; mail waits for whoever has a directory
and no box; every letter in a journal belongs to its shard, stands in the tail as it should, and where a box has it
already, it is the same; who is in a channel according to the journal is so according to his box, unless the news is
still on its way; a dead letter belongs to its shard; a box has one version; how much was read each day is what a
recount of the statuses says. Statuses of messages that aren't in the box are as they should be: they outlive a
removal.

Boxes and read statuses are only read. What is still plain on a node that encrypts is noted. Ends with exit code 1 and
names what is wrong where.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import apsw
import msgspec
from rich.console import Console

from node import ops, paths, placement
from node.config import load
from node.errors import ConfigError
from node.placement import Placement
from node.slots import Table, slot_of
from shard import archive, dead_letters, leftovers, mailbox, parcel, parked, plain, sqlite, status_birth, subscriptions
from shard import journal as journals
from shard.journal import MEMBERSHIP, MESSAGE, Journal
from shard.keyring import Keyring, is_encrypted, is_rotating, keys_of, open_keyring
from shard.lanes import lane_of
from shard.mailbox import Standing
from shard.members import Members
from shard.residents import Residents
from shard.tail import Tail

_BODY_COLUMNS = "channel_id, title, content, message_type, priority, sender"
_RECOUNT = """
SELECT substr(read_at, 1, 10), channel_id, count(*) FROM read_status WHERE read_at<>'' GROUP BY 1, 2"""
_STATS = "SELECT date, total_read, channel_stats FROM read_stats"

_UNREADABLE = (apsw.Error, OSError, UnicodeDecodeError, msgspec.MsgspecError)
"""what a damaged file, or one that somebody holds, shows itself by"""


class Report(msgspec.Struct):
    """What was looked at, what is worth knowing, what is wrong."""

    mailboxes: int = 0
    messages: int = 0
    waiting: int = 0
    waiting_stored: int = 0
    dead: int = 0
    notes: list[str] = []
    faults: list[str] = []


class Doctor:
    """Examines the data directory ``data``."""

    def __init__(self, data: Path, keyring: Keyring | None = None) -> None:
        self.report = Report()
        self._keyring = keyring
        self._data = data
        self._memberships: dict[str, dict[str, Standing]] = {}  # user → channel → how
        self._on_their_way: set[tuple[str, str]] = set()  # (user, channel) with a membership letter waiting
        self._letters: dict[str, list[ops.Letter]] = {}  # user → what waits for him
        self._unborn: set[str] = set()  # whose box needn't be there yet: what waits, or is dead, would make it
        self._template = mailbox.template()

    def examine(self) -> Report:
        layout = placement.load(self._data)
        if layout is None:
            raise ConfigError(f"{self._data} holds no node: placement.json is missing")
        for shard in range(layout.shards):
            path = paths.shard_db(self._data, layout.version, shard)
            if not path.exists():
                self._fault(path, "is missing")
                continue
            try:
                self._examine_journal(path, shard, layout)
            except _UNREADABLE as error:
                self._fault(path, str(error))
        seen = set()
        for directory in self._boxes():
            seen.add(directory.name)
            for examine, file in ((self._examine_box, mailbox.FILE), (self._examine_statuses, status_birth.FILE)):
                try:
                    examine(directory)
                except _UNREADABLE as error:
                    self._fault(directory / file, str(error))
        for user in sorted(self._memberships.keys() - seen):
            self._check_memberships(user, paths.user_dir(self._data, user) / mailbox.FILE, {})
        if is_rotating(paths.keyring_dir(self._data)):
            self.report.notes.append("two master keys open the node: pobox master-key confirm leaves the new one alone")
        if self._keyring is not None and (count := sum(1 for _ in plain.files(self._data))):
            self.report.notes.append(f"{count} files are not encrypted yet: pobox encrypt does that")
        return self.report

    def _fault(self, where: Path, what: str) -> None:
        self.report.faults.append(f"{where.relative_to(self._data)}: {what}")

    def _note(self, where: Path, what: str) -> None:
        self.report.notes.append(f"{where.relative_to(self._data)}: {what}")

    def _boxes(self) -> Iterator[Path]:
        storage = paths.boxes_dir(self._data)
        for slot in sorted(path for path in storage.glob("*") if path.name.isdigit()):
            yield from sorted(path for path in slot.iterdir() if path.is_dir())

    def _examine_journal(self, path: Path, shard: int, layout: Placement) -> None:
        journal = Journal(path, keyring=self._keyring)
        table = layout.table
        try:
            self._check_integrity(path, journal.db, journals.SCHEMA_VERSION)
            members, residents = Members(journal.db), Residents(shard, layout, journal.db)
            parcel.settle(journal, members, residents)  # as the next start does
            tail = Tail(journal.db, members)
            strays = tail.strays()
            if strays:
                self._fault(path, f"{strays} rows of the tail belong to no letter")
            parked.make_tables(journal.db)
            if strays := parked.strays(journal.db):
                self._fault(path, f"{strays} rows of parked letters belong to no letter")
            alone, shared = (parked.targets(journal.db, alone=alone) for alone in (True, False))
            for name, record in members.channels.items():
                now = members.standings(name)
                if len(now) != record.members:
                    self._fault(path, f"channel {name} counts {record.members} members and has {len(now)}")
                for user, standing in now.items():
                    self._memberships.setdefault(user, {})[name] = standing
            for subscription in subscriptions.stored(journal.db):
                if table.shard_of(subscription.user) != shard:
                    self._fault(path, f"the subscription of {subscription.user} is for a user of another shard")
            dead = self._examine_dead(path, journal, shard, table)
            for seq, kind, message_id, targets, channel, users, body in journal.letters():
                names = members.at(channel, seq, "", -1) if channel else users.split("\n")
                if len(names) != targets:
                    self._fault(path, f"letter {seq} counts {targets} targets and has {len(names)}")
                gone = dead.pop(seq, set())
                if others := gone - set(names):
                    self._fault(path, f"letter {seq} is dead for {min(others)}, and was never for that user")
                waits = alone.get(seq, set()) | shared.get(seq, set())
                if others := waits & gone or waits - set(names):
                    self._fault(path, f"letter {seq} is parked for {min(others)}, and doesn't wait for that user")
                names = sorted(waits) if seq in alone else [name for name in names if name not in gone]
                strangers = [name for name in names if table.shard_of(name) != shard]
                names = [name for name in names if seq > residents.before(name)]
                if strangers and not layout.number:
                    self._fault(path, f"letter {seq} is for users of another shard: {strangers[0]}")
                self.report.waiting += len(names)
                self._unborn.update(names)
                if kind == MESSAGE:
                    try:
                        letter = msgspec.msgpack.decode(body, type=ops.Letter)
                    except msgspec.MsgspecError as error:
                        self._fault(path, f"letter {seq} can't be read: {error}")
                        continue
                    for name in names:
                        self._letters.setdefault(name, []).append(letter)
                    if not tail.is_right(seq, lane_of(letter.priority), [] if channel else names, may_wait=not waits):
                        self._fault(path, f"letter {seq} stands wrong in the tail")
                elif kind == MEMBERSHIP:
                    self._on_their_way.update((name, message_id) for name in names)
            if dead:
                self._fault(path, f"dead_targets names letter {min(dead)}, which is gone")
        finally:
            journal.close()

    def _examine_dead(self, path: Path, journal: Journal, shard: int, table: Table) -> dict[int, set[str]]:
        """For whom which letters are no more."""
        dead_letters.make_tables(journal.db)
        for user, message_id, *_rest, state, body in dead_letters.rows(journal.db):
            if table.shard_of(user) != shard:
                self._fault(path, f"dead letter {message_id} is for a user of another shard: {user}")
            if state == dead_letters.DEAD:
                self._unborn.add(user)
                self.report.dead += 1
                try:
                    msgspec.msgpack.decode(body, type=ops.Letter)
                except msgspec.MsgspecError as error:
                    self._fault(path, f"dead letter {message_id} for {user} can't be read: {error}")
        return dead_letters.targets(journal.db)

    def _examine_box(self, directory: Path) -> None:
        user, path = directory.name, directory / mailbox.FILE
        if directory.parent.name != str(slot_of(user)):
            self._fault(directory, f"lies under the wrong slot: {slot_of(user)} is right")
        self._look_aside(directory, mailbox.FILE, "what it held is missing from the box")
        if not path.exists():
            if user in self._unborn:
                self._note(directory, "has no messages.db yet")
            else:
                self._fault(directory, "has no messages.db, and no mail waits that would make it")
            self._check_memberships(user, path, {})
            return
        if path.stat().st_size <= len(self._template) and self._is_torn(user, path.read_bytes()):
            self._note(path, "was cut off at its birth; the next start completes it from the journal")
            return
        with self._reading(path, user) as db:
            self._check_integrity(path, db, mailbox.SCHEMA_VERSION)
            self._check_version(path, db)
            self.report.mailboxes += 1
            self.report.messages += sum(row[0] for row in db.execute("SELECT count(*) FROM messages"))
            self._check_letters(user, path, db)
            until = "muted_until" if db.pragma("user_version") >= 3 else "NULL"
            rows = db.execute(
                f"SELECT channel_id, joined_at, is_muted, {until} FROM user_channels WHERE user_id=?", (user,)
            )
            self._check_memberships(user, path, {str(row[0]): Standing(row[1], bool(row[2]), row[3]) for row in rows})
            self._check_archive(path, db)
            if sqlite.has_table(db, "usage") and not mailbox.counts_right(db):
                self._fault(path, "keeps a wrong count of what it holds")

    def _look_aside(self, directory: Path, file: str, loss: str) -> None:
        for damaged in leftovers.damaged(directory, file):
            if leftovers.is_settled(damaged):
                self._note(damaged, "was set aside as damaged, and restored since")
            else:
                self._fault(damaged, f"was set aside as damaged: {loss}")

    def _is_torn(self, user: str, content: bytes) -> bool:
        """Whether an empty box lost a part of itself to a power cut."""
        if mailbox.torn_at_birth(content, self._template):
            return True
        if self._keyring is None or not (is_encrypted(content) or not any(content[:512])):
            return False
        return mailbox.torn_when_encrypted(content, len(self._template)) and not self._keyring.has_grown(user)

    def _reading(self, path: Path, owner: str) -> contextlib.AbstractContextManager[apsw.Connection]:
        return _reading(path, keys_of(self._keyring, owner))

    def _check_archive(self, path: Path, db: apsw.Connection) -> None:
        """What the box says is archived is in the file of its year."""
        named: dict[int, set[str]] = defaultdict(set)
        if sqlite.has_table(db, "archived"):
            for message_id, year in db.execute("SELECT message_id, year FROM archived"):
                named[year].add(message_id)
        for year, ids in sorted(named.items()):
            file = archive.path_of(path.with_name(archive.DIRECTORY), year)
            if not file.exists():
                self._fault(file, f"is missing, and {len(ids)} messages with it")
                continue
            with self._reading(file, path.parent.name) as archived:
                self._check_integrity(file, archived, archive.SCHEMA_VERSION)
                if missing := ids - {row[0] for row in archived.execute("SELECT id FROM messages")}:
                    self._fault(file, f"{len(missing)} archived messages are missing: {min(missing)}")

    def _examine_statuses(self, directory: Path) -> None:
        path = directory / status_birth.FILE
        self._look_aside(directory, status_birth.FILE, "what was read until then is forgotten")
        if not path.exists():
            return
        with self._reading(path, directory.name) as db:
            self._check_integrity(path, db, status_birth.SCHEMA_VERSION)
            self._check_stats(path, db)

    def _check_integrity(self, path: Path, db: apsw.Connection, newest: int) -> None:
        for (line,) in db.execute("PRAGMA integrity_check(10)"):
            if line != "ok":
                self._fault(path, str(line))
        version = db.pragma("user_version")
        if version < 1:  # the program goes on with an older one
            self._fault(path, f"has schema version {version}; this program knows {newest}")
        elif version > newest:
            self._note(path, f"has schema version {version}, of a later program: what that added is not looked at")

    def _check_version(self, path: Path, db: apsw.Connection) -> None:
        if db.pragma("user_version") == 1:  # the table comes with the first sync
            return
        for (rows,) in db.execute("SELECT count(*) FROM sync_version"):
            if rows > 1:
                self._fault(path, f"sync_version has {rows} rows")

    def _check_stats(self, path: Path, db: apsw.Connection) -> None:
        counted: dict[str, dict[str, int]] = defaultdict(dict)
        for day, channel, count in db.execute(_RECOUNT):
            counted[day][channel] = count
        known = {day: (sum(channels.values()), channels) for day, channels in counted.items()}
        stats = {day: (total, msgspec.json.decode(str(channels))) for day, total, channels in db.execute(_STATS)}
        wrong = sorted(str(day) for day in known.keys() | stats.keys() if known.get(day) != stats.get(day))
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            self._fault(path, f"read_stats is not what a recount says for {wrong[0]}{more}")

    def _check_letters(self, user: str, path: Path, db: apsw.Connection) -> None:
        for letter in self._letters.get(user, ()):
            stored = db.execute(f"SELECT {_BODY_COLUMNS} FROM messages WHERE id=?", (letter.id,)).fetchone()
            if stored is None:
                continue
            self.report.waiting_stored += 1
            if tuple(stored) != msgspec.structs.astuple(letter)[1:7]:
                self._fault(path, f"message {letter.id} is not the one that the journal holds")

    def _check_memberships(self, user: str, path: Path, box: dict[str, Standing]) -> None:
        """``box``: the channels that ``user``'s box knows, and how he is in them."""
        journal = self._memberships.get(user, {})
        for channel in box.keys() | journal.keys():
            if (user, channel) in self._on_their_way:
                continue
            if (channel in box) != (channel in journal):
                where = "box only" if channel in box else "journal only"
                self._fault(path, f"membership of channel {channel} is in the {where}")
            elif box[channel][1:] != journal[channel][1:]:
                self._fault(path, f"channel {channel} is muted otherwise than the journal says")


@contextlib.contextmanager
def _reading(path: Path, key_for: sqlite.KeyFor) -> Iterator[apsw.Connection]:
    """The database at ``path``, log included, held and unable to write; raises ``apsw.BusyError`` if somebody else has
    it open."""
    held = sqlite.lock(path)
    try:
        key = key_for(os.pread(held, sqlite.HEAD, 0))
        # SQLite would make a log where there is none, and leave it (of another owner than the node, perhaps), and
        # delete the log of a file that is empty.
        logged = path.with_name(f"{path.name}-wal").exists() and path.stat().st_size > 0
        name = f"file:{quote(str(path.absolute()))}{'' if logged else '?immutable=1'}"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_NOMUTEX
        db = apsw.Connection(name, flags=flags, vfs=sqlite.way(key, sqlite.LOCKLESS))
        try:
            sqlite.unlock(db, key)
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            for setting, value in (("locking_mode", "exclusive"), ("cache_size", 2_000), ("temp_store", "memory")):
                db.pragma(setting, value)
            yield db
        finally:
            db.close()
    finally:
        os.close(held)


def _stopped(data: Path) -> bool:
    """Whether no node and no shard runs on ``data``."""
    for path in [data / "node.lock", *paths.run_dir(data).glob("shard-*.lock")]:
        if not path.exists():
            continue
        fd = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="pobox doctor", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    try:
        keyring = open_keyring(load().encryption, data)
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    console = Console(soft_wrap=True, highlight=False, markup=False)
    sqlite.set_up()
    if not _stopped(data):
        raise SystemExit(f"a node is running on {data}; stop it first")
    try:
        report = Doctor(data, keyring).examine()
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    for note in report.notes:
        console.print(f"note   {note}")
    for fault in report.faults:
        console.print(f"FAULT  {fault}", style="red")
    console.print(
        f"{report.mailboxes} mailboxes, {report.messages} messages, {report.waiting} deliveries waiting"
        f" ({report.waiting_stored} of them stored already), {report.dead} dead letters, {len(report.faults)} faults"
    )
    raise SystemExit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
