"""What is plain on a node that encrypts becomes encrypted, file by file, while the node is stopped.

A file is made anew beside the old one, encrypted; compared with it, row by row; flushed, and takes its place in one
rename. So a kill at any moment, or a full disk, leaves each either plain or encrypted, and whole; the same again goes
on. Before that the old one's log is moved into it, since a log of plain pages must never meet an encrypted file. Rows
keep their numbers. What only lies around goes (:mod:`shard.plain`); what is damaged can't be read, so it stays, and is
named.

A box has other pages then, so its version holds no more: every device fetches it once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import apsw
import msgspec

from node import paths
from node.errors import DiskFull
from node.placement import Placement, sync_directory
from shard import archive, backup_set, history, layout, mailbox, plain
from shard import backup_files as files
from shard.disk import Disk, full_is_507
from shard.keyring import JOURNAL, Keyring, head_of, is_encrypted
from shard.sqlite import LOCKLESS, MODE_AT, ROLLBACK_MODE, WAL_MODE, Key, has_table, immutable, lock, unlock, way

_EVERY = 1_000


class Different(Exception):
    """What was made of a file is not what the file holds."""


_DAMAGED = (*mailbox.CORRUPT, files.Damaged, UnicodeDecodeError, Different)


class Encrypted(msgspec.Struct):
    """What was done."""

    files: int = 0
    """that were plain"""
    segments: int = 0
    left: list[str] = []
    """what stayed plain, and why"""


class Encryption:
    """Of the node at ``data``, laid out as ``placed``, whose shards are stopped. ``said`` is told how far it is."""

    def __init__(self, data: Path, placed: Placement, keyring: Keyring, said: Callable[[str], None]) -> None:
        self._data = data
        self._placed = placed
        self._keyring = keyring
        self._said = said
        self._template = mailbox.template()
        self._why: dict[Path, str] = {}
        """of files that stay plain"""
        self.done = Encrypted()

    def run(self) -> Encrypted:
        """Encrypt all that is plain. Raises :class:`DiskFull`, :class:`OSError`, ``apsw.Error``."""
        with full_is_507():
            with contextlib.closing(Disk(self._data)) as disk:
                disk.flush()  # what a power cut could take from files that were just born is on the disk
            shutil.rmtree(self._data / "snapshots", ignore_errors=True)
            layout.sweep(self._data, self._placed)
            plain.discard(self._data)
            for journal in sorted(paths.journals_dir(self._data, self._placed.version).glob("shard-*.db")):
                self._database(journal, JOURNAL, has_log=True)
            for place in plain.people(self._data):
                self._person(place)
            for segment in sorted(paths.history_dir(self._data).glob("*/shard-*/*.seg")):
                self.done.segments += history.encrypt(segment, self._keyring)
            for manifest in sorted(paths.backups_dir(self._data).glob("*/*/shard-*.json")):
                self._set(manifest)
        for path in plain.files(self._data):
            self.done.left.append(f"{path.relative_to(self._data)}: {self._why.get(path) or plain.word_for(path)}")
        return self.done

    def _person(self, place: Path) -> None:
        user = place.name
        self._box(place / mailbox.FILE, user)
        self._database(place / files.KINDS["read_status"], user, has_log=True)
        # those of a box that is gone, too: they lie beside it
        for path in sorted(place.glob(f"{archive.DIRECTORY}*/messages_*.db")):
            self._database(path, user, has_log=False)
        for kind in files.KINDS.values():
            for path in sorted(place.glob(f"{kind}.replaced-*")):
                self._database(path, user, has_log=False)
        self._backups(place / "backups", user)

    def _box(self, path: Path, user: str) -> None:
        if not path.exists():
            return
        if path.stat().st_size <= len(self._template) and mailbox.torn_at_birth(path.read_bytes(), self._template):
            self._why[path] = self._why[plain.log_of(path)] = "cut off at its birth; the next start mends it"
            return
        self._database(path, user, has_log=True, is_box=True)

    # -- one file ------------------------------------------------------------------------------------

    def _database(self, path: Path, owner: str, *, has_log: bool, is_box: bool = False) -> None:
        """Encrypt one, if it is plain and whole."""
        head = head_of(path)
        if not head or is_encrypted(head):
            return
        with self._but_if_damaged(path), self._made_anew(path, owner, has_log=has_log, is_box=is_box) as fresh:
            fresh.rename(path)
            sync_directory(path.parent)

    @contextlib.contextmanager
    def _but_if_damaged(self, *names: Path) -> Iterator[None]:
        """Encrypt the file with these names; one that can't be read stays as it is."""
        try:
            yield
        except apsw.BusyError:
            self._why.update(dict.fromkeys(names, "another program has it open"))
        except _DAMAGED as error:
            self._why.update(dict.fromkeys(names, f"damaged: {error}"))
        else:
            self.done.files += 1
            if self.done.files % _EVERY == 0:
                self._said(f"{self.done.files} files")

    @contextlib.contextmanager
    def _made_anew(self, path: Path, owner: str, *, has_log: bool, is_box: bool = False) -> Iterator[Path]:
        """The database at ``path``, held, and where it is encrypted, on disk; nothing is left there."""
        fresh = path.with_name(path.name + plain.ENCRYPTING)
        held = lock(path)
        try:
            try:
                with full_is_507():
                    self._make_anew(path, fresh, owner, has_log=has_log, is_box=is_box)
            except DiskFull as error:
                name, size = path.relative_to(self._data), path.stat().st_size
                raise DiskFull(f"the disk is full: {name} needs room for another {size} bytes") from error
            yield fresh
        finally:
            fresh.unlink(missing_ok=True)
            os.close(held)

    def _make_anew(self, path: Path, fresh: Path, owner: str, *, has_log: bool, is_box: bool) -> None:
        key = self._keyring.new(owner, durably=True)
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_NOMUTEX
        with contextlib.closing(apsw.Connection(str(path), flags=flags, vfs=LOCKLESS)) as db:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            for name, value in (("locking_mode", "exclusive"), ("synchronous", "full"), ("temp_store", "memory")):
                db.pragma(name, value)
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            log_path = plain.log_of(path)
            _flush(log_path)
            db.execute("VACUUM INTO ?", (_address(fresh, key),))
            facts = _digest(db)
        if not has_log:
            log_path.unlink(missing_ok=True)
        with contextlib.closing(immutable(fresh, key)) as made:
            if made.pragma("integrity_check") != "ok" or _digest(made) != facts:
                raise Different("the encrypted file is not the same")
        if is_box:
            _soil(fresh, key)
            self._keyring.grow(key)
        with fresh.open("r+b", buffering=0) as file:
            os.fchmod(file.fileno(), 0o600)
            os.pwrite(file.fileno(), WAL_MODE if has_log else ROLLBACK_MODE, MODE_AT)
            os.fdatasync(file.fileno())

    # -- backups -------------------------------------------------------------------------------------

    def _backups(self, place: Path, user: str) -> None:
        """The backups of one person: names of the same file stay so. The index says what they are to be before they
        are: for that room is needed."""
        names: dict[int, list[Path]] = {}
        for _kind, _day, path in files.found(place):
            if not is_encrypted(head_of(path)):
                names.setdefault(path.stat().st_ino, []).append(path)
        index = files.load(place)
        for paths_of in names.values():
            with self._but_if_damaged(*paths_of), self._made_anew(paths_of[0], user, has_log=False) as fresh:
                self._tell(index, paths_of, fresh, user)
                files.save(place, index, durably=True)
                for path in paths_of:
                    files.link(fresh, path)

    def _tell(self, index: files.Index, paths_of: list[Path], fresh: Path, user: str) -> None:
        """Have ``index`` say that ``paths_of`` are what ``fresh`` is, as far as it said that they are whole."""
        kind = paths_of[0].name.rpartition("_")[0]
        rows, size, sha256 = files.check(fresh, kind, user, self._keyring), fresh.stat().st_size, files.sha256_of(fresh)
        for day, entries in index.items():
            if files.file(paths_of[0].parent, kind, day) in paths_of and kind in entries and entries[kind].rows == rows:
                entries[kind] = msgspec.structs.replace(entries[kind], size=size, sha256=sha256)

    def _set(self, manifest: Path) -> None:
        """The copy of a journal in the backup of a day; its manifest goes before, as an index does."""
        said = backup_set.load(manifest)
        if said is None:
            return
        part = backup_set.part_of(self._data, said.day, said.layout, said.shard)
        if not part.journal.exists() or is_encrypted(head_of(part.journal)):
            return
        with self._but_if_damaged(part.journal), self._made_anew(part.journal, JOURNAL, has_log=False) as fresh:
            size, sha256 = fresh.stat().st_size, files.sha256_of(fresh)
            part.close(msgspec.structs.replace(said, journal_sha256=sha256, journal_size=size))
            fresh.rename(part.journal)
            sync_directory(part.place)


def _address(path: Path, key: Key) -> str:
    """Where SQLite is to make an encrypted file."""
    secret = quote(f"raw:{key.secret.hex()}{key.id.hex()}")
    return f"file:{quote(str(path.absolute()))}?vfs={way(key, LOCKLESS)}&cipher=aegis&key={secret}"


def _digest(db: apsw.Connection) -> str:
    """Of all tables and rows, with their numbers."""
    digest = hashlib.sha256()
    tables = db.execute("SELECT name, sql FROM sqlite_schema WHERE type='table' ORDER BY name").fetchall()
    for name, sql in tables:
        numbered = "" if "WITHOUT ROWID" in str(sql).upper() else "rowid, "
        digest.update(f"{name} {sql}".encode())
        order = "1" if numbered else ", ".join(map(str, _key_columns(db, str(name))))
        for row in db.execute(f'SELECT {numbered}* FROM "{name}" ORDER BY {order}'):
            digest.update(repr(row).encode())
    digest.update(str(db.pragma("user_version")).encode())
    return digest.hexdigest()


def _key_columns(db: apsw.Connection, table: str) -> list[int]:
    """The places of the columns of a table's primary key."""
    return [row[0] + 1 for row in db.execute("SELECT cid FROM pragma_table_info(?) WHERE pk>0 ORDER BY pk", (table,))]


def _soil(path: Path, key: Key) -> None:
    """The version of a box is not that of these pages."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
    with contextlib.closing(apsw.Connection(str(path), flags=flags, vfs=way(key, LOCKLESS))) as db:
        unlock(db, key)
        for name, value in (("locking_mode", "exclusive"), ("journal_mode", "memory")):
            db.pragma(name, value)
        if has_table(db, "sync_version"):
            db.execute(mailbox.SOIL)


def _flush(path: Path) -> None:
    if path.exists():
        with path.open("rb", buffering=0) as file:
            os.fdatasync(file.fileno())
