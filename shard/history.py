"""Letters that were delivered, kept for a while: with the last backup they give any box as it was at any moment since.

A letter goes from the journal only after it is on disk here: whoever purges writes it down first, in the same thread,
and waits for the disk. A crash in between leaves it in both, which does no harm: its number tells.

Segments are files that are appended to for an hour, and never again after a failure or a restart, since what follows a
torn block can't be read. A block is what was purged together: length and CRC of its bytes, then the packed rows; with
a keyring these are encrypted, and the highest bit of the length says so.
Numbers begin anew with each layout, so each has a directory of its own: ``history/<version>-<shards>/shard-<i>/``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node import paths, zstd
from node.clock import now_us
from node.errors import DiskFull, Unsure
from node.placement import Placement, sync_directory, write_all
from node.slots import slot_of, table_for
from shard import deeds
from shard.deeds import LetterOf
from shard.disk import full_is_507
from shard.journal import GoingRow
from shard.keyring import KeyLost, Keyring

_HEAD = Struct("<II")
SEGMENT_S = 3_600
_SEGMENT_BYTES = 256 * 1024 * 1024
_BLOCK_MAX = 1024 * 1024 * 1024
_LEVEL = 1
_ROWS = 1_000
_NONCE = 12
_LAYOUT = re.compile(r"(\d+)-(\d+)")
_ENCRYPTED = 1 << 31
_PURPOSE = "history"
_rows = msgspec.msgpack.Decoder(list[GoingRow]).decode


class Position(NamedTuple):
    """Of a letter in the order of acceptance: layout, then number."""

    layout: int
    seq: int


Spans = list[tuple[int, int, int]]
"""a shard that had somebody, and the numbers behind and up to which: see ``shard.residents``"""


def directory(data: Path, layout: Placement, shard: int) -> Path:
    return paths.history_dir(data) / f"{layout.version}-{layout.shards}" / f"shard-{shard}"


class History:
    """Where shard ``shard`` of ``layout`` writes down what it lets go. One thread at a time uses it."""

    def __init__(self, data: Path, layout: Placement, shard: int, keyring: Keyring | None = None) -> None:
        self._directory = directory(data, layout, shard)
        self._sealed = sealed_by(keyring)
        self._fd: int | None = None
        self._until_us = 0
        self._size = 0
        self.bytes = 0
        """written since the start"""

    def keep(self, rows: list[GoingRow]) -> None:
        """On disk when this returns. Raises :class:`DiskFull`, nothing of it counts then; :class:`Unsure`."""
        block = _block(rows, self._sealed)
        try:
            with full_is_507():
                if self._fd is None or now_us() >= self._until_us or self._size >= _SEGMENT_BYTES:
                    self._begin()
                assert self._fd is not None
                write_all(self._fd, block)
                os.fdatasync(self._fd)
        except DiskFull:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise Unsure(f"history: {error}") from error
        self._size += len(block)
        self.bytes += len(block)

    def _begin(self) -> None:
        self.close()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = now_us()
        path = self._directory / f"{now:016}.seg"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size, self._until_us = 0, now + SEGMENT_S * 1_000_000
        for above in (path.parent, path.parent.parent, path.parent.parent.parent, path.parent.parent.parent.parent):
            sync_directory(above)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def sealed_by(keyring: Keyring | None) -> AESGCM | None:
    """What blocks are encrypted with, None where they are not."""
    return None if keyring is None else AESGCM(keyring.derived(_PURPOSE))


def _block(rows: list[GoingRow], sealed: AESGCM | None) -> bytes:
    packed = zstd.compress(msgspec.msgpack.encode(rows), level=_LEVEL)
    if sealed is None:
        return _HEAD.pack(len(packed), zlib.crc32(packed)) + packed
    nonce = os.urandom(_NONCE)
    packed = nonce + sealed.encrypt(nonce, packed, None)
    return _HEAD.pack(len(packed) | _ENCRYPTED, zlib.crc32(packed)) + packed


def _opened(block: bytes, sealed: AESGCM | None) -> bytes:
    """What an encrypted block holds. Raises :class:`KeyLost`."""
    try:
        if sealed is not None:
            return sealed.decrypt(block[:_NONCE], block[_NONCE:], None)
    except InvalidTag:
        pass
    raise KeyLost("the history is encrypted, and not with this keyring")


def read(path: Path, sealed: AESGCM | None = None) -> Iterator[LetterOf]:
    """The rows in one segment, as far as it is whole."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            is_encrypted, length = bool(length & _ENCRYPTED), length & ~_ENCRYPTED
            if length > _BLOCK_MAX:
                return
            block = file.read(length)
            if len(block) < length or zlib.crc32(block) != checksum:
                return
            packed = _opened(block, sealed) if is_encrypted else block
            yield from (LetterOf(*row) for row in _rows(zstd.decompress(packed)))


def since(
    data: Path,
    user: str,
    after: Position,
    from_us: int,
    layout: int,
    spans: Spans,
    keyring: Keyring | None = None,
) -> Iterator[tuple[Position, LetterOf]]:
    """What is kept for ``user``, or for a channel, from behind ``after`` on, in no order, maybe twice. ``from_us``:
    when ``after`` was; what lies in segments that ended before isn't looked at. ``spans``: which shards had that
    person under the present ``layout``."""
    sealed = sealed_by(keyring)
    for version, place, first, last, is_whole in _places(data, user, layout, spans):
        if version < after.layout:
            continue
        segments = sorted(place.glob("*.seg"))
        for segment, follower in zip(segments, [*segments[1:], None], strict=True):
            # What is purged in a segment was accepted before; so the last one that began before counts too.
            if follower is not None and _began_us(follower) < from_us:
                continue
            with contextlib.suppress(FileNotFoundError):
                for row in read(segment, sealed):
                    position = Position(version, row.seq)
                    if position <= after or not first < row.seq <= last:
                        continue
                    if (row.channel is not None and is_whole) or user in row.users:
                        yield position, row


def _places(data: Path, user: str, layout: int, spans: Spans) -> Iterator[tuple[int, Path, int, int, bool]]:
    """Where there may be letters of ``user``: the layout, the directory, between which numbers; and whether those to
    channels count, too. Who was moved in an earlier layout is not known: every shard may have had letters by name."""
    for version, shards, place in _layouts(data):
        if version == layout:
            for shard, first, last in spans:
                yield version, place / f"shard-{shard}", first, last, True
        else:
            for directory in sorted(place.glob("shard-*")):
                is_computed = directory.name == f"shard-{table_for(shards)[slot_of(user)]}"
                yield version, directory, 0, sys.maxsize, is_computed


def erase(data: Path, user: str, until: Position, spans: Spans, shard: int, keyring: Keyring | None = None) -> None:
    """Take the name of ``user`` out of every letter up to ``until``, and letters that name nobody else. For a thread;
    nobody may be appending to what ``shard`` has; of others that run, their last segment is left alone. Killed, the
    same again does the rest."""
    sealed = sealed_by(keyring)
    for layout, place, _first, _last, _is_whole in _places(data, user, until.layout, spans):
        is_ours = layout != until.layout or place.name == f"shard-{shard}"
        segments = sorted(place.glob("*.seg"))
        for segment in segments if is_ours else segments[:-1]:
            last = until.seq if layout == until.layout else sys.maxsize if layout < until.layout else 0

            def names(row: LetterOf, last: int = last) -> list[str] | None:
                """Who is left of a row that names ``user``; None for one that doesn't."""
                named = row.users.split("\n")
                return [name for name in named if name != user] if row.seq <= last and user in named else None

            if any(names(row) is not None for row in read(segment, sealed)):
                _rewrite(segment, user, names, sealed)


def is_plain(head: bytes) -> bool:
    """Whether a segment that begins with ``head`` has plain blocks."""
    return len(head) >= _HEAD.size and not _HEAD.unpack_from(head)[0] & _ENCRYPTED


def encrypt(segment: Path, keyring: Keyring) -> bool:
    """Encrypt what is plain of a segment that nobody appends to; whether there was any. Killed, the same again."""
    with segment.open("rb") as file:
        if not is_plain(file.read(_HEAD.size)):
            return False
    _rewrite(segment, "", lambda _row: None, sealed_by(keyring))
    return True


def _rewrite(segment: Path, user: str, names: Callable[[LetterOf], list[str] | None], sealed: AESGCM | None) -> None:
    fresh = segment.with_name(f"{segment.name}.new")
    try:
        with fresh.open("wb") as file:
            fresh.chmod(0o600)
            rows = read(segment, sealed)
            while portion := list(itertools.islice(rows, _ROWS)):
                kept: list[GoingRow] = []
                for row in portion:
                    left = names(row)
                    if left or left is None or row.channel is not None:
                        if left is None:
                            kept.append(row)
                        else:
                            kept.append((*row[:4], "\n".join(left), deeds.without(row.kind, row.body, user)))
                file.write(_block(kept, sealed))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(segment)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(segment.parent)


def forget(data: Path, before_us: int, layout: Placement, shard: int) -> None:
    """Remove segments that were written before ``before_us``: those of ``shard``, and its share of older layouts."""
    for version, _shards, place in _layouts(data):
        is_old = version < layout.version
        for mine in place.glob("shard-*"):
            number = int(mine.name.rpartition("-")[2])
            if (number % layout.shards if is_old else number) != shard:
                continue
            segments = sorted(mine.glob("*.seg"))
            for segment, follower in zip(segments, [*segments[1:], None], strict=True):
                ended_us = _began_us(segment) + SEGMENT_S * 1_000_000 if follower is None else _began_us(follower)
                if ended_us < before_us:
                    segment.unlink(missing_ok=True)
            if is_old:
                with contextlib.suppress(OSError):
                    mine.rmdir()
                    place.rmdir()


def _began_us(segment: Path) -> int:
    return int(segment.stem)


def _layouts(data: Path) -> list[tuple[int, int, Path]]:
    """Version, number of shards and directory of each layout that left something."""
    places = [(_LAYOUT.fullmatch(place.name), place) for place in paths.history_dir(data).glob("*-*")]
    return sorted((int(named[1]), int(named[2]), place) for named, place in places if named)
