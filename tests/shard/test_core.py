"""A shard end to end, without its socket: what was accepted is in the boxes once, through any restart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.holding import held
from node import ops
from node.errors import NotFound, Refused, Unavailable, Unsure
from shard import core
from shard.disk import Disk
from tests import encrypted

from .elsewhere import held_elsewhere
from .running import PATIENCE_S, START_US, Running, box_path, delivery, laid_out, letter, stored, until

USERS = ["ada", "bo", "cy"]


def play(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


# -- everything at once, against a model ----------------------------------------------------------

user = st.sampled_from(USERS)
step = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 5), st.integers(1, 10)),
    st.tuples(st.just("send"), st.integers(0, 5), st.integers(1, 10)),
    st.tuples(st.just("to channel"), st.integers(6, 9), st.integers(1, 10)),
    st.tuples(st.just("remove"), user, st.integers(0, 9)),
    st.tuples(st.just("join"), user, st.just(0)),
    st.tuples(st.just("leave"), user, st.just(0)),
    st.tuples(st.just("read"), user, st.just(0)),
    st.tuples(st.just("settle"), user, st.just(0)),
    st.tuples(st.just("barrier"), user, st.just(0)),
    st.tuples(st.just("kill"), user, st.just(0)),
    st.tuples(st.just("stop"), user, st.just(0)),
)


class World:
    """What should be true of one shard after all that was asked of it."""

    def __init__(self) -> None:
        self.accepted: dict[str, set[str]] = {}
        """message → its targets at acceptance"""
        self.removed: set[tuple[str, str]] = set()
        self.members: set[str] = set()
        self.ever: set[str] = set()
        """users with a box"""

    def of(self, user: str) -> list[str]:
        return sorted(m for m, targets in self.accepted.items() if user in targets and (user, m) not in self.removed)


async def _live(data: Path, steps: list[tuple[str, Any, int]]) -> World:
    world = World()
    running = await Running(data).__aenter__()
    try:
        await running.put_channel("news")
        for kind, argument, number in steps:
            if kind in ("send", "to channel"):
                name = f"m{argument}"
                users = [] if kind == "to channel" else USERS[: argument % 3 + 1]
                channel = "news" if kind == "to channel" else None
                targets = world.accepted.setdefault(name, set(users) or set(world.members))
                world.ever |= targets
                body = letter(name, priority=number, channel_id=channel or "direct")
                assert await running.deliver(delivery(body, users, channel=channel)) == len(targets)
            elif kind == "remove":
                if f"m{number}" in world.of(argument):
                    await running.remove(argument, f"m{number}")
                    world.removed.add((argument, f"m{number}"))
                else:
                    with pytest.raises(NotFound):
                        await running.remove(argument, f"m{number}")
            elif kind in ("join", "leave"):
                change = {"add": [argument]} if kind == "join" else {"remove": [argument]}
                changed = await running.change("news", **change)
                assert (changed.added, changed.removed) == (
                    kind == "join" and argument not in world.members,
                    kind == "leave" and argument in world.members,
                )
                world.members = world.members | {argument} if kind == "join" else world.members - {argument}
                world.ever |= {argument} & (world.members | world.ever)
                assert changed.members == len(world.members)
            elif kind == "read" and argument in world.ever:
                assert sorted(await running.ids(argument)) == world.of(argument)
                assert await running.channels_of(argument) == (["news"] if argument in world.members else [])
            elif kind == "settle":
                await running.settled()
            elif kind == "barrier":
                await running.let_go()
            elif kind in ("kill", "stop"):
                await (running.kill() if kind == "kill" else running.stop())
                running = await Running(data).__aenter__()
        await running.settled()
        assert running.shard.backlog.lanes.count == 0
        for name, targets in world.accepted.items():
            part = await running.receipt(name)
            assert (part.targets, part.pending, part.failed) == (len(targets), 0, 0)
        for name in world.ever:
            assert await running.channels_of(name) == (["news"] if name in world.members else [])
        await running.stop()
        assert await asyncio.to_thread(_rows, data) == 0
    finally:
        await running.kill()
    return world


def _rows(data: Path) -> Any:
    db = encrypted.opened(data / "journals-1" / "shard-0.db", data)
    try:
        return next(iter(db.execute("SELECT count(*) FROM letters")))[0]
    finally:
        db.close()


@given(st.lists(step, max_size=14))
@settings(max_examples=120)
@pytest.mark.slow
def test_a_life_of_letters_removals_members_and_restarts_ends_as_it_should(steps: list[tuple[str, Any, int]]) -> None:
    with laid_out() as data:
        world = asyncio.run(_live(data, steps))
        assert stored(data) == {user: world.of(user) for user in sorted(world.ever)}


# -- one thing at a time --------------------------------------------------------------------------


def test_a_read_delivers_what_waits_first_however_much_else_does() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                running.shard.postmen._gather = lambda: 3_600.0
                await running.deliver(delivery(letter("big"), [f"u{n}" for n in range(500)]))
                await running.deliver(delivery(letter("mine", priority=1), ["ada"]))
                assert await running.ids("ada") == ["mine"]
                assert running.shard.backlog.waiting > 0
                running.shard.postmen._gather = lambda: 0.0
                await running.settled()

    play(go())


def test_a_receipt_always_adds_up() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                users = [f"u{n}" for n in range(50)]
                await running.deliver(delivery(letter("m"), users))
                for reader in users[:10]:
                    await running.ids(reader)
                    part = await running.receipt("m")
                    assert (part.targets, part.failed) == (50, 0)
                    assert 0 <= part.pending < 50
                await running.settled()
                assert (await running.receipt("m")).pending == 0
                assert (await running.receipt("unknown")) == ops.ReceiptPart(0, 0, 0, 0)

    play(go())


def test_what_was_removed_does_not_come_back_when_its_letter_is_replayed() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("m"), ["ada"]))
                await running.deliver(delivery(letter("n"), ["ada"]))
                await running.remove("ada", "m")
                assert await running.ids("ada") == ["n"]
            assert _rows(data) == 3
            async with Running(data) as running:
                assert await running.ids("ada") == ["n"]
                with pytest.raises(NotFound):
                    await running.remove("ada", "m")
                # The caller tries again: he gets his answer, the removed message stays away.
                assert await running.deliver(delivery(letter("m"), ["ada"])) == 1
                await running.settled()
                assert await running.ids("ada") == ["n"]

    play(go())


def test_what_was_removed_does_not_come_back_after_its_receipt_is_forgotten() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, receipts_max=1) as running:
                await running.deliver(delivery(letter("m"), ["ada"]))
                await running.remove("ada", "m")
                await running.let_go()
                for number in range(3):
                    await running.deliver(delivery(letter(f"n{number}"), ["bo"]))
                await running.settled()
                await running.let_go()
                await until(lambda: running.shard.journal.receipts <= 1, "forgotten receipts", running.life)
                assert await running.deliver(delivery(letter("m"), ["ada"])) == 1
                assert await running.ids("ada") == []

    play(go())


@pytest.mark.parametrize("restarts", range(8))
def test_join_leave_and_join_again_with_restarts_between_end_as_the_last_one_says(restarts: int) -> None:
    """``restarts`` tells in binary after which of the three the shard is killed; nothing is let go."""

    async def go() -> None:
        with laid_out() as data:
            running = await Running(data).__aenter__()
            await running.put_channel("news")
            expected: list[str] = []
            for number, change in enumerate([{"add": ["ada"]}, {"remove": ["ada"]}, {"add": ["ada"]}]):
                await running.change("news", **change)
                if restarts >> number & 1:
                    await running.kill()
                    running = await Running(data).__aenter__()
                expected = ["news"] if "add" in change else []
                assert await running.channels_of("ada") == expected
            await running.stop()

    play(go())


def test_a_leave_is_not_undone_by_an_old_join_in_the_journal() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.put_channel("news")
                await running.change("news", add=["ada", "bo"])
                await running.settled()
                await running.change("news", remove=["ada"])
                # As if the barrier had covered the leave alone.
                last = max(row[0] for row in await running.asked(lambda: [*running.shard.journal.letters()]))
                await running.shard.journal.write(lambda: running.shard.journal.purge([last]))
            async with Running(data) as running:
                await running.settled()
                assert await running.channels_of("ada") == []
                assert await running.channels_of("bo") == ["news"]

    play(go())


def test_somebody_who_joins_and_leaves_in_one_change_is_counted_right() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.put_channel("news")
                await running.change("news", add=["ada", "bo"], remove=["ada"])
                await running.settled()
                assert running.shard.backlog.waiting == 0
                assert await running.channels_of("bo") == ["news"]
                assert await running.deliver(delivery(letter("m"), channel="news")) == 1
            async with Running(data) as running:
                await running.settled()
                assert running.shard.backlog.waiting == 0
                await running.let_go()
                assert running.shard.journal.rows == 0
            assert stored(data)["bo"] == ["m"]

    play(go())


def test_a_channel_that_is_dropped_and_made_again_is_a_new_one() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.put_channel("news")
                await running.change("news", add=["ada", "bo"])
                assert await running.shard.channels.drop(ops.DropChannel(0, "news"))
                await running.put_channel("news")
                await running.change("news", add=["bo"])
                assert await running.deliver(delivery(letter("m"), channel="news")) == 1
            async with Running(data) as running:
                await running.settled()
                assert await running.channels_of("ada") == []
                assert await running.channels_of("bo") == ["news"]
                assert await running.ids("bo") == ["m"]
                assert await running.ids("ada") == []

    play(go())


def test_a_change_that_was_refused_leaves_members_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.put_channel("news")
                await running.change("news", add=["ada"])

                def full() -> None:
                    raise apsw.FullError("as if")

                with monkeypatch.context() as patch:
                    patch.setattr(running.shard.journal, "_commit", full)
                    with pytest.raises(Exception, match="full"):
                        await running.change("news", add=["bo"])
                    with pytest.raises(Exception, match="full"):
                        await running.put_channel("sport")
                assert (await running.shard.channels.get(ops.GetChannel(0, "news"))).members == 1
                assert [c.id for c in await running.shard.channels.page(ops.ListChannels(0, "", 10))] == ["news"]
                assert await running.shard.channels.members(ops.ListMembers(0, "news", "", 10)) == ["ada"]
                assert await running.deliver(delivery(letter("m"), channel="news")) == 1

    play(go())


def test_lists_of_channels_and_members_go_on_after_a_name() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                for name in "cab":
                    await running.put_channel(name)
                await running.change("a", add=["x", "z", "y"])
                shard = running.shard
                assert [c.id for c in await shard.channels.page(ops.ListChannels(0, "", 2))] == ["a", "b"]
                assert [c.id for c in await shard.channels.page(ops.ListChannels(0, "b", 2))] == ["c"]
                assert await shard.channels.members(ops.ListMembers(0, "a", "", 2)) == ["x", "y"]
                assert await shard.channels.members(ops.ListMembers(0, "a", "y", 2)) == ["z"]
                with pytest.raises(NotFound):
                    await shard.channels.members(ops.ListMembers(0, "nowhere", "", 2))

    play(go())


def test_a_question_for_another_shard_or_another_table_is_refused() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                running.shard.residents.check(1, [0, 4095])
                with pytest.raises(Unavailable):
                    running.shard.residents.check(2, [0])
                with pytest.raises(Unavailable):
                    await running.shard.channels.change_members(ops.ChangeMembers(0, 2, "news", [], [], [], START_US))

    play(go())


def test_channels_are_listed_as_they_are_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change whose commit is still on its way is not seen, and doesn't disturb."""

    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.put_channel("a")
                may_commit, commit = threading.Event(), running.shard.journal._commit

                def slow() -> None:
                    may_commit.wait(30)
                    commit()

                monkeypatch.setattr(running.shard.journal, "_commit", slow)
                change = asyncio.create_task(running.put_channel("b"))
                await until(lambda: "b" in running.shard.members.channels, "a change under way", running.life)
                listing = asyncio.create_task(running.shard.channels.page(ops.ListChannels(0, "", 10)))
                await asyncio.sleep(0.05)
                assert not listing.done()
                may_commit.set()
                assert [channel.id for channel in await listing] == ["a", "b"]
                await change

    play(go())


# -- the disk -------------------------------------------------------------------------------------


class FailingDisk(Disk):
    """A disk that can't say whether it took everything, from when it ``fails``."""

    fails: Callable[[], bool] = staticmethod(lambda: False)

    def flush(self) -> None:
        if self.fails():
            raise Unsure("as if")
        super().flush()


def test_a_barrier_that_fails_ends_the_shard_and_keeps_the_letters() -> None:
    async def go() -> None:
        with laid_out() as data:
            disk = FailingDisk(data)
            running = await Running(data, disk=disk, barrier_s=0.01).__aenter__()
            disk.fails = lambda: running.shard.backlog.stored > 0  # a flush before that would end it before its answer
            await running.deliver(delivery(letter("m"), ["ada"]))
            await running.ended_by(Unsure)
            await running.kill()
            assert _rows(data) == 1
            async with Running(data) as running:
                await running.settled()
                assert await running.ids("ada") == ["m"]

    play(go())


def test_a_commit_that_fails_is_not_answered_and_ends_the_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        with laid_out() as data:
            running = await Running(data).__aenter__()

            def unsure() -> None:
                raise Unsure("as if")

            monkeypatch.setattr(running.shard.journal, "_commit", unsure)
            answer = running.send(delivery(letter("m"), ["ada"]))
            await running.ended_by(Unsure)
            assert not answer.done()
            await running.kill()

    play(go())


def test_letters_that_get_done_while_a_flush_runs_wait_for_the_next_one() -> None:
    async def go() -> None:
        with laid_out() as data:
            loop = asyncio.get_running_loop()
            begun, may_end = asyncio.Event(), asyncio.Event()

            class SlowDisk(Disk):
                def flush(self) -> None:
                    loop.call_soon_threadsafe(begun.set)
                    asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result()

            async with Running(data, disk=SlowDisk(data)) as running:
                await running.deliver(delivery(letter("a"), ["ada"]))
                await running.settled()
                flush = asyncio.create_task(running.shard.barrier.flush())
                await begun.wait()
                await running.deliver(delivery(letter("b"), ["ada"]))
                await running.settled()
                assert running.shard.journal.rows == 2
                may_end.set()
                await flush
                await running.shard.office.drain()
                await until(lambda: running.shard.journal.rows == 1, "one row let go", running.life)
                assert [row[2] for row in await running.asked(lambda: [*running.shard.journal.letters()])] == ["b"]

    play(go())


def test_a_disk_with_little_room_takes_nothing_new_and_reads_go_on() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("m"), ["ada"]))
            async with Running(data, disk_reserve_bytes=1 << 60) as running:
                await until(lambda: running.shard.office.refusal(), "the look at the disk", running.life)
                for work in (
                    running.deliver(delivery(letter("n"), ["ada"])),
                    running.put_channel("news"),
                    running.remove("ada", "m"),
                ):
                    with pytest.raises(Exception, match="full") as refused:
                        await work
                    assert getattr(refused.value, "status", 0) == 507
                assert await running.ids("ada") == ["m"]

    play(go())


def test_a_journal_that_is_too_long_takes_nothing_new() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, journal_bytes_max=1) as running:
                await until(lambda: running.shard.office.refusal(), "the look at the journal", running.life)
                with pytest.raises(Refused) as refused:
                    await running.deliver(delivery(letter("n"), ["ada"]))
                assert (refused.value.status, refused.value.code) == (503, "overloaded")

    play(go())


# -- the end --------------------------------------------------------------------------------------


def test_an_orderly_stop_stores_everything_and_leaves_an_empty_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "_DRAIN_S", PATIENCE_S)

    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                running.shard.postmen._gather = lambda: 0.5
                await running.put_channel("news")
                await running.change("news", add=USERS)
                for number in range(20):
                    await running.deliver(delivery(letter(f"m{number:02}"), USERS))
                await running.deliver(delivery(letter("n"), channel="news"))
                await running.stop()
            assert _rows(data) == 0
            assert stored(data) == {key: [*(f"m{number:02}" for number in range(20)), "n"] for key in USERS}

    play(go())


@pytest.mark.slow
def test_nothing_is_accepted_any_more_once_it_is_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when the look at the disk and the journal had begun before."""
    monkeypatch.setattr(core, "_DRAIN_S", 1.0)

    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                looking, may_end = asyncio.Event(), asyncio.Event()
                read = running.shard.journal.read

                async def slow(work: Any) -> Any:
                    result = await read(work)
                    looking.set()
                    await may_end.wait()
                    return result

                monkeypatch.setattr(running.shard.journal, "read", slow)
                await asyncio.wait_for(looking.wait(), 30)
                held(running.shard.postmen)
                running.shard.backlog.waiting += 1  # something that can't be stored in time
                drain = asyncio.create_task(running.shard.drain())
                await asyncio.sleep(0)
                may_end.set()
                for _ in range(20):
                    await asyncio.sleep(0)
                with pytest.raises(Refused) as refused:
                    await running.deliver(delivery(letter("m"), ["ada"]))
                assert refused.value.status == 503
                await drain

    play(go())


def test_memberships_that_ended_are_swept_also_where_no_letter_ever_came() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.put_channel("news")
                for _ in range(5):
                    await running.change("news", add=["ada"])
                    await running.change("news", remove=["ada"])
                await running.settled()
                await running.let_go()

                async def ended() -> Any:
                    sql = "SELECT count(*) FROM members WHERE left_seq IS NOT NULL"
                    return await running.shard.journal.read(lambda: running.shard.journal._one(sql))

                async with asyncio.timeout(30):
                    while await ended():
                        await asyncio.sleep(0.05)

    play(go())


def test_a_box_read_while_another_program_holds_it_is_unavailable_for_a_while() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("m"), ["ada"]))
                await running.settled()
            async with Running(data) as running:
                with held_elsewhere(box_path(data, "ada"), "idle"), pytest.raises(Unavailable):
                    await running.ids("ada")
                assert await running.ids("ada") == ["m"]

    play(go())


def test_a_change_of_a_channel_that_is_not_there_reads_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                looked: list[None] = []
                monkeypatch.setattr(running.shard.members, "load", lambda: looked.append(None))
                with pytest.raises(NotFound):
                    await running.change("nothing", add=["ada"])
                assert not looked

    asyncio.run(go())
