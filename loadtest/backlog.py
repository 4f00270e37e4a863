"""``python -m loadtest.backlog --letters 5000000``: one shard with more and more that waits, and nothing delivered.

Letters go the way that a router's go: journaled in groups, on disk before they are answered. What is printed is the
memory of the shard's process after each step. Then it is begun anew: how long that takes, and in how much memory; how
long an important letter needs to be in its box when all of that waits before it; and how long a reader waits.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from loadtest.holding import held
from node import ops
from node.clock import iso, now_us
from node.config import Config
from node.config import Shard as Settings
from node.placement import Placement
from node.process import raise_file_limit
from node.slots import slot_of
from shard import sqlite
from shard.core import Shard
from shard.disk import Disk
from shard.layout import lay_out

_ONE = Placement(version=1, shards=1)
_GROUP = 512
_USERS = 10_000
_MIB = 2**20
_STORING_S = 10.0


class Plan(msgspec.Struct, frozen=True):
    letters: int
    step: int
    content_bytes: int
    data: Path
    settings: Settings


class Filling:
    """A shard whose postmen rest until they are told to work."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._disk = Disk(plan.data)
        self.shard = Shard(Config(shard=plan.settings), _ONE, 0, self._disk)
        self._work = held(self.shard.postmen)
        began = time.perf_counter()
        self.shard.start()
        self.start_s = time.perf_counter() - began
        self._life = asyncio.create_task(self.shard.run())

    def work(self) -> None:
        self._work.set()

    def _deliver(self, message_id: str, user: str, priority: int) -> asyncio.Future[None]:
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer(frame: bytes) -> None:
            said = ops.decode_answer(frame)
            if isinstance(said, ops.Done):
                answered.set_result(None)
            else:
                answered.set_exception(RuntimeError(str(said)))

        at = now_us()
        body = ops.Letter(
            message_id,
            "direct",
            "Backlog",
            "x" * self._plan.content_bytes,
            "text",
            priority,
            None,
            iso(at),
            iso(at),
            None,
            at,
        )
        raw = msgspec.Raw(ops.encode(body))
        self.shard.office.take(
            ops.Deliver(0, 1, message_id, b"", True, False, None, [user], [slot_of(user)], raw, priority), answer
        )
        return answered

    async def fill(self, first: int, last: int) -> None:
        """Letters ``first`` to ``last`` of priority 5, each to one of ten thousand users."""
        for begin in range(first, last, _GROUP):
            numbers = range(begin, min(begin + _GROUP, last))
            await asyncio.gather(*(self._deliver(f"m{n:09}", f"user{n % _USERS}", 5) for n in numbers))

    async def overtake(self, message_id: str, user: str) -> float:
        """Seconds from the sending of an important letter to its being in its box, while the postmen begin."""
        began = time.perf_counter()
        await self._deliver(message_id, user, 9)
        self.work()
        while self.shard.backlog.pending(message_id):
            await asyncio.sleep(0.0005)
        return time.perf_counter() - began

    async def kill(self) -> None:
        self._life.cancel()
        await asyncio.wait([self._life])
        self.shard.close()
        self._disk.close()


def _rss_mib() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss) / _MIB


def _say(line: str) -> None:
    print(line, flush=True)


async def _fill(plan: Plan) -> None:
    filling = Filling(plan)
    window = filling.shard.backlog.window
    _say("| letters waiting | of these in memory | shard's memory, MiB | accepted a second |")
    _say("|---|---|---|---|")
    _say(f"| 0 | 0 | {_rss_mib():.0f} | |")
    for first in range(0, plan.letters, plan.step):
        last = min(first + plan.step, plan.letters)
        began = time.perf_counter()
        await filling.fill(first, last)
        rate = (last - first) / (time.perf_counter() - began)
        _say(f"| {last:,} | {last - window.behind:,} | {_rss_mib():.0f} | {rate:,.0f} |")
    await filling.kill()


async def _again(plan: Plan) -> None:
    filling = Filling(plan)
    waiting = filling.shard.backlog.waiting
    _say(f"started again with {waiting:,} waiting in {filling.start_s:.1f} s, {_rss_mib():.0f} MiB")
    seconds = await filling.overtake("important", "user1")
    ahead = filling.shard.backlog.waiting
    _say(f"a letter of priority 9 was in its box after {seconds * 1000:.1f} ms, {ahead:,} others not")
    page = ops.Page(0, 1, slot_of("user7"), "user7", None, 1, None)
    began = time.perf_counter()
    await filling.shard.desk.page(page)
    seconds = time.perf_counter() - began
    _say(f"a reader had all {plan.letters // _USERS:,} letters that waited for him in {seconds:.2f} s")
    stored, began = filling.shard.backlog.stored, time.perf_counter()
    while filling.shard.backlog.waiting and time.perf_counter() - began < _STORING_S:
        await asyncio.sleep(0.1)
    rate = (filling.shard.backlog.stored - stored) / (time.perf_counter() - began)
    boxes = len(filling.shard.mailboxes)
    _say(f"stored from then on: {rate:,.0f} a second; {_rss_mib():.0f} MiB, with {boxes:,} open mailboxes")
    await filling.kill()


def _in_this_process(work: str, plan: Plan) -> None:
    """As ``python -m shard`` begins."""
    raise_file_limit()
    gc.set_threshold(50_000, 20, 50)
    sqlite.set_up()
    asyncio.run(_fill(plan) if work == "fill" else _again(plan))


@contextmanager
def _laid_out(parent: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pobox-backlog-", dir=parent) as name:
        lay_out(Path(name), 1)
        yield Path(name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.backlog", description=__doc__)
    parser.add_argument("--letters", type=int, default=1_000_000)
    parser.add_argument("--step", type=int, default=0, help="letters between two looks (default: a fifth)")
    parser.add_argument("--content-bytes", type=int, default=600)
    parser.add_argument("--window-letters", type=int, default=Settings().window_letters)
    parser.add_argument(
        "--data", type=Path, help="where the journal goes: a real disk (default: the temporary directory)"
    )
    options = parser.parse_args()
    settings = Settings(window_letters=options.window_letters, wait_max_s=1e9, barrier_s=5.0)
    with _laid_out(options.data) as data:
        step = options.step or max(1, options.letters // 5)
        plan = Plan(options.letters, step, options.content_bytes, data, settings)
        for work in ("fill", "again"):
            child = get_context("spawn").Process(target=_in_this_process, args=(work, plan))
            child.start()
            child.join()
            if child.exitcode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
