"""Under load a shard refuses the unimportant first, says why, and takes everything again when the load is gone."""

from __future__ import annotations

import asyncio

import pytest

from node.errors import Refused
from shard import memory, pressure
from shard.memory import Usage

from .running import PATIENCE_S, Running, delivery, laid_out, letter

pytestmark = pytest.mark.slow


async def _fill(running: Running, priority: int) -> Refused:
    """Letters of ``priority`` till one is refused; the refusal."""
    number = 0
    while True:
        try:
            await running.deliver(delivery(letter(f"p{priority}-{number}", priority=priority), ["ada"]))
        except Refused as refused:
            return refused
        number += 1


def test_room_is_kept_for_the_important() -> None:
    async def play() -> None:
        with laid_out() as data:
            async with Running(data, waiting_max=100) as running:
                async with running.shard.mailboxes.hold("ada", create=True):  # so all of it waits
                    waiting = []
                    for priority in (1, 5, 7, 10):
                        refused = await _fill(running, priority)
                        assert (refused.status, refused.code) == (503, "overloaded")
                        assert refused.retry_after
                        assert "too many letters wait" in refused.detail
                        waiting.append(running.shard.backlog.waiting)
                    assert waiting == [80, 90, 95, 100]
                    refused = await _fill(running, 9)
                    assert "nothing" in refused.detail
                await running.settled()
                await running.deliver(delivery(letter("after", priority=1), ["ada"]))
                assert len(await running.ids("ada")) == 101

    asyncio.run(play())


def test_with_critical_memory_only_high_mail_is_taken_until_there_is_some_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    percent = 95
    monkeypatch.setattr(memory.Memory, "read", lambda self: Usage(percent, 100))

    async def play() -> None:
        nonlocal percent
        with laid_out() as data:
            async with Running(data) as running:

                def taken(priority: int) -> str:
                    refusal = running.shard.office.refusal(priority)
                    return "" if refusal is None else refusal.detail

                async with asyncio.timeout(PATIENCE_S):
                    while not (told := taken(7)):
                        await asyncio.sleep(0.05)
                assert "memory is short" in told
                assert "priority 8 and above" in told
                assert not taken(8)
                with pytest.raises(Refused, match="memory is short"):
                    await running.deliver(delivery(letter("low", priority=7), ["ada"]))
                await running.deliver(delivery(letter("high", priority=8), ["ada"]))
                percent = 50
                async with asyncio.timeout(PATIENCE_S):
                    while taken(1):
                        await asyncio.sleep(0.05)
                assert running.shard.pressure.level is pressure.Level.NONE

    asyncio.run(play())
