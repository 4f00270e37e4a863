"""People change hands between running shards: nothing is lost, doubled or given to the wrong one, whoever ends when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.holding import held
from node import ops, paths, placement
from node.clock import now_us
from node.errors import Moving, Refused
from node.placement import Placement
from node.slots import slot_of
from shard import departure, handovers, ledger, parcel
from shard.doctor import Doctor
from shard.layout import lay_out
from shard.subscriptions import Subscription
from tests import encrypted

from .cluster import Cluster
from .elsewhere import held_elsewhere
from .playing import played
from .running import PATIENCE_S, START_US, Running, box_path, delivery, laid_out, letter, stored, until, users_of
from .test_backup import KEPT, back_up

ADA, ANN = users_of(0, 2, 2)
BOB = users_of(1, 2, 1)[0]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No handover is called off because the machine is busy."""
    for name in ("_FROZEN_MAX_S", "_PATIENCE_S"):
        monkeypatch.setattr(handovers, name, PATIENCE_S)


class Node(Cluster):
    """A cluster whose people can be moved, and whose shards can be killed and begun again alone."""

    @property
    def placed(self) -> Placement:
        found = placement.load(self.data)
        assert found is not None
        return found

    def as_it_lets_go(self, index: int, act: Callable[[], Awaitable[object]]) -> None:
        """When shard ``index`` has looked round, and is about to take nothing any more, ``act`` comes first."""
        handovers = self.running[index].shard.handovers
        flush = handovers._flush

        async def first() -> None:
            handovers._flush = flush
            await flush()
            await act()

        handovers._flush = first

    async def begin(self, name: str, user: str, to: int) -> Placement:
        """Everything before the rename; the placement that is to come."""
        old = self.placed
        owner = old.table.shard_of(user)
        new = msgspec.structs.replace(placement.with_slots(old, [slot_of(user)], to), handover=name)
        with placement.changing(self.data):
            placement.begin(self.data, name)
        source = self.running[owner]
        asked = ops.HandOver(0, name, placement.encode(new))
        done = await source.while_alive(source.shard.handovers.hand_over(asked))
        assert done.shards == [to]
        return new

    async def keep(self, name: str, to: int) -> None:
        taker = self.running[to]
        await taker.while_alive(taker.shard.handovers.take_over(ops.TakeOver(0, name)))

    def rename(self, new: Placement) -> None:
        with placement.changing(self.data):
            assert placement.under_way(self.data) == new.handover
            placement.save(self.data, new)
            placement.call_off(self.data)

    def call_off(self) -> None:
        with placement.changing(self.data):
            placement.call_off(self.data)

    async def come_to_rest(self) -> None:
        for running in self.running:
            await until(lambda: not running.shard.handovers.busy, "the end of the handover", running.life)  # noqa: B023
            running.shard.handovers.look()

    async def move(self, user: str, to: int, name: str = "h") -> None:
        new = await self.begin(name, user, to)
        await self.keep(name, to)
        self.rename(new)
        await self.come_to_rest()

    async def hand_over(self, new: Placement, owner: int, name: str) -> None:
        """All that ``new`` takes from ``owner``, to shard 0."""
        new = msgspec.structs.replace(new, handover=name)
        with placement.changing(self.data):
            placement.begin(self.data, name)
        source = self.running[owner]
        asked = ops.HandOver(0, name, placement.encode(new))
        assert (await source.while_alive(source.shard.handovers.hand_over(asked))).shards == [0]
        await self.keep(name, 0)
        self.rename(new)
        await self.come_to_rest()

    async def again(self, index: int) -> None:
        """Kill a shard and begin it anew, as ``python -m shard`` does."""
        await self.running[index].kill()
        layout = placement.settle(self.data)
        self.running[index] = await Running(self.data, layout, index, **self._settings).__aenter__()

    def of(self, user: str) -> Running:
        return self.running[self.placed.table.shard_of(user)]

    async def send(
        self, id: str, *users: str, digest: bytes = b"digest", only: int | None = None, known_us: int = 0
    ) -> int:
        """As a router does it, by the table of now."""
        table = self.placed.table
        targets = 0
        for index in range(table.shards):
            mine = [user for user in users if table.shard_of(user) == index]
            if only in (None, index) and (mine or index == table.home(id)):
                frame = delivery(letter(id), mine, digest=digest, claim=index == table.home(id), table=table.number)
                frame.known_us = known_us
                targets += await self.running[index].deliver(frame)
        return targets

    async def to_channel(self, id: str, channel: str, only: int | None = None, known_us: int = 0) -> None:
        table = self.placed.table
        for index in range(table.shards):
            if only in (None, index):
                frame = delivery(letter(id, channel_id=channel), channel=channel, table=table.number)
                frame.known_us = known_us
                await self.running[index].deliver(frame)

    async def change(self, channel: str, *, add: list[str], at_us: int = START_US) -> None:  # type: ignore[override]
        for user in add:
            slot, owner = self.placed.table.place(user)
            q = ops.ChangeMembers(0, self.placed.table.number, channel, [user], [], [slot], at_us)
            running = self.running[owner]
            await running.while_alive(running.shard.channels.change_members(q))

    async def ids_of(self, user: str) -> list[str]:
        running, table = self.of(user), self.placed.table
        q = ops.Page(0, table.number, table.slot(user), user, None, 1_000, None)
        return sorted(one.id for one in (await running.while_alive(running.shard.desk.page(q))).messages)


def examined(data: Path) -> list[str]:
    doctor = Doctor(data)
    return doctor.examine().faults


@played
async def test_who_has_moved_is_served_by_the_new_shard_alone() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.put_channel("news")
            await node.change("news", add=[ADA, ANN, BOB])
            await node.to_channel("first", "news")
            await node.send("to-ada", ADA, BOB)
            await node.move(ADA, 1)
            with pytest.raises(Moving):
                node.running[0].shard.residents.check(2, [slot_of(ADA)])
            await node.to_channel("second", "news")
            assert await node.ids_of(ADA) == ["first", "second", "to-ada"]
            assert await node.ids_of(ANN) == ["first", "second"]
            assert await node.members("news") == 3
            for index in range(2):
                await node.again(index)
            assert await node.ids_of(ADA) == ["first", "second", "to-ada"]
        assert examined(data) == []


@played
async def test_a_letter_of_which_one_shard_had_a_part_reaches_those_who_moved_there_since() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.put_channel("news")
            await node.change("news", add=[ADA, BOB])
            await node.send("direct", ADA, BOB, only=1)
            await node.to_channel("news1", "news", only=1)
            await node.move(ADA, 1)
            assert await node.ids_of(ADA) == []
            for _twice in range(2):
                await node.send("direct", ADA, BOB)
                await node.to_channel("news1", "news")
            assert await node.ids_of(ADA) == ["direct", "news1"]
            await node.settled()
            receipt = await node.receipt("direct")
            assert (receipt.targets, receipt.pending) == (2, 0)
            assert (await node.receipt("news1")).targets == 2


@played
async def test_who_joined_after_a_letter_does_not_get_it_by_moving() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.put_channel("news")
            await node.change("news", add=[ADA])
            await node.to_channel("old", "news")
            later = now_us()
            await node.change("news", add=[ANN], at_us=later)
            moved = [ADA, ANN]
            for number, user in enumerate(moved):
                if node.placed.table.shard_of(user) == 0:
                    await node.move(user, 1, f"h{number}")
            await node.to_channel("old", "news", known_us=later - 1)
            await node.settled()
            assert (await node.ids_of(ADA), await node.ids_of(ANN)) == (["old"], [])


@played
async def test_who_joined_where_a_letter_of_before_is_unknown_does_not_get_it_when_it_is_sent_again() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.put_channel("news")
            await node.change("news", add=[ANN])
            await node.to_channel("old", "news", only=0)  # as if there had been no other shard yet
            await node.move(ADA, 1, "h1")
            await node.move(ANN, 1, "h2")
            later = now_us()
            await node.change("news", add=[ADA, BOB], at_us=later)
            await node.to_channel("old", "news", known_us=later - 1)
            await node.settled()
            assert [await node.ids_of(user) for user in (ADA, ANN, BOB)] == [[], ["old"], []]


@played
async def test_who_joined_after_a_letter_does_not_get_it_where_it_was_sent_again_before_they_came() -> None:
    """What was taken there then is no younger than it was where it was answered."""
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.put_channel("news")
            await node.change("news", add=[ADA])
            await node.to_channel("old", "news", only=0)
            later = now_us()
            await node.change("news", add=[ANN], at_us=later)
            await node.move(ADA, 1, "h1")
            await node.to_channel("old", "news", known_us=later - 1)
            await node.move(ANN, 1, "h2")
            await node.to_channel("old", "news", known_us=later - 1)
            await node.settled()
            assert (await node.ids_of(ADA), await node.ids_of(ANN)) == (["old"], [])


@played
async def test_who_joined_after_a_letter_does_not_get_it_after_a_change_of_layout() -> None:
    """It was answered before there was the second shard, which is one of those that are asked about it then."""
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.put_channel("news")
            await node.change("news", add=[ADA])
            await node.to_channel("old", "news", only=0)
            await node.move(ADA, 1)
            later = now_us()
            await node.change("news", add=[ANN, BOB], at_us=later)
            await node.kill()
            lay_out(data, 3, encrypted.keyring(data))
            layout = placement.load(data)
            assert layout is not None
            node.running = [await Running(data, layout, index).__aenter__() for index in range(3)]
            await node.to_channel("old", "news", known_us=later - 1)
            await node.settled()
            assert [await node.ids_of(user) for user in (ADA, ANN, BOB)] == [["old"], [], []]


@played
async def test_a_receipt_counts_nobody_less_who_joined_after_a_letter_and_moved() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.put_channel("news")
            await node.change("news", add=[ADA])
            await node.to_channel("old", "news", only=0)
            later = now_us()
            await node.change("news", add=[ANN], at_us=later)
            await node.move(ANN, 1)
            await node.to_channel("old", "news", known_us=later - 1)
            assert (await node.receipt("old")).targets == 1


@played
async def test_a_receipt_counts_nobody_twice_who_moved_between_two_tries() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.send("once", ADA, BOB)
            await node.move(ADA, 1)
            await node.send("once", ADA, BOB)
            await node.settled()
            receipt = await node.receipt("once")
            assert (receipt.targets, receipt.pending, receipt.failed) == (2, 0, 0)
            assert await node.ids_of(ADA) == ["once"]
            with pytest.raises(Refused, match="not available"):  # by the table of before
                await node.running[0].deliver(delivery(letter("x"), [ADA], table=1))


@played
async def test_a_receipt_counts_who_moved_though_a_part_of_the_shards_was_down_for_long_before_the_second_try() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.send("part", ADA, BOB, only=1, known_us=now_us() - 30_000_000)
            await node.move(ADA, 1)
            for _twice in range(2):
                await node.send("part", ADA, BOB)
            assert (await node.receipt("part")).targets == 2


@played
async def test_a_receipt_counts_nobody_twice_though_so_much_was_taken_that_not_all_of_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(departure, "_COUNTED_MAX", 2)
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            ago_us = {id: now_us() - seconds * 1_000_000 for seconds, id in ((4, "a"), (3, "b"), (2, "c"))}
            for id, known_us in ago_us.items():
                await node.send(id, ADA, only=0, known_us=known_us)
            await node.move(ADA, 1)
            for id, known_us in ago_us.items():
                await node.send(id, ADA, only=1, known_us=known_us)
                assert (await node.receipt(id)).targets == 1, id


@played
async def test_a_receipt_counts_those_of_a_shard_that_has_ended_also_when_it_is_sent_again() -> None:
    """It was the id's home, too."""
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            id = next(f"m{number}" for number in range(100) if node.placed.table.home(f"m{number}") == 1)
            await node.send(id, BOB)
            everything = placement.with_slots(node.placed, node.placed.table.owned(1), 0)
            await node.hand_over(everything, 1, "h1")
            await node.hand_over(placement.with_shards(everything, 1), 1, "h2")
            for _twice in range(2):
                assert (await node.running[0].receipt(id)).targets == 1
                await node.send(id, BOB)


@played
async def test_a_receipt_counts_nobody_twice_who_went_and_came_back_between_two_tries() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.put_channel("news")
            await node.change("news", add=[ADA, BOB])
            await node.send("once", ADA, BOB)
            await node.to_channel("news1", "news")
            known_us = now_us()
            await node.move(ADA, 1, "there")
            await node.move(ADA, 0, "back")
            for _twice in range(2):
                await node.send("once", ADA, BOB)
                await node.to_channel("news1", "news", known_us=known_us)
            await node.settled()
            for id in ("once", "news1"):
                receipt = await node.receipt(id)
                assert (id, receipt.targets, receipt.pending, receipt.failed) == (id, 2, 0, 0)
            assert await node.ids_of(ADA) == ["news1", "once"]


@played
async def test_a_receipt_from_the_moment_before_goes_along_though_it_is_the_first_there_is() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            id = next(f"m{number}" for number in range(100_000) if slot_of(f"m{number}") == slot_of(ADA))
            node.as_it_lets_go(0, lambda: node.send(id, ADA))
            await node.move(ADA, 1)
            with pytest.raises(Refused, match="another body"):
                await node.send(id, ADA, digest=b"another")


@played
async def test_a_handover_that_is_called_off_leaves_everything_as_it_was() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.send("first", ADA)
            await node.begin("h", ADA, 1)
            waiting = node.running[0].send(delivery(letter("second"), [ADA]))
            await node.keep("h", 1)
            await asyncio.sleep(0.05)
            assert not waiting.done()
            with pytest.raises(Moving):
                node.running[0].shard.residents.check_user(ops.Page(0, 1, slot_of(ADA), ADA, None, 1, None))
            node.call_off()
            await node.come_to_rest()
            assert await waiting == 1
            assert await node.ids_of(ADA) == ["first", "second"]
            await node.move(ADA, 1, "h2")
            assert await node.ids_of(ADA) == ["first", "second"]


@pytest.mark.slow
@played
async def test_shards_that_hear_nothing_more_call_it_off_and_the_rename_comes_too_late() -> None:
    with laid_out(2) as data, pytest.MonkeyPatch.context() as patch:
        patch.setattr(handovers, "_PATIENCE_S", 2.0)
        async with Node(data, 2) as node:
            new = await node.begin("h", ADA, 1)
            await node.keep("h", 1)
            await node.come_to_rest()
            assert placement.under_way(data) == ""
            with pytest.raises(AssertionError):
                node.rename(new)
            await node.send("first", ADA)
            assert await node.ids_of(ADA) == ["first"]


@played
async def test_nobody_goes_by_a_rename_that_a_power_cut_could_take_back() -> None:
    """Whoever made it was killed before it was durable."""
    steps: list[str] = []

    def noted(module: ModuleType, name: str) -> None:
        function = getattr(module, name)

        def wrapped(*arguments: object) -> object:
            steps.append(name)
            return function(*arguments)

        patch.setattr(module, name, wrapped)

    with laid_out(2) as data, pytest.MonkeyPatch.context() as patch:
        async with Node(data, 2) as node:
            await node.send("first", ADA)
            new = await node.begin("h", ADA, 1)
            await node.keep("h", 1)
            noted(placement, "sync_directory")
            noted(parcel, "unpack")
            noted(parcel, "clear")
            with placement.changing(data):
                placement.replace(data / "placement.json", placement.encode(new), durably=False)
                placement.call_off(data)
            await node.come_to_rest()
            assert sorted(steps) == ["clear", "sync_directory", "sync_directory", "unpack"]
            assert steps[0] == "sync_directory"
            assert steps[-1] != "sync_directory"
            assert await node.ids_of(ADA) == ["first"]


@played
async def test_letters_on_their_way_go_along_or_stay_whoever_is_killed() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.put_channel("news")
            await node.change("news", add=[ADA, ANN, BOB])
            for number in range(20):
                await node.send(f"d{number}", ADA, ANN)
                await node.to_channel(f"n{number}", "news")
            new = await node.begin("h", ADA, 1)
            await node.keep("h", 1)
            await node.running[0].kill()  # the old owner, before
            node.rename(new)
            await node.running[1].kill()  # the new one, after
            layout = placement.settle(data)
            node.running = [await Running(data, layout, index).__aenter__() for index in range(2)]
            await node.come_to_rest()
            expected = sorted([f"d{number}" for number in range(20)] + [f"n{number}" for number in range(20)])
            assert await node.ids_of(ADA) == await node.ids_of(ANN) == expected
            assert len(await node.ids_of(BOB)) == 20
            await node.settled()
            await node.let_go()
            assert node.rows == 0
        assert examined(data) == []


@pytest.mark.slow
@played
async def test_mail_that_is_put_off_in_memory_and_parked_on_disk_goes_along() -> None:
    with laid_out(2) as data:
        async with Node(data, 2, window_letters=16) as node:
            await node.send("first", ADA)
            await node.settled()
            old = node.running[0].shard
            old.mailboxes.discard(ADA)
            ids = [f"m{number:02}" for number in range(20)]
            with held_elsewhere(box_path(data, ADA), "write"):
                for id in ids:
                    await node.send(id, ADA, ANN)
                await until(lambda: old.parked.count > 5, "parked letters", node.running[0].life)
                await node.move(ADA, 1)
                assert (old.parked.count, ADA in old.put_off.users()) == (0, False)
                await node.again(1)
                await node.again(0)
            await node.settled()
            assert await node.ids_of(ADA) == ["first", *ids]
            assert await node.ids_of(ANN) == ids
            assert (await node.receipt("m00")).targets == 2
            async with asyncio.timeout(PATIENCE_S):
                while node.rows:  # what was parked goes when that is noted, twice a second, and with the barrier after
                    await node.let_go()
                    await asyncio.sleep(0.02)
        assert examined(data) == []


@played
async def test_what_a_shard_unpacks_at_its_start_is_there_at_once() -> None:
    """It was killed between the rename and its own part of it."""
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.send("first", ADA)
            await node.settled()
            old, slot = node.running[0], slot_of(ADA)
            await old.while_alive(old.shard.quotas.set(ops.SetQuota(0, 1, slot, ADA, 7, None)))
            browser = Subscription(ADA, "phone", "https://push.example/1", b"point", b"secret", 10, now_us())
            await old.while_alive(old.shard.push.subscriptions.put(browser))
            old.shard.mailboxes.discard(ADA)
            with held_elsewhere(box_path(data, ADA), "write"):
                await node.send("put-off", ADA)
                await until(lambda: ADA in old.shard.put_off.users(), "a letter that is put off", old.life)
                new = await node.begin("h", ADA, 1)
                await node.keep("h", 1)
                await node.running[1].kill()
                node.rename(new)
                await node.again(1)
                shard = node.running[1].shard
                assert (shard.journal.rows, shard.backlog.waiting) == (1, 1)
            assert shard.push.subscriptions.find(ADA, "phone") is not None
            assert await node.ids_of(ADA) == ["first", "put-off"]
            used = ops.AskUsage(0, node.placed.table.number, slot, ADA)
            assert (await node.running[1].while_alive(shard.desk.usage(used))).quota_messages == 7
            await node.let_go()
            assert shard.journal.rows == 0
        assert examined(data) == []


@played
async def test_whatever_died_a_moment_before_goes_along_as_dead() -> None:
    with laid_out(2) as data, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_DEATHS_MAX", 1)
        async with Node(data, 2) as node:
            await node.send("first", ADA)
            await node.settled()
            old = node.running[0].shard
            old.mailboxes.discard(ADA)

            async def all_put_off() -> None:  # none of them is on its next try
                await until(lambda: len(old.put_off.waiting_for(ADA)) == 30, "letters that wait", node.running[0].life)

            async def die() -> None:
                await all_put_off()
                letters = old.put_off.take(ADA)
                old.put_off.given_up.left_out(ADA, letters)
                for letter in letters:
                    old.backlog.gave_up(letter)

            with held_elsewhere(box_path(data, ADA), "write"):
                for number in range(30):
                    await node.send(f"dies{number}", ADA)
                await all_put_off()
                node.as_it_lets_go(0, die)
                await node.move(ADA, 1)
            assert (old.dead.count, node.running[1].shard.dead.count) == (0, 30)
            assert await node.ids_of(ADA) == ["first"]
        assert examined(data) == []


@played
async def test_a_box_is_restored_with_what_each_of_its_shards_has_kept() -> None:
    with laid_out(2) as data:
        async with Node(data, 2, backup=KEPT) as node:
            await node.send("backed-up", ADA)
            await back_up(node.running[0])
            await node.send("at-0", ADA)
            await node.settled()
            await node.let_go()
            await node.send("not-hers", BOB)
            await node.move(ADA, 1)
            await node.send("at-1", ADA)
            await node.settled()
            await node.let_go()
            table = node.placed.table
            q = ops.Restore(0, table.number, table.slot(ADA), ADA, now_us())
            done = await node.running[1].while_alive(node.running[1].shard.restores.restore(q))
            assert done.letters == 2
            assert await node.ids_of(ADA) == ["at-0", "at-1", "backed-up"]


@played
async def test_numbers_go_on_behind_the_beginning_of_a_slot_after_a_start() -> None:
    """Nothing else that is on disk has that number, when nobody who came is in a channel."""
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            await node.move(ADA, 1)
            await node.again(1)
            await node.send("first", ADA)
            assert await node.ids_of(ADA) == ["first"]


@played
async def test_who_was_deleted_elsewhere_and_comes_back_gets_nothing_from_before() -> None:
    with laid_out(2) as data:
        async with Node(data, 2) as node:
            held(node.running[0].shard.postmen)
            await node.send("old", ADA, ANN)  # it waits for ann, so its row stays
            await node.move(ADA, 1, "h1")
            table = node.placed.table
            q = ops.DeleteUser(0, table.number, table.slot(ADA), ADA)
            await node.running[1].while_alive(node.running[1].shard.erasures.delete(q))
            await node.send("new", ADA)
            await node.move(ADA, 0, "h2")
            await node.again(0)
            assert await node.ids_of(ADA) == ["new"]
            assert await node.ids_of(ANN) == ["old"]


_ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from([(ADA,), (BOB,), (ADA, BOB), (ADA, ANN, BOB)])),
        st.tuples(st.just("news"), st.none()),
        st.tuples(st.just("join"), st.sampled_from([ADA, ANN, BOB])),
        st.tuples(st.just("move"), st.sampled_from([ADA, ANN, BOB])),
        st.tuples(st.just("kill"), st.sampled_from([0, 1])),
        st.tuples(st.just("move, killed before"), st.sampled_from([ADA, BOB])),
        st.tuples(st.just("move, killed after"), st.sampled_from([ADA, BOB])),
        st.tuples(st.just("again"), st.none()),
    ),
    max_size=10,
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(_ACTS)
def test_whatever_happens_everybody_has_what_was_accepted_once(acts: list[tuple[str, object]]) -> None:
    async def scene(data: Path) -> None:
        expected: dict[str, set[str]] = {ADA: set(), ANN: set(), BOB: set()}
        joined: dict[str, int] = {}
        sent: list[Callable[[], object]] = []
        async with Node(data, 2) as node:
            await node.put_channel("news")
            for number, (act, what) in enumerate(acts):
                id = f"m{number}"
                if act == "send":
                    assert isinstance(what, tuple)
                    await node.send(id, *what)
                    sent.append(lambda id=id, what=what: node.send(id, *what))
                    for user in what:
                        expected[user].add(id)
                elif act == "news":
                    await node.to_channel(id, "news")
                    at_us = now_us()
                    sent.append(lambda id=id, at_us=at_us: node.to_channel(id, "news", known_us=at_us))
                    for user in joined:
                        expected[user].add(id)
                elif act == "join":
                    assert isinstance(what, str)
                    await node.change("news", add=[what], at_us=now_us())
                    joined[what] = number
                elif act == "kill":
                    assert isinstance(what, int)
                    await node.again(what)
                    await node.come_to_rest()
                elif act == "again" and sent:
                    await sent[-1]()  # type: ignore[misc]
                elif act.startswith("move"):
                    assert isinstance(what, str)
                    owner = node.placed.table.shard_of(what)
                    to = 1 - owner
                    if act == "move":
                        await node.move(what, to, f"h{number}")
                        continue
                    new = await node.begin(f"h{number}", what, to)
                    await node.keep(f"h{number}", to)
                    if act == "move, killed before":
                        await node.again(owner if number % 2 else to)
                    else:
                        node.rename(new)
                        await node.again(owner if number % 2 else to)
                    await node.come_to_rest()
            for user, ids in expected.items():
                if ids:
                    assert await node.ids_of(user) == sorted(ids), (user, acts)
            await node.settled()
            for running in node.running:
                await running.stop()
            node.running = []
        assert {user: set(ids) for user, ids in stored(data).items() if ids} == {
            user: ids for user, ids in expected.items() if ids
        }
        assert examined(data) == []
        assert not list(paths.run_dir(data).glob("handover"))

    with laid_out(2) as data:
        asyncio.run(scene(data))
