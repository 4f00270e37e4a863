"""The links follow the table, and what is under way on one that leaves has its answer first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from node import ops, paths, placement
from node.errors import Moving, Unavailable
from node.placement import Placement
from node.slots import slot_of, table_for
from router.links import Links, about
from tests.node.test_link import Shard


def test_a_request_to_a_shard_that_leaves_is_answered(tmp_path: Path) -> None:
    async def go() -> None:
        three = Placement(version=1, shards=3)
        placement.save(tmp_path, three)
        paths.run_dir(tmp_path).mkdir()
        shards = [await Shard(paths.socket_path(tmp_path, index)).start() for index in range(3)]
        links = Links(tmp_path, three, timeout_s=30)
        links.start()
        while not all(links.link(index).up for index in range(3)):
            await asyncio.sleep(0.01)
        user = next(f"u{n}" for n in range(100) if table_for(3)[slot_of(f"u{n}")] == 2)
        asked = asyncio.create_task(links.ask_about(ops.AskCounts(*about(user)), str))
        await shards[2].until_asked(1)
        placement.save(tmp_path, Placement(version=1, shards=2, number=2))
        await links.look()
        assert len(links.shards) == 2
        shards[2].answer(shards[2].asked[0], "still here")
        assert await asyncio.wait_for(asked, 30) == "still here"
        while shards[2].connections:  # and then it is let go
            await asyncio.sleep(0.01)
        await links.close()
        for shard in shards:
            await shard.stop()

    asyncio.run(asyncio.wait_for(go(), 60))


def test_while_people_move_the_same_is_asked_again_for_as_long_as_an_answer_may_take(tmp_path: Path) -> None:
    tries = 0

    async def moves(times: float) -> str:
        nonlocal tries
        tries += 1
        if tries <= times:
            raise Moving()
        return "here"

    async def go() -> None:
        nonlocal tries
        placement.save(tmp_path, Placement(version=1, shards=1))
        patient = Links(tmp_path, Placement(version=1, shards=1), timeout_s=30)
        assert await patient.steady(lambda: moves(3)) == "here"
        assert tries == 4
        hasty = Links(tmp_path, Placement(version=1, shards=1), timeout_s=0.1)
        tries = 0
        with pytest.raises(Unavailable):
            await hasty.steady(lambda: moves(float("inf")))
        assert tries > 1

    asyncio.run(asyncio.wait_for(go(), 60))
