"""The copies of boxes that devices download: files that never change, and may go at any moment.

A copy is made whole, from a box that is held; so deliveries to that person wait for it, and to nobody else.
Afterwards two bytes of its header say that it needs no write-ahead log, so that any SQLite can open it where
it may not write. Only then is it hashed. Its packed forms are made of it when they are asked for.

Of an encrypted box nothing plain comes to the disk. The copy is encrypted with a passing key; what is made of it lies
under a keystream (:mod:`node.keystream`), whose key is in memory and goes to the router with the name of the file.

Bounded: bytes on disk (those used longest ago go), time since the last use, copies in the making. Who reads a
file that is unlinked reads on undisturbed; so the shard waits for no reader. After a restart all are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

from node import zstd
from node.errors import DiskFull, Overloaded
from node.keystream import Keystream, fresh_key
from node.ops import SyncState
from node.placement import write_all
from shard.copying import Hidden, reveal, seal
from shard.disk import full_is_507
from shard.mailbox import Mailbox

T = TypeVar("T")

IDENTITY = "identity"
ENCODINGS = (IDENTITY, "zstd", "gzip")
MAKING_MAX = 64
_THREADS = 2
_PORTION = 1024 * 1024
_ZSTD_LEVEL = 3
_GZIP_LEVEL = 1
_GZIP = 16 + zlib.MAX_WBITS


class Kept(NamedTuple):
    """A file that devices may have. ``size``: its bytes; ``state`` is that of the copy, packed or not. ``hidden_by``:
    the key of the keystream that it is read through; empty for none."""

    state: SyncState
    path: Path
    size: int
    hidden_by: bytes = b""


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Snapshots:
    """The copies in ``directory``, which is this shard's alone and starts empty.

    ``room_bytes`` says how much the disk can take.
    """

    def __init__(self, directory: Path, *, bytes_max: int, keep_s: float, room_bytes: Callable[[], int]) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        self._directory = directory
        self._bytes_max = bytes_max
        self._keep_s = keep_s
        self._room_bytes = room_bytes
        self._kept: OrderedDict[tuple[str, str, str], tuple[Kept, float]] = OrderedDict()
        self._packing: dict[tuple[str, str, str], asyncio.Task[Kept]] = {}
        self._makers = ThreadPoolExecutor(_THREADS, "snapshots")
        self._packer = ThreadPoolExecutor(1, "packer")
        self._number = 0
        self._making = 0
        self._coming: dict[Path, int] = {}
        """bytes of what is in the making, at most"""
        self.bytes = 0
        """of all files that are kept"""
        self.made = self.made_bytes = self.packed_files = 0
        """copies made since the start, their bytes, and how many were packed"""
        self.refused = 0
        """copies that were not made, since too many were in the making"""

    # -- what there is ---------------------------------------------------------------------------

    def kept(self, user: str, version: str, encoding: str) -> Kept | None:
        """The file of that version, if it is kept; from now on it was used last."""
        key = (user, version, encoding)
        entry = self._kept.get(key)
        if entry is None:
            return None
        if not entry[0].path.exists():  # somebody cleaned up here
            self._drop(key)
            return None
        self._kept[key] = (entry[0], time.monotonic())
        self._kept.move_to_end(key)
        return entry[0]

    def sweep(self) -> None:
        """Let go of what nobody has asked for of late."""
        before = time.monotonic() - self._keep_s
        while self._kept:
            key, (_kept, used) = next(iter(self._kept.items()))
            if used > before:
                return
            self._drop(key)

    def forget(self, user: str, version: str) -> None:
        """Let go of a version whose name turned out to be another content's."""
        for encoding in ENCODINGS:
            if (user, version, encoding) in self._kept:
                self._drop((user, version, encoding))

    async def forget_all(self, user: str) -> None:
        """Let go of every file of ``user``, also of those that are being packed: none is left when this returns."""
        while packing := [task for key, task in self._packing.items() if key[0] == user]:
            await asyncio.wait(packing)
            await asyncio.sleep(0)
        paths = [self._forgotten(key) for key in list(self._kept) if key[0] == user]
        await asyncio.get_running_loop().run_in_executor(self._makers, _unlink_all, paths)

    def __len__(self) -> int:
        """How many files are kept."""
        return len(self._kept)

    # -- making ----------------------------------------------------------------------------------

    async def copy(self, box: Mailbox, version: Callable[[], str]) -> tuple[str, Path, Hidden]:
        """A copy of a held box, not yet fit for anybody; ``version`` is called in the same thread just before.
        Raises :class:`Overloaded`, :class:`DiskFull`."""
        if self._making >= MAKING_MAX:
            self.refused += 1
            raise Overloaded()
        path = self._fresh("db")
        size = box.bytes() * (1 if box.key is None else 2)
        self._make_room(size)
        self._coming[path] = size

        def work() -> tuple[str, Path, Hidden]:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            issued = version()
            return issued, path, box.copy_to(path)

        self._making += 1
        try:
            return await self._run(self._makers, work, path)
        except BaseException:
            self._making -= 1
            del self._coming[path]
            raise

    async def finish(self, user: str, version: str, path: Path, hidden: Hidden) -> Kept:
        """Make a copy fit to be opened anywhere, hash it, keep it. Every copy is to be finished."""
        try:
            size, sha256, hidden_by = await self._run(self._makers, lambda: _finished(path, hidden), path)
        finally:
            self._making -= 1
            del self._coming[path]
        self.made += 1
        self.made_bytes += size
        return self._keep(user, IDENTITY, Kept(SyncState(version, size, f"sha256:{sha256}"), path, size, hidden_by))

    async def packed(self, user: str, plain: Kept, encoding: str) -> Kept:
        """``plain`` in another encoding, made at most once at a time."""
        found = self.kept(user, plain.state.version, encoding)
        if found is not None:
            return found
        key = (user, plain.state.version, encoding)
        task = self._packing.get(key)
        if task is None:
            if len(self._packing) >= MAKING_MAX:
                raise Overloaded()
            task = self._packing[key] = asyncio.create_task(self._pack(key, plain))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(task)

    async def _pack(self, key: tuple[str, str, str], plain: Kept) -> Kept:
        try:
            user, _version, encoding = key
            path = self._fresh(encoding)
            with plain.path.open("rb") as source:  # now: making room may take it, or it is gone when its turn comes
                self._make_room(plain.size)
                self._coming[path] = plain.size
                try:
                    hidden_by = fresh_key() if plain.hidden_by else b""
                    size = await self._run(
                        self._packer,
                        lambda: _pack(source, Keystream(plain.hidden_by), path, Keystream(hidden_by), encoding),
                        path,
                    )
                finally:
                    del self._coming[path]
            self.packed_files += 1
            return self._keep(user, encoding, Kept(plain.state, path, size, hidden_by))
        finally:
            del self._packing[key]

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T], path: Path) -> T:
        """``work`` in a thread; a failure leaves nothing at ``path``."""
        try:
            with full_is_507():
                return await asyncio.get_running_loop().run_in_executor(pool, work)
        except BaseException:
            _unlink(path)
            raise

    async def other(self, user: str, size: int, make: Callable[[Path], Awaitable[Hidden | None]]) -> Kept | None:
        """Keep a copy of some other file, which no version names, of about ``size`` bytes; None if ``make`` makes none
        at the path it is given. Raises :class:`DiskFull`; a failure leaves nothing."""
        self._make_room(size)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._fresh("db")
        try:
            hidden = await make(path)
            if hidden is None:
                return None
            size, _sha256, hidden_by = await self._run(self._makers, lambda: _finished(path, hidden), path)
        except BaseException:
            _unlink(path)
            raise
        return self._keep(user, path.name, Kept(SyncState(path.name, size, ""), path, size, hidden_by))

    # -- room ------------------------------------------------------------------------------------

    def _fresh(self, suffix: str) -> Path:
        self._number += 1
        return self._directory / f"{self._number}.{suffix}"

    def _keep(self, user: str, encoding: str, kept: Kept) -> Kept:
        key = (user, kept.state.version, encoding)
        if key in self._kept:
            self._drop(key)
        self._kept[key] = (kept, time.monotonic())
        self.bytes += kept.size
        while self.bytes > self._bytes_max and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))
        return kept

    def _make_room(self, size: int) -> None:
        """See that ``size`` bytes more are within the bounds; raises :class:`DiskFull`."""
        coming = sum(self._coming.values())
        while self._kept and self.bytes + coming + size > self._bytes_max:
            self._drop(next(iter(self._kept)))
        if coming and coming + size > self._bytes_max:
            raise Overloaded()
        size += coming  # of which some may be written already: better too careful
        while self._kept and self._room_bytes() < size:
            _unlink(self._forgotten(next(iter(self._kept))))
        if self._room_bytes() < size:
            raise DiskFull()

    def _drop(self, key: tuple[str, str, str]) -> None:
        """Keep it no more; the file goes in a thread, since a large one takes the disk a while."""
        self._makers.submit(_unlink, self._forgotten(key))

    def _forgotten(self, key: tuple[str, str, str]) -> Path:
        kept, _used = self._kept.pop(key)
        self.bytes -= kept.size
        return kept.path

    def close(self) -> None:
        self._makers.shutdown()
        self._packer.shutdown()


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _unlink_all(paths: list[Path]) -> None:
    for path in paths:
        _unlink(path)


def _finished(path: Path, hidden: Hidden) -> tuple[int, str, bytes]:
    """Make of the copy at ``path`` what a device gets: its size and SHA-256, and the key of its keystream."""
    if hidden.key is None:
        return *seal(path), b""
    encrypted, hidden_by = path.with_name(f"{path.name}.encrypted"), fresh_key()
    path.rename(encrypted)
    try:
        return *reveal(encrypted, hidden.key, path, hidden_by), hidden_by
    finally:
        encrypted.unlink()


def _pack(source: BinaryIO, hidden: Keystream, target: Path, hiding: Keystream, encoding: str) -> int:
    """Write ``source`` to ``target`` in ``encoding``; the bytes that makes. The same bytes every time, before they are
    hidden."""
    packer: _Packer
    if encoding == "zstd":
        packer = zstd.ZstdCompressor(level=_ZSTD_LEVEL)
    else:
        packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
    size = read = 0
    with target.open("xb", buffering=0) as file:
        for portion in iter(lambda: source.read(_PORTION), b""):
            packed = packer.compress(hidden.apply(portion, read))
            write_all(file.fileno(), hiding.apply(packed, size))
            read, size = read + len(portion), size + len(packed)
        packed = packer.flush()
        write_all(file.fileno(), hiding.apply(packed, size))
    return size + len(packed)
