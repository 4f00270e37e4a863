"""Processes are killed under load, each kind at least once; ``python -m loadtest.kill`` goes on for longer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadtest.kill import Plan, campaign
from loadtest.kill_node import KINDS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("shards", "routers", "verified"), [(2, 1, 2), (3, 2, 1)])
@pytest.mark.long
def test_a_kill_at_any_moment_loses_and_doubles_nothing(
    tmp_path: Path, shards: int, routers: int, verified: int
) -> None:
    plan = Plan(
        cycles=4,
        seconds=0.75,
        shards=shards,
        routers=routers,
        seed=shards,
        verify_every=4 // verified,
        round_cycles=4,
        data=tmp_path,
    )
    tally = asyncio.run(campaign(plan))
    assert tally.faults.words == []
    assert tally.cycles == 4
    assert tally.kills.keys() - {"coordinator"} == set(KINDS)  # who moves people is killed when there is one
    assert tally.acknowledged > 0
    assert tally.verified == verified
