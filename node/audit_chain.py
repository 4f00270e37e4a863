"""How an audit chain is written; what a line is, and how it is bound to others: :mod:`node.audit`. Its files lie where
:mod:`node.audit_files` says; whoever appends holds ``run/audit-<chain>.lock``.

Lines are on disk before the head says so. What is behind the head after a kill was promised to nobody: lines that
follow are kept, the rest is cut off, and a line says so. A file that ends before the head was cut by somebody; the
chain goes on from the head, in a new file, so the gap stays for everybody to see.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from node import audit, paths
from node.audit import BEGINNING, Entry, Head, Place
from node.audit_files import files_of, first_line, head_path, last_line, load_head, path_of
from node.clock import DAY_US, iso
from node.config import Audit
from node.placement import sync_directory, write_all, write_durably

_POLL_S = 0.02


class Held(OSError):
    """Another process appends to this chain."""


class Chain:
    """The chain ``name`` of the node in ``data``. For one thread at a time.

    ``patience_s``: how long another one that appends is waited for. ``tell`` hears what the log says of itself.
    """

    def __init__(
        self,
        data: Path,
        name: str,
        settings: Audit,
        *,
        patience_s: float = 0.0,
        tell: Callable[[Entry], None] = lambda _entry: None,
    ) -> None:
        self.name = name
        self._data = data
        self._settings = settings
        self._patience_s = patience_s
        self._tell = tell
        self._lock: int | None = None
        self._file: int | None = None
        self._taken_up = False
        self._number = 0
        self._size = 0
        self._began = ""
        self._last_at = ""
        self._place = BEGINNING
        self._news: list[Entry] = []

    def append(self, entries: Sequence[tuple[int, Entry]], now_us: int) -> list[int]:
        """Write ``entries``, each with its time; their numbers. They are on disk when it returns, and so is the head.

        Raises :class:`OSError` (:class:`Held`, no room: then none of them is in the chain).
        """
        try:
            self._take_up()
            return self._append(entries, now_us)
        except OSError:
            self._let_go()
            raise

    def close(self) -> None:
        """Let others append."""
        self._let_go()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- writing -----------------------------------------------------------------------------------

    def _append(self, entries: Sequence[tuple[int, Entry]], now_us: int) -> list[int]:
        if not (entries or self._news):
            if not self._is_old(now_us):
                return []
            self._let_go_of_file()  # so that another one begins
        old: list[tuple[Path, Entry]] = []
        if self._file is None or self._size >= self._settings.file_bytes_max or self._began[:10] != iso(now_us)[:10]:
            self._begin_file(now_us)
            old = self._old(now_us)
        own = [*self._news, *(entry for _path, entry in old)]
        lines, numbers = [], []
        place = self._place
        for at_us, entry in [*((now_us, entry) for entry in own), *entries]:
            line, place = audit.sealed(place, at_us, entry)
            lines.append(line)
            numbers.append(place.n)
        before, size = self._place, self._size
        self._write(b"".join(lines))
        self._place = place
        try:
            self._save_head(now_us)
        except OSError as error:
            if has_no_room(error):  # the head is the old one
                self._place, self._size = before, size
                self._cut()
            raise
        self._news = []
        for path, _entry in old:
            with contextlib.suppress(OSError):
                path.unlink()
        return numbers[len(own) :]

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        try:
            os.lseek(self._file, self._size, os.SEEK_SET)
            write_all(self._file, content)
            os.fdatasync(self._file)
        except OSError:
            self._cut()
            raise
        self._size += len(content)

    def _cut(self) -> None:
        """Take away what was written and doesn't count."""
        assert self._file is not None
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, self._size)

    def _begin_file(self, now_us: int) -> None:
        if self._place == BEGINNING:
            self._save_head(now_us)  # from the first file on there is one, whatever is killed
        number = max([self._number, *files_of(self._data, self.name)]) + 1
        path = path_of(self._data, self.name, number)
        self._let_go_of_file()
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file, self._number, self._size, self._began = file, number, 0, iso(now_us)
        entry = audit.file_entry(self.name, number, self._place)
        line, place = audit.sealed(self._place, now_us, entry)
        self._write(line)
        sync_directory(path.parent)
        self._place = place
        self._tell(entry)

    def _save_head(self, now_us: int) -> None:
        head = Head(
            chain=self.name,
            n=self._place.n,
            hash=self._place.hash,
            file=self._number,
            size=self._size,
            at=iso(now_us),
        )
        path = head_path(self._data, self.name)
        write_durably(path, msgspec.json.encode(head) + b"\n")
        self._last_at = head.at

    def _is_old(self, now_us: int) -> bool:
        """Whether there is something to be removed; a file to which nothing came for so long goes too."""
        before = iso(now_us - self._settings.keep_days * DAY_US)
        return bool(self._old(now_us)) or bool(self._last_at and self._last_at < before)

    def _old(self, now_us: int) -> list[tuple[Path, Entry]]:
        """Files that are older than is wanted, each with the line that says so. The last of a chain stays."""
        before = iso(now_us - self._settings.keep_days * DAY_US)
        found: list[tuple[Path, Entry]] = []
        for number in files_of(self._data, self.name)[:-1]:
            path = path_of(self._data, self.name, number)
            last = last_line(path)
            if last is None or last.at >= before:
                break
            found.append((path, Entry(deed=audit.EXPIRED, what={"file": number, "n": last.n, "last": last.hash})))
        return found

    # -- taking up what is there -------------------------------------------------------------------

    def _take_up(self) -> None:
        if self._taken_up:
            return
        for directory in (paths.audit_dir(self._data), paths.audit_heads_dir(self._data), paths.run_dir(self._data)):
            if not directory.exists():
                directory.mkdir(mode=0o700, parents=True)
                sync_directory(directory.parent)
        if self._lock is None:
            self._lock = _locked(self._data, self.name, self._patience_s)
        self._number, self._size, self._began, self._last_at = 0, 0, "", ""
        self._place, self._news = BEGINNING, []
        head = load_head(self._data, self.name)
        numbers = files_of(self._data, self.name)
        if head is None:
            if numbers:
                self._go_on_without_head(numbers[-1])
        else:
            self._place, self._number, self._last_at = Place(head.n, head.hash), head.file, head.at
            self._go_on(head)
        self._taken_up = True

    def _go_on_without_head(self, number: int) -> None:
        """As the last line says, true or not: whoever verifies the chain will tell."""
        for _at, line in audit.whole_lines(path_of(self._data, self.name, number).read_bytes()):
            said = audit.read(line)
            if said is not None:
                self._place = Place(said.n, said.hash)
        self._say(audit.FOUND, fault="the head is missing", file=number)

    def _go_on(self, head: Head) -> None:
        """Behind ``head``, and behind what was written after it and is whole."""
        torn = 0
        path = path_of(self._data, self.name, head.file)
        if head.file:
            size = path.stat().st_size if path.exists() else 0
            if size < head.size:
                self._say(audit.FOUND, fault="a file ends before the head", file=head.file, missing=head.size - size)
                return
            torn = self._read_on(head.file, head.size)
        following = path_of(self._data, self.name, head.file + 1)
        if not torn and following.exists():
            self._let_go_of_file()
            torn = self._read_on(head.file + 1, 0)
            if not self._size:  # cut off before its first line was whole
                self._let_go_of_file()
                following.unlink()
                self._number, torn = head.file, 0
                if head.file:
                    self._read_on(head.file, path.stat().st_size)
        if torn:
            self._say(audit.MENDED, file=self._number, bytes=torn)

    def _read_on(self, number: int, size: int) -> int:
        """Open file ``number`` and go through what is behind ``size``; the bytes cut off that are no lines."""
        path = path_of(self._data, self.name, number)
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._number = number
        rest = os.pread(self._file, os.fstat(self._file).st_size - size, size)
        good = 0
        for at, line in audit.whole_lines(rest):
            said = audit.follows(line, self._place)
            if said is None or (size == at == 0 and not audit.is_first_of(said, self.name, number, self._place)):
                break
            self._place, good = Place(said.n, said.hash), at + len(line) + 1
        if good < len(rest):
            os.ftruncate(self._file, size + good)
        self._size = size + good
        first = first_line(path)
        self._began = first.at if first is not None else ""
        return len(rest) - good

    def _say(self, deed: str, **what: str | int) -> None:
        entry = Entry(deed=deed, what=what)
        self._news.append(entry)
        self._tell(entry)

    def _let_go(self) -> None:
        """What is in memory may not be what is on disk: the next one to append looks again."""
        self._let_go_of_file()
        self._taken_up = False

    def _let_go_of_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def tend(data: Path, names: Iterable[str], settings: Audit, now_us: int) -> None:
    """Remove what is old of chains that nobody appends to just now."""
    for name in names:
        chain = Chain(data, name, settings)
        try:
            chain.append([], now_us)
        except Held:
            pass
        finally:
            chain.close()


def has_no_room(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _locked(data: Path, name: str, patience_s: float) -> int:
    path = paths.run_dir(data) / f"audit-{name}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise Held(f"another process appends to the audit chain {name}") from None
            time.sleep(_POLL_S)
