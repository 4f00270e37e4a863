"""A full box takes nothing new, forgets nothing of what was accepted, and is full no longer when there is room."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import ops
from node.changes import Watch
from node.errors import MailboxFull
from node.model import Usage
from node.paths import changes_path
from node.placement import Placement
from node.slots import slot_of
from shard import archive
from shard.doctor import Doctor
from shard.layout import lay_out
from shard.mailbox import counts_right
from tests.shard.running import Running, delivery, laid_out, letter, stored, until, users_of

from .playing import played
from .test_archive import BEFORE, opened, row
from .test_dead_letters import dead, names, noted, requeue
from .test_mailbox import change


async def fill(running: Running, user: str, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        await running.deliver(delivery(letter(f"m{number}", at=number), [user]))
    await running.settled()


async def usage(running: Running, user: str) -> Usage:
    question = ops.AskUsage(0, running.layout.version, slot_of(user), user)
    return await running.while_alive(running.shard.desk.usage(question))


async def set_quota(running: Running, user: str, messages: int | None = None, size: int | None = None) -> None:
    question = ops.SetQuota(0, running.layout.version, slot_of(user), user, messages, size)
    await running.while_alive(running.shard.quotas.set(question))


def full(running: Running) -> list[str]:
    """Those of whom the counter knows."""
    return sorted(running.shard.quotas.full_of({*running.shard.quotas.full, "ada", "bo"}))


def seen(data: Path, user: str, shard: int = 0) -> bool:
    """Whether a router would ask about ``user``."""
    watch = Watch(changes_path(data, shard))
    return watch.is_any_full() and watch.may_be_full(user)


async def refuse(running: Running, quota: int) -> None:
    """Send the letter n to a channel of two, ada and bo; ada's box is full, and the letter is dead for her."""
    await set_quota(running, "ada", quota)
    await running.put_channel("news")
    await running.change("news", add=["ada", "bo"])
    await fill(running, "ada", quota)
    await running.deliver(delivery(letter("n", channel_id="news"), channel="news"))
    await running.settled()
    await noted(running, 1)


@played
async def test_a_box_is_full_when_it_holds_its_quota_and_not_when_something_was_deleted() -> None:
    with laid_out() as data:
        async with Running(data, quota_messages=3) as running:
            await fill(running, "ada", 2)
            assert (full(running), seen(data, "ada")) == ([], False)
            await fill(running, "ada", 1, first=2)
            assert (full(running), seen(data, "ada")) == (["ada"], True)
            said = await usage(running, "ada")
            assert (said.messages, said.bytes, said.quota_messages, said.full) == (3, 36, 3, True)
            await running.remove("ada", "m1")
            assert (full(running), seen(data, "ada")) == ([], False)
            assert not (await usage(running, "ada")).full


@played
async def test_bytes_count_too_and_what_was_accepted_is_stored_beyond_them() -> None:
    with laid_out() as data:
        async with Running(data, quota_bytes=100) as running:
            for number in range(3):
                await running.deliver(delivery(letter(f"m{number}", content="é" * 40), ["ada"]))
            await running.settled()
            said = await usage(running, "ada")
            assert (said.messages, said.bytes, said.full) == (3, 3 * 85, True)


@played
@pytest.mark.parametrize("let_go", [True, False])
async def test_a_kill_forgets_nobody_who_is_full(let_go: bool) -> None:
    with laid_out() as data:
        async with Running(data, quota_messages=2) as running:
            await fill(running, "ada", 2)
            if let_go:
                await running.let_go()
                assert running.shard.journal.rows == 0
        async with Running(data, quota_messages=2) as running:
            await running.settled()
            assert (full(running), seen(data, "ada")) == (["ada"], True)
        async with Running(data, quota_messages=3) as running:
            await running.settled()
            assert (full(running), seen(data, "ada")) == ([], False)
        async with Running(data) as running:
            assert full(running) == []
        assert Doctor(data).examine().faults == []


@played
async def test_a_channels_letter_is_dead_for_a_member_who_is_full_and_there_for_the_others() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await refuse(running, 2)
            assert await names(running) == [("ada", "n", "full")]
            part = await running.receipt("n")
            assert (part.targets, part.pending, part.failed) == (2, 0, 1)
            assert await running.ids("bo") == ["n"]
            assert running.shard.put_off.given_up.lost == 0, "nothing is wrong with the node"
            with pytest.raises(MailboxFull):
                await requeue(running, "ada", "n")
            await running.remove("ada", "m0")
            await requeue(running, "ada", "n")
            await running.settled()
            assert sorted(await running.ids("ada")) == ["m1", "n"]
            assert (await running.receipt("n")).failed == 0


@played
async def test_the_letter_that_filled_the_box_is_not_dead_after_a_kill() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await set_quota(running, "ada", 1)
            await running.put_channel("news")
            await running.change("news", add=["ada"])
            await running.deliver(delivery(letter("n", channel_id="news"), channel="news"))
            await running.settled()
        async with Running(data) as running:
            await running.settled()
            running.shard.office.nudge()
            await running.let_go()
            assert await dead(running) == []
            assert (await running.receipt("n")).failed == 0
            assert await running.ids("ada") == ["n"]


@played
async def test_a_letter_that_died_of_a_full_box_stays_dead_after_a_kill_though_there_is_room() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await refuse(running, 1)
            await set_quota(running, "ada")
        async with Running(data) as running:
            await running.settled()
            assert await names(running) == [("ada", "n", "full")]
            assert (await running.receipt("n")).failed == 1
        assert stored(data) == {"ada": ["m0"], "bo": ["n"]}


@pytest.mark.slow
@played
async def test_a_quota_of_ones_own_goes_before_and_along_with_a_change_of_shards() -> None:
    (ada,) = users_of(1, 2, 1, "ada")
    with laid_out() as data:
        async with Running(data, quota_messages=1) as running:
            await set_quota(running, ada, 0)
            await fill(running, ada, 3)
            assert full(running) == []
            await set_quota(running, ada, 3)
            assert full(running) == [ada]
            assert (await usage(running, ada)).own_quota
            await running.stop()
        lay_out(data, 2)
        async with Running(data, Placement(version=2, shards=2), 1, quota_messages=1) as running:
            assert full(running) == [ada]
            assert (await usage(running, ada)).quota_messages == 3
            await set_quota(running, ada, 4)
            assert full(running) == []
            await set_quota(running, ada)
            assert full(running) == [ada], "that of everybody"
            await running.while_alive(running.shard.erasures.delete(ops.DeleteUser(0, 2, slot_of(ada), ada)))
            assert full(running) == []
            assert not seen(data, ada, 1)


@played
async def test_a_box_from_before_there_was_a_quota_is_counted_when_it_is_opened() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await fill(running, "ada", 3)
            assert (await usage(running, "ada")).messages == 3
        async with Running(data, quota_messages=2) as running:
            await running.ids("ada")
            await until(lambda: full(running), "somebody who is full", running.life)
        assert Doctor(data).examine().faults == []


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("insert"), st.integers(0, 9), st.integers(-900, 1)),
            st.tuples(st.just("remove"), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("archive"), st.just(0), st.just(0)),
            st.tuples(st.just("meter"), st.just(0), st.just(0)),
            st.tuples(st.just("reopen"), st.just(0), st.just(0)),
        )
    )
)
def test_the_count_is_what_a_recount_says(steps: list[tuple[str, int, int]]) -> None:
    with laid_out() as data:
        box = opened(data)
        for what, number, day in steps:
            if what == "insert":
                change(box, row(f"m{number}", day))
            elif what == "remove":
                change(box, remove=f"m{number}")
            elif what == "archive":
                archive.move(box, BEFORE)
            elif what == "meter" and not box.metered:
                box.meter()
            elif what == "reopen":
                box.close()
                box = opened(data)
        counted = box.usage()
        is_right = not box.metered or counts_right(box._db)
        box.metered = False
        assert counted == box.usage()
        assert is_right
        box.close()


def test_what_an_older_program_added_is_counted_with_the_next_message(tmp_path: Path) -> None:
    box = opened(tmp_path)
    box.meter()
    change(box, row("m", 0))
    box.metered = False
    change(box, row("n", 0))
    box.metered = True
    change(box, row("o", 0))
    assert box.usage() == (3, 36)
    change(box, remove="o")
    change(box, row("p", 0))
    assert box.usage() == (3, 36), "in the row of the one that was the last"
    box.close()
