"""Which backup is off-site as a whole, as far as is noted here: ``backups/pushed.json``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from node import paths
from node.placement import write_durably
from shard.backup_set import Manifest, whole_sets


class _Note(msgspec.Struct, array_like=True, frozen=True):
    """What tells a set from any other."""

    day: str
    layout: int
    ended_us: list[int]
    """by shard"""


def note(data: Path, day: str, layout: int, parts: list[Manifest]) -> None:
    """That set is there. One that was made earlier than the one that is noted changes nothing."""
    new, old = _note_of(day, layout, parts), _noted(data)
    if old is None or min(new.ended_us) >= min(old.ended_us):
        write_durably(_path(data), msgspec.json.encode(new))


def is_pushed(data: Path) -> bool:
    """Whether the last whole set is there already."""
    sets = whole_sets(data)
    return bool(sets) and _noted(data) == _note_of(*sets[-1])


def day_and_us(data: Path) -> tuple[str, int]:
    """Of what day the last set is that is there as a whole, and when that was made; nothing and 0 if none is."""
    found = _noted(data)
    return ("", 0) if found is None else (found.day, min(found.ended_us))


def _note_of(day: str, layout: int, parts: list[Manifest]) -> _Note:
    return _Note(day, layout, [part.ended_us for part in parts])


def _noted(data: Path) -> _Note | None:
    try:
        return msgspec.json.decode(_path(data).read_bytes(), type=_Note)
    except (OSError, msgspec.MsgspecError):
        return None


def _path(data: Path) -> Path:
    return paths.backups_dir(data) / "pushed.json"
