"""Whether what tests make is encrypted: ``pytest --encrypted``, where apsw-sqlite3mc is in the place of apsw."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from node import paths
from shard.keyring import JOURNAL, Keyring, key_at, open_with
from shard.sqlite import can_encrypt, unlock, way

ON = False
"""set by the option"""
MASTER = bytes(range(32))
needed = pytest.mark.skipif(
    not can_encrypt(), reason="apsw-sqlite3mc isn't in the place of apsw: make test runs this in a venv where it is"
)


def keyring(data: Path) -> Keyring | None:
    """Of the node at ``data``, made if need be; None where tests are plain."""
    return open_with(MASTER, paths.keyring_dir(data), make=True) if ON else None


def opened(path: Path, data: Path, owner: str = "") -> apsw.Connection:
    """The box, read status or journal at ``path`` of the node at ``data``, which nobody else has open; of ``owner``
    if that isn't what its place says."""
    owner = owner or (JOURNAL if path.parent.parent == data else path.parent.name)
    key = key_at(path, keyring(data) if ON else None, owner)
    db = apsw.Connection(str(path), vfs=way(key, None))
    unlock(db, key)
    return db
