"""Who was deleted here, and may still be in backups: noted when their box goes (``backups/erased/<userId>``), until the
backups have been seen to (:mod:`shard.oblivion`)."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from node import paths
from node.placement import sync_directory, write_durably
from shard.history import Position


class Erased(msgspec.Struct, frozen=True):
    """``user`` was deleted at ``at_us``, with all letters up to ``seq`` of ``layout``."""

    user: str
    at_us: int
    layout: int
    seq: int

    def last(self, layout: int, made_us: int) -> int:
        """The last letter that was theirs in a copy of a journal of ``layout`` made at ``made_us``; -1 for none. In one
        from before the deletion all were, whatever shard's it is."""
        if made_us <= self.at_us:
            return sys.maxsize
        return self.seq if layout == self.layout else sys.maxsize if layout < self.layout else -1


def note(data: Path, user: str, at_us: int, until: Position) -> None:
    """On disk when it returns. For a thread."""
    place = _place(data)
    place.mkdir(mode=0o700, exist_ok=True)
    sync_directory(place.parent)
    write_durably(place / user, msgspec.json.encode(Erased(user, at_us, *until)))


def noted(data: Path) -> list[Erased]:
    """Who is still to be seen to."""
    found = sorted(_place(data).glob("*")) if _place(data).is_dir() else []
    return [msgspec.json.decode(path.read_bytes(), type=Erased) for path in found if path.suffix != ".new"]


def strike_off(data: Path, people: list[Erased]) -> None:
    """They have been seen to, but for who was deleted again meanwhile."""
    known = noted(data)
    for one in people:
        if one in known:
            (_place(data) / one.user).unlink()
    sync_directory(_place(data))


def _place(data: Path) -> Path:
    return paths.backups_dir(data) / "erased"
