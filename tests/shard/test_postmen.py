"""Boxes in trouble: their letters wait and arrive once, in order; nobody else notices."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from pathlib import Path

import pytest

from node.errors import Unavailable
from shard.backlog import Letter
from shard.layout import lay_out
from shard.opener import Errand, Visit

from .disks import fill, small_disk
from .elsewhere import held_elsewhere
from .running import PATIENCE_S, Running, box_path, delivery, laid_out, letter, stored, until


def _release(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


async def _begun(data: Path, *users: str) -> None:
    """``users`` have a box with one letter in it."""
    async with Running(data) as running:
        for user in users:
            await running.deliver(delivery(letter(f"first-{user}"), [user]))
        await running.settled()
        await running.let_go()


@pytest.mark.parametrize("how", ["write", "read", "idle"])
def test_a_box_that_another_program_holds_is_waited_for_and_nobody_else_notices(how: str) -> None:
    async def play() -> None:
        with laid_out() as data:
            await _begun(data, "ada")
            async with Running(data, postmen=2) as running:
                with held_elsewhere(box_path(data, "ada"), how) as holder:
                    await running.deliver(delivery(letter("a"), ["ada", "bo", "cy"]))
                    await running.deliver(delivery(letter("b"), ["ada", "bo"]))
                    await until(lambda: running.shard.backlog.waiting == 2, "all but the held box", running.life)
                    assert sorted(await running.ids("bo")) == ["a", "b"]
                    assert await running.ids("cy") == ["a"]
                    assert (await running.receipt("a")).pending == 1
                    with pytest.raises(Unavailable):
                        await running.ids("ada")
                    await running.let_go()
                    assert running.shard.journal.rows == 2
                    _release(holder)
                await running.settled()
                assert sorted(await running.ids("ada")) == ["a", "b", "first-ada"]
                assert (await running.receipt("a")).pending == 0
                await running.let_go()
                assert running.shard.journal.rows == 0
                assert running.shard.mailboxes.damaged == 0
            assert stored(data) == {"ada": ["a", "b", "first-ada"], "bo": ["a", "b"], "cy": ["a"]}

    asyncio.run(play())


def test_what_a_held_box_is_told_arrives_in_the_order_of_acceptance() -> None:
    """A join that had to wait must not undo the leave that came after it."""

    async def play() -> None:
        with laid_out() as data:
            await _begun(data, "ada")
            async with Running(data, postmen=3) as running:
                await running.put_channel("news")
                for number in range(5):
                    with held_elsewhere(box_path(data, "ada"), "read") as holder:
                        await running.change("news", add=["ada"])
                        await asyncio.sleep(0.015 * number)
                        _release(holder)
                    await running.change("news", remove=["ada"])
                    await running.settled()
                    assert await running.channels_of("ada") == []
                    running.shard.mailboxes.discard("ada")

    asyncio.run(play())


def test_letters_put_off_and_newer_ones_are_written_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempts fail; before the next is due, more comes. What is newer must not go first."""

    async def play() -> None:
        with laid_out() as data:
            async with Running(data, postmen=2) as running:
                store = running.shard.postmen._store
                failures = 3
                order: list[int] = []

                def failing(box: object, letters: list[Letter]) -> None:
                    nonlocal failures
                    if failures:
                        failures -= 1
                        raise OSError(5, "as if")
                    order.extend(one.seq for one in letters)
                    store(box, letters)  # type: ignore[arg-type]

                monkeypatch.setattr(running.shard.postmen, "_store", failing)
                for number in range(12):
                    await running.deliver(delivery(letter(f"m{number}", priority=number % 10 + 1), ["ada"]))
                    await asyncio.sleep(0.01)
                await running.settled()
                assert order == sorted(order)
                assert len(order) == 12

    asyncio.run(play())


def test_a_letter_whose_time_is_over_while_it_waits_is_given_up_and_counted() -> None:
    async def play() -> None:
        with laid_out() as data:
            await _begun(data, "ada")
            async with Running(data) as running:
                with held_elsewhere(box_path(data, "ada"), "read") as holder:
                    # Accepted long ago by its own clock, so that its time is over at the first trouble.
                    late = letter("late", at=-10_000_000, timeout_s=1.0)
                    await running.deliver(delivery(late, ["ada", "bo"]))
                    await running.deliver(delivery(letter("patient"), ["ada"]))
                    await until(lambda: running.shard.backlog.waiting == 1, "one target given up", running.life)
                    async with asyncio.timeout(PATIENCE_S):
                        while not (await running.receipt("late")).failed:
                            await asyncio.sleep(0.02)
                    part = await running.receipt("late")
                    assert (part.targets, part.pending, part.failed) == (2, 0, 1)
                    _release(holder)
                await running.settled()
            assert stored(data) == {"ada": ["first-ada", "patient"], "bo": ["late"]}

    asyncio.run(play())


@pytest.mark.parametrize("held", [True, False])
def test_what_was_given_up_before_a_kill_stays_so_and_is_counted_once(held: bool) -> None:
    """Its row is still in the journal, for somebody else: it is replayed for him alone."""

    async def play() -> None:
        with laid_out() as data:
            await _begun(data, "ada")
            late = letter("late", at=-10_000_000, timeout_s=1.0)
            with held_elsewhere(box_path(data, "ada"), "read") as holder:
                async with Running(data) as running:
                    await running.deliver(delivery(late, ["ada", "bo"]))
                    await running.settled()
                    running.shard.office.nudge()
                    await running.shard.office.drain()
                    assert (await running.receipt("late")).failed == 1
                if not held:
                    _release(holder)
                async with Running(data) as running:
                    await running.settled()
                    running.shard.office.nudge()
                    await running.shard.office.drain()
                    part = await running.receipt("late")
                    assert (part.targets, part.pending, part.failed) == (2, 0, 1)
            assert stored(data) == {"ada": ["first-ada"], "bo": ["late"]}

    asyncio.run(play())


@pytest.mark.parametrize("damage", ["header", "middle"])
def test_a_damaged_box_is_set_aside_and_its_owner_keeps_receiving(damage: str) -> None:
    async def play() -> None:
        with laid_out() as data:
            async with Running(data, wal_pages_max=1) as running:
                for number in range(60):
                    await running.deliver(delivery(letter(f"old{number}", content="x" * 3_000), ["ada"]))
                await running.settled()
                await running.let_go()
                await running.checkpointed("ada")
            path = box_path(data, "ada")
            content = bytearray(path.read_bytes())
            if damage == "header":
                content[:64] = b"\xaa" * 64
            else:
                content[4_096:] = b"\xaa" * (len(content) - 4_096)
            path.write_bytes(content)
            async with Running(data) as running:
                await running.deliver(delivery(letter("new"), ["ada", "bo"]))
                await running.settled()
                assert await running.ids("ada") == ["new"]
                assert await running.ids("bo") == ["new"]
                assert running.shard.mailboxes.damaged == 1
            assert len(list(path.parent.glob("messages.db.damaged-*"))) == 1

    asyncio.run(play())


def test_a_disk_that_gets_full_under_the_postmen_loses_nothing_and_reads_go_on(tmp_path: Path) -> None:
    async def play(data: Path) -> None:
        lay_out(data, 1)
        async with Running(data, wal_pages_max=20) as running:
            await running.deliver(delivery(letter("before"), ["ada"]))
            await running.settled()
            fill(data / "ballast")
            accepted = {*await running.deliver_until_refused(507), "before", "after"}
            assert "before" in await running.ids("ada")
            (data / "ballast").unlink()
            await until(lambda: running.shard.office.closed is None, "the office open again", running.life)
            await running.deliver(delivery(letter("after"), ["ada", "bo"]))
            await running.settled()
            assert set(await running.ids("ada")) == accepted
            assert len(await running.ids("ada")) == len(accepted)
            await running.stop()
        assert set(stored(data)["ada"]) == accepted

    with small_disk(tmp_path / "disk", 8 * 1_048_576) as disk:
        asyncio.run(play(disk))


def test_a_message_to_everybody_is_stored_without_pushing_out_a_box_in_use() -> None:
    """More people than open boxes: those that are open stay so, also when one of the others is held or damaged."""

    async def play() -> None:
        with laid_out() as data:
            await _begun(data, "held", "damaged")
            box_path(data, "damaged").write_bytes(b"no database" * 1_000)
            everybody = [f"u{number}" for number in range(60)]
            async with Running(data, postmen=2, mailboxes_open_max=16) as running:
                for user in everybody[:16]:
                    await running.deliver(delivery(letter(f"own-{user}"), [user]))
                await running.settled()
                hot = set(running.shard.mailboxes._open)
                assert len(hot) == 16
                with held_elsewhere(box_path(data, "held"), "read"):
                    await running.deliver(delivery(letter("all"), [*everybody, "held", "damaged"]))
                    await until(lambda: running.shard.backlog.waiting == 1, "all but the held box", running.life)
                await running.settled()
                assert set(running.shard.mailboxes._open) >= hot - {"u0", "u1"}
                assert running.shard.mailboxes.damaged == 1
                assert (await running.receipt("all")).pending == 0
            boxes = stored(data)
            assert all("all" in boxes[user] for user in [*everybody, "held", "damaged"])
            assert boxes["held"] == ["all", "first-held"]

    asyncio.run(play())


def test_a_read_waits_for_letters_that_were_taken_up_together_with_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters for a held box come up while letters for closed ones are gathered: they may not be out of sight."""

    async def play() -> None:
        with laid_out() as data:
            await _begun(data, "cold", "ada")
            async with Running(data, postmen=1, mailboxes_open_max=16) as running:
                boxes = running.shard.mailboxes
                for number in range(16):
                    await running.deliver(delivery(letter(f"own-{number}"), [f"u{number}"]))
                await running.settled()
                assert boxes.is_crowded("cold")
                going = threading.Event()
                visit_many = boxes.opener.visit_many
                visited: list[int] = []

                def slowly(errands: list[tuple[str, Errand]], create: bool) -> list[Visit]:
                    visited.append(len(errands))
                    assert going.wait(PATIENCE_S)
                    return visit_many(errands, create)

                monkeypatch.setattr(boxes.opener, "visit_many", slowly)
                async with boxes.hold("ada", create=False):
                    await running.deliver(delivery(letter("all"), ["cold", "ada"]))
                    await until(lambda: visited, "the visit", running.life)
                assert "all" in await running.ids("ada")
                going.set()
                assert "all" in await running.ids("cold")

    asyncio.run(play())


def test_postmen_come_and_go_while_mail_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        with laid_out() as data:
            async with Running(data, postmen=2) as running:
                men = running.shard.postmen
                monkeypatch.setattr(running.shard.house._staffing, "look", lambda *_now, **_load: men._count)
                await until(lambda: men._at_work, "the first of them", running.life)
                for round_, count in enumerate((2, 12, 3, 7, 2)):
                    men.staff(count)
                    assert men._at_work >= set(range(count))
                    for number in range(10):
                        users = [f"u{number}", f"u{number + 1}"]
                        await running.deliver(delivery(letter(f"m{round_}-{number}"), users))
                    await running.settled()
                    await until(lambda count=count: men._at_work == set(range(count)), "the others' end", running.life)
                assert len(await running.ids("u5")) == 10

    asyncio.run(play())
