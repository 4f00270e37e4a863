"""How a box is opened: found, born, repaired, set aside. All of it touches the disk and runs in threads.

A damaged file is kept under another name and an empty box takes its place; what a power cut took
from an empty box is written again. Where there are backups, no empty box is made: it is :class:`Lost` until it has been
restored (:mod:`shard.restore`), also after a kill, since a person with backups and without a box tells all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import apsw
import structlog

from node import paths
from node.clock import iso, now_us
from shard import archive, backup_files, leftovers, notes
from shard.disk import Disk, full_is_507
from shard.empty import Empty
from shard.keyring import Keyring, is_encrypted
from shard.mailbox import CORRUPT_AT_OPENING, FILE, SCHEMA, Mailbox, torn_at_birth, torn_when_encrypted

log = structlog.get_logger()

Errand = Callable[[Mailbox], None]
_WHOLE_MAX = 32_768


class Lost(apsw.BusyError):
    """The box was damaged, or taken away, and is being restored from its backup."""


class Visit:
    """What became of a box that was opened for one errand."""

    __slots__ = ("born", "error", "kept")

    def __init__(self) -> None:
        self.born = False
        self.kept: Mailbox | None = None
        """the box, still open, since its log is long enough for a checkpoint"""
        self.error: Exception | None = None


class Opener:
    """Opens the boxes on ``disk``; ``template`` is an empty box's file. With a ``keyring`` new boxes are encrypted."""

    def __init__(
        self,
        disk: Disk,
        template: bytes,
        *,
        wal_pages_max: int,
        vfs: str | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self.born: Callable[[str], None] = lambda _user: None
        """is told of each user who got a box, in the thread that made it"""
        self.opened: Callable[[Mailbox], None] = lambda _box: None
        """is told of each box that was opened, in the thread that did"""
        self._disk = disk
        self._template = template
        self._keyring = keyring
        self._empty = None if keyring is None else Empty(SCHEMA, keyring)
        self._empty_size = len(template) if self._empty is None else max(len(template), self._empty.size)
        self._wal_pages_max = wal_pages_max
        self._vfs = vfs
        self.damaged = 0
        """boxes that were set aside"""
        self._whole: set[str] = set()
        """whose boxes were opened, of late: since then no power cut can have taken anything from them"""
        self.condemned: dict[str, Exception] = {}
        """by user, what was wrong with a box while it was open: it is set aside before it is opened again"""
        self.lost: deque[str] = deque()
        """whose boxes are to be restored; the same one maybe often"""

    def path(self, user: str) -> Path:
        return paths.user_dir(self._disk.data, user) / FILE

    def open_many(self, wanted: list[tuple[str, bool]]) -> list[Mailbox | Exception | None]:
        """For each user, and whether a box may be made: the box, None, or what is in the way."""
        outcomes: list[Mailbox | Exception | None] = []
        for user, create in wanted:
            try:
                outcomes.append(self.open(user, create=create))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def visit_many(self, errands: list[tuple[str, Errand]], create: bool) -> list[Visit]:
        """Open each box, do the errand, close it; where there is none, and none is to be made, do nothing."""
        return [self._visit(user, errand, create) for user, errand in errands]

    def _visit(self, user: str, errand: Errand, create: bool) -> Visit:
        visit = Visit()
        try:
            box = self.open(user, create=create)
            if box is None:
                return visit
            visit.born = box.newborn
            try:
                errand(box)
                if box.log_pages() >= self._wal_pages_max:
                    visit.kept = box
            finally:
                if visit.kept is None:
                    box.close()
        except Exception as error:
            visit.error = error
        return visit

    def open(self, user: str, *, create: bool) -> Mailbox | None:
        """``user``'s box, None if there is none and none may be made. Raises ``apsw.BusyError`` if another
        program has it open, :class:`DiskFull` at birth."""
        path = self.path(user)
        if user in self.condemned:
            if path.exists():
                self.set_aside(path, self.condemned[user])
            del self.condemned[user]
        born = False
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            self._see_to_backups(user, path)
            if not create and not leftovers.damaged(path.parent, FILE):  # else there was a box, and is one again
                return None
            born = True
        else:
            # What was backed up was durable before: it is no birth that was cut off.
            if size <= self._empty_size and user not in self._whole and not backup_files.exist(path.parent):
                born = self._is_torn(user, path.read_bytes())
        if born:
            self.give_birth(path)
        try:
            box = Mailbox(user, path, self._vfs, self._keyring)
        except CORRUPT_AT_OPENING as error:
            self.set_aside(path, error)
            self._see_to_backups(user, path)
            self.give_birth(path)
            born = True
            box = Mailbox(user, path, self._vfs, self._keyring)
        box.newborn = born
        try:
            self.opened(box)
        except BaseException:
            box.close()
            raise
        if len(self._whole) >= _WHOLE_MAX:
            self._whole.clear()
        self._whole.add(user)
        return box

    def _is_torn(self, user: str, content: bytes) -> bool:
        """Whether a box that is no larger than an empty one is short of what a power cut took at its birth.

        Of an encrypted one nobody can say what it was to be: but what is missing are zeros, and the keyring knows
        whose box was durable once.
        """
        if torn_at_birth(content, self._template):
            return True
        if self._empty is None or self._keyring is None or not (is_encrypted(content) or not any(content[:512])):
            return False
        return torn_when_encrypted(content, self._empty.size) and not self._keyring.has_grown(user)

    def _see_to_backups(self, user: str, path: Path) -> None:
        """No empty box where there was another."""
        if backup_files.exist(path.parent):
            self.lost.append(user)
            raise Lost("it is being restored from its backup")

    def give_birth(self, path: Path) -> None:
        """An empty box, or the template's bytes once more for one that lost some of them.

        One that is encrypted gets a new key, so a log that is there can't be taken up: all of it is in the journal
        still, since no barrier has covered the birth.
        """
        self._whole.discard(path.parent.name)
        shelf = path.with_name(archive.DIRECTORY)
        with full_is_507():
            self._disk.make_directory(path.parent)
            if shelf.exists():  # of a box that is gone: this one names nothing of it, so it would be swept
                stamp = iso(now_us()).replace(":", "")
                self._disk.rename(shelf, shelf.with_name(f"{shelf.name}.damaged-{stamp}"))
            if self._empty is None:
                self._disk.write(path, self._template)
            else:
                log_path = path.with_name(f"{path.name}-wal")
                if log_path.exists():
                    self._disk.remove_log(log_path)
                # In place, a power cut could leave sectors of both: noise of two keys, and none that is missing.
                self._disk.remove(path)
                self._disk.write(path, self._empty.content(path.parent.name))
        self.born(path.parent.name)

    def set_aside(self, path: Path, error: Exception) -> None:
        """Keep a damaged file under another name, for whoever wants to look into it."""
        self.damaged += 1
        self._whole.discard(path.parent.name)
        stamp = self._disk.set_aside(path)
        notes.drop(path.parent, notes.LAST)  # what devices have says nothing about a box that is begun anew
        log.error("mailbox damaged, set aside", user=path.parent.name, error=str(error), stamp=stamp)
