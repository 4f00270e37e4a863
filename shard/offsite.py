"""Backups somewhere else: in any store of objects that obstore knows (S3 and what speaks like it; a directory).

::

    content/<2>/<sha256>                     one file, under the hash of what it holds: the same content travels once
    manifests/<day>-<layout>/shard-<i>       what the backup of a day holds, by person; written last
    keyring/<name>                           the keys, wrapped, of a node that encrypts: as they are now, of no day

What is there under its name is whole, since a store takes an object whole or not at all. So a push that was cut short
goes on with what is missing, and a manifest names only what is there. Content goes only when no manifest names it,
and it is older than the longest push: what a push is about to name may have been there before it. One push at a time.

Everything else that leaves, and comes back, goes through :func:`pack` and :func:`unpack`, which seal what leaves a node
that encrypts. The keyring takes the place of the one before: so keys that were destroyed since are so there too.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import obstore
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node import paths, zstd
from node.clock import now_us
from node.placement import Placement, write_all
from shard import backup_files as files
from shard import pushed
from shard.backup_set import first_day, part_of, whole_sets
from shard.keyring import KeyDestroyed, KeyLost, Keyring, key_at
from shard.roster import boxes_of
from shard.sealing import seal, unseal
from shard.sqlite import MODE_AT, WAL_MODE

THREADS = 8
_PORTION = 1024 * 1024
_WHOLE_MAX = 4 * 1024 * 1024
_LEVEL = 3
_GRACE = timedelta(days=2)
KEYRING = "keyring"


class Item(msgspec.Struct, array_like=True, frozen=True):
    """A file: of ``user`` (``kind`` is as :func:`shard.backup_files.source` knows it), or of the node (``kind`` is its
    name)."""

    user: str
    kind: str
    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True):
    day: str
    layout: int
    shards: int
    shard: int
    items: list[Item]
    began_us: int = 0
    """when it was begun to be looked for what to send"""
    placement: Placement | None = None
    """as in :class:`shard.backup_set.Manifest`"""


class Pushed(msgspec.Struct):
    """What a push did."""

    files: int = 0
    sent: int = 0
    sent_bytes: int = 0
    removed: int = 0


class Incomplete(Exception):
    """What is asked for isn't there as a whole; the message says what is missing."""


def pack(portions: Iterable[bytes], sealer: AESGCM | None = None) -> Iterator[bytes]:
    """What is sent, from what a file holds."""
    yield from seal(_packed(portions), sealer)


def _packed(portions: Iterable[bytes]) -> Iterator[bytes]:
    packer = zstd.ZstdCompressor(level=_LEVEL)
    for portion in portions:
        if packed := packer.compress(portion):
            yield packed
    yield packer.flush()


def sealer_of(keyring: Keyring | None) -> AESGCM | None:
    """What seals the backups of a node with that keyring."""
    return None if keyring is None else AESGCM(keyring.derived("off-site"))


def unpack(portions: Iterable[bytes], sealer: AESGCM | None = None) -> Iterator[bytes]:
    """What :func:`pack` was given. Raises :class:`Unreadable`."""
    unpacker = zstd.ZstdDecompressor()
    for portion in unseal(portions, sealer):
        if unpacked := unpacker.decompress(portion):
            yield unpacked


def push(
    data: Path,
    store: Any,
    day: str | None,
    keep_days: int,
    said: Callable[[str], None],
    keyring: Keyring | None = None,
) -> Pushed:
    """Send the last whole set, or the last of ``day``. Raises :class:`Incomplete`, and what the store raises."""
    sets = [one for one in whole_sets(data) if day in (None, one[0])]
    if not sets:
        raise Incomplete("there is no whole backup to send")
    day, layout, parts = sets[-1]
    sealer = sealer_of(keyring)
    with alone(data, "push"):
        began_us = now_us()
        keys = Keys(store, keyring)
        keys.put()
        there = {path.rpartition("/")[2] for path in listed(store, "content/")}
        done = Pushed()
        for part in parts:
            wanted = list(_items(data, day, part.placed, part.shard))
            journal = Item("", "journal", part.journal_sha256, part.journal_size)
            wanted.append((journal, part_of(data, day, layout, part.shard).journal))
            missing = {item.sha256: (item, path) for item, path in wanted if item.sha256 not in there}
            with ThreadPoolExecutor(THREADS, "push") as pool:
                for sent in pool.map(lambda one: send(store, sealer, *one), missing.values()):
                    done.sent += 1
                    done.sent_bytes += sent
            there |= missing.keys()
            done.files += len(wanted)
            items = [item for item, _path in wanted]
            manifest = Manifest(day, layout, part.shards, part.shard, items, began_us, part.placement)
            keys.put()  # a box that was born and backed up meanwhile may have one from a new batch
            put_manifest(store, manifest, sealer)
            said(f"shard {part.shard}: {len(wanted)} files of {day}, {len(missing)} of them sent")
        done.removed = _prune(store, keep_days, sealer)
        pushed.note(data, day, layout, parts)
    return done


class Keys:
    """The keyring off-site, to become what ``keyring`` is. Raises :class:`Incomplete` where another node's lies, one
    that was begun anew among them: without it nothing that it sent could be read again."""

    def __init__(self, store: Any, keyring: Keyring | None) -> None:
        self._store = store
        self._keyring = keyring
        self._sent: dict[str, int] = {}
        """when each file was written that is there, ns"""
        if keyring is not None and not self._are_ours(keyring):
            raise Incomplete("what is off-site is of a node with another keyring: restore it, or name another store")

    def put(self) -> None:
        """The keys as they are now, in the place of those that were there."""
        for path in [] if self._keyring is None else self._keyring.files():
            written_ns = path.stat().st_mtime_ns
            if self._sent.get(path.name) != written_ns:
                obstore.put(self._store, f"{KEYRING}/{path.name}", path.read_bytes())
                self._sent[path.name] = written_ns

    def _are_ours(self, keyring: Keyring) -> bool:
        """Only the root wraps them, so any key tells. A data directory that was set back lacks some that are there."""
        ours = {path.name for path in keyring.files()}
        keys = [path for path in listed(self._store, f"{KEYRING}/") if path.endswith(".keys")]
        if any(path.rpartition("/")[2] in ours for path in keys):
            return True
        for path in keys:
            opened = keyring.opens(path.rpartition("/")[2], bytes(obstore.get(self._store, path).bytes()))
            if opened is not None:
                return opened
        return True


def put_manifest(store: Any, manifest: Manifest, sealer: AESGCM | None) -> None:
    content = b"".join(pack([msgspec.msgpack.encode(manifest)], sealer))
    obstore.put(store, f"manifests/{manifest.day}-{manifest.layout}/shard-{manifest.shard}", content)


def _items(data: Path, day: str, placed: Placement, shard: int) -> Iterator[tuple[Item, Path]]:
    """The files of the boxes of ``shard``; for one that could not be copied on that day, its last ones before."""
    table = placed.table
    for user in (user for slot in table.directories(shard) for user in boxes_of(data, table, shard, slot)):
        place = files.directory(data, user)
        index = files.load(place)
        last = day if day in index else max((known for known in index if known < day), default="")
        for kind, entry in index.get(last, {}).items():
            yield Item(user, kind, entry.sha256, entry.size), files.file(place, kind, last)
    if shard == 0:
        for path in paths.node_files(data):
            if path.exists():
                yield Item("", path.name, files.sha256_of(path), path.stat().st_size), path


def send(store: Any, sealer: AESGCM | None, item: Item, path: Path) -> int:
    """Send one file, read through one descriptor: what was hashed is what is sent. The bytes that took."""
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != item.sha256:
            raise Incomplete(f"{path.name} of {item.user or 'the node'} is not what was backed up")
        file.seek(0)
        count = 0

        def counted() -> Iterator[bytes]:
            nonlocal count
            for packed in pack(iter(lambda: file.read(_PORTION), b""), sealer):
                count += len(packed)
                yield packed

        content: Any = counted() if item.size > _WHOLE_MAX else b"".join(counted())
        obstore.put(store, name_of(item.sha256), content)
    return count


def name_of(sha256: str) -> str:
    return f"content/{sha256[:2]}/{sha256}"


def _prune(store: Any, keep_days: int, sealer: AESGCM | None) -> int:
    """Remove manifests past their time, but never those of the last day, and content that none of the others names; how
    much of it."""
    now, before = datetime.now(UTC), first_day(keep_days)
    named: set[str] = set()
    there = manifests(store)
    last = f"manifests/{max((order(path) for path in there), default=(0, 0))[0]}-"
    for path in there:
        if path.split("/")[1] < before and not path.startswith(last):
            obstore.delete(store, path)
        else:
            named.update(item.sha256 for item in manifest_at(store, path, sealer).items)
    idle = [
        one["path"]
        for batch in obstore.list(store, "content/")
        for one in batch
        if one["path"].rpartition("/")[2] not in named and now - one["last_modified"] > _GRACE
    ]
    for path in idle:
        obstore.delete(store, path)
    return len(idle)


def listed(store: Any, prefix: str) -> list[str]:
    """All paths that begin so."""
    return [one["path"] for batch in obstore.list(store, prefix) for one in batch]


def manifests(store: Any) -> list[str]:
    return sorted(listed(store, "manifests/"))


def order(path: str) -> tuple[int, ...]:
    """Day and layout of a manifest, or of a set."""
    return tuple(map(int, path.removeprefix("manifests/").split("/")[0].split("-")))


def manifest_at(store: Any, path: str, sealer: AESGCM | None = None) -> Manifest:
    content = b"".join(unpack([bytes(obstore.get(store, path).bytes())], sealer))
    return msgspec.msgpack.decode(content, type=Manifest)


def fetch(store: Any, sealer: AESGCM | None, keyring: Keyring | None, item: Item, target: Path) -> int:
    """Fetch one file, check it, flush it, give it its name; 0 if it was there already, or its keys were destroyed."""
    if target.exists():
        return 0
    part = target.with_name(f"{target.name}.part")
    digest = hashlib.sha256()
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        stream = obstore.get(store, name_of(item.sha256)).stream()
        for portion in unpack((bytes(chunk) for chunk in stream), sealer):
            digest.update(portion)
            write_all(fd, portion)
        if digest.hexdigest() != item.sha256:
            raise Incomplete(f"{item.kind} of {item.user or 'the node'}: what came is not what was sent")
        if target.suffix == ".db" and files.year_of(item.kind) is None:  # those of an archive have no log
            os.pwrite(fd, WAL_MODE, MODE_AT)
        os.fdatasync(fd)
    finally:
        os.close(fd)
    if item.user:
        try:
            key_at(part, keyring, item.user)
        except KeyDestroyed:
            part.unlink()
            return 0
        except KeyLost as error:
            raise Incomplete(f"{item.kind} of {item.user}: {error}") from error
    part.rename(target)
    return 1


@contextlib.contextmanager
def alone(data: Path, what: str) -> Iterator[None]:
    """Do ``what`` while nobody else does. Raises :class:`Incomplete`."""
    path = paths.backups_dir(data) / f"{what}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Incomplete(f"another {what} is under way") from None
        yield
    finally:
        os.close(fd)
