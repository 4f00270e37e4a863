"""How fast mail can be stored is told by times when there was more than enough of it."""

from __future__ import annotations

import asyncio

import pytest

from shard.backlog import Backlog

from .playing import played
from .running import Running, laid_out


def test_a_burst_that_waits_for_company_is_no_sign_of_slowness() -> None:
    backlog = Backlog()
    before = backlog.stored_rate
    for _ in range(20):
        backlog.count_rate(0.5, 0.45)
    assert backlog.stored_rate == before


def test_it_follows_what_is_stored_while_there_is_work() -> None:
    backlog = Backlog()
    for _ in range(20):
        backlog.stored += 10_000
        backlog.count_rate(0.5, 0.1)
    assert backlog.stored_rate == pytest.approx(25_000, rel=0.01)
    for _ in range(60):
        backlog.count_rate(0.5, 0.0)
    assert backlog.stored_rate == 100.0


def test_what_slowed_the_postmen_down_before_they_rested_says_nothing_of_what_comes() -> None:
    """New boxes, say: otherwise the first moment of a new load would look like a wait of many minutes."""
    backlog = Backlog()
    hoped = backlog.stored_rate
    for _ in range(100):
        backlog.stored += 300
        backlog.count_rate(0.5, 0.0)
    assert backlog.stored_rate < hoped / 10
    backlog.count_rate(0.5, 0.5)
    assert backlog.stored_rate == hoped


@played
@pytest.mark.slow
async def test_a_shard_with_nothing_to_do_goes_on_hoping() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            hoped = running.shard.backlog.stored_rate
            await asyncio.sleep(2.0)
            assert running.shard.backlog.stored_rate == hoped
