"""What is archived is read as if it had never been moved, and is nowhere twice."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import ops
from node.clock import DAY_US, iso
from node.slots import slot_of
from shard import archive
from shard.doctor import Doctor
from shard.mailbox import Mailbox, template
from shard.rows import Row
from tests import encrypted

from .asking import change as mark
from .asking import counts, said
from .running import START_US, Running, box_path, delivery, laid_out, letter, scratch, until
from .test_mailbox import change, ids

DAY_S = 86_400
BEFORE = iso(START_US)
NOW_US = START_US + DAY_US
"""when a day has passed since"""


def row(message_id: str, day: int, *, channel: str = "direct") -> Row:
    """A message of ``day`` days after the start of all things."""
    body = letter(message_id, channel_id=channel, at=day * DAY_S)
    return (
        body.id, body.channel_id, body.title, body.content, body.message_type, body.priority, body.sender,
        body.created_at, body.updated_at, body.metadata,
    )  # fmt: skip


def opened(directory: Path) -> Mailbox:
    path = directory / "messages.db"
    if not path.exists():
        path.write_bytes(template())
    return Mailbox("ada", path)


def read_all(box: Mailbox, limit: int, channel: str | None = None) -> list[str]:
    """All pages of ``limit``, one after the other."""
    found: list[str] = []
    cursor = None
    while True:
        page = archive.page(box, channel, limit, cursor)
        found += [message.id for message in page.messages]
        cursor = page.cursor
        if cursor is None:
            return found


def in_files(directory: Path) -> list[str]:
    found = []
    for path in sorted((directory / "archive").glob("*.db")):
        db = encrypted.opened(path, directory.parents[2], directory.name)
        found += [message_id for (message_id,) in db.execute("SELECT id FROM messages ORDER BY id")]
        db.close()
    return found


def test_old_messages_go_to_the_file_of_their_year_and_are_read_from_there(tmp_path: Path) -> None:
    box = opened(tmp_path)
    change(box, row("old", -400), row("older", -800), row("new", 1))
    assert archive.move(box, BEFORE) == 2
    assert ids(box) == ["new"]
    assert sorted(path.name for path in (tmp_path / "archive").iterdir()) == ["messages_2024.db", "messages_2025.db"]
    assert read_all(box, 10) == ["new", "old", "older"]
    found = archive.read(box, "older")
    assert found is not None
    assert found.created_at == iso(START_US - 800 * DAY_S * 1_000_000)
    assert archive.read(box, "nothing") is None
    assert archive.move(box, BEFORE) == 0
    box.close()


def test_the_message_that_came_last_stays(tmp_path: Path) -> None:
    box = opened(tmp_path)
    change(box, row("a", -500), row("b", -600))
    assert archive.move(box, BEFORE) == 1
    assert ids(box) == ["b"]
    box.close()


def test_what_comes_late_but_was_made_long_ago_stays_for_its_time(tmp_path: Path) -> None:
    box = opened(tmp_path)
    late = (*row("late", -500)[:8], iso(START_US + 1), None)
    change(box, late, row("new", 0))
    assert archive.move(box, BEFORE) == 0
    box.close()


def test_an_archived_message_that_is_sent_again_is_not_doubled(tmp_path: Path) -> None:
    box = opened(tmp_path)
    change(box, row("old", -400), row("new", 0))
    archive.move(box, BEFORE)
    box.close()
    box = opened(tmp_path)
    change(box, row("old", -400), row("other", 1))
    assert read_all(box, 10) == ["other", "new", "old"]
    box.close()


def test_a_deleted_one_is_gone_from_the_file_too_and_stays_away(tmp_path: Path) -> None:
    box = opened(tmp_path)
    change(box, row("old", -400), row("older", -401), row("new", 0))
    archive.move(box, BEFORE)
    change(box, remove="old")
    assert read_all(box, 10) == ["new", "older"]
    assert archive.read(box, "old") is None
    archive.forget(box, "old")
    assert in_files(tmp_path) == ["older"]
    change(box, row("old", -400))
    assert read_all(box, 10) == ["new", "older"]
    box.close()


def test_a_box_that_a_power_cut_set_back_has_everything_once(tmp_path: Path) -> None:
    box = opened(tmp_path)
    change(box, row("a", -400), row("b", -399), row("new", 0))
    box.close()
    shutil.copytree(tmp_path, tmp_path / "before")
    box = opened(tmp_path)
    archive.move(box, BEFORE)
    box.close()
    shutil.copytree(tmp_path / "archive", tmp_path / "before" / "archive")
    box = opened(tmp_path / "before")
    assert read_all(box, 10) == ["new", "b", "a"]
    change(box, remove="a")
    assert archive.move(box, BEFORE) == 1
    assert archive.sweep(box) == 1
    assert in_files(tmp_path / "before") == ["b"]
    assert read_all(box, 10) == ["new", "b"]
    box.close()


@settings(max_examples=60, deadline=None)
@given(
    days=st.lists(st.integers(-900, 10), min_size=1, max_size=30),
    moves=st.lists(st.integers(-900, 0), max_size=4),
    removed=st.sets(st.integers(0, 29), max_size=5),
    limit=st.integers(1, 7),
    most=st.integers(1, 5),
)
def test_pages_are_the_same_with_and_without_an_archive(
    days: list[int], moves: list[int], removed: set[int], limit: int, most: int
) -> None:
    with scratch() as directory, scratch() as other:
        box, whole = opened(directory), opened(other)
        rows = [row(f"m{number}", day, channel=f"c{number % 2}") for number, day in enumerate(days)]
        for one in (box, whole):
            change(one, *rows)
        for day in moves:
            while archive.move(box, iso(START_US + day * DAY_S * 1_000_000), most):
                pass
        for number in sorted(removed):
            for one in (box, whole):
                change(one, remove=f"m{number}")
        for channel in (None, "c0"):
            assert read_all(box, limit, channel) == read_all(whole, 1_000, channel)
        box.close()
        whole.close()


@pytest.mark.slow
def test_a_shard_archives_what_is_old_and_everybody_is_told() -> None:
    async def play() -> None:
        with laid_out() as data:
            async with Running(data, archive_after_days=1) as running:
                await running.rounded()
                for number in range(5):
                    await running.deliver(delivery(letter(f"old{number}", at=-500 * DAY_S), ["ada", "bob"]))
                await running.deliver(delivery(letter("new"), ["ada"]))
                await running.settled()
                await mark(running, "ada", said("old0", "read"))
                before = await running.ids("ada")
                version = (await running.shard.devices.check(ops.AskSync(0, 1, slot_of("ada"), "ada", None))).version
                async with running.shard.mailboxes.hold("bob", create=False):
                    pass
                running.shard.mailboxes.discard("bob")  # one is open, one is not
                await running.while_alive(running.shard.rounds.round(NOW_US, sweep=True))
                assert running.shard.archivist.moved == 5 + 4
                assert await running.ids("ada") == before
                assert (await counts(running, "ada")).unread == 1
                check = await running.shard.devices.check(ops.AskSync(0, 1, slot_of("ada"), "ada", None))
                assert check.version > version
                await running.remove("ada", "old3")
                assert await running.ids("ada") == ["new", *(f"old{n}" for n in (4, 2, 1, 0))]
                assert "old3" not in in_files(box_path(data, "ada").parent)
                await running.stop()
            assert Doctor(data).examine().faults == []
            [file] = (box_path(data, "ada").parent / "archive").iterdir()
            db = apsw.Connection(str(file))
            db.execute("DELETE FROM messages WHERE id='old1'")
            db.close()
            assert ["old1" in fault for fault in Doctor(data).examine().faults] == [True]
            file.unlink()
            assert ["is missing" in fault for fault in Doctor(data).examine().faults] == [True]

    asyncio.run(play())


def test_the_archive_of_a_box_that_was_lost_is_kept_with_it() -> None:
    """The box that is begun anew names nothing of it, and what no box names is swept."""

    async def go() -> None:
        with laid_out() as data:
            path = box_path(data, "ada")
            async with Running(data, archive_after_days=1) as running:
                await running.rounded()
                for number in range(3):
                    await running.deliver(delivery(letter(f"m{number}", at=-400 * DAY_S), ["ada"]))
                await running.settled()
                await running.shard.rounds.round(NOW_US, sweep=True)
                assert in_files(path.parent) == ["m0", "m1"]
                running.shard.mailboxes.discard("ada", apsw.CorruptError("a page is not what it should be"))
                await running.deliver(delivery(letter("new"), ["ada"]))
                await running.settled()
                await running.shard.rounds.round(NOW_US, sweep=True)
                assert await running.ids("ada") == ["new"]
                kept = [place.name for place in path.parent.glob("archive.damaged-*")]
                assert len(kept) == 1
                (path.parent / kept[0]).rename(path.parent / "archive")
                assert in_files(path.parent) == ["m0", "m1"]

    asyncio.run(go())


def test_a_commit_to_an_archive_takes_its_journals_name_from_the_directory_durably(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    with contextlib.closing(opened(tmp_path)) as box, archive._opened(box, 2025, create=True) as db:
        assert (db.pragma("journal_mode"), db.pragma("synchronous")) == ("delete", 3)


def test_no_box_is_closed_while_the_archivist_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads in one connection end the process, or worse."""
    told: list[str] = []

    def slow(box: Mailbox, before: str) -> int:
        told.append("begun")
        time.sleep(0.3)
        told.append("ended")
        return 0

    async def go() -> None:
        monkeypatch.setattr(archive, "move", slow)
        with laid_out() as data:
            async with Running(data, archive_after_days=1) as running:
                await running.rounded()
                await running.deliver(delivery(letter("m"), ["ada"]))
                await running.settled()
                close = Mailbox.close
                monkeypatch.setattr(Mailbox, "close", lambda box: (told.append("closed"), close(box))[1])
                work = asyncio.create_task(running.shard.rounds.round(NOW_US, sweep=False))
                await until(lambda: told, "the archivist", running.life)
                work.cancel()
                await running.kill()
                assert told == ["begun", "ended", "closed"]

    asyncio.run(go())
