"""The master key: 32 bytes, in hex, in a file that only its owner can read, or handed over by systemd as a credential.

It is never in the data directory and in no backup: who has both a copy of the data and this file can read everything,
and without it nobody can.
"""

from __future__ import annotations

import os
from pathlib import Path

from node.config import Encryption
from node.errors import ConfigError
from node.placement import sync_directory


def load(settings: Encryption) -> bytes:
    """The one that is set. Raises :class:`ConfigError`."""
    if not settings.master_key:
        raise ConfigError("[encryption] master_key names no file; pobox master-key new FILE makes one")
    path = Path(settings.master_key)
    handed = os.environ.get("CREDENTIALS_DIRECTORY")
    return read(path, private=not handed or not path.is_relative_to(handed))  # systemd sees to who may read those


def read(path: Path, *, private: bool = True) -> bytes:
    """The key in the file at ``path``. Raises :class:`ConfigError`, also for a file that others than its owner may
    read."""
    try:
        if private and path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others can read the master key; chmod 600 it")
        key = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise ConfigError(f"the master key {path}: {error.strerror}") from error
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"{path} is no master key: that is 64 hex digits")
    return key


def make(path: Path) -> bytes:
    """A new key in a new file. Raises :class:`ConfigError`; nothing is ever written over."""
    key = os.urandom(32)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{key.hex()}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_directory(path.parent)  # what it will wrap must not outlive its name
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return key
