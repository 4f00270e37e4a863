"""The small files in a person's ``.sync``: what was found out at some cost, to be looked up next time.

They are caches. A file that is missing, cut off or of another form counts as none, and one that can't be written
is done without; so nothing here is flushed, and nothing here fails. Each is replaced in one step.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

import msgspec

from node.placement import replace

T = TypeVar("T")


class Messages(msgspec.Struct):
    """``messages_sync.json``: what the version of ``messages.db`` is like as a file."""

    version: str
    size: int
    checksum: str


class Seen(msgspec.Struct):
    """Of one device: when it was last told of which version, and by what (``check`` or ``download``). ``has`` is the
    version that it said it has."""

    at: str
    version: str
    kind: str
    has: str | None = None
    row: int | None = None
    """the messages up to this row of the box are in what it has; None: nobody knows which are"""
    last: str = ""
    """the id of the message in that row; as long as it is there, no row up to it was given anew"""
    exact: bool = False
    """and no others"""


DEVICES_MAX = 64
MESSAGES = "messages_sync.json"
LAST = "last_sync.json"


def load(box: Path, name: str, kind: type[T]) -> T | None:
    """The note ``name`` of the person whose directory is ``box``, None if there is none of use."""
    try:
        return msgspec.json.decode((box / ".sync" / name).read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def save(box: Path, name: str, note: object) -> None:
    """Replace the note ``name``; the person's directory must be there."""
    with contextlib.suppress(OSError):
        directory = box / ".sync"
        directory.mkdir(mode=0o700, exist_ok=True)
        replace(directory / name, msgspec.json.encode(note), durably=False)


def devices_of(box: Path) -> dict[str, Seen]:
    """What is known of the devices of the person whose directory is ``box``."""
    return load(box, LAST, dict[str, Seen]) or {}


def seen(box: Path, device: str, said: Seen) -> None:
    """Note in ``last_sync.json`` what ``device`` was told; of too many devices the oldest go."""
    devices = devices_of(box)
    devices[device] = said
    if len(devices) > DEVICES_MAX:
        newest = sorted(devices.items(), key=lambda entry: entry[1].at)[-DEVICES_MAX:]
        devices = dict(newest)
    save(box, LAST, devices)


def forget(box: Path, device: str) -> bool:
    """Whether ``device`` was in ``last_sync.json``; it is so no more, if need be with all others."""
    devices = devices_of(box)
    if devices.pop(device, None) is None:
        return False
    save(box, LAST, devices)
    if device in devices_of(box):  # no room for a new one
        drop(box, LAST)
    return True


def drop(box: Path, name: str) -> None:
    """Do without the note ``name``."""
    with contextlib.suppress(OSError):
        (box / ".sync" / name).unlink(missing_ok=True)
