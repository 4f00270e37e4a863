"""Channel letters: each member once, those who come to read at once, and every count ends at zero."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import ops
from shard import expander

from .running import Running, delivery, laid_out, letter, stored

MEMBERS = [f"user{number:03}" for number in range(40)]


def _held_back(running: Running) -> asyncio.Event:
    """Nothing is expanded until the event is set."""
    event = asyncio.Event()
    run = running.shard.expander.run

    async def later() -> None:
        await event.wait()
        await run()

    running.shard.expander.run = later  # type: ignore[method-assign]
    return event


def play(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expander, "_PAGE", 3)


async def _channel(running: Running, members: list[str]) -> None:
    await running.put_channel("news")
    await running.change("news", add=members)


def test_a_channel_letter_reaches_every_member_once() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await _channel(running, MEMBERS)
                assert await running.deliver(delivery(letter("m", channel_id="news"), channel="news")) == len(MEMBERS)
                await running.settled()
                part = await running.receipt("m")
                assert (part.targets, part.pending) == (len(MEMBERS), 0)
                await running.let_go()
                assert running.shard.journal.rows == 0
            assert stored(data) == {key: ["m"] for key in MEMBERS}

    play(go())


def test_a_reader_who_comes_before_his_turn_gets_it_at_once_and_once() -> None:
    async def go() -> None:
        with laid_out() as data:
            running = Running(data)
            may_expand = _held_back(running)
            async with running:
                await _channel(running, MEMBERS)
                for number in range(3):
                    await running.deliver(delivery(letter(f"m{number}", channel_id="news"), channel="news"))
                await running.deliver(delivery(letter("direct"), [MEMBERS[-1]]))
                assert sorted(await running.ids(MEMBERS[-1])) == ["direct", "m0", "m1", "m2"]
                assert sorted(await running.ids(MEMBERS[-1])) == ["direct", "m0", "m1", "m2"]
                for message_id in ("m0", "m1", "m2"):
                    assert (await running.receipt(message_id)).pending == len(MEMBERS) - 1
                may_expand.set()
                await running.settled()
                assert (await running.receipt("m0")).pending == 0
                assert running.shard.backlog.lanes.count == 0
            assert stored(data) == {user: ["direct"] * (user == MEMBERS[-1]) + ["m0", "m1", "m2"] for user in MEMBERS}

    play(go())


def test_one_who_joined_later_gets_nothing_and_one_who_left_since_still_gets_his() -> None:
    async def go() -> None:
        with laid_out() as data:
            running = Running(data)
            may_expand = _held_back(running)
            async with running:
                await _channel(running, ["ada", "bo", "cy"])
                assert await running.deliver(delivery(letter("m"), channel="news")) == 3
                await running.change("news", add=["di"], remove=["bo", "cy"])
                await running.change("news", add=["cy"])
                assert await running.deliver(delivery(letter("later"), channel="news")) == 3
                assert sorted(await running.ids("di")) == ["later"]
                assert await running.ids("bo") == ["m"]
                may_expand.set()
                await running.settled()
            assert stored(data) == {"ada": ["later", "m"], "bo": ["m"], "cy": ["later", "m"], "di": ["later"]}

    play(go())


def test_a_channel_that_is_dropped_still_delivers_what_it_took() -> None:
    async def go() -> None:
        with laid_out() as data:
            running = Running(data)
            may_expand = _held_back(running)
            async with running:
                await _channel(running, ["ada", "bo"])
                await running.deliver(delivery(letter("m"), channel="news"))
                assert await running.shard.channels.drop(ops.DropChannel(0, "news"))
                assert not await running.shard.channels.drop(ops.DropChannel(0, "news"))
                may_expand.set()
                await running.settled()
                assert await running.channels_of("ada") == []
            assert stored(data) == {"ada": ["m"], "bo": ["m"]}

    play(go())


@given(
    letters=st.integers(1, 4),
    readers=st.lists(st.tuples(st.sampled_from(MEMBERS[:12]), st.integers(0, 4)), max_size=12),
    leaver=st.sampled_from(MEMBERS[:12]),
)
@settings(max_examples=40)
@pytest.mark.slow
def test_readers_between_any_two_pages_change_nothing(
    letters: int, readers: list[tuple[str, int]], leaver: str
) -> None:
    """Whoever reads while letters are being expanded has all of them, and every target is counted once."""
    members = MEMBERS[:12]

    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await _channel(running, members)
                for number in range(letters):
                    await running.deliver(delivery(letter(f"m{number}"), channel="news"))
                ids = [f"m{number}" for number in range(letters)]
                for reader, pauses in readers:
                    for _ in range(pauses):
                        await asyncio.sleep(0)
                    assert sorted(await running.ids(reader)) == ids
                    await running.change("news", remove=[leaver])
                await running.settled()
                assert running.shard.backlog.waiting == 0
                for message_id in ids:
                    assert (await running.receipt(message_id)).pending == 0
                await running.let_go()
                assert running.shard.journal.rows == 0
            assert stored(data) == dict.fromkeys(members, ids)

    play(go())


def test_it_waits_while_the_lanes_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expander, "_LANES_MAX", 5)

    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                most = 0
                await _channel(running, MEMBERS)
                await running.settled()
                put = running.shard.backlog.put

                def watched(*arguments: Any) -> None:
                    nonlocal most
                    put(*arguments)
                    most = max(most, running.shard.backlog.lanes.count)

                monkeypatch.setattr(running.shard.backlog, "put", watched)
                for number in range(3):
                    await running.deliver(delivery(letter(f"m{number}"), channel="news"))
                await running.settled()
                assert most <= 5 + 3
            assert stored(data) == {key: ["m0", "m1", "m2"] for key in MEMBERS}

    play(go())
