"""When a box that could not be written is tried again, and after how many tries a letter is given up. Pure: the luck
is an argument.

The first tries follow each other at once: somebody who only looks into a box is gone by then. After them the pause
doubles with each failure from ``base_s`` up to ``cap_s``, and is shortened by chance by up to ``jitter`` of itself, so
that what failed together doesn't come back together.

A box is tried for everybody whose letters wait for it, but a letter is given up for its own tries: one that came late
has had fewer. Only tries that failed for the box's own sake are counted: a full disk is no letter's last try.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Policy(NamedTuple):
    base_s: float = 0.5
    cap_s: float = 600.0
    jitter: float = 0.5
    """0 to 1"""
    tries_max: int = 400
    quick: int = 3
    """so many tries in quick succession"""
    quick_s: float = 0.05


def pause_s(policy: Policy, failures: int, luck: float) -> float:
    """Seconds to wait after failure number ``failures`` (from 1); ``luck`` is 0 to 1, 0 for the longest."""
    if failures <= policy.quick:
        return min(policy.cap_s, policy.quick_s * failures)
    doubled_s = policy.base_s * 2.0 ** min(failures - policy.quick - 1, 64)
    longest = min(policy.cap_s, max(doubled_s, policy.quick_s * policy.quick))
    return longest * (1.0 - policy.jitter * luck)


class Tries:
    """How often each letter for one box was tried. A try takes all that waits, so it is known by the newest letter
    that it was for: (number of that letter, how many such tries), oldest first."""

    __slots__ = ("runs",)

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        self.runs = list(runs)

    def failed(self, oldest: int, newest: int) -> None:
        """A try failed that was for the letters ``oldest`` to ``newest``; nothing older than these waits any more."""
        self.runs = [run for run in self.runs if run[0] >= oldest]
        if self.runs and self.runs[-1][0] >= newest:
            seq, count = self.runs[-1]
            self.runs[-1] = (seq, count + 1)
        else:
            self.runs.append((newest, 1))

    def of(self, letter: int) -> int:
        """How many tries there were for ``letter``."""
        return sum(count for newest, count in self.runs if newest >= letter)

    def worn(self, tries_max: int) -> int:
        """The newest letter that there were ``tries_max`` tries for; 0 if there is none. All older ones had as many."""
        count = 0
        for newest, tries in reversed(self.runs):
            count += tries
            if count >= tries_max:
                return newest
        return 0
