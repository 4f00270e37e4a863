"""Service keys: which services may use the node, what for, how much, and till when.

A key is ``pobox_<id>_<secret>``, shown once. What is kept is its SHA-256: the secret is 256 random bits, so there is no
list of likely ones to try, and a slow hash would only cost time at every request. The id is no secret; it finds the
entry, and the hashes are compared in constant time.

All keys lie in one file, replaced as a whole. So a reader sees the keys before a change or after it; routers look at
the file once a second. Whoever changes it holds the lock of the data directory meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import msgspec

from node import clock, paths
from node.errors import BadField, ConfigError
from node.ids import check_name
from node.placement import write_durably

Scope = Literal["deliver", "channels", "read", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_BURST_S = 2.0
"""a key that names no burst may send so many seconds' worth at once"""
_KEY = re.compile(r"pobox_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NOBODY = bytes(32)


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What is kept of a key. Times as :func:`node.clock.iso` writes them."""

    id: str
    name: str
    """unique"""
    sha256: str
    """of the whole key, in hex"""
    scopes: list[Scope]
    created: str
    expires: str | None = None
    rate: float = 0
    """requests, and lines of a batch, a second in the long run; 0: as many as come"""
    burst: int = 0
    """and so many at once"""

    def expired(self, now_us: int) -> bool:
        return self.expires is not None and self.expires <= clock.iso(now_us)


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    version: Literal[1] = 1
    keys: list[Key] = []


def load(data: Path) -> list[Key]:
    """The keys of the node in ``data``; raises :class:`ConfigError` for a file that can't be used."""
    path = paths.keys_path(data)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Keys).keys
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def create(
    data: Path,
    name: str,
    scopes: Sequence[Scope],
    *,
    expires_us: int | None = None,
    rate: float = 0,
    burst: int | None = None,
) -> str:
    """Make a key and return it: nobody can ever show it again. Raises :class:`BadField`."""
    check_name(name, "name")
    if not scopes:
        raise BadField("a key needs a scope", field="scope")
    with _changing(data) as keys:
        if any(key.name == name for key in keys):
            raise BadField(f"there is a key {name} already", field="name")
        id = secrets.token_hex(6)
        shown = f"pobox_{id}_{secrets.token_urlsafe(32)}"
        keys.append(
            Key(
                id=id,
                name=name,
                sha256=sha256(shown.encode()).hexdigest(),
                scopes=sorted(set(scopes), key=SCOPES.index),
                created=clock.iso(clock.now_us()),
                expires=None if expires_us is None else clock.iso(expires_us),
                rate=rate,
                burst=(burst or max(1, round(rate * _BURST_S))) if rate else 0,
            )
        )
    return shown


def revoke(data: Path, name: str) -> Key:
    """Forget the key that is called ``name``, or has that id; returns it. Raises :class:`BadField`."""
    with _changing(data) as keys:
        for key in keys:
            if name in (key.name, key.id):
                keys.remove(key)
                return key
        raise BadField(f"there is no key {name}", field="name")


def id_of(shown: str) -> str:
    """The id in a key that :func:`create` returned."""
    return shown.split("_", 2)[1]


class Ring:
    """Keys, to find the one that is shown."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = {key.id: (key, bytes.fromhex(key.sha256)) for key in keys}

    def find(self, shown: str) -> Key | None:
        """The key that ``shown`` is; None if there is none, or it was made up. It may have expired."""
        parts = _KEY.fullmatch(shown)
        if parts is None:
            return None
        key, digest = self._keys.get(parts[1], (None, _NOBODY))
        return key if hmac.compare_digest(sha256(shown.encode()).digest(), digest) else None


@contextlib.contextmanager
def _changing(data: Path) -> Iterator[list[Key]]:
    """The keys, to change; they are written when the block ends well."""
    fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        keys = load(data)
        yield keys
        path = paths.keys_path(data)
        write_durably(path, msgspec.json.format(msgspec.json.encode(Keys(keys=keys))) + b"\n")
    finally:
        os.close(fd)
