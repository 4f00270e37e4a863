"""The office: one acceptance an id, whatever is sent again, when, and after which restart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.holding import held
from node.errors import Refused
from node.placement import Placement
from shard import office
from shard.pressure import Pressure

from .running import Running, delivery, laid_out, letter, stored, until, users_of

IDS = ["a", "b", "c"]
DIGESTS = [b"one", b"two"]
TARGETS = {b"one": ["ada", "bo"], b"two": ["ada", "cy", "di"]}

request = st.tuples(st.sampled_from(IDS), st.sampled_from(DIGESTS))
fresh = st.just(("", b""))
group = st.lists(st.one_of(request, request, fresh), min_size=1, max_size=5)
step = st.one_of(group, group, st.sampled_from(["kill", "stop", "barrier"]))


@given(st.lists(step, max_size=7))
@settings(max_examples=100)
@pytest.mark.slow
def test_an_id_is_accepted_once_whatever_is_sent_again(steps: list[Any]) -> None:
    """The first body of an id counts: it is answered alike each time, another is a conflict, and every
    target has it once. In one group, in later ones, after restarts, before and after the purge."""
    with laid_out() as data:
        asyncio.run(_send(data, steps))


async def _send(data: Any, steps: list[Any]) -> None:
    accepted: dict[str, bytes] = {}
    unique: list[str] = []
    running = await Running(data).__aenter__()
    try:
        for step in steps:
            if step == "barrier":
                await running.settled()
                await running.let_go()
                assert running.shard.journal.rows == 0
                continue
            if isinstance(step, str):
                await (running.stop() if step == "stop" else running.kill())
                running = await Running(data).__aenter__()
                continue
            answers = []
            for message_id, digest in step:
                if message_id:
                    body = letter(message_id, content=digest.decode())
                    answers.append(running.send(delivery(body, TARGETS[digest], digest=digest)))
                else:
                    unique.append(f"fresh{len(unique)}")
                    answers.append(running.send(delivery(letter(unique[-1]), ["ada"], fresh=True)))
            results = await running.while_alive(asyncio.gather(*answers, return_exceptions=True))
            for (message_id, digest), result in zip(step, results, strict=True):
                if not message_id:
                    assert result == 1
                elif accepted.setdefault(message_id, digest) == digest:
                    assert result == len(TARGETS[digest])
                else:
                    assert isinstance(result, Refused)
                    assert (result.status, result.field) == (409, "id")
        await running.settled()
        for message_id, digest in accepted.items():
            part = await running.receipt(message_id)
            assert (part.targets, part.pending, part.failed) == (len(TARGETS[digest]), 0, 0)
        for user in ("ada", "bo", "cy", "di"):
            expected = [message_id for message_id, digest in accepted.items() if user in TARGETS[digest]]
            expected += unique if user == "ada" else []
            page = await running.page(user) if expected else []
            assert sorted(message.id for message in page) == sorted(expected)
            assert all(message.content == accepted[message.id].decode() for message in page if message.id in accepted)
    finally:
        await running.kill()


def test_the_id_of_a_letter_without_one_is_nobodys_to_use_again() -> None:
    async def play() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("made-here"), ["ada"], fresh=True))
                with pytest.raises(Refused) as refused:
                    await running.deliver(delivery(letter("made-here"), ["bo"]))
                assert refused.value.status == 409

    asyncio.run(play())


def test_a_claim_without_targets_decides_about_the_id_and_leaves_no_row() -> None:
    async def play() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                assert await running.deliver(delivery(letter("m"), [])) == 0
                assert running.shard.journal.rows == 0
                with pytest.raises(Refused) as refused:
                    await running.deliver(delivery(letter("m"), [], digest=b"other"))
                assert refused.value.status == 409

    asyncio.run(play())


def test_foreign_slots_and_old_tables_are_refused_before_anything_is_written() -> None:
    async def play() -> None:
        with laid_out(2) as data:
            async with Running(data, Placement(version=1, shards=2), 0) as running:
                mine, foreign = users_of(0, 2, 1), users_of(1, 2, 1)
                for request in (
                    delivery(letter("m"), foreign),
                    delivery(letter("m"), mine + foreign),
                    delivery(letter("m"), mine, table=2),
                ):
                    with pytest.raises(Refused) as refused:
                        await running.deliver(request)
                    assert refused.value.status == 503
                    assert refused.value.retry_after
                assert (await running.receipt("m")).targets == 0
                assert await running.deliver(delivery(letter("m"), mine)) == 1

    asyncio.run(play())


@pytest.mark.parametrize("bound", ["journal_rows_max", "waiting_max"])
def test_above_its_bounds_it_says_so_and_below_them_it_accepts_again(bound: str) -> None:
    async def play() -> None:
        with laid_out() as data:
            async with Running(data, **{bound: 3}) as running:
                held(running.shard.postmen)
                await asyncio.sleep(0)
                for number in range(3):
                    await running.deliver(delivery(letter(f"m{number}"), ["ada"]))
                with pytest.raises(Refused) as refused:
                    await running.deliver(delivery(letter("m3"), ["ada"]))
                assert (refused.value.status, refused.value.code) == (503, "overloaded")
                await running.page("ada")  # reads go first: they deliver
                await running.let_go()
                assert await running.deliver(delivery(letter("m3"), ["ada"])) == 1
            assert stored(data)["ada"] == ["m0", "m1", "m2"]

    asyncio.run(play())


def test_what_routers_refused_in_its_name_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a refusal says for whom else it holds."""
    told: list[tuple[int, float]] = []
    monkeypatch.setattr(Pressure, "shed", lambda _self, letters, room: told.append((letters, room.letters)))

    async def play() -> None:
        with laid_out() as data:
            async with Running(data, waiting_max=10) as running:
                held(running.shard.postmen)
                await asyncio.sleep(0)
                for number in range(8):
                    request = delivery(letter(f"m{number}"), ["ada"])
                    request.shed = 3 if number == 1 else 0
                    await running.deliver(request)
                request = delivery(letter("n", priority=2), ["ada"])
                request.shed = 20
                with pytest.raises(Refused) as refused:
                    await running.deliver(request)
                assert refused.value.shut is not None
                assert refused.value.shut.below == 4
                assert told == [(3, 0.1), (20, 0.8)]
                assert running.shard.office.refused == {"shed": 23, "overloaded": 1}

    asyncio.run(play())


def test_what_waits_to_be_journaled_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "_ENTRIES_MAX", 10)

    async def play() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                answers = [running.send(delivery(letter(f"m{number}"), ["ada"])) for number in range(15)]
                results = await asyncio.gather(*answers, return_exceptions=True)
                assert results[:10] == [1] * 10
                assert all(isinstance(result, Refused) and result.status == 503 for result in results[10:])

    asyncio.run(play())


def test_an_unknown_channel_is_refused_where_it_lives_and_empty_elsewhere() -> None:
    async def play() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                with pytest.raises(Refused) as refused:
                    await running.deliver(delivery(letter("m"), channel="news"))
                assert (refused.value.status, refused.value.field) == (404, "channelId")
                await running.put_channel("news")
                assert await running.deliver(delivery(letter("m"), channel="news")) == 0

    asyncio.run(play())


def test_the_load_of_late_rises_and_falls() -> None:
    async def play() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                counter = running.shard.office
                held(running.shard.postmen)  # who deliver ask for it too, and forget it where nothing came for a moment
                number = 0
                while counter.rate < 50:
                    number += 1
                    await running.deliver(delivery(letter(f"m{number}"), [f"u{n}" for n in range(200)]))
                    await asyncio.sleep(0.05)
                await until(lambda: counter.rate_now() < 25, "a falling rate", running.life)

    asyncio.run(play())
