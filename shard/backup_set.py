"""The backup of one day, of all boxes: ``backups/<day>/<layout>/shard-<i>.json``, and the copy of the journal beside
it.

Each shard has its part, made with one layout. A part is whole when its manifest is there, and a set when all parts are.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from node import paths
from node.placement import Placement


class Manifest(msgspec.Struct, frozen=True):
    """``exact``: no letter was let go between the copy of its box and that of the journal."""

    day: str
    layout: int
    shards: int
    shard: int
    ended_us: int
    boxes: int
    failed: int
    exact: bool
    journal_size: int
    journal_sha256: str


def set_dir(data: Path, day: str, layout: Placement) -> Path:
    return paths.backups_dir(data) / day / str(layout.version)


def manifest_path(data: Path, day: str, layout: Placement, shard: int) -> Path:
    return set_dir(data, day, layout) / f"shard-{shard}.json"


def begun_path(data: Path, day: str, layout: Placement, shard: int) -> Path:
    return set_dir(data, day, layout) / f"shard-{shard}.begun"


def load(path: Path) -> Manifest | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None


def last_whole(data: Path, layout: Placement, shard: int) -> int:
    """When ``shard`` made its last whole part, of whatever layout of so many shards; 0 for never."""
    found = (load(path) for path in paths.backups_dir(data).glob(f"*/*/shard-{shard}.json"))
    return max((part.ended_us for part in found if part and part.shards == layout.shards), default=0)


def whole_sets(data: Path) -> list[tuple[str, int, list[Manifest]]]:
    """Day, layout and parts of every whole set, oldest first."""
    sets = []
    for place in paths.backups_dir(data).glob("*/*"):
        parts = [part for path in place.glob("shard-*.json") if (part := load(path))]
        if parts and len(parts) == parts[0].shards:
            sets.append((parts[0].day, parts[0].layout, sorted(parts, key=lambda part: part.shard)))
    return sorted(sets)
