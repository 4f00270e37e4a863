"""Unread counts are what a full recount says, whatever happens in between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.model import Counts
from shard import statuses as module

from .asking import change, counts, recount, said
from .running import Running, delivery, laid_out, letter

CHANNELS = ["news", "team", "direct"]
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.integers(1, 4), st.sampled_from(CHANNELS)),
        st.tuples(st.just("mark"), st.lists(st.integers(0, 30), min_size=1, max_size=6), st.booleans()),
        st.tuples(st.just("late"), st.integers(0, 30)),
        st.tuples(st.just("remove"), st.integers(0, 30)),
        st.tuples(st.just("remove last")),
        st.tuples(st.just("count")),
        st.tuples(st.just("both"), st.integers(0, 30), st.integers(0, 30)),
        st.tuples(st.just("close")),
        st.tuples(st.just("kill")),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(_STEPS)
@pytest.mark.slow
def test_counts_are_a_full_recount(steps: list[tuple[Any, ...]]) -> None:
    async def play(data: Path) -> None:
        running = await Running(data).__aenter__()
        sent: list[str] = []
        there: list[str] = []
        await running.deliver(delivery(letter("first"), ["ada"]))
        for second, step in enumerate(steps):
            match step:
                case ("deliver", number, channel):
                    for _ in range(number):
                        sent.append(f"m{len(sent)}")
                        there.append(sent[-1])
                        await running.deliver(delivery(letter(sent[-1], channel_id=channel), ["ada"]))
                case ("mark", indices, read):
                    changes = [said(f"m{index}", "read" if read else "unread", second) for index in indices]
                    await change(running, "ada", *changes)
                case ("late", index):
                    await change(running, "ada", said(f"m{index}", "unread", -5, "tablet"))
                case ("remove", index) if f"m{index}" in there:
                    there.remove(f"m{index}")
                    await running.remove("ada", f"m{index}")
                case ("remove last",) if there:
                    await running.remove("ada", there.pop())
                case ("both", index, other):
                    await asyncio.gather(
                        change(running, "ada", said(f"m{index}", "read", second)),
                        counts(running, "ada"),
                        change(running, "ada", said(f"m{other}", "unread", second)),
                        counts(running, "ada"),
                    )
                case ("close",):
                    await running.settled()
                    running.shard.mailboxes.discard("ada")
                case ("kill",):
                    await running.kill()
                    running = await Running(data).__aenter__()
                case ("count",):
                    assert await counts(running, "ada") == await recount(running, "ada")
        assert await counts(running, "ada") == await recount(running, "ada")
        await running.kill()

    with laid_out() as data:
        asyncio.run(play(data))


@pytest.mark.parametrize("most", [1, 3, 2_000])
def test_many_new_ones_are_counted_like_few(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ARRIVALS_MAX", most)

    async def play(data: Path) -> None:
        async with Running(data) as running:
            for number in range(12):
                for more in range(number % 5):
                    await running.deliver(delivery(letter(f"m{number}-{more}"), ["ada", "bo"]))
                await running.deliver(delivery(letter(f"m{number}"), ["ada"]))
                await change(running, "ada", said(f"m{number}", "read"))
                assert await counts(running, "ada") == await recount(running, "ada")

    with laid_out() as data:
        asyncio.run(play(data))


def test_a_channel_with_nothing_unread_is_not_named() -> None:
    async def play(data: Path) -> None:
        async with Running(data) as running:
            await running.deliver(delivery(letter("a", channel_id="news"), ["ada"]))
            await running.deliver(delivery(letter("b", channel_id="team"), ["ada"]))
            assert await counts(running, "ada") == Counts(unread=2, channels={"news": 1, "team": 1})
            await change(running, "ada", said("a", "read"))
            assert await counts(running, "ada") == Counts(unread=1, channels={"team": 1})
            await change(running, "ada", said("b", "read"))
            assert await counts(running, "ada") == Counts(unread=0, channels={})

    with laid_out() as data:
        asyncio.run(play(data))


def test_a_box_that_was_damaged_and_begun_anew_counts_anew() -> None:
    """The read marks of what is lost stay, and never count."""

    async def play(data: Path) -> None:
        async with Running(data) as running:
            for number in range(6):
                await running.deliver(delivery(letter(f"m{number}"), ["ada"]))
            await change(running, "ada", *(said(f"m{number}", "read") for number in range(4)))
            assert (await counts(running, "ada")).unread == 2
            running.shard.mailboxes.discard("ada", OSError("as if"))
            await running.deliver(delivery(letter("new"), ["ada"]))
            assert await counts(running, "ada") == Counts(unread=1, channels={"direct": 1})

    with laid_out() as data:
        asyncio.run(play(data))


def test_few_tallies_are_kept_and_all_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TALLIES_MAX", 2)

    async def play(data: Path) -> None:
        async with Running(data) as running:
            users = [f"user{number}" for number in range(6)]
            for round_ in range(3):
                await running.deliver(delivery(letter(f"m{round_}"), users))
                for user in users:
                    assert (await counts(running, user)).unread == round_ + 1
                assert len(running.shard.statuses._tallies) <= 2

    with laid_out() as data:
        asyncio.run(play(data))
