"""How many postmen there are. Pure: time and load are arguments.

They become more when the lanes are past half and, as things go, would still be in a few seconds;
by half of their number at once, since the lanes fill faster than anybody counts. They become fewer,
one by one, when the lanes have been below a tenth for a while, but only if those who stay would have
time to spare: a number that is just enough to empty the lanes isn't one too many. Between the two
marks nothing changes. Never fewer than two: one may wait for a box, and the mail goes on.

Use: one :class:`Staffing` a shard; :meth:`Staffing.look` once a second, and so many are to work.
"""

from __future__ import annotations

_MANY = 0.5
_FEW = 0.1
_AHEAD_S = 5.0
_PAUSE_S = 1.0
_QUIET_S = 5.0
_BUSY_MAX = 0.8
LEAST = 2


class Staffing:
    """Between two and ``most`` postmen, ``first`` to begin with."""

    def __init__(self, *, first: int = LEAST, most: int) -> None:
        self._most = max(LEAST, most)
        self._looked_at: float | None = None
        self._fill = 0.0
        self._changed_at = float("-inf")
        self._quiet_since: float | None = None
        self.count = min(max(LEAST, first), self._most)

    def look(self, now: float, *, fill: float, busy: float) -> int:
        """How many there are to be.

        ``fill``: what is in the lanes, as a share of what they may hold. ``busy``: the share of their
        time, since the last look, in which the postmen were at work or waited for a box (0 to 1).
        """
        passed_s = 0.0 if self._looked_at is None else now - self._looked_at
        slope = (fill - self._fill) / passed_s if passed_s > 0 else 0.0
        self._looked_at, self._fill = now, fill
        if fill >= _FEW or (busy * self.count > _BUSY_MAX * (self.count - 1)):
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        if fill > _MANY and fill + slope * _AHEAD_S > _MANY:
            if now - self._changed_at >= _PAUSE_S:
                self._change(min(self._most, self.count + max(1, self.count // 2)), now)
        elif self._quiet_since is not None and now - self._quiet_since >= _QUIET_S:
            self._change(max(LEAST, self.count - 1), now)
            self._quiet_since = now
        return self.count

    def _change(self, count: int, now: float) -> None:
        self.count, self._changed_at = count, now
