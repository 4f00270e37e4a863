"""The backup of one day, of all boxes: ``backups/<day>/<layout>/shard-<i>.json``, and the copy of the journal beside
it.

Each shard has its part, made with one layout. A part is whole when its manifest is there, and a set when all parts are.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec

from node import paths
from node.clock import DAY_US, iso, now_us
from node.placement import Placement, sync_directory, write_durably


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
    placement: Placement | None = None
    """by which it was made; None in those from before people could move"""

    @property
    def placed(self) -> Placement:
        """Who had whom."""
        return self.placement or Placement(version=self.layout, shards=self.shards)


class Part(NamedTuple):
    """What ``shard`` has in the set in the directory ``place``."""

    place: Path
    shard: int

    @property
    def manifest(self) -> Path:
        return self.place / f"shard-{self.shard}.json"

    @property
    def journal(self) -> Path:
        return self.place / f"shard-{self.shard}.db"

    @property
    def begun(self) -> Path:
        """There while it is made: a kill cut it short."""
        return self.place / f"shard-{self.shard}.begun"

    def open(self) -> None:
        """It is not whole, and being made. For a thread, as what follows."""
        self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.manifest.unlink(missing_ok=True)
        write_durably(self.begun, b"")
        for above in (self.place.parent, self.place.parent.parent, self.place.parent.parent.parent):
            sync_directory(above)

    def close(self, manifest: Manifest) -> None:
        """It is whole."""
        write_durably(self.manifest, msgspec.json.encode(manifest) + b"\n")
        self.begun.unlink(missing_ok=True)


def part_of(data: Path, day: str, layout: int, shard: int) -> Part:
    return Part(paths.backups_dir(data) / day / str(layout), shard)


def day_of(us: int) -> str:
    return iso(us)[:10].replace("-", "")


def first_day(keep_days: int) -> str:
    """What is from before that day goes."""
    return day_of(now_us() - keep_days * DAY_US)


def prune(data: Path, before_day: str) -> None:
    """Remove the sets from before ``before_day``."""
    for old in paths.backups_dir(data).iterdir():
        if old.is_dir() and old.name.isdigit() and old.name < before_day:
            shutil.rmtree(old, ignore_errors=True)


def load(path: Path) -> Manifest | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None


def last_whole(data: Path, layout: Placement, shard: int) -> int:
    """When ``shard`` made its last whole part, of whatever layout of so many shards; 0 for never."""
    found = (load(path) for path in paths.backups_dir(data).glob(f"*/*/shard-{shard}.json"))
    return max((part.ended_us for part in found if part and part.shards == layout.shards), default=0)


def last_set_us(data: Path) -> int:
    """As of when the last whole set is, of all shards; 0 if there is none."""
    return max((min(part.ended_us for part in parts) for _day, _layout, parts in whole_sets(data)), default=0)


def whole_sets(data: Path) -> list[tuple[str, int, list[Manifest]]]:
    """Day, layout and parts of every whole set, oldest first."""
    sets = []
    for place in paths.backups_dir(data).glob("*/*"):
        parts = [part for path in place.glob("shard-*.json") if (part := load(path))]
        if parts and len(parts) == parts[0].shards and all(part.placed == parts[0].placed for part in parts):
            sets.append((parts[0].day, parts[0].layout, sorted(parts, key=lambda part: part.shard)))
    return sorted(sets)
