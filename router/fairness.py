"""How much one sender may send, and one person be sent, so that neither hurts the rest. Pure: the clock is an
argument.

The generic cell rate algorithm (GCRA): a key has a time until which it has used up its share; each
unit moves that time on by ``1 / rate``, and it may lie at most ``burst / rate`` ahead of now. So in any
stretch of ``t`` seconds at most ``burst + rate * t`` units pass, however they arrive. A key costs one
number, and one whose time has passed is the same as one that was never seen.

The number of keys is bounded. When there are more at a time, the newcomers share a few times among
them: stricter than they deserve, never laxer, until others have fallen silent.

Use: one :class:`Limiter` for service keys, one for target users; :func:`take_all` for a message that
needs the leave of both: it takes from all or from none. A refusal is a 429. Each router process counts
for itself, so give each its part of the rate. The headers are those of
draft-ietf-httpapi-ratelimit-headers-11, ``RateLimit-Policy`` and ``RateLimit``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

_SHARED = 1_024
_ROUNDING = 0.01  # of a unit: the sum of many small steps may come out a hair too large


class Verdict(NamedTuple):
    """Whether it may pass, and what the caller is told about it."""

    allowed: bool
    limit: int
    """units that may pass at once"""
    remaining: int
    """units that may pass now, after this"""
    reset_s: int
    """whole seconds until all of ``limit`` may pass again, if nothing comes till then"""
    retry_after_s: int | None
    """if refused: whole seconds until this may pass, at least 1; None if it never can, being more than ``limit``"""


class Limiter:
    """``rate`` units a second and ``burst`` at once for each key; ``name`` (letters, digits, dashes) is its policy's
    name in the headers."""

    def __init__(self, name: str, *, rate: float, burst: int, keys_max: int = 100_000) -> None:
        self.name = name
        self._unit_s = 1.0 / rate
        self._burst = burst
        self._ahead_s = burst / rate
        self._keys_max = keys_max
        self._until: OrderedDict[str, float] = OrderedDict()
        self._shared = [0.0] * _SHARED

    def __len__(self) -> int:
        """Keys in memory."""
        return len(self._until)

    def take(self, key: str, now: float, cost: int = 1) -> Verdict:
        """Let ``cost`` units of ``key`` pass, all or none, at time ``now`` of a clock that never goes back."""
        until = max(now, self._read(key, now))
        then = until + cost * self._unit_s
        over_s = then - now - self._ahead_s
        if over_s > self._unit_s * _ROUNDING:
            wait_s = None if cost > self._burst else max(1, math.ceil(over_s))
            return self._verdict(False, until - now, wait_s)
        self._write(key, then)
        return self._verdict(True, then - now, None)

    def policy(self) -> str:
        """The item of ``RateLimit-Policy``: the quota, and the seconds in which it is there again."""
        return f'"{self.name}";q={self._burst};w={max(1, math.ceil(self._ahead_s))}'

    def state(self, verdict: Verdict) -> str:
        """The item of ``RateLimit``. Its window ends no later than ``Retry-After``, as the draft asks."""
        window_s = verdict.reset_s if verdict.retry_after_s is None else verdict.retry_after_s
        return f'"{self.name}";r={verdict.remaining};t={window_s}'

    def undo(self, key: str, cost: int) -> None:
        """As if a :meth:`take` at the very same time had not been."""
        if key in self._until:
            self._until[key] -= cost * self._unit_s
        else:
            self._shared[hash(key) % _SHARED] -= cost * self._unit_s

    def _verdict(self, allowed: bool, ahead_s: float, retry_after_s: int | None) -> Verdict:
        # With less of an allowance than take() has: what is said to remain must pass.
        remaining = math.floor((self._ahead_s - ahead_s) / self._unit_s + _ROUNDING / 2)
        return Verdict(allowed, self._burst, max(0, remaining), math.ceil(ahead_s), retry_after_s)

    def _read(self, key: str, now: float) -> float:
        until = self._until.get(key)
        if until is not None:
            return until
        # Two at a time: they become fewer whenever those that were used longest ago have fallen silent.
        for _ in range(2):
            if self._until and next(iter(self._until.values())) <= now:
                self._until.popitem(last=False)
        return self._shared[hash(key) % _SHARED]  # it may have passed there a moment ago

    def _write(self, key: str, until: float) -> None:
        if key in self._until:
            self._until[key] = until
            self._until.move_to_end(key)
        elif len(self._until) < self._keys_max:
            self._until[key] = until
        else:
            self._shared[hash(key) % _SHARED] = until


def take_all(asked: Iterable[tuple[Limiter, str, int]], now: float) -> tuple[Limiter, Verdict] | None:
    """Take from every (limiter, key, cost), or from none: the first refusal and whose it is, None if all may pass."""
    taken: list[tuple[Limiter, str, int]] = []
    for limiter, key, cost in asked:
        verdict = limiter.take(key, now, cost)
        if not verdict.allowed:
            for other, name, units in taken:
                other.undo(name, units)
            return limiter, verdict
        taken.append((limiter, key, cost))
    return None
