"""The folder of a device, and how its copy of the box gets replaced.

What is always true: ``messages.db`` is a whole file that the server had, verified before it got its name,
or what some local program made of it since. It is changed by rename alone, so whoever has it open keeps
reading the old one. It is made read-only; what is written into it nevertheless is found (by size, times
and inode, else by its sha256) and thrown away. ``.sync`` holds notes and work in progress; it may
be deleted at any time. Nothing in it is believed: what a note says is checked against the files.

The lock is on the folder itself, so deleting ``.sync`` can't let two in.

A journal or log that a local program left beside the copy would be played into the next file by whoever
opens that: so these go before and after the rename, and at every sync.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from client.errors import Busy
from node import pages
from node.placement import sync_directory, write_durably

T = TypeVar("T")

FILE = "messages.db"
WORK = ".sync"
SIDECARS = ("-journal", "-wal", "-shm")
_POLL_S = 0.05
_SECOND_NS = 1_000_000_000


class Version(msgspec.Struct, frozen=True):
    """A version of a box, as the server announces it: ``checksum`` is ``sha256:`` and 64 hex digits."""

    version: str
    size: int
    checksum: str


class Part(msgspec.Struct, frozen=True):
    """The note beside a download that isn't complete."""

    server: str
    user: str
    etag: str
    of: Version


class _Copy(msgspec.Struct, frozen=True):
    """The note on the copy: what it is, and how it looked when that was true."""

    server: str
    user: str
    of: Version
    look: tuple[int, int, int, int]
    """:func:`_look` at it"""


class Held(msgspec.Struct, frozen=True):
    """What the copy is. ``version``: None if it isn't known to be one of this server's."""

    version: str | None
    checksum: str
    noted: bool
    """the note says the same, nothing had to be hashed"""


class Folder:
    """``path`` as the place of ``user``'s box on ``server``."""

    def __init__(self, path: Path, server: str, user: str) -> None:
        self.path = path
        self.copy = path / FILE
        self.fresh = path / WORK / "fresh.db"
        """where a new version is put together"""
        self.part = path / WORK / "download.part"
        self._work = path / WORK
        self._note = self._work / "state.json"
        self._part_note = self._work / "download.json"
        self._server, self._user = server, user

    @contextmanager
    def locked(self, wait_s: float) -> Iterator[None]:
        """Alone in the folder, which must exist; raises :class:`Busy` after ``wait_s`` seconds of waiting."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise Busy(f"another process is syncing into {self.path}") from None
                    time.sleep(_POLL_S)
            yield
        finally:
            os.close(fd)

    # -- the copy ----------------------------------------------------------------------------------

    def held(self) -> Held | None:
        """What the copy is now; None if there is none. Reads all of it if it doesn't look as noted."""
        note = _read(self._note, _Copy)
        ours = note is not None and (note.server, note.user) == (self._server, self._user)
        try:
            if note is not None and note.look == _look(self.copy):
                return Held(note.of.version if ours else None, note.of.checksum, noted=ours)
            checksum = checksum_of(self.copy)
        except FileNotFoundError:
            return None
        known = note is not None and ours and note.of.checksum == checksum
        return Held(note.of.version if note is not None and known else None, checksum, noted=False)

    def note(self, of: Version) -> None:
        """Write down that the copy is ``of``."""
        self._make_work()
        note = _Copy(self._server, self._user, of, _look(self.copy))
        _write(self._note, note)

    def replace(self, new: Path, of: Version) -> None:
        """``new``, which was verified to be ``of``, becomes the copy, durably."""
        fd = os.open(new, os.O_RDONLY)
        try:
            os.fchmod(fd, 0o400)
            # A second ago: whoever writes into it from now on can't do so at the same time.
            os.utime(fd, ns=(time.time_ns(), time.time_ns() - _SECOND_NS))
            os.fsync(fd)
        finally:
            os.close(fd)
        self.drop_sidecars()
        new.replace(self.copy)
        sync_directory(self.path)
        self.drop_sidecars()
        self.note(of)
        self.drop_work()

    def drop_sidecars(self) -> None:
        """Away with what a local program left beside the copy."""
        for suffix in SIDECARS:
            self.copy.with_name(FILE + suffix).unlink(missing_ok=True)

    # -- work in progress --------------------------------------------------------------------------

    def begun(self) -> tuple[Part, int] | None:
        """The download that can go on, and how much of it is there; notes without sense are thrown away."""
        note = _read(self._part_note, Part)
        if note is not None and (note.server, note.user) == (self._server, self._user):
            with contextlib.suppress(OSError):
                size = self.part.stat().st_size
                if 0 < size <= note.of.size:
                    return note, size
        self.drop_part()
        return None

    def begin(self, etag: str, of: Version) -> None:
        """An empty part, of the version ``of``; the note is there before any of it."""
        self._make_work()
        self.drop_part()
        _write(self._part_note, Part(self._server, self._user, etag, of))
        self.part.touch(mode=0o600)

    def drop_part(self) -> None:
        _clear(self.part)
        _clear(self._part_note)

    def drop_work(self) -> None:
        """Give back the room that unfinished work takes."""
        with contextlib.suppress(OSError):
            _clear(self.fresh)
        with contextlib.suppress(OSError):
            self.drop_part()

    def start_from_copy(self) -> None:
        """``fresh`` is what the copy is, to be changed."""
        self._make_work()
        _clear(self.fresh)
        shutil.copyfile(self.copy, self.fresh)

    def _make_work(self) -> None:
        """``.sync``, whatever has become of it."""
        if not self._work.is_dir():
            self._work.unlink(missing_ok=True)
            self._work.mkdir(mode=0o700)


def checksum_of(path: Path) -> str:
    """As the server writes it."""
    with path.open("rb") as file:
        return pages.checksum(file)


def _look(path: Path) -> tuple[int, int, int, int]:
    """What changes when the content does, and can be had without reading it."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read(path: Path, kind: type[T]) -> T | None:
    """The note at ``path``; None if there is none that makes sense."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _write(path: Path, note: msgspec.Struct) -> None:
    for name in (path, path.with_name(path.name + ".new")):  # the second is what it is written to first
        if name.is_dir():
            _clear(name)
    write_durably(path, msgspec.json.encode(note) + b"\n")


def _clear(path: Path) -> None:
    """Nothing is at ``path``, whatever was."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        shutil.rmtree(path)
