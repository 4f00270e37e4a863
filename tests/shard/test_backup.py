"""The daily backup: only what changed, consistent, verified, never half."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest
from obstore.store import from_url

from node import ops, placement
from node.config import Backup
from shard import backup_files as files
from shard import backup_set, offsite, pushed
from shard.copying import Copy
from shard.layout import lay_out
from tests import encrypted
from tests.shard.disks import fill, small_disk
from tests.shard.elsewhere import held_elsewhere
from tests.shard.running import Running, box_path, delivery, laid_out, letter, until

KEPT = Backup(at="", history_s=3_600)


def run(test: Callable[[Running, Path], Awaitable[None]], settings: Backup = KEPT) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, backup=settings) as running:
                await test(running, data)

    asyncio.run(go())


async def back_up(running: Running) -> ops.BackupState:
    """One backup, of boxes that have all their mail."""
    backups = running.shard.backups
    await running.settled()
    await backups.begin(ops.BackUp(0))
    await until(lambda: not backups.state.running, "the end of the backup", running.life)
    return backups.state


def backed_up(data: Path, user: str, kind: str = "messages") -> Path:
    (path,) = files.directory(data, user).glob(f"{kind}_*.db")
    return path


def ids(path: Path) -> list[str]:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [row[0] for row in db.execute("SELECT id FROM messages ORDER BY id")]
    finally:
        db.close()


def test_a_backup_holds_what_was_accepted_and_is_a_plain_verified_file() -> None:
    async def test(running: Running, data: Path) -> None:
        for number in range(3):
            await running.deliver(delivery(letter(f"n{number}"), ["ada", "bob"]))
        state = await back_up(running)
        assert (state.whole, state.error, state.boxes, state.copied, state.failed) == (True, "", 2, 2, 0)
        for user in ("ada", "bob"):
            assert ids(backed_up(data, user)) == ["n0", "n1", "n2"]
            ((_day, entries),) = files.load(files.directory(data, user)).items()
            files.check_against(backed_up(data, user), "messages", entries["messages"])
        ((_day, _layout, (part,)),) = backup_set.whole_sets(data)
        assert (part.boxes, part.exact) == (2, True)
        assert files.sha256_of(data / "backups" / part.day / "1" / "shard-0.db") == part.journal_sha256

    run(test)


def test_how_old_backups_are_is_known_here_and_off_site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shard.backup._FORGET_S", 0.0)
    settings = Backup(at="03:10", store=f"file://{tmp_path}")

    async def test(running: Running, data: Path) -> None:
        backups = running.shard.backups
        await running.deliver(delivery(letter("n0"), ["ada"]))
        await back_up(running)
        later_us = backups.whole_us + 5_000_000
        assert backups.age_s(later_us) == 5
        assert backups.offsite_us == 0
        await asyncio.to_thread(offsite.push, data, from_url(settings.store), None, 30, print)
        await until(lambda: backups.offsite_us, "the next look", running.life)
        assert backups.offsite_age_s(later_us) == 5
        backup_set.prune(data, "20990101")
        assert pushed.day_and_us(data) == (backups.state.day, backups.whole_us)

    run(test, settings)


def test_after_a_change_of_layout_the_last_backup_of_the_earlier_one_counts() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, backup=KEPT) as running:
                await back_up(running)
                made_us = running.shard.backups.whole_us
            lay_out(data, 2, encrypted.keyring(data))
            placed = placement.load(data)
            assert placed is not None
            async with Running(data, placed, backup=Backup(at="03:10")) as running:
                assert running.shard.backups.whole_us == 0
                assert running.shard.backups.age_s(made_us + 1_000_000) == 1

    asyncio.run(go())


def test_an_older_set_that_is_sent_again_is_not_taken_for_the_last(tmp_path: Path) -> None:
    def part(ended_us: int) -> list[backup_set.Manifest]:
        return [backup_set.Manifest("", 1, 1, 0, ended_us, 0, 0, True, 0, "")]

    (tmp_path / "backups").mkdir()
    assert pushed.day_and_us(tmp_path) == ("", 0)
    pushed.note(tmp_path, "20261124", 1, part(2_000))
    pushed.note(tmp_path, "20261123", 1, part(1_000))
    assert pushed.day_and_us(tmp_path) == ("20261124", 2_000)


def test_a_box_that_did_not_change_is_a_link_and_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(letter("n0"), ["ada", "bob"]))
        await back_up(running)
        monkeypatch.setattr("shard.backup_boxes._SURE_NS", -(10**18))  # as if it had been written long before
        monkeypatch.setattr("shard.backup._today", lambda: "20990101")
        opened = running.shard.mailboxes.holds
        state = await back_up(running)
        assert (state.linked, state.copied, state.bytes) == (2, 0, 0)
        assert running.shard.mailboxes.holds == opened
        await running.deliver(delivery(letter("n1"), ["bob"]))
        await running.settled()
        monkeypatch.setattr("shard.backup._today", lambda: "20990102")
        state = await back_up(running)
        assert (state.linked, state.copied) == (1, 1)
        place = files.directory(data, "ada")
        first, second, third = sorted(place.glob("messages_*.db"))
        assert first.samefile(second)
        assert first.samefile(third)
        assert ids(files.file(files.directory(data, "bob"), "messages", "20990101")) == ["n0"]
        assert ids(files.file(files.directory(data, "bob"), "messages", "20990102")) == ["n0", "n1"]

    run(test)


def test_old_backups_go_and_what_a_kill_left_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(letter("n0"), ["ada"]))
        monkeypatch.setattr("shard.backup._today", lambda: "20200101")
        await back_up(running)
        place = files.directory(data, "ada")
        (place / "messages_20200102.db.part").write_bytes(b"half")
        monkeypatch.undo()
        await back_up(running)
        assert len(list(place.glob("messages_*"))) == 1
        assert list(files.load(place)) == [running.shard.backups.state.day]
        assert [path.name for path in (data / "backups").iterdir()] == [running.shard.backups.state.day]

    run(test)


def test_a_large_box_is_copied_in_portions_and_takes_mail_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard.backup_boxes._PORTION_PAGES", 4)

    async def test(running: Running, data: Path) -> None:
        for number in range(60):
            await running.deliver(delivery(letter(f"n{number:03}", content="x" * 3_000), ["ada"]))
        await running.let_go()
        backups = running.shard.backups
        await backups.begin(ops.BackUp(0))
        sent = 0
        while backups.state.running:
            await running.deliver(delivery(letter(f"m{sent:03}"), ["ada"]))
            sent += 1
        assert backups.state.whole, backups.state.error
        await running.settled()
        found = ids(backed_up(data, "ada"))
        entry = next(iter(files.load(files.directory(data, "ada")).values()))["messages"]
        files.check_against(backed_up(data, "ada"), "messages", entry)
        # All up to some letter, none after it.
        assert found == sorted([f"n{n:03}" for n in range(60)] + [f"m{n:03}" for n in range(len(found) - 60)])
        assert sent > 1

    run(test)


def test_a_box_that_can_not_be_copied_fails_alone() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(letter("n0"), ["ada", "bob"]))
        await running.settled()
        running.shard.mailboxes.discard("ada")
        with held_elsewhere(box_path(data, "ada"), "idle"):
            state = await back_up(running)
        assert (state.whole, state.failed, state.copied) == (True, 1, 1)
        state = await back_up(running)
        assert (state.failed, state.copied + state.linked) == (0, 2)

    run(test)


def test_a_set_that_was_cut_short_is_none_and_is_made_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard.backup._today", lambda: "20990101")  # both lives have the same day

    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("n0"), ["ada"]))
                await back_up(running)
                backups = running.shard.backups
                backup_set.part_of(data, backups.state.day, running.layout.version, 0).open()
            assert backup_set.whole_sets(data) == []
            async with Running(data) as running:
                await until(lambda: backup_set.whole_sets(data), "a whole set", running.life)

    asyncio.run(go())


def test_after_a_failure_the_last_whole_one_is_as_old_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                backups = running.shard.backups
                assert (await back_up(running)).whole
                whole_us = backups.whole_us
                monkeypatch.setattr(running.disk, "free_bytes", lambda: 0)
                assert (await back_up(running)).error == "The disk is full"
                assert backups.whole_us == whole_us
                assert backup_set.last_set_us(data) == 0, "what is being made anew is not whole"
                monkeypatch.undo()
                assert (await back_up(running)).whole
                assert backup_set.last_set_us(data) == backups.whole_us > whole_us

    asyncio.run(go())


def test_a_full_disk_leaves_no_half_backup_and_the_next_one_is_whole(tmp_path: Path) -> None:
    async def go(data: Path, ballast: Path) -> None:
        async with Running(data, backup=KEPT) as running:
            for number in range(40):
                await running.deliver(delivery(letter(f"n{number:02}", content="x" * 50_000), ["ada"]))
            await running.settled()
            fill(ballast)
            with ballast.open("r+b") as file:  # room for mail, and not for the copy
                file.truncate(ballast.stat().st_size - 1_000_000)
            state = await back_up(running)
            assert (state.whole, state.error) == (False, "The disk is full")
            assert not list(data.glob("user_storage/*/*/backups/*.db*"))
            assert backup_set.whole_sets(data) == []
            await running.deliver(delivery(letter("later"), ["ada"]))
            assert len(await running.ids("ada")) == 41
            ballast.unlink()
            state = await back_up(running)
            assert (state.whole, state.copied) == (True, 1)
            assert len(ids(backed_up(data, "ada"))) == 41

    with small_disk(tmp_path / "disk", 24 * 1_048_576) as disk:
        lay_out(disk / "data", 1)
        asyncio.run(go(disk / "data", disk / "ballast"))


@pytest.mark.parametrize("portion_pages", [4, 2_000])
def test_a_copy_that_fails_is_closed_while_nobody_else_is_in_the_box(
    portion_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard.backup_boxes._PORTION_PAGES", portion_pages)
    close = Copy.close

    def fails(copy: Copy, pages: int = -1) -> int:
        raise apsw.IOError("as if")

    async def test(running: Running, data: Path) -> None:
        held: list[bool] = []

        def closed(copy: Copy) -> None:
            held.append(running.shard.mailboxes.is_held("ada"))
            close(copy)

        await running.deliver(delivery(letter("n", content="x" * 30_000), ["ada"]))
        await running.settled()
        monkeypatch.setattr(Copy, "step", fails)
        monkeypatch.setattr(Copy, "close", closed)
        state = await back_up(running)
        assert state.failed >= 1
        assert held[0], "of the box; the next is the journal's"

    run(test)


def test_a_copy_is_not_closed_while_a_thread_is_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    step, close = Copy.step, Copy.close

    def slow(copy: Copy, pages: int = -1) -> int:
        told.append("begun")
        time.sleep(0.3)
        told.append("ended")
        return step(copy, pages)

    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(letter("n"), ["ada"]))
        await running.settled()
        monkeypatch.setattr(Copy, "step", slow)
        monkeypatch.setattr(Copy, "close", lambda copy: (told.append("closed"), close(copy))[1])
        await running.shard.backups.begin(ops.BackUp(0))
        await until(lambda: told, "the copy", running.life)
        await running.kill()
        assert told[:3] == ["begun", "ended", "closed"]

    run(test)
