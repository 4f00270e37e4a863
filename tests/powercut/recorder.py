"""Everything a shard does to its disk, in one sequence with what it promised meanwhile.

The rule of the sequence: an effect is logged after it happened, a flush is logged after it ended
together with how long the log was when it began. So whatever stands before a flush's ``began``
really was handed to the kernel before that flush, and a race between threads can only make the log
more cautious than the disk was, never less.

Real files are written and read as ever; the recorder only listens. Paths are relative to the data
directory. ``-shm`` files are memory, not disk: they are not recorded. Nor is anything outside the
data directory.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import apsw

from shard.disk import Disk


@dataclass(frozen=True, slots=True)
class Create:
    """A name for a new, empty file."""

    path: str


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    path: str


@dataclass(frozen=True, slots=True)
class Write:
    path: str
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """The file's length is ``size`` from now on, shorter or longer."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Rename:
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Delete:
    path: str


@dataclass(frozen=True, slots=True)
class Sync:
    """A flush of one file or directory succeeded; it covers the events before ``began``."""

    path: str
    data_only: bool
    began: int


@dataclass(frozen=True, slots=True)
class BarrierBegin:
    pass


@dataclass(frozen=True, slots=True)
class BarrierEnd:
    """A ``syncfs`` succeeded; it covers the events before ``began``, its BarrierBegin."""

    began: int


class Fact(NamedTuple):
    """What is to be found in a person's box, or not to be found there."""

    user: str
    table: str
    """``messages`` or ``user_channels``"""
    id: str
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Offer:
    """Something was asked for and has no answer yet: it may become true or not."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """It was answered as done: it is true from now on, whatever happens."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Purge:
    """Letters were taken out of the journal; the commit that does so comes next."""

    seqs: tuple[int, ...]


Event = (
    Create | MakeDirectory | Write | Truncate | Rename | Delete | Sync | BarrierBegin | BarrierEnd | Offer | Ack | Purge
)


class Recording:
    """What happens under ``root`` from now on; what is there already (``base``) counts as durable."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.base = contents(self.root)
        self.base_directories = [str(p.relative_to(self.root)) for p in sorted(self.root.rglob("*")) if p.is_dir()]
        self.events: list[Event] = []
        self.versions: dict[tuple[str, str], str] = {}
        """the checksum that a device was told, by user and version"""
        self._lock = threading.Lock()

    def add(self, *events: Event) -> int:
        """Log ``events`` without others between them; the number of the first."""
        with self._lock:
            self.events += events
            return len(self.events) - len(events)

    def position(self) -> int:
        """The number the next event gets."""
        with self._lock:
            return len(self.events)

    def named(self, path: str | Path) -> str | None:
        """``path`` relative to the data directory; None for one outside of it."""
        absolute = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        relative = os.path.relpath(absolute, self.root)
        return None if relative.split(os.sep)[0] == os.pardir else relative


_CACHES = {"run", "snapshots", ".sync"}


def contents(root: Path) -> dict[str, bytes]:
    """Every file under ``root`` that is disk and not memory, and counts after a start, by relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm") and not _CACHES.intersection(path.parts)
    }


class RecordingFile(apsw.VFSFile):
    """One open file of :class:`RecordingVFS`; a nameless (temporary) one leaves no trace."""

    def __init__(self, base: str, recording: Recording, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._recording = recording
        self._name = None if path is None else recording.named(path)
        is_new = path is not None and not os.path.exists(path)
        super().__init__(base, name, flags)
        if is_new and self._name is not None:
            recording.add(Create(self._name))

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        if self._name is not None:
            self._recording.add(Write(self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        if self._name is not None:
            self._recording.add(Truncate(self._name, newsize))

    def xSync(self, flags: int) -> None:
        began = self._recording.position()
        super().xSync(flags)
        if self._name is not None:
            self._recording.add(Sync(self._name, bool(flags & apsw.SQLITE_SYNC_DATAONLY), began))

    def xFileControl(self, op: int, ptr: int) -> bool:
        if op in (apsw.SQLITE_FCNTL_SIZE_HINT, apsw.SQLITE_FCNTL_CHUNK_SIZE):
            return True  # else the file could grow by other means than a logged write
        return super().xFileControl(op, ptr)


class RecordingVFS(apsw.VFS):
    """SQLite's own way to the disk, or the one called ``base``, under ``name``, with every effect logged."""

    def __init__(self, name: str, recording: Recording, base: str = "") -> None:
        self._recording = recording
        self._base = base
        super().__init__(name, base)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return RecordingFile(self._base, self._recording, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        name = self._recording.named(filename)
        if name is not None:
            position = self._recording.add(Delete(name))
            if syncdir:
                self._recording.add(Sync(os.path.dirname(name) or ".", False, position + 1))


_PATIENCE_S = 60


class RecordingDisk(Disk):
    """A shard's other way to the disk, with every effect logged."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording.root)
        self._recording = recording
        self.meanwhile: threading.Event | None = None
        """a flush that has begun doesn't end before this happens: so much can be done meanwhile"""

    def _name(self, path: Path) -> str:
        name = self._recording.named(path)
        if name is None:
            raise ValueError(f"{path} is not in the data directory")
        return name

    def flush(self) -> None:
        began = self._recording.add(BarrierBegin())
        if self.meanwhile is not None:
            self.meanwhile.wait(_PATIENCE_S)
        super().flush()
        self._recording.add(BarrierEnd(began))

    def make_directory(self, path: Path) -> None:
        missing = [p for p in (*reversed(path.parents), path) if not p.exists()]
        super().make_directory(path)
        for made in missing:
            self._recording.add(MakeDirectory(self._name(made)))

    def write(self, path: Path, content: bytes) -> None:
        name, is_new = self._name(path), not path.exists()
        super().write(path, content)
        birth = [Create(name)] if is_new else []
        self._recording.add(*birth, Write(name, 0, content), Truncate(name, len(content)))

    def sync_file(self, path: Path) -> None:
        began = self._recording.position()
        super().sync_file(path)
        self._recording.add(Sync(self._name(path), True, began))

    def remove(self, path: Path) -> None:
        existed = path.exists()
        super().remove(path)
        if existed:
            self._recording.add(Delete(self._name(path)))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        position = self._recording.add(Rename(self._name(old), self._name(new)))
        self._recording.add(Sync(os.path.dirname(self._name(new)) or ".", False, position + 1))
