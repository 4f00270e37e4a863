"""What waits behind the windows: in the journal only, in order, found by readers, counted once, through any restart."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.holding import held
from node.errors import NotFound, Refused, Unavailable
from shard import loader, tail
from shard.backlog import Letter
from shard.doctor import Doctor
from shard.journal import MESSAGE
from shard.lanes import HIGH, LOW, NORMAL
from shard.mailbox import Mailbox

from .asking import change, said
from .cluster import Cluster, hold_back
from .playing import played
from .running import Running, delivery, laid_out, letter, scratch, stored, until

USERS = ["ada", "bo", "cy", "di"]


def play(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


class Held(Running):
    """Its postmen rest until they are let go; a small window unless told otherwise."""

    def __init__(self, data: Path, **named: Any) -> None:
        super().__init__(data, **{"window_letters": 2, **named})
        self._go = held(self.shard.postmen)

    def let_work(self) -> None:
        self._go.set()

    def rest(self) -> None:
        self._go.clear()

    @property
    def behind(self) -> int:
        return self.shard.backlog.window.behind


async def _rows(running: Running) -> tuple[int, int]:
    """In the tail, and in its index by user."""
    db = running.shard.journal.db

    def count() -> list[int]:
        return [db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0] for table in ("tail", "tail_users")]

    first, second = await running.asked(count)
    return first, second


# -- the model ------------------------------------------------------------------------------------

some_users = st.lists(st.sampled_from(USERS), min_size=1, unique=True)
send = st.tuples(st.just("send"), st.integers(1, 10), some_users, st.integers(1, 4))
to_channel = st.tuples(st.just("to channel"), st.integers(1, 10))
joins = st.tuples(st.just("join"), some_users, some_users)
read = st.tuples(st.just("read"), st.sampled_from(USERS))
remove = st.tuples(st.just("remove"), st.sampled_from(USERS), st.integers(0, 10))
restart = st.tuples(st.sampled_from(["kill", "stop"]), st.sampled_from([1, 2, 5, 100]), st.sampled_from([500, 10**6]))
other = st.tuples(st.sampled_from(["work", "rest", "pause", "barrier"]))
step = st.one_of(send, send, to_channel, to_channel, joins, read, read, remove, restart, other)


class _Model:
    """Who is to have what, and what a shard says of it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.running = Held(data)
        self.boxes: dict[str, list[str]] = {user: [] for user in USERS}
        self.targets: dict[str, int] = {}
        self.members: set[str] = set()
        self.known: set[str] = set()  # users who have a box
        self.working = False
        self.quiet = True
        """nothing was delivered since the start but to readers"""

    async def begin(self) -> None:
        await self.running.__aenter__()
        await self.running.put_channel("news")
        await self.join_and_leave(USERS[:2], [])

    async def send(self, priority: int, users: list[str], copies: int) -> None:
        bodies = [letter(f"m{len(self.targets) + copy}", priority=priority) for copy in range(copies)]
        sent = [self.running.send(delivery(body, users)) for body in bodies]
        await self.running.while_alive(asyncio.gather(*sent))
        for body in bodies:
            self._accepted(body.id, users)

    async def send_to_channel(self, priority: int) -> None:
        body = letter(f"m{len(self.targets)}", priority=priority, channel_id="news")
        assert await self.running.deliver(delivery(body, channel="news")) == len(self.members)
        self._accepted(body.id, sorted(self.members))

    def _accepted(self, message_id: str, users: list[str]) -> None:
        self.targets[message_id] = len(users)
        for user in users:
            self.boxes[user].append(message_id)
            self.known.add(user)

    async def join_and_leave(self, add: list[str], remove: list[str]) -> None:
        await self.running.change("news", add=add, remove=remove)
        self.members = (self.members | set(add)) - set(remove)
        self.known.update(add)

    async def read(self, user: str) -> None:
        if user in self.known:
            assert sorted(await self.running.ids(user)) == sorted(self.boxes[user])
        else:
            with pytest.raises(NotFound):
                await self.running.ids(user)

    async def remove(self, user: str, which: int) -> None:
        if self.boxes[user]:
            await self.running.remove(user, self.boxes[user].pop(which % len(self.boxes[user])))

    async def restart(self, how: str, window_letters: int, window_bytes: int) -> None:
        await (self.running.stop() if how == "stop" and self.working else self.running.kill())
        assert Doctor(self.data).examine().faults == []
        self.running = Held(self.data, window_letters=window_letters, window_bytes=window_bytes)
        self.working, self.quiet = False, True
        await self.running.__aenter__()

    async def other(self, what: str) -> None:
        if what == "barrier":
            await self.running.let_go()
        elif what == "pause":
            await asyncio.sleep(0.005)
        else:
            self.working = what == "work"
            self.quiet = self.quiet and not self.working
            (self.running.let_work if self.working else self.running.rest)()

    async def check(self) -> None:
        backlog = self.running.shard.backlog
        window = backlog.window
        assert window.behind == sum(window.tail)
        assert min(*window.tail, *window.held, *window.bytes, backlog.waiting, backlog.bytes) >= 0
        if self.quiet:
            pending = sum([(await self.running.receipt(message_id)).pending for message_id in self.targets])
            piles = [pile for mail in backlog.lanes._mail for pile in mail.values()]
            assert pending + sum(one.kind != MESSAGE for pile in piles for one in pile) == backlog.waiting
            lanes = await self.running.asked(self.running.shard.tail.lanes)
            assert [lane.letters for lane in lanes] == window.tail
            assert [lane.targets for lane in lanes] == window.tail_targets

    async def end(self) -> None:
        self.running.let_work()
        await self.running.settled()
        backlog = self.running.shard.backlog
        assert backlog.window.held == [0] * 6
        assert backlog.window.bytes == backlog.window.tail == backlog.window.tail_targets == [0] * 3
        assert (backlog.bytes, backlog.window.behind, backlog.lanes.count) == (0, 0, 0)
        for message_id, targets in self.targets.items():
            part = await self.running.receipt(message_id)
            assert (part.targets, part.pending, part.failed) == (targets, 0, 0)
        assert await _rows(self.running) == (0, 0)
        await self.running.let_go()
        assert self.running.shard.journal.rows == 0
        for user in USERS:
            await self.read(user)
        await self.running.kill()
        assert Doctor(self.data).examine().faults == []
        assert stored(self.data) == {user: sorted(self.boxes[user]) for user in sorted(self.known)}


@given(st.lists(step, min_size=6, max_size=14))
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_whatever_happens_in_whatever_order_every_target_has_it_once_and_is_counted_once(steps: list[Any]) -> None:
    async def go(data: Path) -> None:
        model = _Model(data)
        kinds = {
            "send": model.send,
            "to channel": model.send_to_channel,
            "join": model.join_and_leave,
            "read": model.read,
            "remove": model.remove,
        }
        await model.begin()
        try:
            for kind, *rest in steps:
                if kind in kinds:
                    await kinds[kind](*rest)  # type: ignore[operator]
                elif rest:
                    await model.restart(kind, *rest)
                else:
                    await model.other(kind)
                await model.check()
            await model.end()
        finally:
            await model.running.kill()

    with laid_out() as data:
        play(go(data))


# -- order ----------------------------------------------------------------------------------------


def _watched(running: Running, monkeypatch: pytest.MonkeyPatch) -> list[Letter]:
    """The letters in the order in which they are stored in boxes."""
    order: list[Letter] = []
    stored_for_one = running.shard.backlog.stored_for_one

    def watched(letters: list[Letter]) -> None:
        order.extend(letters)
        stored_for_one(letters)

    monkeypatch.setattr(running.shard.backlog, "stored_for_one", watched)
    return order


@played
async def test_high_mail_overtakes_what_waits_in_the_tail_and_nobody_is_overtaken_in_his_lane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with laid_out() as data:
        async with Held(data, postmen=2) as running:
            order = _watched(running, monkeypatch)
            for number in range(60):
                priority = (5, 2)[number % 2]
                await running.deliver(delivery(letter(f"m{number}", priority=priority), [f"user{number}"]))
            assert running.behind == 56
            await running.deliver(delivery(letter("urgent", priority=9), ["chief"]))
            assert running.behind == 56
            running.let_work()
            await running.settled()
            assert "urgent" in [one.id for one in order[:4]]
            for lane, count in ((HIGH, 1), (NORMAL, 30), (LOW, 30)):
                seqs = [one.seq for one in order if one.lane == lane]
                assert seqs == sorted(seqs)
                assert len(seqs) == count


@played
async def test_a_reader_gets_what_leaves_the_tail_for_the_lanes_while_he_waits_for_his_box() -> None:
    with laid_out() as data:
        async with Held(data, window_letters=4) as running:
            mailboxes = running.shard.mailboxes
            await running.deliver(delivery(letter("m0"), ["ada"]))
            for number in range(3):
                await running.deliver(delivery(letter(f"other{number}"), ["bo"]))
            await running.deliver(delivery(letter("m1"), ["ada"]))
            assert running.behind == 1
            async with mailboxes.hold("ada", create=True):
                reading = asyncio.ensure_future(running.ids("ada"))
                await until(lambda: mailboxes._lines["ada"].length == 2, "the reader", running.life)
                await running.ids("bo")
                await until(lambda: not running.behind, "an empty tail", running.life)
            assert await reading == ["m1", "m0"]


@played
async def test_after_a_restart_with_a_smaller_window_the_rest_stands_in_the_tail_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tail, "_LETTERS_MAX", 7)
    with laid_out() as data:
        async with Held(data, window_letters=20) as running:
            for number in range(40):
                await running.deliver(delivery(letter(f"m{number}"), [f"user{number}"]))
            assert running.behind == 20
        for letters_max, behind in ((5, 35), (1_000, 0)):
            async with Held(data, window_letters=letters_max) as running:
                await until(lambda: running.behind == behind, "the window to be filled", running.life)  # noqa: B023
                assert (await running.receipt("m39")).pending == 1
                assert running.shard.backlog.waiting == 40
        async with Held(data, window_letters=5, postmen=2) as running:
            order = _watched(running, monkeypatch)
            running.let_work()
            await running.settled()
            assert [one.id for one in order] == [f"m{number}" for number in range(40)]


# -- readers --------------------------------------------------------------------------------------


@played
async def test_a_reader_gets_his_tail_in_portions_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "READ_MAX", 3)
    with laid_out() as data:
        async with Held(data) as running:
            portions: list[int] = []
            of = running.shard.tail.of

            def watched(user: str, after: int) -> list[Letter]:
                letters = of(user, after)
                portions.append(len(letters))
                return letters

            monkeypatch.setattr(running.shard.tail, "of", watched)
            await running.put_channel("news")
            await running.change("news", add=["ada"])
            for number in range(20):
                to_all = number % 5 == 0
                body = letter(f"m{number:02}", channel_id="news" if to_all else "direct")
                await running.deliver(
                    delivery(body, [] if to_all else ["ada", "bo"], channel="news" if to_all else None)
                )
            behind = running.behind
            assert sorted(await running.ids("ada")) == [f"m{number:02}" for number in range(20)]
            assert max(portions) == 3
            assert behind - 1 <= sum(portions) <= behind  # a place that he made in the window is taken at once
            del portions[:]
            await running.deliver(delivery(letter("one more"), ["ada"]))
            assert len(await running.ids("ada")) == 21
            assert sum(portions) == 1
            running.let_work()
            await running.settled()
            assert (await running.receipt("m01")).pending == 0
            assert len(await running.ids("ada")) == 21


@played
async def test_a_channels_letters_in_the_tail_go_to_those_who_were_members_then() -> None:
    with laid_out() as data:
        async with Held(data) as running:
            await running.put_channel("news")
            for number in range(3):
                await running.deliver(delivery(letter(f"direct{number}"), ["bo"]))
            await running.change("news", add=["ada"])
            await running.deliver(delivery(letter("first"), channel="news"))
            await running.change("news", add=["bo"], remove=["ada"])
            await running.deliver(delivery(letter("second"), channel="news"))
            assert running.behind == 3
            assert await running.ids("ada") == ["first"]
            assert sorted(await running.ids("bo")) == ["direct0", "direct1", "direct2", "second"]
            running.let_work()
            await running.settled()
        assert stored(data) == {"ada": ["first"], "bo": ["direct0", "direct1", "direct2", "second"]}


@played
async def test_who_was_read_without_his_tail_is_not_told_that_a_message_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with laid_out() as data:
        async with Held(data) as running:
            for number in range(4):
                await running.deliver(delivery(letter(f"m{number}"), ["ada"]))
            assert len(await running.ids("ada")) == 4
            await running.deliver(delivery(letter("m4"), ["ada"]))
            with monkeypatch.context() as broken:

                def failing(box: Mailbox) -> None:
                    raise apsw.FullError("as if")

                broken.setattr(Mailbox, "commit", failing)
                broken.setattr(running.shard.postmen, "_no_room", lambda: None)
                with pytest.raises(Unavailable):
                    await change(running, "ada", said("m4", "read"))
            assert (await change(running, "ada", said("m4", "read"))).accepted == 1


@played
async def test_a_box_that_is_settled_for_a_backup_has_its_tail() -> None:
    with laid_out() as data:
        async with Held(data) as running:
            for number in range(6):
                await running.deliver(delivery(letter(f"m{number}"), ["ada"]))
            postmen = running.shard.postmen
            assert not postmen.is_settled("bo"), "he may have something in the tail, for all that is known at once"
            async with running.shard.mailboxes.hold("ada", create=True) as box:
                assert box is not None
                assert await running.while_alive(postmen.settle(box)) == running.shard.backlog.last_seq
                found = [message.id for message in box.page(None, 10, None).messages]
                assert sorted(found) == [f"m{number}" for number in range(6)]
            running.let_work()
            await running.settled()
            assert postmen.is_settled("ada")


# -- a full disk ----------------------------------------------------------------------------------


def _full(*_arguments: object) -> None:
    raise apsw.FullError("as if")


@played
async def test_a_disk_too_full_for_the_tail_refuses_the_letter_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with laid_out() as data:
        async with Held(data) as running:
            for number in range(4):
                await running.deliver(delivery(letter(f"m{number}"), ["ada"]))
            with monkeypatch.context() as broken:
                broken.setattr(running.shard.tail, "add", _full)
                with pytest.raises(Refused) as refused:
                    await running.deliver(delivery(letter("m4"), ["ada"]))
                assert refused.value.status == 507
            assert (running.behind, running.shard.backlog.waiting, await _rows(running)) == (2, 4, (2, 2))
            await running.deliver(delivery(letter("m4"), ["ada"]))
            running.let_work()
            await running.settled()
        assert stored(data) == {"ada": ["m0", "m1", "m2", "m3", "m4"]}


@played
async def test_what_cant_be_taken_up_on_a_full_disk_is_taken_up_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "_FULL_PAUSE_S", 0.01)
    with laid_out() as data:
        async with Held(data) as running:
            for number in range(8):
                await running.deliver(delivery(letter(f"m{number}"), ["ada"]))
            take, tries = running.shard.tail.take, []

            def failing(*arguments: int) -> list[tuple[Letter, list[str]]]:
                tries.append(take(*arguments))
                if len(tries) < 3:
                    raise apsw.FullError("as if")
                return tries[-1]

            monkeypatch.setattr(running.shard.tail, "take", failing)
            running.let_work()
            await running.settled()
            assert len(tries) > 3
        assert stored(data) == {"ada": [f"m{number}" for number in range(8)]}


@played
async def test_a_start_on_a_disk_too_full_for_the_tail_holds_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    with laid_out() as data:
        async with Held(data, window_letters=20) as running:
            for number in range(10):
                await running.deliver(delivery(letter(f"m{number}"), [f"user{number}"]))
        with monkeypatch.context() as broken:
            broken.setattr(tail.Tail, "add", _full)
            async with Held(data) as running:
                assert (running.behind, running.shard.backlog.waiting) == (0, 10)
                assert await running.ids("user9") == ["m9"]
                running.let_work()
                await running.settled()
        assert len(stored(data)) == 10


# -- a change of the number of shards --------------------------------------------------------------


@pytest.mark.slow
def test_a_tail_survives_a_change_of_the_number_of_shards() -> None:
    users = [f"user{number}" for number in range(12)]

    async def go() -> None:
        with scratch() as directory:
            async with Cluster(directory / "data", 2, window_letters=2) as cluster:
                hold_back(cluster)
                await cluster.put_channel("news")
                await cluster.join("news", users[:6])
                for number in range(10):
                    await cluster.deliver(letter(f"m{number}"), users[number:])
                await cluster.deliver(letter("to-all", channel_id="news"), channel="news")
                for shards in (3, 1, 2):
                    assert all(running.shard.backlog.window.behind for running in cluster.running)
                    await cluster.kill()
                    assert Doctor(cluster.data).examine().faults == []
                    await cluster.change(shards)
                    hold_back(cluster)
                    assert (await cluster.receipt("m3")).pending == 9
                    assert await cluster.at_home("user5").ids("user5") == [
                        "to-all",
                        *(f"m{n}" for n in range(5, -1, -1)),
                    ]
                await cluster.change(3)
                await cluster.settled()
                assert (await cluster.receipt("m3")).pending == 0
            assert stored(directory / "data") == {
                user: sorted([*(f"m{n}" for n in range(10) if n <= at), *(["to-all"] if at < 6 else [])])
                for at, user in sorted(enumerate(users), key=lambda one: one[1])
            }

    asyncio.run(go())
