"""Who can't be served takes no room from those who can; and loses nothing by it, nor gets it twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import ops
from node.clock import now_us
from node.config import Retry
from node.errors import PoboxError
from node.slots import slot_of
from shard import parked
from shard.doctor import Doctor
from shard.layout import lay_out
from shard.mailbox import Mailbox
from shard.parked import Parked

from .cluster import Cluster
from .elsewhere import held_elsewhere
from .playing import played
from .running import PATIENCE_S, Running, box_path, delivery, laid_out, letter, stored, until
from .test_dead_letters import names as dead_names
from .test_dead_letters import requeue

USERS = ["ada", "bo", "cy"]
PATIENT = Retry(base_s=0.02, cap_s=0.05, tries_max=100_000)
SHORT = Retry(base_s=0.05, cap_s=0.05, tries_max=20)
SLOW = Retry(base_s=30.0, cap_s=30.0, jitter=0.0)


@contextlib.contextmanager
def stuck(users: set[str], error: type[apsw.Error] = apsw.BusyError) -> Iterator[set[str]]:
    """Nothing can be written into the boxes of ``users``, who may be changed at any time."""
    begin = Mailbox.begin

    def failing(box: Mailbox) -> None:
        if box.user in users:
            raise error("as if")
        begin(box)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mailbox, "begin", failing)
        yield users


async def send(running: Running, count: int, users: list[str]) -> None:
    """Letters m0, m1 ... to ``users``."""
    for n in range(count):
        await running.deliver(delivery(letter(f"m{n}"), users))


async def is_parked(running: Running, count: int) -> None:
    """Until so many are parked, on disk."""
    shard = running.shard
    await until(lambda: shard.parked.count >= count, f"{count} parked", running.life)
    await running.while_alive(shard.office.drain())


async def rows(running: Running) -> tuple[int, ...]:
    """In the two tables, and in the journal."""
    counts = [f"SELECT count(*) FROM {table}" for table in ("parked", "parked_targets", "letters")]
    db = running.shard.journal.db
    return await running.asked(lambda: tuple(db.execute(count).fetchall()[0][0] for count in counts))


async def nothing_is_left(running: Running) -> None:
    """After all was stored: no row, and every count at zero."""
    shard = running.shard
    for _ in range(3):
        await running.let_go()
        shard.office.nudge()
        await running.while_alive(shard.office.drain())
    assert await rows(running) == (0, 0, 0)
    backlog, window = shard.backlog, shard.backlog.window
    assert (shard.journal.rows, shard.parked.count, backlog.put_off, backlog.waiting, backlog.bytes) == (0,) * 5
    assert window.held == [0] * 6
    assert window.bytes == window.tail == [0] * 3
    assert not shard.put_off.dying
    assert not shard.parked._piles
    assert not shard.parked._stored_of


@pytest.mark.slow
@played
async def test_letters_that_are_put_off_for_one_keep_nobody_else_waiting() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            await running.settled()
            await running.let_go()
        async with Running(data, window_letters=10) as running:
            with held_elsewhere(box_path(data, "ada"), "write"):
                for n in range(30):
                    await running.deliver(delivery(letter(f"a{n}"), ["ada"]))
                await running.deliver(delivery(letter("b"), ["bo"]))
                await until(lambda: running.shard.backlog.waiting == 30, "the other one's mail", running.life)
                assert (await running.receipt("b")).pending == 0
                assert (await running.receipt("a29")).pending == 1
            await running.settled()
            assert len(await running.ids("ada")) == 31
            await nothing_is_left(running)


@pytest.mark.slow
@played
async def test_a_broken_volume_takes_no_room_from_the_users_of_another() -> None:
    with laid_out() as data:
        everybody = [f"user{n}" for n in range(300)]
        async with Running(data, window_letters=50, retry=PATIENT) as running:
            await running.put_channel("news")
            await running.change("news", add=everybody)
            await running.settled()
            await running.let_go()
            with stuck(set(everybody)) as users:
                await running.deliver(delivery(letter("to all", channel_id="news"), channel="news"))
                await running.deliver(delivery(letter("to all by name"), everybody))
                await is_parked(running, 500)
                await running.deliver(delivery(letter("b"), ["bo"]))
                await until(lambda: running.shard.backlog.waiting == 600, "the other one's mail", running.life)
                await running.kill()
                running = Running(data, window_letters=50, retry=PATIENT)
                async with running:
                    await running.deliver(delivery(letter("c"), ["cy"]))
                    await until(lambda: running.shard.backlog.waiting == 600, "the other one's mail", running.life)
                    assert (await running.receipt("to all")).pending == 300
                    users.clear()
                    await running.settled()
                    await nothing_is_left(running)
        assert Doctor(data).examine().faults == []
        boxes = stored(data)
        assert all(boxes[user] == ["to all", "to all by name"] for user in everybody)


@pytest.mark.slow
@played
async def test_what_is_parked_waits_through_a_restart_without_being_delivered_to_the_others_again() -> None:
    with laid_out() as data, stuck({"ada"}) as users:
        async with Running(data, window_letters=7, retry=PATIENT) as running:
            await send(running, 20, ["ada", "bo"])
            await is_parked(running, 19)
            await until(lambda: running.shard.backlog.stored >= 20, "the others", running.life)
            async with asyncio.timeout(PATIENCE_S):
                while await rows(running) != (20, 20, 20):  # the last one may be parked a moment later
                    await running.let_go()
            await running.let_go()
            assert await rows(running) == (20, 20, 20)
        async with Running(data, window_letters=7, retry=PATIENT) as running:
            assert running.shard.backlog.waiting == running.shard.backlog.put_off == 20
            users.clear()
            assert len(await running.ids("ada")) == 20
            await running.settled()
            await nothing_is_left(running)


@pytest.mark.slow
@played
async def test_parked_letters_die_one_by_one_of_their_own_tries_and_come_back_once() -> None:
    with laid_out() as data, stuck({"ada"}) as users:
        async with Running(data, window_letters=7, retry=SHORT) as running:
            await send(running, 10, ["ada", "bo"])
            await until(lambda: running.shard.put_off.given_up.by_reason["busy"] == 10, "all deaths", running.life)
            await until(lambda: not running.shard.put_off.given_up.deaths, "them noted", running.life)
            assert [name for _user, name, _why in await dead_names(running)] == sorted(f"m{n}" for n in range(10))
            part = await running.receipt("m3")
            assert (part.targets, part.pending, part.failed) == (2, 0, 1)
            await nothing_is_left(running)
            users.clear()
            await requeue(running, "ada", "m3")
            await running.settled()
            assert await running.ids("ada") == ["m3"]
        assert Doctor(data).examine().faults == []


@pytest.mark.slow
@played
async def test_a_parked_letter_that_its_sender_wants_no_more_dies_of_that_and_the_others_wait_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with laid_out() as data, stuck({"ada"}) as users:
        async with Running(data, window_letters=16, retry=PATIENT) as running:
            for n in range(6):
                body = letter(f"m{n}", timeout_s=3_600.0 if n % 2 else None)
                body = msgspec.structs.replace(body, accepted_us=now_us())
                await running.deliver(delivery(body, ["ada"]))
            await is_parked(running, 5)
            for module in ("put_off", "backlog"):
                monkeypatch.setattr(f"shard.{module}.now_us", lambda: now_us() + 3_600_000_000)
            await until(lambda: running.shard.put_off.given_up.by_reason["expired"] == 3, "three deaths", running.life)
            assert sorted({name for _user, name, _why in await dead_names(running)}) == ["m1", "m3", "m5"]
            users.clear()
            await running.settled()
            assert sorted(await running.ids("ada")) == ["m0", "m2", "m4"]
            await nothing_is_left(running)


@pytest.mark.slow
@played
async def test_who_is_deleted_takes_what_is_parked_along() -> None:
    with laid_out() as data, stuck({"ada"}) as users:
        async with Running(data, window_letters=7, retry=PATIENT) as running:
            await send(running, 10, ["ada", "bo"])
            await is_parked(running, 9)
            question = ops.DeleteUser(0, 1, slot_of("ada"), "ada")
            await running.while_alive(running.shard.erasures.delete(question))
            users.clear()
            await running.deliver(delivery(letter("later"), ["ada"]))
            await running.settled()
            await nothing_is_left(running)
            assert await running.ids("ada") == ["later"]
            part = await running.receipt("m9")
            assert (part.targets, part.pending, part.failed) == (1, 0, 0)


@played
async def test_what_is_held_back_is_parked_and_let_in() -> None:
    with laid_out() as data:
        async with Running(data, window_letters=7) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            await running.settled()
            running.shard.postmen.hold_back("ada", "The mailbox is being restored")
            await send(running, 5, ["ada"])
            await is_parked(running, 4)
            running.shard.postmen.let_in("ada")
            await running.settled()
            assert len(await running.ids("ada")) == 6
            await nothing_is_left(running)


@pytest.mark.slow
@played
async def test_whoever_waits_for_no_message_has_nothing_parked() -> None:
    with laid_out() as data, stuck({"ada", "bo"}) as users:
        async with Running(data, window_letters=7, retry=SLOW) as running:
            put_off = running.shard.put_off
            await running.put_channel("news")
            await running.change("news", add=["bo"])
            await until(lambda: (bo := put_off.retry_of("bo")) and bo.attempts > 3, "lasting trouble", running.life)
            await send(running, 5, ["ada"])
            await is_parked(running, 5)
            assert running.shard.parked.users() == ["ada"]
            users.clear()
            assert await running.channels_of("bo") == ["news"]
            assert not running.shard.postmen.waits_for("bo")
            assert len(await running.ids("ada")) == 5
            await nothing_is_left(running)


@played
async def test_messages_are_parked_from_behind_a_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard.put_off._PARK_MAX", 1)
    with laid_out() as data, stuck({"ada"}) as users:
        async with Running(data, window_letters=7, retry=PATIENT) as running:
            await running.put_channel("news")
            await running.change("news", add=["ada"])
            await send(running, 3, ["ada"])
            await is_parked(running, 3)
            users.clear()
            await running.settled()
            assert await running.channels_of("ada") == ["news"]
            assert sorted(await running.ids("ada")) == ["m0", "m1", "m2"]
            await nothing_is_left(running)


@played
async def test_a_copy_of_the_box_has_what_was_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    with laid_out() as data, stuck({"ada"}) as users:
        monkeypatch.setattr(parked, "READ_MAX", 2)
        async with Running(data, window_letters=7, retry=SLOW) as running:
            await send(running, 7, ["ada"])
            await is_parked(running, 6)
            users.clear()
            async with running.shard.mailboxes.hold("ada", create=True) as box:
                assert box is not None
                await running.shard.postmen.settle(box)
                assert box.facts()[0] == 7
            await nothing_is_left(running)


@pytest.mark.slow
@played
async def test_a_disk_too_full_to_park_on_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with laid_out() as data, stuck({"ada"}) as users:
        fails, park = [3], Parked.park

        def failing(self: Parked, parkings: Any) -> int:
            size = park(self, parkings)
            if list(parkings) and fails[0]:
                fails[0] -= 1
                raise apsw.FullError("as if")
            return size

        monkeypatch.setattr(Parked, "park", failing)
        monkeypatch.setattr("shard.put_off._FULL_PAUSE_S", 0.01)
        async with Running(data, window_letters=100, retry=PATIENT) as running:
            for n in range(20):
                with contextlib.suppress(PoboxError):
                    await running.deliver(delivery(letter(f"m{n}"), ["ada"]))
            await until(lambda: not fails[0], "a full disk", running.life)
            count = running.shard.backlog.waiting
            assert count >= 10
            users.clear()
            await running.settled()
            assert len(await running.ids("ada")) == count
            await nothing_is_left(running)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 3])
def test_what_is_parked_goes_to_its_users_new_shard(shards: int) -> None:
    async def go() -> None:
        everybody = [f"user{n}" for n in range(12)]
        with laid_out(2) as data:
            with stuck(set(everybody[:6])):
                async with Cluster(data, 2, window_letters=7, retry=PATIENT) as cluster:
                    for n in range(8):
                        await cluster.deliver(letter(f"m{n}"), everybody)
                    for running in cluster.running:
                        mine = sum(cluster.at_home(user) is running for user in everybody[:6])
                        await is_parked(running, 8 * mine - 1)
            lay_out(data, shards)
            async with Cluster(data, shards) as cluster:
                for running in cluster.running:
                    await running.settled()
            assert Doctor(data).examine().faults == []
            assert all(len(ids) == 8 for ids in stored(data).values())

    asyncio.run(go())


# -- the model ------------------------------------------------------------------------------------

some = st.lists(st.sampled_from(USERS), min_size=1, unique=True)
step = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 10), some, st.integers(1, 6)),
    st.tuples(st.just("send"), st.integers(1, 10), some, st.integers(1, 6)),
    st.tuples(st.just("all"), st.integers(1, 10)),
    st.tuples(st.just("join"), some, some),
    st.tuples(st.just("read"), st.sampled_from(USERS)),
    st.tuples(st.just("stick"), some),
    st.tuples(st.just("stick"), some),
    st.tuples(st.just("free"), some),
    st.tuples(st.just("remove"), st.sampled_from(USERS), st.integers(0, 9)),
    st.tuples(st.just("barrier")),
    st.tuples(st.just("pause"), st.sampled_from([0.005, 0.05, 0.25])),
    st.tuples(st.sampled_from(["kill", "stop"]), st.sampled_from([1, 5, 100])),
)


@given(st.lists(step, min_size=8, max_size=20), st.sampled_from([1, 3, 256]), st.sampled_from([1, 4, 50]))
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_whoever_is_in_trouble_when_every_target_has_it_once_and_is_counted_once(
    steps: list[Any], portion: int, window: int
) -> None:
    async def go() -> None:
        with laid_out() as data, stuck(set()) as users, pytest.MonkeyPatch.context() as patch:
            patch.setattr(parked, "READ_MAX", portion)
            patch.setattr("shard.put_off._PARK_MAX", portion)
            patch.setattr("shard.house.TICK_S", 0.05)  # what is noted twice a second
            running = Running(data, window_letters=window, retry=PATIENT)
            await running.__aenter__()
            await running.put_channel("news")
            members, boxes, targets = set[str](), {user: set[str]() for user in USERS}, dict[str, int]()
            for kind, *rest in steps:
                if kind == "send":
                    priority, named, copies = rest
                    for _ in range(copies):
                        body = letter(f"m{len(targets)}", priority=priority)
                        await running.deliver(delivery(body, named))
                        targets[body.id] = len(named)
                        for user in named:
                            boxes[user].add(body.id)
                elif kind == "all":
                    body = letter(f"m{len(targets)}", priority=rest[0], channel_id="news")
                    await running.deliver(delivery(body, channel="news"))
                    targets[body.id] = len(members)
                    for user in members:
                        boxes[user].add(body.id)
                elif kind == "join":
                    await running.change("news", add=rest[0], remove=rest[1])
                    members = (members | set(rest[0])) - set(rest[1])
                elif kind == "read":
                    with contextlib.suppress(PoboxError):
                        found = await running.ids(rest[0])
                        if rest[0] not in users:
                            assert set(found) == boxes[rest[0]]
                elif kind == "remove":
                    user, which = rest
                    if boxes[user] and user not in users:
                        name = sorted(boxes[user])[which % len(boxes[user])]
                        await running.remove(user, name)
                        boxes[user].discard(name)
                elif kind == "stick":
                    users.update(rest[0])
                elif kind == "free":
                    users.difference_update(rest[0])
                elif kind == "barrier":
                    await running.let_go()
                elif kind == "pause":
                    await asyncio.sleep(rest[0])
                else:
                    await (running.stop() if kind == "stop" else running.kill())
                    assert Doctor(data).examine().faults == []
                    running = Running(data, window_letters=rest[0], retry=PATIENT)
                    await running.__aenter__()
                backlog = running.shard.backlog
                assert min(*backlog.window.held, *backlog.window.bytes, backlog.put_off, backlog.bytes) >= 0
                assert backlog.waiting >= backlog.put_off
            users.clear()
            await running.settled()
            for message_id, count in targets.items():
                part = await running.receipt(message_id)
                assert (part.targets, part.pending, part.failed) == (count, 0, 0)
            await nothing_is_left(running)
            await running.kill()
            assert Doctor(data).examine().faults == []
            have = stored(data)
            assert {user: set(have.get(user, [])) for user in USERS} == boxes

    asyncio.run(go())
