"""Memory and processor time of processes while a load goes on, sampled a few times a second."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

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
        self._stop = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Look while the block runs."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def between(self, since: float, until: float) -> list[Sample]:
        """The samples of a stretch of time."""
        return [sample for sample in self.samples if since <= sample.at < until]

    def _run(self) -> None:
        self.look()
        while not self._stop.wait(EVERY_S):
            self.look()

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
