"""One person's box as it was at a moment, and a damaged one that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import ops
from node.clock import now_us, us_of
from node.errors import BadField, NotFound, Unavailable
from node.placement import Placement
from node.slots import slot_of, table_for
from shard import backup_files as files
from shard import leftovers
from shard.layout import lay_out
from shard.mailbox import FILE
from tests.shard.asking import change, said
from tests.shard.elsewhere import held_elsewhere
from tests.shard.running import Running, box_path, delivery, laid_out, letter, until
from tests.shard.test_backup import KEPT, back_up
from tests.shard.test_dead_letters import FEW, drop, noted, requeue

TABLES = ("messages", "removed", "channels", "user_channels")
Rows = dict[str, list[Any]]


def run(test: Callable[[Running, Path], Awaitable[None]]) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, backup=KEPT) as running:
                await test(running, data)

    asyncio.run(go())


def now_letter(message_id: str, **options: Any) -> ops.Letter:
    """One that came in just now."""
    return msgspec.structs.replace(letter(message_id, **options), accepted_us=now_us())


async def restore(running: Running, user: str, at_us: int) -> ops.Restored:
    request = ops.Restore(0, running.layout.version, slot_of(user), user, at_us)
    return await running.while_alive(running.shard.restores.restore(request))


async def rows_of(running: Running, user: str) -> Rows:
    """Every row of the box, in order; what waits is delivered first."""
    async with running.shard.desk.box(user) as box:
        return rows_in(box._db)


def rows_in(db: apsw.Connection) -> Rows:
    return {table: sorted(db.execute(f"SELECT * FROM {table}"), key=repr) for table in TABLES}


def rows_at(path: Path) -> Rows:
    with contextlib.closing(files.reading(path, "ada")) as db:
        return rows_in(db)


async def moment() -> int:
    """A time between what came before and what comes."""
    at_us = now_us()
    while now_us() <= at_us + 1:
        await asyncio.sleep(0)
    return at_us + 1


def test_a_box_is_restored_to_a_moment_after_the_backup_and_devices_fetch_it() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(now_letter("n0"), ["ada", "bob"]))
        await back_up(running)
        await running.deliver(delivery(now_letter("n1"), ["ada"]))
        then, wanted = await moment(), await rows_of(running, "ada")
        await running.deliver(delivery(now_letter("n2"), ["ada"]))
        await running.remove("ada", "n0")
        ask = ops.AskSync(0, 1, slot_of("ada"), "ada", None)
        before = await running.while_alive(running.shard.devices.check(ask))
        await running.let_go()
        done = await restore(running, "ada", then)
        assert await running.ids("ada") == ["n1", "n0"]
        assert await rows_of(running, "ada") == wanted
        assert done.letters == 1
        assert done.before == ops.BoxFacts(2, 1, done.before.checksum if done.before else "")
        assert (done.after.messages, done.after.removed) == (2, 0)
        after = await running.while_alive(running.shard.devices.check(ask))
        assert after.version >= done.version > before.version
        aside = box_path(data, "ada").with_name(done.aside)
        assert [row[0] for row in rows_at(aside)["messages"]] == ["n1", "n2"]
        await running.deliver(delivery(now_letter("n3"), ["ada"]))
        assert await running.ids("ada") == ["n3", "n1", "n0"]

    run(test)


def test_a_moment_before_the_first_backup_is_refused_and_nothing_changes() -> None:
    async def test(running: Running, data: Path) -> None:
        then = await moment()
        await running.deliver(delivery(now_letter("n0"), ["ada"]))
        await back_up(running)
        with pytest.raises(NotFound):
            await restore(running, "ada", then)
        assert await running.ids("ada") == ["n0"]

    run(test)


def test_a_moment_that_is_still_to_come_is_refused_by_name() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(now_letter("n0"), ["ada"]))
        await back_up(running)
        with pytest.raises(BadField, match=r"2100-01-01T00:00:00\.000000Z is in the future") as refused:
            await restore(running, "ada", us_of(datetime(2100, 1, 1, tzinfo=UTC)))
        assert refused.value.field == "at"
        assert not list(box_path(data, "ada").parent.glob("*.replaced-*"))

    run(test)


def test_what_a_restore_left_goes_with_the_backups_of_its_day() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(now_letter("n0"), ["ada", "bob"]))
        await change(running, "ada", said("n0", "read"))
        await running.let_go()
        await back_up(running)
        directory = box_path(data, "ada").parent
        old = ["messages.db.replaced-2026-01-01T000000.000000Z", "messages.db-wal.replaced-2026-01-01T000000.000000Z"]
        old += ["read_status.db.replaced-2026-01-01T000000.000000Z"]
        old += ["messages.db.damaged-2026-01-01T000000.000000Z.restored", "messages.db.restoring"]
        stays = ["messages.db.damaged-2026-01-01T000000.000000Z", "messages.db.replaced-by-hand"]
        for name in (*old, *stays):
            (directory / name).touch()
        os.utime(directory / "messages.db.restoring", (1, 1))
        await restore(running, "ada", now_us())
        (directory / stays[0]).with_name(f"{stays[0]}.restored").rename(directory / stays[0])
        recent = {path.name for path in directory.glob("*.replaced-*")} - {*old, *stays}
        assert len(recent) == 2
        await back_up(running)
        left = {path.name for path in directory.glob("*.db*.*")} - {"messages.db-wal"}
        assert left == {*stays, *recent}
        assert await running.ids("ada") == ["n0"]

    run(test)


def test_a_dead_letter_is_in_no_restored_box_until_it_is_requeued() -> None:
    """A message that died for ada while bob got it: from the journal, from the history, and to a channel."""

    async def test(running: Running, data: Path) -> None:
        await running.put_channel("crew")
        await running.change("crew", add=["ada", "bob"])
        await running.deliver(delivery(now_letter("n0"), ["ada", "bob"]))
        await running.settled()
        await running.let_go()
        await back_up(running)
        running.shard.mailboxes.discard("ada")
        with held_elsewhere(box_path(data, "ada"), "write"):
            await running.deliver(delivery(now_letter("n1"), ["ada", "bob"]))
            await running.deliver(delivery(now_letter("c1", channel_id="crew"), channel="crew"))
            await noted(running, 2)
        await restore(running, "ada", now_us())
        assert await running.ids("ada") == ["n0"]
        await running.settled()
        await running.let_go()
        await restore(running, "ada", now_us())
        assert await running.ids("ada") == ["n0"]
        await requeue(running, "ada", "n1")
        await drop(running, "ada", "c1")
        await running.settled()
        await running.let_go()
        await restore(running, "ada", now_us())
        assert sorted(await running.ids("ada")) == ["n0", "n1"]
        assert sorted(await running.ids("bob")) == ["c1", "n0", "n1"]

    async def go() -> None:
        with laid_out() as data:
            async with Running(data, backup=KEPT, retry=FEW) as running:
                await test(running, data)

    asyncio.run(go())


def test_a_damaged_backup_is_passed_over_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(now_letter("n0"), ["ada"]))
        await change(running, "ada", said("n0", "read"))
        monkeypatch.setattr("shard.backup._today", lambda: "20260101")
        for module in ("backup", "backup_boxes"):
            monkeypatch.setattr(f"shard.{module}.first_day", lambda keep_days: "20000101")
        await back_up(running)
        await running.deliver(delivery(now_letter("n1"), ["ada"]))
        await change(running, "ada", said("n1", "read"))
        monkeypatch.setattr("shard.backup._today", lambda: "20260102")
        await back_up(running)
        await running.let_go()
        place = files.directory(data, "ada")
        for kind in files.KINDS:
            files.file(place, kind, "20260102").write_bytes(b"not this")
        done = await restore(running, "ada", await moment())
        assert await running.ids("ada") == ["n1", "n0"]
        assert done.statuses_us == files.load(place)["20260101"]["read_status"].at_us

    run(test)


def test_mail_waits_while_one_box_takes_the_others_place_and_others_notice_nothing() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(now_letter("n0"), ["ada", "bob"]))
        await back_up(running)
        then = await moment()
        restores = running.shard.restores
        swapping, looked = asyncio.Event(), asyncio.Event()
        whole = restores._replace

        def held_up(*arguments: Any) -> Any:
            loop.call_soon_threadsafe(swapping.set)
            return asyncio.run_coroutine_threadsafe(looked.wait(), loop).result() and whole(*arguments)

        loop = asyncio.get_running_loop()
        restores._replace = held_up  # type: ignore[method-assign]
        task = asyncio.create_task(restore(running, "ada", then))
        await swapping.wait()
        for number in range(20):  # more than there are postmen
            await running.deliver(delivery(now_letter(f"m{number:02}"), ["ada"]))
        await running.deliver(delivery(now_letter("b1"), ["bob"]))
        assert await running.ids("bob") == ["b1", "n0"]
        with pytest.raises(Unavailable):
            await running.ids("ada")
        assert not task.done()
        looked.set()
        await task
        assert sorted(await running.ids("ada")) == [*(f"m{number:02}" for number in range(20)), "n0"]

    run(test)


def test_a_kill_after_a_restore_leaves_the_restored_box() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, backup=KEPT) as running:
                await running.deliver(delivery(now_letter("n0"), ["ada"]))
                await back_up(running)
                then = await moment()
                await running.deliver(delivery(now_letter("n1"), ["ada"]))
                await running.settled()
                await running.let_go()
                await restore(running, "ada", then)
            async with Running(data, backup=KEPT) as running:
                assert await running.ids("ada") == ["n0"]

    asyncio.run(go())


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(b"\xa5" * (path.stat().st_size - 4_096))


@pytest.mark.parametrize("how", ["garbage", "cut", "gone", "empty"])
def test_a_damaged_box_comes_back_from_its_backup_and_what_came_since_before_its_mail(how: str) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, backup=KEPT) as running:
                await running.put_channel("news")
                await running.deliver(delivery(now_letter("n0"), ["ada", "bob"]))
                await running.change("news", add=["ada"])
                await back_up(running)
                await running.deliver(delivery(now_letter("n1"), ["ada"]))
                await running.deliver(delivery(now_letter("n2"), channel="news"))
                await running.remove("ada", "n0")
                await running.settled()
                await running.let_go()  # to the history
                await running.deliver(delivery(now_letter("n3"), ["ada"]))  # in the journal still
                await running.settled()
            path = box_path(data, "ada")
            path.with_name(f"{FILE}-wal").unlink(missing_ok=True)
            if how == "garbage":
                damage(path)
            elif how == "cut":
                path.write_bytes(path.read_bytes()[:5_000])
            elif how == "gone":
                path.unlink()
            else:
                path.write_bytes(b"")
            async with Running(data, backup=KEPT) as running:
                await running.deliver(delivery(now_letter("n4"), ["ada"]))
                await until(lambda: running.shard.restores.restored, "the box", running.life)
                await running.settled()
                assert await running.ids("bob") == ["n0"]
                found = await rows_of(running, "ada")
                assert [row[0] for row in found["messages"]] == ["n1", "n2", "n3", "n4"]
                assert [row[0] for row in found["removed"]] == ["n0"]
                assert [row[0] for row in found["user_channels"]] == ["news"]
                assert bool(list(path.parent.glob(f"{FILE}.damaged-*"))) is (how != "gone")

    asyncio.run(go())


def test_what_comes_after_a_restart_is_later_than_a_backup_of_before_it() -> None:
    """The last of what was done before were removals, of which nothing is kept but in the history."""

    async def go() -> None:
        with laid_out() as data:
            async with Running(data, backup=KEPT) as running:
                for number in range(5):
                    await running.deliver(delivery(now_letter(f"n{number}"), ["ada"]))
                for number in range(4):
                    await running.remove("ada", f"n{number}")
                await running.settled()
                await running.let_go()
                await back_up(running)
            async with Running(data, backup=KEPT) as running:
                await running.deliver(delivery(now_letter("n5"), ["ada"]))
                await running.settled()
                await running.let_go()
                running.shard.mailboxes.discard("ada", apsw.CorruptError("a page is not what it should be"))
                with pytest.raises(Unavailable):
                    await running.ids("ada")
                await until(lambda: running.shard.restores.restored, "the box", running.life)
                assert await running.ids("ada") == ["n5", "n4"]

    asyncio.run(go())


def test_a_box_that_is_damaged_while_it_is_open_comes_back_too() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(now_letter("n0"), ["ada"]))
        await back_up(running)
        await running.deliver(delivery(now_letter("n1"), ["ada"]))
        await running.settled()
        running.shard.mailboxes.discard("ada", apsw.CorruptError("a page is not what it should be"))
        with pytest.raises(Unavailable):
            await running.ids("ada")
        await until(lambda: running.shard.restores.restored, "the box", running.life)
        assert await running.ids("ada") == ["n1", "n0"]
        aside = list(box_path(data, "ada").parent.glob("*.damaged-*"))
        assert aside
        assert all(leftovers.is_settled(path) for path in aside)

    run(test)


def test_who_reads_a_damaged_box_is_told_to_come_again_and_it_is_restored() -> None:
    async def test(running: Running, data: Path) -> None:
        names = [f"n{number}" for number in range(60)]
        for name in names:  # more than the cache of an open box holds
            long = msgspec.structs.replace(now_letter(name), content="x" * 5_000)
            await running.deliver(delivery(long, ["ada"]))
        await running.settled()
        await running.let_go()
        await back_up(running)
        async with running.shard.mailboxes.hold("ada", create=False) as box:
            assert box is not None
            box.checkpoint(running.disk)
        running.shard.mailboxes.discard("ada")
        await running.page("ada")  # it is open again
        damage(box_path(data, "ada"))
        for _ in range(2):  # the first finds it damaged, the second asks for what is lost
            with pytest.raises(Unavailable):
                await running.ids("ada")
        await until(lambda: running.shard.restores.restored, "the box", running.life)
        assert sorted(await running.ids("ada")) == sorted(names)

    run(test)


def test_where_no_backup_is_whole_the_box_begins_anew_and_mail_goes_on() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(now_letter("n0"), ["ada"]))
        await back_up(running)
        for path in files.directory(data, "ada").glob("*.db"):
            path.write_bytes(b"not this")
        running.shard.mailboxes.discard("ada", apsw.CorruptError("a page is not what it should be"))
        await running.deliver(delivery(now_letter("n1"), ["ada"]))
        await until(lambda: running.shard.restores.given_up, "an empty box", running.life)
        await running.settled()
        assert await running.ids("ada") == ["n1"]

    run(test)


def test_nobody_is_deleted_while_their_box_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(now_letter("n0"), ["ada"]))
        await back_up(running)
        for path in files.directory(data, "ada").glob("*.db"):
            path.write_bytes(b"not this")
        begun, may_end = threading.Event(), threading.Event()
        give_birth = running.shard.mailboxes.opener.give_birth

        def slow(path: Path) -> None:
            begun.set()
            may_end.wait()
            give_birth(path)

        monkeypatch.setattr(running.shard.mailboxes.opener, "give_birth", slow)
        running.shard.mailboxes.discard("ada", apsw.CorruptError("a page is not what it should be"))
        await running.deliver(delivery(now_letter("n1"), ["ada"]))
        try:
            await until(begun.is_set, "a box that is begun anew", running.life)
            question = ops.DeleteUser(0, running.layout.version, slot_of("ada"), "ada")
            with pytest.raises(Unavailable):
                await running.while_alive(running.shard.erasures.delete(question))
        finally:
            may_end.set()
        await until(lambda: running.shard.restores.given_up, "an empty box", running.life)
        await running.settled()
        assert await running.ids("ada") == ["n1"]

    run(test)


STEPS = st.lists(
    st.sampled_from(["letter", "urgent", "channel", "join", "leave", "remove", "backup", "let go", "moment"]),
    min_size=3,
    max_size=14,
)


@settings(max_examples=40)
@given(STEPS)
@pytest.mark.slow
def test_whatever_happens_a_box_is_restored_to_what_it_was(steps: list[str]) -> None:
    async def test(running: Running, data: Path) -> None:
        await running.put_channel("news")
        await running.deliver(delivery(now_letter("first"), ["ada"]))
        await back_up(running)
        moments: list[tuple[int, Rows]] = []
        for number, step in enumerate(steps):
            if step in ("letter", "urgent"):
                priority = 9 if step == "urgent" else 3
                await running.deliver(delivery(now_letter(f"n{number}", priority=priority), ["ada"]))
            elif step == "channel":
                await running.deliver(delivery(now_letter(f"n{number}", channel_id="news"), channel="news"))
            elif step in ("join", "leave"):
                change = {"add" if step == "join" else "remove": ["ada"]}
                request = ops.ChangeMembers(
                    0, 1, "news", change.get("add", []), change.get("remove", []), [slot_of("ada")], now_us()
                )
                await running.while_alive(running.shard.channels.change_members(request))
            elif step == "remove":
                if there := await running.ids("ada"):
                    await running.remove("ada", sorted(there)[number % len(there)])
            elif step == "backup":
                await back_up(running)
            elif step == "let go":
                await running.settled()
                await running.let_go()
            else:
                moments.append((await moment(), await rows_of(running, "ada")))
            await moment()
        moments.append((await moment(), await rows_of(running, "ada")))
        fresh = box_path(data, "ada").with_name("then.db")
        for at_us, wanted in moments:
            try:
                await running.while_alive(running.shard.restores._build("ada", at_us, fresh))
            except NotFound:  # a later backup of the same day took the place of the one that reached so far back
                assert "backup" in steps
                continue
            assert rows_at(fresh) == wanted

    run(test)


@pytest.mark.slow
def test_a_history_goes_on_through_a_change_of_the_number_of_shards() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, backup=KEPT) as running:
                await running.put_channel("news")
                await running.change("news", add=["ada", "bob"])
                await running.deliver(delivery(now_letter("n0"), ["ada"]))
                await back_up(running)
                await running.deliver(delivery(now_letter("n1"), channel="news"))
                await running.settled()
                await running.let_go()
                await running.deliver(delivery(now_letter("n2"), channel="news"))  # moves with the journal
                await running.settled()
                await running.remove("ada", "n0")
            lay_out(data, 3)
            layout = Placement(version=2, shards=3)
            owner = table_for(3)[slot_of("ada")]
            async with Running(data, layout, owner, backup=KEPT) as running:
                await running.deliver(delivery(now_letter("n3"), ["ada"], table=2, claim=False))
                then, wanted = await moment(), await rows_of(running, "ada")
                await running.let_go()
                await running.deliver(delivery(now_letter("n4"), ["ada"], table=2, claim=False))
                await running.let_go()
                await restore(running, "ada", then)
                found = await rows_of(running, "ada")
                for table in ("messages", "user_channels"):
                    assert found[table] == wanted[table]
                assert [row[0] for row in found["removed"]] == ["n0"]
                assert [row[0] for row in found["messages"]] == ["n1", "n2", "n3"]

    asyncio.run(go())
