"""``placement.json``: how many shards the data directory is laid out for, and under which version.

Written atomically (new file, fsync, rename, fsync of the directory), so a change of N happens at
one instant: before the rename the old journals count, after it the new ones.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from node.errors import ConfigError

FORMAT = 1
"""of all that lies in the data directory. It grows when an earlier program would do harm to what a later one wrote;
what is only added (a column, a table, a file of its own) leaves it as it is"""


class Placement(msgspec.Struct, frozen=True):
    version: int
    """of the table; part of the journal directory's name and of every frame"""
    shards: int
    format: int = FORMAT


class _Format(msgspec.Struct):
    format: int = 1


def load(data: Path) -> Placement | None:
    """The placement of ``data``, None for a directory that never held a node. Raises :class:`ConfigError` if it can't
    be read, or is of a later format than this program knows."""
    try:
        content = (data / "placement.json").read_bytes()
        found = msgspec.json.decode(content, type=_Format).format
        if found > FORMAT:
            raise ConfigError(
                f"{data} is of format {found}, this pobox knows {FORMAT}: run the later pobox that made it so"
            )
        return msgspec.json.decode(content, type=Placement)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{data}/placement.json: {error}") from error


def save(data: Path, placement: Placement) -> None:
    """Make ``placement`` the one that counts, durably."""
    write_durably(data / "placement.json", msgspec.json.encode(placement) + b"\n")


def write_durably(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step that survives a power cut."""
    replace(path, content, durably=True)


def replace(path: Path, content: bytes, *, durably: bool) -> None:
    """Replace ``path`` by ``content`` in one step; if not ``durably``, a power cut may leave neither old nor new."""
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, content)
        if durably:
            os.fsync(fd)
    finally:
        os.close(fd)
    fresh.rename(path)
    if durably:
        sync_directory(path.parent)


def write_all(fd: int, content: bytes) -> None:
    """All of ``content``: a disk that gets full takes a part of it first, and says so at the next write."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(path: Path) -> None:
    """Make the names in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
