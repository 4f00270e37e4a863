"""A letter that can't be stored either waits or is dead, never both and never neither; and comes back once."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from node import ops
from node.clock import now_us
from node.config import Retry
from node.errors import NotFound
from node.slots import slot_of
from shard.dead_letters import targets
from shard.journal import Journal
from shard.put_off import PutOff

from .elsewhere import held_elsewhere
from .playing import played
from .running import PATIENCE_S, START_US, Running, box_path, delivery, laid_out, letter, stored, until

FEW = Retry(base_s=0.01, cap_s=0.02, tries_max=5)
MANY = Retry(base_s=0.01, cap_s=0.02, tries_max=10_000)


@contextlib.contextmanager
def in_the_way(data: Path, user: str) -> Iterator[None]:
    """A directory lies where the box of ``user`` should be."""
    path = box_path(data, user)
    path.mkdir(parents=True)
    try:
        yield
    finally:
        if path.is_dir():
            path.rmdir()


async def dead(
    running: Running, user: str | None = None, reason: str | None = None, before: tuple[int, str, str] | None = None
) -> list[ops.DeadLetter]:
    question = ops.ListDeadLetters(0, user, reason, before, 100)
    return await running.while_alive(running.shard.morgue.page(question))


async def names(running: Running) -> list[tuple[str, str, str]]:
    return sorted((one.user, one.message_id, one.reason) for one in await dead(running))


async def requeue(running: Running, user: str, message_id: str) -> None:
    question = ops.RequeueDeadLetter(0, running.layout.version, slot_of(user), user, message_id)
    await running.while_alive(running.shard.morgue.requeue(question))


async def drop(running: Running, user: str, message_id: str) -> None:
    question = ops.DropDeadLetter(0, running.layout.version, slot_of(user), user, message_id)
    await running.while_alive(running.shard.morgue.drop(question))


async def noted(running: Running, count: int) -> None:
    """Until ``count`` dead letters are on disk."""

    def there() -> bool:
        running.shard.office.nudge()
        return running.shard.dead.count == count

    await until(there, f"{count} dead letters", running.life)


async def scheduled(running: Running, count: int) -> None:
    """Until ``count`` users stand in the schedule on disk."""
    async with asyncio.timeout(PATIENCE_S):
        while len(await running.asked(lambda: [*running.shard.schedule.load()])) != count:
            await asyncio.sleep(0.01)


def attempts(running: Running, user: str) -> int:
    """How often the box of ``user`` was tried in vain, of late."""
    waiting = running.shard.put_off._users.get(user)
    return waiting.attempts if waiting is not None else 0


async def state(running: Running, message_id: str) -> tuple[int, int, int]:
    part = await running.receipt(message_id)
    return part.targets, part.pending, part.failed


@played
async def test_after_its_last_try_a_letter_is_dead_for_one_target_and_the_others_have_it() -> None:
    with laid_out() as data:
        async with Running(data, retry=FEW) as running:
            with in_the_way(data, "ada"):
                await running.deliver(delivery(letter("m"), ["ada", "bo"]))
                await noted(running, 1)
                (one,) = await dead(running)
                assert (one.user, one.message_id, one.reason, one.tries) == ("ada", "m", "io_error", 5)
                assert (one.title, one.channel_id, one.priority) == ("title", "direct", 5)
                assert one.accepted_us < one.first_us <= one.died_us
                assert await state(running, "m") == (2, 0, 1)
                assert await running.ids("bo") == ["m"]
                await running.let_go()
                assert running.shard.journal.rows == 0
                assert await running.asked(lambda: targets(running.shard.journal.db)) == {}
                assert running.shard.put_off.given_up.by_reason["io_error"] == 1
            await requeue(running, "ada", "m")
            assert await state(running, "m") in ((2, 1, 0), (2, 0, 0))
            await requeue(running, "ada", "m")  # who asked got no answer, perhaps
            await running.settled()
            assert await running.ids("ada") == ["m"]
            assert await dead(running) == []
            assert await state(running, "m") == (2, 0, 0)
        assert stored(data) == {"ada": ["m"], "bo": ["m"]}


@played
async def test_a_letter_whose_own_time_is_over_dies_of_that_though_the_next_try_would_be_much_later() -> None:
    with laid_out() as data:
        late = letter("m", at=(now_us() - START_US) // 1_000_000, timeout_s=1.2)
        async with Running(data, retry=Retry(base_s=3_600, cap_s=3_600, jitter=0)) as running:
            with in_the_way(data, "ada"):
                await running.deliver(delivery(letter("patient"), ["ada"]))
                await until(lambda: attempts(running, "ada") == 4, "the quick tries", running.life)
                await running.deliver(delivery(late, ["ada"]))
                await noted(running, 1)
                assert await names(running) == [("ada", "m", "expired")]
                assert attempts(running, "ada") == 4, "that was nobody's try but its own"
                assert await state(running, "patient") == (1, 1, 0)
            await requeue(running, "ada", "m")
            assert sorted(await running.ids("ada")) == ["m", "patient"]


@played
async def test_joins_leaves_and_removals_never_die() -> None:
    with laid_out() as data:
        async with Running(data, retry=FEW) as running:
            await running.put_channel("news")
            with in_the_way(data, "ada"):
                await running.change("news", add=["ada"])
                await running.deliver(delivery(letter("m"), ["ada"]))
                await noted(running, 1)
                await until(lambda: attempts(running, "ada") > 9, "many tries", running.life)
                assert running.shard.backlog.waiting == 1
            await running.settled()
            assert await running.channels_of("ada") == ["news"]
            assert await running.ids("ada") == []
            assert await names(running) == [("ada", "m", "io_error")]


@played
async def test_a_full_disk_uses_up_no_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    with laid_out() as data:
        async with Running(data, retry=FEW) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            await running.settled()
            failures = 0
            store = running.shard.postmen._write

            def full(*_box: object, **_letters: object) -> None:
                nonlocal failures
                failures += 1
                raise apsw.FullError("as if")

            monkeypatch.setattr(running.shard.postmen, "_write", full)
            await running.deliver(delivery(letter("m"), ["ada"]))
            await until(lambda: failures > 12, "more tries than there are", running.life)
            monkeypatch.setattr(running.shard.postmen, "_write", store)
            await running.settled()
            assert await running.ids("ada") == ["m", "first"]
            assert running.shard.dead.count == 0


@played
async def test_the_pause_goes_on_after_a_restart_and_a_read_tries_at_once() -> None:
    with laid_out() as data:
        slow = Retry(base_s=3_600, cap_s=3_600, jitter=0, tries_max=6)
        async with Running(data) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            await running.settled()
            await running.let_go()
        with held_elsewhere(box_path(data, "ada"), "write") as holder:
            async with Running(data, retry=slow) as running:
                await running.deliver(delivery(letter("m"), ["ada"]))
                put_off = running.shard.put_off
                await until(lambda: not put_off.is_changed and len(put_off), "the schedule", running.life)
                await scheduled(running, 1)
            for _ in range(2):
                async with Running(data, retry=slow) as running:
                    await until(lambda: running.shard.put_off.has("ada"), "the letter", running.life)
                    waiting = running.shard.put_off._users["ada"]
                    assert (waiting.attempts, waiting.reason) == (4, "busy")
                    assert 3_000 < waiting.next_at - asyncio.get_running_loop().time() <= 3_600
                    assert waiting.tries.of(waiting.letters[0].seq) == 4
            holder.kill()
            holder.wait()
        async with Running(data, retry=slow) as running:
            assert sorted(await running.ids("ada")) == ["first", "m"]
            running.shard.office.nudge()
            await scheduled(running, 0)


@played
async def test_tries_stay_counted_when_the_next_one_was_due_before_the_restart() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            await running.settled()
            await running.let_go()
        with held_elsewhere(box_path(data, "ada"), "write"):
            async with Running(data, retry=MANY) as running:
                await running.deliver(delivery(letter("m"), ["ada"]))
                await until(lambda: attempts(running, "ada") >= 20, "some tries", running.life)
                running.shard.office.nudge()
                await scheduled(running, 1)
                before = (await running.asked(lambda: [*running.shard.schedule.load()]))[0].attempts
            await asyncio.sleep(0.1)
            async with Running(data, retry=MANY) as running:
                await until(lambda: running.shard.put_off.has("ada"), "the letter", running.life)
                waiting = running.shard.put_off._users["ada"]
                assert waiting.attempts >= before
                assert waiting.tries.of(waiting.letters[0].seq) >= before


@played
@pytest.mark.parametrize("when", ["before it is noted", "after it is noted", "after the purge"])
@pytest.mark.slow
async def test_a_kill_after_a_death_neither_loses_nor_doubles_it(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with laid_out() as data, in_the_way(data, "ada"):
        async with Running(data, retry=FEW) as running:
            await running.put_channel("news")
            await running.change("news", add=["bo", "ada"])
            if when == "before it is noted":
                monkeypatch.setattr(type(running.shard.office), "nudge", lambda self: None)
            await running.deliver(delivery(letter("direct"), ["ada", "bo"]))
            await running.deliver(delivery(letter("all"), channel="news"))
            await until(lambda: running.shard.put_off.given_up.by_reason["io_error"] == 2, "two deaths", running.life)
            if when != "before it is noted":
                await noted(running, 2)
            if when == "after the purge":
                await running.let_go()
            rows = running.shard.journal.rows
            assert rows == (1 if when == "after the purge" else 3)
        monkeypatch.undo()
        patient = MANY if when != "before it is noted" else FEW
        async with Running(data, retry=patient) as running:
            await noted(running, 2)
            await until(lambda: running.shard.backlog.waiting == 1, "all but the join", running.life)
            assert await names(running) == [("ada", "all", "io_error"), ("ada", "direct", "io_error")]
            assert await state(running, "direct") == (2, 0, 1)
            assert await state(running, "all") == (2, 0, 1)
        async with Running(data, retry=MANY) as running:  # with few they would be dead again before they are asked for
            await until(lambda: running.shard.backlog.waiting == 1, "all but the join", running.life)
            for name in ("direct", "all"):
                await requeue(running, "ada", name)
            assert (await state(running, "all"))[1:] == (1, 0)
        shutil.rmtree(box_path(data, "ada"))
        async with Running(data) as running:
            await running.settled()
            assert await dead(running) == []
            assert sorted(await running.ids("ada")) == ["all", "direct"]
            await running.let_go()
            assert running.shard.journal.rows == 0
        assert stored(data) == {"ada": ["all", "direct"], "bo": ["all", "direct"]}


@played
async def test_what_was_deleted_stays_away_though_its_row_is_replayed_for_others() -> None:
    with laid_out() as data:
        with in_the_way(data, "ada"):
            async with Running(data, retry=FEW) as running:
                await running.deliver(delivery(letter("m"), ["ada", "bo"]))
                await noted(running, 1)
                await drop(running, "ada", "m")
                for ask in (drop, requeue):
                    with pytest.raises(NotFound):
                        await ask(running, "ada", "m")
                assert await dead(running) == []
                assert await state(running, "m") == (2, 0, 1)
        async with Running(data) as running:
            await running.settled()
            assert await running.ids("bo") == ["m"]
            with pytest.raises(NotFound):
                await running.ids("ada")


@played
async def test_the_oldest_go_first_where_there_are_too_many_and_that_is_counted() -> None:
    with laid_out() as data:
        few = Retry(base_s=0.01, cap_s=0.02, tries_max=2, dead_letters_max=3)
        with in_the_way(data, "ada"):
            async with Running(data, retry=few) as running:
                for number in range(5):
                    await running.deliver(delivery(letter(f"m{number}"), ["ada"]))
                    await until(
                        lambda number=number: (
                            running.shard.office.nudge()
                            or running.shard.dead.count + running.shard.dead.dropped == number + 1
                        ),
                        "the death",
                        running.life,
                    )
                assert [one.message_id for one in await dead(running)] == ["m4", "m3", "m2"]
                assert (running.shard.dead.dropped, running.shard.dead.count) == (2, 3)
                assert await state(running, "m0") == (1, 0, 1)
                page = await dead(running, before=((await dead(running))[0].died_us, "ada", "m4"))
                assert [one.message_id for one in page] == ["m3", "m2"]
                assert await dead(running, user="bo") == []
                assert await dead(running, reason="busy") == []
            size = Retry(base_s=0.01, cap_s=0.02, tries_max=2, dead_letters_bytes_max=1)
            async with Running(data, retry=size) as running:
                await running.deliver(delivery(letter("m5"), ["ada"]))
                await until(lambda: running.shard.dead.dropped == 4, "all going", running.life)
                assert (running.shard.dead.count, running.shard.dead.bytes) == (0, 0)


@played
async def test_dead_letters_past_their_time_and_names_that_no_receipt_asks_for_go() -> None:
    with laid_out() as data:
        with in_the_way(data, "ada"):
            async with Running(data, retry=FEW) as running:
                await running.deliver(delivery(letter("m"), ["ada"]))
                await noted(running, 1)
                await running.let_go()
        short = Retry(dead_letters_s=0)
        async with Running(data, retry=short, receipt_s=0) as running:
            house = running.shard.house
            await noted(running, 0)
            assert running.shard.dead.dropped == 1
            await until(lambda: running.shard.journal.receipts == 0, "the receipt's end", running.life)
            house._swept_at = 0
            count = "SELECT count(*) FROM dead_letters"
            async with asyncio.timeout(PATIENCE_S):
                while await running.asked(lambda: running.shard.journal._one(count)):
                    await asyncio.sleep(0.01)


@played
@pytest.mark.parametrize(("bound", "most"), [("_DEATHS_MAX", 2), ("_DEATHS_BYTES_MAX", 200)])
async def test_more_deaths_than_fit_into_one_transaction_are_all_noted_before_their_row_goes(
    bound: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"shard.ledger.{bound}", most)
    with laid_out() as data, contextlib.ExitStack() as stack:
        users = [f"u{number}" for number in range(7)]
        for user in users:
            stack.enter_context(in_the_way(data, user))
        async with Running(data, retry=FEW) as running:
            monkeypatch.setattr(PutOff, "is_changed", False)
            portions: list[int] = []
            bury = running.shard.dead.bury
            monkeypatch.setattr(running.shard.dead, "bury", lambda some: (portions.append(len(some)), bury(some))[1])
            await running.deliver(delivery(letter("m"), [*users, "bo"]))
            await running.settled()
            await running.let_go()
            await until(lambda: running.shard.journal.rows == 0, "the row's end", running.life)
            assert max(portions) <= 2
        journal = Journal(data / "journals-1" / "shard-0.db")
        try:
            assert journal._one("SELECT count(*) FROM dead_letters") == 7
        finally:
            journal.close()
