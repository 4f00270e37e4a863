"""The keys of encrypted files: one a file, wrapped, in ``user_storage/keyring/``.

An encrypted file begins with the id of its key, a plain one with SQLite's own words: so each says itself how it is
opened, and both may lie side by side.

Keys are made in batches, on disk before the first of them is used. So no file ever waits for its key, and none can be
on a disk without it. A key is used once: what a kill leaves over of a batch stays unused, since a power cut may have
taken the note of whose it was.

What is used is made of the key and its owner's name, so a file in another's place opens nothing. To destroy a person's
keys is to write over them where they lie: all copies of these files, wherever they are, are noise from then on. There
is one keyring; backups refer to it and keep none of their own.

``root.json`` holds the root key, wrapped by the master key; the root wraps the others. So another master key is one
small file, written in one step. Until that is confirmed the one before opens it too: whatever is started meanwhile,
with old settings or with new ones, finds its key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import threading
from pathlib import Path
from struct import Struct

import apsw
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node import paths
from node.config import Encryption
from node.errors import ConfigError
from node.placement import sync_directory, write_durably
from shard import master_key
from shard.sqlite import HEAD, Key, KeyFor, can_encrypt

JOURNAL = "*journal"
"""the owner of journals and their copies; no user's name"""

_ID = Struct(">4s8sI")  # magic, batch, index
_MAGIC = b"pbx1"
_ENTRY = 64  # wrapped key, owner's mark, state: within one sector, so a power cut leaves it whole or not at all
_WRAPPED, _MARK = 48, 12
_STATE_AT = _WRAPPED + _MARK
_GROWN = b"\1"
_BATCH = 1_024
_ROOT = "root.json"


class KeyLost(apsw.CantOpenError):
    """The file is encrypted, and its key isn't here, or was destroyed."""


class KeyDestroyed(KeyLost):
    """It was, since its owner was deleted."""


class Root(msgspec.Struct, omit_defaults=True):
    """``root.json``."""

    wrapped: str
    """hex: nonce, root key and tag, by AES-256-GCM under the master key"""
    before: str = ""
    """the same under the master key before this one, until that is to open nothing any more"""


class Keyring:
    """Of the node at ``directory``, opened with its ``root`` key. For all threads."""

    def __init__(self, directory: Path, root: bytes) -> None:
        self._directory = directory
        self._root = root
        self._wrap = AESGCM(self.derived("keys"))
        self._marks = self.derived("owners")
        self._lock = threading.Lock()
        self._fd = -1
        self._batch = b""
        self._next = _BATCH

    def derived(self, purpose: str) -> bytes:
        """32 bytes for ``purpose`` alone, the same for this keyring always."""
        return hmac.digest(self._root, f"pobox {purpose}".encode(), "sha256")

    def new(self, owner: str, *, durably: bool = False) -> Key:
        """A key that was never used, for a file of ``owner``; whose it is, is noted: by the next barrier, or
        ``durably`` when this returns. Raises :class:`OSError`."""
        with self._lock:
            if self._next == _BATCH:
                self._begin()
            index, self._next = self._next, self._next + 1
            batch = self._batch
            os.pwrite(self._fd, self._mark(owner), index * _ENTRY + _WRAPPED)
            if durably:
                os.fdatasync(self._fd)
        return self.find(_ID.pack(_MAGIC, batch, index), owner)

    def find(self, id: bytes, owner: str) -> Key:
        """The key of the file of ``owner`` that begins with ``id``. Raises :class:`KeyLost`."""
        _magic, batch, index = _ID.unpack(id)
        try:
            fd = os.open(self._path(batch), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise KeyLost(f"the keyring has no batch {batch.hex()}") from error
        try:
            wrapped = os.pread(fd, _WRAPPED, index * _ENTRY)
        finally:
            os.close(fd)
        if wrapped == bytes(_WRAPPED):
            raise KeyDestroyed("its key was destroyed")
        try:
            secret = self._wrap.decrypt(self._nonce(batch, index), wrapped, None)
        except InvalidTag as error:
            raise KeyLost(f"the entry of its key in batch {batch.hex()} is damaged") from error
        return Key(id, hmac.digest(secret, owner.encode(), "sha256"))

    def grow(self, key: Key) -> None:
        """Note that the box of ``key`` is durable: what is missing from it later is damage. The next barrier makes the
        note itself so; where it can't be written it is done without."""
        _magic, batch, index = _ID.unpack(key.id)
        with contextlib.suppress(OSError):
            self._write(self._path(batch), index * _ENTRY + _STATE_AT, _GROWN)

    def has_grown(self, owner: str) -> bool:
        """Whether any box of ``owner`` was noted as durable. Reads all of the keyring."""
        return any(
            content[at + _STATE_AT : at + _STATE_AT + 1] == _GROWN for _path, content, at in self._entries_of(owner)
        )

    def destroy(self, owner: str) -> int:
        """Write over every key that ``owner`` has or had, durably; how many. Reads all of the keyring."""
        count = 0
        for path, _content, at in self._entries_of(owner):
            self._write(path, at, bytes(_ENTRY), durably=True)
            count += 1
        return count

    def files(self) -> list[Path]:
        """All that must be kept for the keys to be opened with the master key."""
        return [self._directory / _ROOT, *sorted(self._directory.glob("*.keys"))]

    def opens(self, name: str, content: bytes) -> bool | None:
        """Whether ``content``, of a file that was called ``name``, was wrapped by this root; None if it holds no key
        any more."""
        batch = bytes.fromhex(name.removesuffix(".keys"))
        for at in range(0, len(content), _ENTRY):
            if any(wrapped := content[at : at + _WRAPPED]):
                try:
                    self._wrap.decrypt(self._nonce(batch, at // _ENTRY), wrapped, None)
                except InvalidTag:
                    return False
                return True
        return None

    def close(self) -> None:
        """What is left of the batch will never be used."""
        with self._lock:
            if self._fd >= 0:
                os.ftruncate(self._fd, self._next * _ENTRY)
                os.close(self._fd)
            self._fd, self._next = -1, _BATCH

    # -- entries -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """A new batch, durable."""
        batch = os.urandom(8)
        entries = [
            self._wrap.encrypt(self._nonce(batch, index), os.urandom(32), None).ljust(_ENTRY, b"\0")
            for index in range(_BATCH)
        ]
        path = self._path(batch)
        write_durably(path, b"".join(entries))
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._batch, self._next = batch, 0

    def _entries_of(self, owner: str) -> list[tuple[Path, bytes, int]]:
        """File, its content and the place of each entry that is marked as of ``owner``."""
        found, mark = list[tuple[Path, bytes, int]](), self._mark(owner)
        for path in self._directory.glob("*.keys"):
            content = path.read_bytes()
            at = -1
            while (at := content.find(mark, at + 1)) >= 0:
                if at % _ENTRY == _WRAPPED:
                    found.append((path, content, at - _WRAPPED))
        return found

    def _write(self, path: Path, at: int, content: bytes, *, durably: bool = False) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, content, at)
            if durably:
                os.fdatasync(fd)
        finally:
            os.close(fd)

    def _mark(self, owner: str) -> bytes:
        return hmac.digest(self._marks, owner.encode(), "sha256")[:_MARK]

    def _nonce(self, batch: bytes, index: int) -> bytes:
        """Each entry is written once: so is its nonce."""
        return batch + index.to_bytes(4, "big")

    def _path(self, batch: bytes) -> Path:
        return self._directory / f"{batch.hex()}.keys"


def passing_key() -> Key:
    """A key that is kept nowhere, of a file that goes when this process does."""
    return Key(os.urandom(HEAD), os.urandom(32))


def is_encrypted(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is."""
    return head.startswith(_MAGIC)


def keys_of(keyring: Keyring | None, owner: str) -> KeyFor:
    """With what a file of ``owner`` is opened, by how it begins. What it returns raises :class:`KeyLost`."""

    def key_for(head: bytes) -> Key | None:
        if not is_encrypted(head) or len(head) < HEAD:
            return None
        if keyring is None:
            raise KeyLost("it is encrypted, and [encryption] is off")
        return keyring.find(head, owner)

    return key_for


def key_at(path: Path, keyring: Keyring | None, owner: str) -> Key | None:
    """The key of the file of ``owner`` at ``path``, None for a plain one or where there is none. Not for a file that
    this process has open with SQLite's own locks: they would be dropped. Raises :class:`KeyLost`."""
    return keys_of(keyring, owner)(head_of(path))


def head_of(path: Path) -> bytes:
    """How the file at ``path`` begins; nothing if there is none."""
    with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        return file.read(HEAD)
    return b""


# -- the root ----------------------------------------------------------------------------------------


def open_keyring(settings: Encryption, data: Path, *, make: bool = False) -> Keyring | None:
    """The keyring of the node at ``data``, None where nothing is encrypted; with ``make`` there is one afterwards if
    there is to be one. Raises :class:`ConfigError`."""
    directory = paths.keyring_dir(data)
    if not settings.enabled:
        if any(directory.glob(_ROOT)) or any(directory.glob("*.keys")):  # a full disk may have left the directory alone
            raise ConfigError(f"{data} is encrypted: [encryption] enabled must be true")
        return None
    if not can_encrypt():
        raise ConfigError(
            "[encryption] enabled needs apsw-sqlite3mc in the place of apsw: docs/security.md, Turning it on"
        )
    return open_with(master_key.load(settings), directory, make=make)


def open_with(master: bytes, directory: Path, *, make: bool = False) -> Keyring:
    """The keyring at ``directory``, by its master key. Raises :class:`ConfigError`."""
    root = _root_at(directory)
    if root is None:
        if not make:
            raise ConfigError(f"{directory / _ROOT} is missing: nothing that is encrypted can be read")
        if any(directory.glob("*.keys")):
            raise ConfigError(f"{directory / _ROOT} is missing, but there are keys: put it back")
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory.parent)
        _make_root(directory, master)
        return open_with(master, directory)  # maybe another process was quicker: its root is the one
    for wrapped in (root.wrapped, root.before):
        if (key := _unwrapped(wrapped, master)) is not None:
            return Keyring(directory, key)
    raise ConfigError(f"the master key doesn't open {directory / _ROOT}: it is another one's")


def _root_at(directory: Path) -> Root | None:
    """None if there is none. Raises :class:`ConfigError`."""
    try:
        return msgspec.json.decode((directory / _ROOT).read_bytes(), type=Root)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{directory / _ROOT}: {error}") from error


def _unwrapped(wrapped: str, master: bytes) -> bytes | None:
    """The root key; None if another master key wrapped it."""
    try:
        content = bytes.fromhex(wrapped)
        return AESGCM(master).decrypt(content[:12], content[12:], _ROOT.encode())
    except (ValueError, InvalidTag):
        return None


def _make_root(directory: Path, master: bytes) -> None:
    """A new root, in one step, durably; but never in the place of one."""
    fresh = directory / f"{_ROOT}.{os.urandom(8).hex()}"
    try:
        write_durably(fresh, _encoded(Root(_wrapped(os.urandom(32), master))))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, directory / _ROOT)
    finally:
        fresh.unlink(missing_ok=True)
    sync_directory(directory)


def _wrapped(root: bytes, master: bytes) -> str:
    nonce = os.urandom(12)
    return (nonce + AESGCM(master).encrypt(nonce, root, _ROOT.encode())).hex()


def _encoded(root: Root) -> bytes:
    return msgspec.json.encode(root) + b"\n"


def rotate(directory: Path, old: bytes, new: bytes) -> None:
    """From now on ``new`` is the master key, and ``old`` is good too until that is confirmed; no other is. A node that
    runs has its root key already. Durable when it returns. Raises :class:`ConfigError`."""
    if old == new:
        raise ConfigError("it is the master key already")
    root = open_with(old, directory)._root
    write_durably(directory / _ROOT, _encoded(Root(_wrapped(root, new), before=_wrapped(root, old))))


def is_rotating(directory: Path) -> bool:
    """Whether the master key before this one is good, too. Raises :class:`ConfigError`."""
    root = _root_at(directory)
    return root is not None and bool(root.before)


def confirm(directory: Path, master: bytes) -> None:
    """From now on ``master``, which the last rotation made the master key, is the only one. Durable when it returns.
    Raises :class:`ConfigError`, also for the one before."""
    root = _root_at(directory)
    if root is None or _unwrapped(root.wrapped, master) is None:
        raise ConfigError("[encryption] master_key names no file with the new master key yet")
    write_durably(directory / _ROOT, _encoded(Root(root.wrapped)))


def fingerprint(master: bytes) -> str:
    """What tells one master key from another, and nothing else of it."""
    return hashlib.sha256(b"pobox master key " + master).hexdigest()[:16]
