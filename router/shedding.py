"""What a shard refused a moment ago is refused here, without asking it again. Pure: the clock is an argument.

A refusal for want of room says below which priority nobody is taken, and for how long that may be said in the shard's
name: at most a quarter of a second (``shard.pressure``). Meanwhile nothing below it is sent there; then the next letter
asks again, and its answer decides. So under overload most of what is refused costs the shard nothing. It hears with the
next letter how many they were. Who comes again when told (``Retry-After``, a second at least) finds that moment over.

Use: one :class:`Shedding` a shard in each router. Each router finds out for itself.
"""

from __future__ import annotations

from node.errors import Problem, Refused

_SHUT_MAX_S = 0.5
"""whatever a shard says"""
_PRIORITIES = 11


class Shedding:
    """Of one shard. Times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._until = [0.0] * _PRIORITIES
        self._why: list[Problem | None] = [None] * _PRIORITIES
        self._unreported = 0
        self.shed = 0
        """letters refused here since the start"""

    def refused(self, error: Refused, now: float) -> float:
        """The shard has answered ``error``; until when that holds."""
        shut = error.shut
        if shut is None:
            return now
        until, why = now + min(_SHUT_MAX_S, shut.for_s), error.problem()
        for priority in range(1, min(_PRIORITIES, shut.below)):
            self._until[priority] = until
            self._why[priority] = why
        return until

    def refusal(self, priority: int, now: float) -> Problem | None:
        """What the shard would say to a letter of ``priority``, None if it is to be asked."""
        return self._why[priority] if now < self._until[priority] else None

    def count(self) -> None:
        """A letter was refused for it."""
        self.shed += 1
        self._unreported += 1

    def report(self) -> int:
        """How many were refused since this was asked last: the shard is to be told."""
        letters, self._unreported = self._unreported, 0
        return letters
