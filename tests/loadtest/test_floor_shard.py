"""The floor is honest: no answer before the fdatasync that carries the frame has ended."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from loadtest.floor_shard import Disk, Group, serve
from node import ops
from node.errors import Refused
from node.link import Link
from node.paths import socket_path


class SlowDisk:
    """Takes what it is given, and has it on disk when the test says so."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.synced = threading.Semaphore(0)

    def put(self, content: bytes) -> None:
        self.written.append(content)
        assert self.synced.acquire(timeout=60)


async def _until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.001)


def test_nothing_is_answered_before_its_flush_has_ended() -> None:
    async def run() -> None:
        disk, answered = SlowDisk(), list[str]()
        group = Group(disk.put)
        group.add(b"a", lambda: answered.append("a"))
        await _until(lambda: disk.written == [b"a"])
        group.add(b"b", lambda: answered.append("b"))  # too late for the flush that runs
        await asyncio.sleep(0.01)
        assert answered == []
        disk.synced.release()
        await _until(lambda: disk.written == [b"a", b"b"])
        assert answered == ["a"]
        disk.synced.release()
        await _until(lambda: answered == ["a", "b"])

    asyncio.run(run())


def test_all_that_waits_shares_one_flush() -> None:
    async def run() -> None:
        disk, answered = SlowDisk(), list[int]()
        group = Group(disk.put)
        for number in range(3):
            group.add(bytes([number]), lambda number=number: answered.append(number))  # type: ignore[misc]
        disk.synced.release()
        await _until(lambda: answered == [0, 1, 2])
        assert disk.written == [b"\0\1\2"]

    asyncio.run(run())


def test_after_a_failed_flush_nothing_is_ever_answered() -> None:
    def fail(_content: bytes) -> None:
        raise OSError("the disk is gone")

    async def run() -> None:
        answered = list[str]()
        group = Group(fail)
        group.add(b"a", lambda: answered.append("a"))
        with pytest.raises(OSError, match="gone"):
            await group.failed
        group.add(b"b", lambda: answered.append("b"))
        await asyncio.sleep(0.01)
        assert answered == []

    asyncio.run(run())


def test_the_ring_flushes_each_write_and_keeps_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real_write, real_sync = os.pwrite, os.fdatasync
    disk = Disk(tmp_path / "ring", size=10)
    monkeypatch.setattr("os.pwrite", lambda *a: (order.append(f"write at {a[2]}"), real_write(*a))[1])
    monkeypatch.setattr("os.fdatasync", lambda *a: (order.append("sync"), real_sync(*a))[1])
    for content in (b"1234", b"56789", b"abcd"):
        disk.put(content)
    assert order == ["write at 0", "sync", "write at 4", "sync", "write at 0", "sync"]
    assert (tmp_path / "ring").read_bytes() == b"abcd56789\0"


@pytest.mark.slow
def test_it_speaks_the_shards_protocol(tmp_path: Path) -> None:
    async def run() -> None:
        serving = asyncio.create_task(serve(tmp_path, 0, 2, 1))
        path = socket_path(tmp_path, 0)
        await _until(path.exists)
        link = Link(path)
        link.start()
        await _until(lambda: link.up)
        letter = msgspec.Raw(msgspec.msgpack.encode(["a letter"]))
        deliver = ops.Deliver(0, 1, "id", b"", True, False, None, ["ada", "bob"], [1, 2], letter)
        assert (await link.ask(deliver, ops.Taken)).targets == 2
        state = await link.ask(ops.Ping(0), ops.State)
        assert (state.shard, state.shards, state.journal_rows, state.waiting) == (0, 2, 1, 0)
        with pytest.raises(Refused):
            await link.ask(ops.AskReceipt(0, "id"), ops.ReceiptPart)
        await link.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(run())
    assert b"a letter" in (tmp_path / "floor-0.log").read_bytes()
