"""One file between page cache and disk: what is durable of it, and what else could be.

A write counts in sectors of 512 bytes. Each reaches the disk whole or not at all, in any order
between sectors; one that did holds all that was written to it up to some moment. Truncates (shorter
or longer) reach the disk in order among themselves, but in no order with writes: new content can
lie on the old length with the old tail behind it.
"""

from __future__ import annotations

import random

from .recorder import Truncate, Write

SECTOR = 512

_LIKELY = (0.0, 0.0, 0.5, 0.95, 1.0, 1.0)


class File:
    """Content apart from names. Effects are numbered as the events of the recording are."""

    def __init__(self, content: bytes = b"") -> None:
        self.pending: list[tuple[int, Write | Truncate]] = []
        """what is not durable yet"""
        self._content = bytearray(content)
        self._image: bytes | None = None

    def harden(self, before: int) -> None:
        """The effects from before number ``before`` are durable now."""
        late = []
        for seq, effect in self.pending:
            if seq < before:
                _apply(self._content, effect)
                self._image = None
            else:
                late.append((seq, effect))
        self.pending = late

    def image(self, horizon: int, rng: random.Random | None) -> bytes:
        """The content on a disk that got every effect before ``horizon`` and, by ``rng``, some others."""
        kept = self._kept(horizon, rng) if self.pending else []
        if kept:
            content = bytearray(self._content)
            for effect in kept:
                _apply(content, effect)
            return bytes(content)
        if self._image is None:
            self._image = bytes(self._content)
        return self._image

    def _kept(self, horizon: int, rng: random.Random | None) -> list[Write | Truncate]:
        """The effects that reached the disk, writes cut down to the sectors that did, in order."""
        last_truncate = -1
        inner = outer = 0.0
        stretch = range(0)
        if rng is not None:
            last_truncate = rng.choice([-1, *(seq for seq, effect in self.pending if isinstance(effect, Truncate))])
            ends = [
                bound
                for _, e in self.pending
                if isinstance(e, Write)
                for bound in (_sectors(e)[0], _sectors(e)[-1] + 1)
            ]
            if ends:
                stretch = range(*sorted((rng.choice(ends), rng.choice(ends))))
            inner, outer = rng.choice(_LIKELY), rng.choice(_LIKELY)
        last_write: dict[int, int] = {}  # sector → the last write that is in it
        for seq, effect in self.pending:
            if isinstance(effect, Write):
                for sector in _sectors(effect):
                    likely = inner if sector in stretch else outer
                    if seq < horizon or (rng is not None and rng.random() < likely):
                        last_write[sector] = seq
        kept: list[Write | Truncate] = []
        for seq, effect in self.pending:
            if isinstance(effect, Truncate):
                if seq < horizon or seq <= last_truncate:
                    kept.append(effect)
                continue
            for sector in _sectors(effect):
                if seq <= last_write.get(sector, -1):
                    begin = max(sector * SECTOR, effect.offset)
                    end = (sector + 1) * SECTOR
                    content = effect.content[begin - effect.offset : end - effect.offset]
                    kept.append(Write(effect.path, begin, content))
        return kept


def _sectors(write: Write) -> range:
    """Never empty: nobody writes nothing."""
    return range(write.offset // SECTOR, (write.offset + len(write.content) + SECTOR - 1) // SECTOR)


def _apply(content: bytearray, effect: Write | Truncate) -> None:
    size = effect.size if isinstance(effect, Truncate) else effect.offset
    if size > len(content):
        content.extend(bytes(size - len(content)))
    if isinstance(effect, Truncate):
        del content[effect.size :]
    else:
        content[effect.offset : effect.offset + len(effect.content)] = effect.content
