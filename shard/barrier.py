"""The sync barrier: what makes thousands of deliveries durable with one flush.

The order is everything. Take the letters that are done; *then* begin the flush; only when it has
succeeded may their journal rows go. A letter that gets done while the flush runs waits for the next
one. If a flush fails the process ends: the rows are still there, and the next start delivers again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from node.metrics import LONG_S, Histogram
from shard.backlog import Backlog
from shard.disk import Disk
from shard.mailboxes import Mailboxes
from shard.parked import Parked


class Barrier:
    """Flushes every ``every_s`` seconds while there is something to let go."""

    def __init__(
        self,
        disk: Disk,
        backlog: Backlog,
        parked: Parked,
        mailboxes: Mailboxes,
        let_go: Callable[[list[int]], None],
        *,
        every_s: float,
    ) -> None:
        self._disk = disk
        self._backlog = backlog
        self._parked = parked
        self._mailboxes = mailboxes
        self._let_go = let_go
        self._every_s = every_s
        self._thread = ThreadPoolExecutor(1, "barrier")
        self._stored = -1
        self.flush_s = Histogram(LONG_S)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            if self._backlog.done or self._backlog.stored != self._stored:
                await self.flush()

    async def flush(self) -> None:
        """One barrier, now."""
        seqs, pairs = self._backlog.take_done(), self._parked.take_stored()
        self._stored = self._backlog.stored
        number = self._mailboxes.barrier_begun()
        began = perf_counter()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disk.flush)
        self.flush_s.observe(perf_counter() - began)
        self._mailboxes.barrier_done(number)
        self._parked.covered += pairs
        if seqs:
            self._let_go(seqs)

    def close(self) -> None:
        self._thread.shutdown()
