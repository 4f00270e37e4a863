"""The kill tests' load, run beside a test's own steps against a node of the test's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loadtest import kill_boxes
from loadtest.kill_ledger import Faults, Ledger
from loadtest.kill_load import Load

PATIENCE_S = 120.0


def make(url: str, *, users: int = 60, seed: int = 1, sees_at_once: bool = True) -> tuple[Load, Ledger]:
    """A load on so many users and four channels."""
    ledger = Ledger([f"user{n}" for n in range(users)], [f"channel{n}" for n in range(4)])
    return Load(url, ledger, random.Random(seed), sees_at_once=sees_at_once), ledger


@asynccontextmanager
async def under(load: Load) -> AsyncIterator[None]:
    """The load runs inside the block; after it, everything that was begun has been answered."""
    running = asyncio.create_task(load.run())
    try:
        yield
    finally:
        load.finish()
        await asyncio.wait_for(running, PATIENCE_S)


def judge(ledger: Ledger, data: Path) -> Faults:
    """Compare with the boxes of a stopped node, and have the doctor look."""
    faults = ledger.judge(kill_boxes.elsewhere(data))
    if (words := kill_boxes.doctor(data)) is not None:
        faults.say(words)
    return faults
