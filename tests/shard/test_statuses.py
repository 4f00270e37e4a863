"""Read status on a shard: for those who have a box, one at a time, off the loop; whatever is in the way is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import pytest

from node import clock, ops
from node.errors import DiskFull, NotFound, Overloaded, Unavailable
from node.ops import ChangeStatuses, PositionRow
from node.slots import slot_of
from shard import statuses as module
from shard.layout import lay_out
from shard.read_status import StatusFile
from shard.status_birth import FILE

from .asking import change, counts, said, statuses
from .disks import fill, small_disk
from .elsewhere import held_elsewhere
from .running import START_US, Running, box_path, delivery, laid_out, letter, until

Play = Callable[[Path], Coroutine[Any, Any, None]]
NOTHING = "1970-01-01T00:00:00.000000Z"


def play(scene: Play) -> None:
    with laid_out() as data:
        asyncio.run(scene(data))


def file_of(data: Path, user: str) -> Path:
    return box_path(data, user).with_name(FILE)


async def with_letters(running: Running, users: str | list[str], *ids: str) -> None:
    for message_id in ids:
        await running.deliver(delivery(letter(message_id), [users] if isinstance(users, str) else users))


def test_for_somebody_unknown_nothing_is_made() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            for question in (
                statuses(running, "ada"),
                counts(running, "ada"),
                change(running, "ada", said("a", "read")),
            ):
                with pytest.raises(NotFound) as refused:
                    await question
                assert refused.value.field == "userId"
        assert not box_path(data, "ada").parent.exists()

    play(scene)


def test_a_file_is_made_with_the_first_change_that_holds() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, "ada", "a")
            told = await statuses(running, "ada")
            assert (told.since, told.full, told.more, told.statuses) == (NOTHING, True, False, [])
            assert not (await statuses(running, "ada", NOTHING)).full
            place = PositionRow("direct", "zz", START_US, 0)
            done = await change(running, "ada", said("zz", "read"), positions=[place])
            assert [(c.index, c.reason) for c in done.conflicts] == [(0, "no_message"), (1, "no_message")]
            assert not file_of(data, "ada").exists()
            done = await change(running, "ada", said("a", "read"), since=NOTHING)
            assert (done.accepted, done.full, [s.message_id for s in done.statuses]) == (1, True, ["a"])
            assert file_of(data, "ada").exists()

    play(scene)


def test_what_was_accepted_a_moment_ago_can_be_marked() -> None:
    """Before any postman got to it: a change delivers first."""

    async def scene(data: Path) -> None:
        async with Running(data) as running:
            for number in range(20):
                await with_letters(running, "ada", f"m{number}")
                assert (await change(running, "ada", said(f"m{number}", "read"))).accepted == 1
            assert (await counts(running, "ada")).unread == 0

    play(scene)


def test_the_answer_tells_all_that_happened_since_and_where_the_device_was_too_late() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, "ada", "a", "b", "c")
            first = await change(running, "ada", said("a", "read", 5))
            second = await change(running, "ada", said("b", "starred", 6, "tablet"))
            third = await change(running, "ada", said("c", "read", 7), since=first.since)
            assert [s.message_id for s in third.statuses] == ["b", "c"]
            assert not third.full
            late = await change(running, "ada", said("a", "unread", 4, "tablet"), since=third.since)
            assert [s.message_id for s in late.statuses] == ["a"]
            assert [c.reason for c in late.conflicts] == ["newer"]
            assert late.since == third.since
            assert second.since < third.since
            place = PositionRow("direct", "a", START_US + 5_000_000, 1)
            assert (await change(running, "ada", positions=[place])).accepted == 1
            earlier = PositionRow("direct", "b", START_US + 4_000_000, 1)
            told = await statuses(running, "ada")
            late = await change(running, "ada", positions=[earlier], since=told.since)
            assert [p.last_read_message_id for p in late.positions] == ["a"]
            assert [(c.index, c.status) for c in late.conflicts] == [(0, "position")]

    play(scene)


def test_a_removed_message_can_not_be_marked_any_more() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, "ada", "a", "b")
            await change(running, "ada", said("a", "read"))
            await running.remove("ada", "a")
            assert [c.reason for c in (await change(running, "ada", said("a", "unread", 1))).conflicts] == [
                "no_message"
            ]
            assert (await counts(running, "ada")).unread == 1

    play(scene)


def test_it_is_all_there_after_a_kill_and_with_few_files_open() -> None:
    async def scene(data: Path) -> None:
        users = [f"user{number}" for number in range(30)]
        async with Running(data, statuses_open_max=1) as running:
            running.shard.statuses.open_max = 3
            await with_letters(running, users, "a", "b")
            await asyncio.gather(*(change(running, user, said("a", "read")) for user in users))
            assert len(running.shard.statuses._all) <= 3
            await asyncio.gather(*(change(running, user, said("b", "starred")) for user in users))
        async with Running(data) as running:
            for user in users:
                told = await statuses(running, user)
                assert [s.message_id for s in told.statuses] == ["a", "b"]
                assert (await counts(running, user)).unread == 1

    play(scene)


def test_many_at_once_for_one_person_are_all_kept() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            ids = [f"m{number}" for number in range(40)]
            await with_letters(running, "ada", *ids)
            done = await asyncio.gather(*(change(running, "ada", said(message, "read")) for message in ids))
            assert len({one.since for one in done}) == len(ids)
            assert {s.message_id for s in (await statuses(running, "ada")).statuses} == set(ids)

    play(scene)


def test_a_disk_that_answers_slowly_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """One person's commit hangs; letters are delivered to everybody, that person too, and others are served."""
    gate = threading.Event()
    commit = StatusFile._commit

    def slow(file: StatusFile) -> None:
        if file.path.parent.name == "ada":
            gate.wait(30)
        commit(file)

    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, ["ada", "bo"], "a")
            monkeypatch.setattr(StatusFile, "_commit", slow)
            waiting = asyncio.create_task(change(running, "ada", said("a", "read")))
            await until(lambda: not running.shard.statuses._idle and running.shard.statuses._lines, "the commit")
            assert (await change(running, "bo", said("a", "read"))).accepted == 1
            await with_letters(running, "ada", "b")
            assert sorted(await running.ids("ada")) == ["a", "b"]
            assert not waiting.done()
            gate.set()
            assert (await waiting).accepted == 1
            assert (await counts(running, "ada")).unread == 1

    play(scene)


def test_more_questions_than_the_bound_are_refused_and_the_others_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_UNDER_WAY_MAX", 4)

    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, "ada", "a")
            outcomes = await asyncio.gather(
                *(change(running, "ada", said("a", "read", second)) for second in range(9)), return_exceptions=True
            )
            assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 5
            assert (await statuses(running, "ada")).statuses
            assert running.shard.statuses._under_way == 0

    play(scene)


def test_a_caller_who_goes_away_leaves_nothing_half_done() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, "ada", "a")
            cancelled = second = 0
            while second < 60 or cancelled < 10:
                second += 1
                status = said("a", ("read", "unread")[second % 2], second)
                question = ChangeStatuses(0, 1, slot_of("ada"), "ada", None, 10, 0, [status], [])
                task = asyncio.create_task(running.shard.statuses.change(question))
                await asyncio.sleep(0.0002 * (second % 10))
                task.cancel()
                await asyncio.wait([task])
                cancelled += task.cancelled()
            done = await change(running, "ada", said("a", "read", 999))
            assert done.accepted == 1
            assert (await counts(running, "ada")).unread == 0
            assert not running.shard.statuses._lines
            assert len(running.shard.statuses._all) == 1

    play(scene)


@pytest.mark.parametrize("damage", ["header", "all", "cut", "empty", "no table"])
def test_a_damaged_file_is_set_aside_and_its_devices_begin_anew(damage: str) -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, "ada", "a", "b")
            known = (await change(running, "ada", said("a", "read"))).since
        path = file_of(data, "ada")
        path.with_name(f"{FILE}-wal").unlink()
        content = path.read_bytes()
        if damage == "no table":
            db = apsw.Connection(str(path))
            db.execute("DROP TABLE read_stats; PRAGMA journal_mode=delete").fetchall()
            db.close()
        else:
            path.write_bytes(
                {
                    "header": b"\xaa" * 100 + content[100:],
                    "all": b"\xaa" * len(content),
                    "cut": content[:1_000],
                    "empty": b"",
                }[damage]
            )
        async with Running(data) as running:
            told = await statuses(running, "ada", known)
            assert (told.full, told.statuses) == (True, [])
            assert (await counts(running, "ada")).unread == 2
            done = await change(running, "ada", said("b", "read", 1), since=known)
            assert (done.full, [s.message_id for s in done.statuses]) == (True, ["b"])
            assert running.shard.statuses.damaged == 1
        assert len(list(path.parent.glob(f"{FILE}.damaged-*"))) == 1

    play(scene)


@pytest.mark.parametrize("which", ["box", "statuses"])
def test_a_file_that_another_program_holds_is_told_and_free_again_afterwards(which: str) -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, "ada", "a")
            await change(running, "ada", said("a", "read"))
            await running.let_go()
        held = box_path(data, "ada") if which == "box" else file_of(data, "ada")
        async with Running(data) as running:
            with held_elsewhere(held, "write") as holder:
                with pytest.raises(Unavailable):
                    await change(running, "ada", said("a", "unread", 1))
                with pytest.raises(Unavailable):
                    await counts(running, "ada")
                if which == "box":
                    assert (await statuses(running, "ada")).statuses
                else:
                    with pytest.raises(Unavailable):
                        await statuses(running, "ada")
                holder.kill()
                holder.wait()
            assert (await change(running, "ada", said("a", "unread", 1))).accepted == 1

    play(scene)


def test_what_could_not_be_delivered_is_not_called_missing() -> None:
    """The box is free again before its letter is tried again: to say no_message would lose the change."""

    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, "ada", "first")
            await running.settled()
            await running.let_go()
        async with Running(data, postmen=1) as running:
            running.shard.put_off._due = lambda user: None  # type: ignore[method-assign]
            with held_elsewhere(box_path(data, "ada"), "read") as holder:
                await with_letters(running, "ada", "late")
                await until(lambda: running.shard.put_off.has("ada"), "the first attempt", running.life)
                deliver_now = running.shard.postmen.deliver_now

                async def unlucky(user: str) -> None:
                    if user != "ada":
                        await deliver_now(user)

                running.shard.postmen.deliver_now = unlucky  # type: ignore[method-assign]
                holder.kill()
                holder.wait()
            with pytest.raises(Unavailable):
                await change(running, "ada", said("late", "read"))
            with pytest.raises(Unavailable):
                await counts(running, "ada")
            running.shard.postmen.deliver_now = deliver_now  # type: ignore[method-assign]
            assert (await change(running, "ada", said("late", "read"))).accepted == 1

    play(scene)


def test_a_full_disk_is_told_and_what_was_accepted_stays(tmp_path: Path) -> None:
    async def scene(data: Path) -> None:
        lay_out(data, 1)
        async with Running(data) as running:
            await with_letters(running, ["ada", "bo"], "a", "b")
            await running.settled()
            accepted = await change(running, "ada", said("a", "read"))
            fill(data / "ballast")
            for user in ("ada", "bo"):  # with a file, and without one
                refused = 0
                for second in range(400):
                    try:
                        await change(running, user, said("a", ("unread", "read")[second % 2], second))
                    except DiskFull:
                        refused += 1
                        break
                assert refused
            told = await statuses(running, "ada")
            assert told.since >= accepted.since
            (data / "ballast").unlink()
            await until(lambda: running.shard.office.closed is None, "the office open again", running.life)
            for user in ("ada", "bo"):
                done = await change(running, user, said("a", "read", 1_000))
                assert done.accepted == 1
                assert next(s for s in done.statuses if s.message_id == "a").read_at
            assert running.shard.statuses.damaged == 0

    with small_disk(tmp_path / "disk", 8 * 1_048_576) as disk:
        asyncio.run(scene(disk))


def test_nothing_new_is_taken_while_the_shard_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard.house._FULL_S", 60.0)

    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await with_letters(running, "ada", "a")
            await running.settled()
            running.shard.house.no_room()
            with pytest.raises(DiskFull):
                await change(running, "ada", said("a", "read"))
            assert (await statuses(running, "ada")).statuses == []

    play(scene)


def test_a_mark_made_while_the_clock_was_ahead_can_be_changed_when_it_is_right_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    year_us = 365 * 86_400 * 1_000_000

    async def scene() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await with_letters(running, "ada", "a")
                now = clock.now_us
                monkeypatch.setattr("shard.statuses.now_us", lambda: now() + year_us)
                await change(running, "ada", ops.StatusRow("a", "read", now() + year_us, "phone"))
                monkeypatch.setattr("shard.statuses.now_us", now)
                done = await change(running, "ada", ops.StatusRow("a", "unread", now(), "desktop"))
                assert done.conflicts == []
                assert done.statuses[-1].read_at is None

    asyncio.run(scene())
