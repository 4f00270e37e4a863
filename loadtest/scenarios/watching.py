"""Memory and processor time of processes while a load goes on, sampled a few times a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from loadtest.looking import looking

EVERY_S = 0.25
_MIB = 2**20


class Sample(NamedTuple):
    at: float
    """seconds since 1970"""
    rss_mib: float
    """of all processes"""
    busiest: float
    """share of one core that the busiest of them had since the last look"""
    cores: float
    """what all of them had"""


class Watcher:
    """Of the processes that ``find`` names at each look."""

    def __init__(self, find: Callable[[], Sequence[psutil.Process]]) -> None:
        self.samples: list[Sample] = []
        self._find = find
        self._used: dict[int, float] = {}
        self._looked_at = time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Look while the block runs."""
        self.look()
        with looking(self.look, every_s=EVERY_S):
            yield self

    def look(self) -> None:
        """Take one sample."""
        now = time.monotonic()
        passed_s, self._looked_at = max(1e-3, now - self._looked_at), now
        rss, shares = 0, []
        used: dict[int, float] = {}
        for process in self._find():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                rss += process.memory_info().rss
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
                shares.append((used[process.pid] - self._used.get(process.pid, used[process.pid])) / passed_s)
        self._used = used
        self.samples.append(Sample(time.time(), rss / _MIB, max(shares, default=0.0), sum(shares)))
