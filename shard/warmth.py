"""How many boxes stay open. Pure: time and memory are arguments.

An open box is some 130 kB that mail for its owner finds ready. While memory is short that is better used elsewhere:
the number that may be open falls, from what is open now, at each look; when memory is short no more and has been so
for a while, it grows back by steps to what settings and descriptors allow. While it is neither, nothing changes, so
that the number doesn't swing with the memory that it frees.

Use: one :class:`Warmth` a shard; :meth:`Warmth.look` once a second.
"""

from __future__ import annotations

from shard.pressure import Level

LEAST = 64
_FALL = {Level.HIGH: 0.9, Level.CRITICAL: 0.75, Level.EXHAUSTED: 0.5}
_CALM_S = 10.0
_STEP = 0.05


class Warmth:
    """Between :data:`LEAST` and ``most`` boxes, ``most`` to begin with."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(LEAST, most)
        self._calm_since: float | None = None
        self.open_max = most

    def look(self, now: float, *, level: Level, opened: int) -> int:
        """How many may be open from now on; ``opened`` are."""
        if level is not Level.NONE:
            self._calm_since = None
            if level in _FALL:
                self.open_max = max(self._least, int(min(self.open_max, opened) * _FALL[level]))
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= _CALM_S:
            self.open_max = min(self._most, self.open_max + max(1, int(self._most * _STEP)))
        return self.open_max
