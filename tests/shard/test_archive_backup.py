"""What is archived is in the backup too, and comes back from it: in the box or in its archive, never in both, never in
neither."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import from_url

from node import ops
from node.clock import DAY_US, iso, now_us
from node.errors import NotFound
from node.slots import slot_of
from shard import archive, mailbox, oblivion, offsite, offsite_restore
from shard import backup_files as files
from shard.archive_copies import ArchiveCopy, lacking
from shard.backup_boxes import BoxCopies
from shard.disk import Disk
from shard.doctor import Doctor
from shard.keyring import KeyLost
from shard.mailbox import FILE
from shard.sqlite import MODE_AT, ROLLBACK_MODE
from tests import encrypted

from .playing import played
from .running import START_US, Running, box_path, delivery, laid_out, letter, until
from .test_backup import KEPT, back_up
from .test_restore import damage, moment, now_letter, restore

DAY_S = 86_400
SWEEPS = {"archive_after_days": 10_000}
"""the archivist sweeps, and finds nothing that is old enough: what is moved, and when, the tests say"""
_DAYS = {2024: -700, 2025: -400}
"""some day of a year, after the start of all things"""


@contextlib.asynccontextmanager
async def lived(**options: Any) -> AsyncIterator[tuple[Running, Path]]:
    with laid_out() as data:
        async with Running(data, backup=KEPT, **options) as running:
            if options:
                await running.rounded()
            yield running, data
            await running.stop()
        assert Doctor(data, encrypted.keyring(data)).examine().faults == []


class Killed(BaseException):
    """The process ends here."""


async def send(running: Running, *ids: str, year: int | None = None, user: str = "ada") -> None:
    """Messages of now, or that were made in another year, and accepted now."""
    for message_id in ids:
        body = msgspec.structs.replace(now_letter(message_id), updated_at=iso(now_us()))
        await running.deliver(delivery(made_in(year, body), [user]))
    await running.settled()


def made_in(year: int | None, body: ops.Letter) -> ops.Letter:
    if year is None:
        return body
    return msgspec.structs.replace(body, created_at=letter(body.id, at=_DAYS[year] * DAY_S).created_at)


async def shelve(running: Running, user: str = "ada") -> int:
    """All that the box holds goes to the archive, but for what came last."""
    async with running.shard.mailboxes.hold(user, create=False) as box:
        assert box is not None
        return await running.shard.mailboxes.read(lambda: archive.move(box, "2100-01-01"))


def shelf(data: Path, user: str = "ada") -> Path:
    return box_path(data, user).with_name(archive.DIRECTORY)


async def whole(running: Running, user: str = "ada") -> list[str]:
    """All that the person has, by name; that each is in one place; and that a reader gets the same."""
    places = Counter[str]()

    def count(box: mailbox.Mailbox) -> None:
        places.update(message_id for (message_id,) in box._db.execute("SELECT id FROM messages"))
        for year in box.shelf_years():
            assert archive.missing(box, year) == []
            places.update(box.shelved_in(year))

    async with running.shard.desk.box(user) as box:
        await running.shard.mailboxes.read(lambda: count(box))
    assert set(places.values()) <= {1}
    assert sorted(await running.ids(user)) == sorted(places)
    return sorted(places)


def index_of(data: Path, user: str = "ada") -> files.Index:
    return files.load(files.directory(data, user))


def copies(data: Path, day: str, user: str = "ada") -> dict[str, Path]:
    place = files.directory(data, user)
    return {kind: files.file(place, kind, day) for kind in index_of(data, user)[day]}


def held(path: Path, data: Path, user: str = "ada") -> list[str]:
    with contextlib.closing(files.reading(path, user, encrypted.keyring(data))) as db:
        return [message_id for (message_id,) in db.execute("SELECT id FROM messages ORDER BY id")]


def days(monkeypatch: pytest.MonkeyPatch, *names: str) -> Callable[[], None]:
    """Each call begins another day; files count as written long before."""
    monkeypatch.setattr("shard.backup_boxes._SURE_NS", -(10**18))
    left = list(names)

    def next_day() -> None:
        day = left.pop(0)
        monkeypatch.setattr("shard.backup._today", lambda: day)

    return next_day


@played
async def test_an_archive_is_in_the_backup_and_of_a_year_that_did_not_change_there_is_one_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    next_day = days(monkeypatch, "20990101", "20990102", "20990103")
    async with lived() as (running, data):
        await send(running, "a", "b", year=2024)
        await send(running, "c", "d", year=2025)
        assert await shelve(running) == 3
        next_day()
        state = await back_up(running)
        assert (state.whole, state.copied, state.failed) == (True, 1, 0)
        first = copies(data, "20990101")
        assert list(first) == ["messages", "archive_2024", "archive_2025"]
        assert [held(path, data) for path in first.values()] == [["d"], ["a", "b"], ["c"]]
        for kind, entry in index_of(data)["20990101"].items():
            files.check_against(first[kind], kind, entry, encrypted.keyring(data))
        await send(running, "e")
        await shelve(running)
        next_day()
        assert (await back_up(running)).copied == 1
        second = copies(data, "20990102")
        assert held(second["archive_2025"], data) == ["c", "d"]
        assert second["archive_2024"].samefile(first["archive_2024"])
        assert not second["archive_2025"].samefile(first["archive_2025"])
        next_day()
        state = await back_up(running)
        assert (state.linked, state.copied, state.bytes) == (1, 0, 0)
        third = copies(data, "20990103")
        assert all(third[kind].samefile(second[kind]) for kind in second)


@played
async def test_a_box_is_restored_to_what_it_was_wherever_its_messages_lay_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with lived(**SWEEPS) as (running, data):
        await send(running, "a", "b", year=2024)
        await send(running, "c", "d", year=2025)
        await shelve(running)
        await back_up(running)
        await send(running, "e", "f")
        await running.remove("ada", "b")
        await shelve(running)  # d and e: after the backup, before the moment
        then, wanted = await moment(), await whole(running)
        assert wanted == ["a", "c", "d", "e", "f"]
        await running.remove("ada", "a")  # archived before the backup
        await running.remove("ada", "e")
        await send(running, "g")
        await shelve(running)  # f: after the moment
        await running.let_go()
        assert await whole(running) == ["c", "d", "f", "g"]
        done = await restore(running, "ada", then)
        assert await whole(running) == wanted
        assert (done.before and done.before.archived, done.after.archived, done.after.messages) == (3, 2, 3)
        assert not [path.name for path in box_path(data, "ada").parent.glob("*restoring*")]
        await running.while_alive(running.shard.rounds.round(START_US, sweep=True))
        assert await whole(running) == wanted
        await shelve(running)
        assert await whole(running) == wanted
        await running.remove("ada", "a")
        await restore(running, "ada", then)
        assert await whole(running) == wanted, "also out of the backup that was made before"


@pytest.mark.parametrize("what", ["box", "archive", "both", "damaged", "garbage"])
@played
async def test_what_a_disk_took_comes_back(what: str) -> None:
    async with lived() as (running, data):
        await send(running, *(f"a{number:02}" for number in range(40)), year=2024)
        await send(running, "c", "d", year=2025)
        await shelve(running)
        await back_up(running)
        await send(running, "e")
        await running.settled()
        await running.let_go()
        wanted = await whole(running)
        running.shard.mailboxes.discard("ada")
        year = archive.path_of(shelf(data), 2024)
        if what in ("box", "both"):
            for path in box_path(data, "ada").parent.glob(f"{FILE}*"):
                path.unlink()
        if what in ("archive", "both"):
            shutil.rmtree(shelf(data))
        if what == "damaged":
            damage(year)
        if what == "garbage":
            year.write_bytes(b"not a database" * 1_000)
        if what in ("box", "both"):
            with contextlib.suppress(Exception):
                await running.ids("ada")
            await until(lambda: running.shard.restores.restored, "the box", running.life)
        else:
            await restore(running, "ada", now_us())
        assert await whole(running) == wanted
        aside = list(box_path(data, "ada").parent.glob("archive_2024.db.damaged-*"))
        assert len(aside) == (what in ("damaged", "garbage"))
        assert all(path.name.endswith(".restored") for path in aside)


@played
async def test_a_year_that_can_not_be_read_keeps_its_last_backup_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    next_day = days(monkeypatch, "20990101", "20990102")
    async with lived() as (running, data):
        await send(running, *(f"a{number:02}" for number in range(40)), year=2024)
        await send(running, "c", "d", year=2025)
        await shelve(running)
        next_day()
        await back_up(running)
        damage(archive.path_of(shelf(data), 2024))
        await send(running, "e")
        next_day()
        state = await back_up(running)
        assert (state.whole, state.copied, state.failed) == (True, 1, 1)
        assert copies(data, "20990102")["archive_2024"].samefile(copies(data, "20990101")["archive_2024"])
        await restore(running, "ada", now_us())
        assert len(await whole(running)) == 43


@played
async def test_a_backup_that_is_damaged_is_passed_over_for_another_of_that_year(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    next_day = days(monkeypatch, "20980101", "20980102")
    monkeypatch.setattr("shard.backup_boxes.first_day", lambda keep_days: "20000101")
    async with lived() as (running, data):
        await send(running, "a", "b", year=2024)
        await shelve(running)
        next_day()
        await back_up(running)
        await send(running, "c", "d", year=2024)
        await shelve(running)
        next_day()
        await back_up(running)
        then = await moment()
        copies(data, "20980102")["archive_2024"].write_bytes(b"not this")
        await running.remove("ada", "a")
        await running.let_go()
        await restore(running, "ada", then)
        assert await whole(running) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("portion_pages", [2, 2_000])
@played
async def test_what_is_done_between_the_two_copies_loses_nothing(
    portion_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved in between it is in both, and counts once; deleted in between it is looked for, and both are copied
    together."""
    monkeypatch.setattr("shard.backup_boxes._PORTION_PAGES", portion_pages)
    copy_archive, count, done = BoxCopies._copy_archive, 0, False
    async with lived() as (running, data):

        async def late(copying: BoxCopies, one: Any, box: Path, held: mailbox.Mailbox | None) -> None:
            nonlocal count, done
            count += 1
            if held is None and not done:
                done = True
                await shelve(running)
                await running.remove("ada", "b")
            await copy_archive(copying, one, box, held)

        monkeypatch.setattr(BoxCopies, "_copy_archive", late)
        await send(running, "a", "b", year=2024)
        await send(running, *(f"c{number:02}" for number in range(20)), year=2025)
        await shelve(running)
        await send(running, "d", "e")
        state = await back_up(running)
        assert (state.whole, state.failed) == (True, 0)
        assert count >= 2
        made = copies(data, state.day)
        box = made.pop("messages")
        years = {files.year_of(kind) or 0: path for kind, path in made.items()}
        assert lacking(box, years, "ada", encrypted.keyring(data)) == 0
        wanted = await whole(running)
        shutil.rmtree(shelf(data))
        await restore(running, "ada", now_us())
        assert await whole(running) == wanted


@played
async def test_what_is_taken_out_between_the_two_copies_is_looked_for_and_both_are_made_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_archive, told = BoxCopies._copy_archive, list[bool]()

    def expire(box: mailbox.Mailbox) -> None:
        box.begin()
        box.expire(["a"], "2026-01-01")
        box.commit()
        archive.drop(box, {2024: ["a"]})

    async with lived() as (running, data):

        async def late(copying: BoxCopies, one: Any, box: Path, held: mailbox.Mailbox | None) -> None:
            told.append(held is not None)
            if held is None:
                async with running.shard.mailboxes.hold("ada", create=False) as there:
                    assert there is not None
                    await running.shard.mailboxes.read(lambda: expire(there))
            await copy_archive(copying, one, box, held)

        await send(running, "a", "b", year=2024)
        await send(running, "c", "d", year=2025)
        await shelve(running)
        monkeypatch.setattr(BoxCopies, "_copy_archive", late)
        made = copies(data, (await back_up(running)).day)
        assert told == [False, True]
        with contextlib.closing(files.reading(made["messages"], "ada", encrypted.keyring(data))) as db:
            assert list(mailbox.shelved_in(db, 2024)) == held(made["archive_2024"], data) == ["b"]


@played
async def test_a_backup_that_is_made_during_a_restore_takes_nothing_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lived() as (running, data):
        await send(running, "a", "b", "c", year=2024)
        await shelve(running)
        os.utime(copies(data, (await back_up(running)).day)["archive_2024"], (1, 1))  # it was made long ago
        then = await moment()
        await running.remove("ada", "a")
        await running.let_go()
        swap = running.shard.restores._swap

        async def late(*all: Any) -> Any:
            state = await back_up(running)
            assert held(copies(data, state.day)["archive_2024"], data) == ["b"], "it took the other's place"
            return await swap(*all)

        monkeypatch.setattr(running.shard.restores, "_swap", late)
        await restore(running, "ada", then)
        assert await whole(running) == ["a", "b", "c"]


@played
async def test_a_backup_without_what_its_box_names_is_a_fault() -> None:
    with laid_out() as data:
        async with Running(data, backup=KEPT) as running:
            await send(running, "a", "b", "c", year=2024)
            await shelve(running)
            day = (await back_up(running)).day
            await running.stop()
        assert "2 files, 0 faults" in await asyncio.to_thread(_verified, data)
        index = index_of(data)
        del index[day]["archive_2024"]
        files.save(files.directory(data, "ada"), index, durably=False)
        assert "2 archived messages are not in the backup" in await asyncio.to_thread(_verified, data)


def _verified(data: Path) -> str:
    """What ``pobox backup verify`` says."""
    settings = {}
    if encrypted.ON:
        key = data.parent / "master.key"
        key.write_text(encrypted.MASTER.hex())
        key.chmod(0o600)
        settings = {"POBOX_ENCRYPTION_ENABLED": "true", "POBOX_ENCRYPTION_MASTER_KEY": str(key)}
    done = subprocess.run(
        [sys.executable, "-m", "node", "backup", "verify", "--data", str(data)],
        env={**os.environ, **settings},
        cwd=data.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == ("FAULT" in done.stderr), done.stderr
    return done.stdout + done.stderr


@played
async def test_what_is_only_moved_between_the_two_copies_is_in_both_and_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_archive = BoxCopies._copy_archive
    async with lived() as (running, data):

        async def late(copying: BoxCopies, one: Any, box: Path, held: mailbox.Mailbox | None) -> None:
            assert held is None
            await shelve(running)
            await copy_archive(copying, one, box, held)

        monkeypatch.setattr(BoxCopies, "_copy_archive", late)
        await send(running, "a", "b", "c", year=2025)
        wanted, state = await whole(running), await back_up(running)
        made = copies(data, state.day)
        assert (held(made["messages"], data), held(made["archive_2025"], data)) == (["a", "b", "c"], ["a", "b"])
        await restore(running, "ada", now_us())
        assert await whole(running) == wanted
        await shelve(running)
        assert await whole(running) == wanted


@played
async def test_a_year_is_copied_in_portions_and_anew_if_it_is_changed_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shard.backup_boxes._PORTION_PAGES", 3)
    async with lived() as (running, data):
        for number in range(60):
            body = now_letter(f"a{number:02}", content="x" * 3_000)
            await running.deliver(delivery(made_in(2025, body), ["ada"]))
        await running.settled()
        await shelve(running)
        await send(running, "b", year=2025)
        give_way, steps = running.shard.backups._boxes._give_way, 0
        step = ArchiveCopy.step

        def counted(copy: ArchiveCopy, pages: int) -> int:
            nonlocal steps
            steps += 1
            return step(copy, pages)

        async def changing(began: float) -> None:
            if steps == 5:
                await shelve(running)
            await give_way(began)

        monkeypatch.setattr(ArchiveCopy, "step", counted)
        monkeypatch.setattr(running.shard.backups._boxes, "_give_way", changing)
        state = await back_up(running)
        assert (state.whole, state.failed) == (True, 0)
        assert steps > 10
        assert len(held(copies(data, state.day)["archive_2025"], data)) == 60


@pytest.mark.parametrize("where", ["put back", "rename", "after"])
@played
async def test_a_kill_in_the_middle_of_a_restore_leaves_the_old_box_or_the_restored_one(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with laid_out() as data:
        async with Running(data, backup=KEPT) as running:
            await send(running, "a", "b", year=2024)
            await send(running, "c", "d", year=2025)
            await shelve(running)
            await back_up(running)
            then, wanted = await moment(), await whole(running)
            await running.remove("ada", "a")
            await running.remove("ada", "c")
            await running.let_go()
            old = await whole(running)
            rename, put_back = Disk.rename, archive.put_back

            def renamed(disk: Disk, source: Path, target: Path) -> None:
                if target.name == FILE:
                    if where == "after":
                        rename(disk, source, target)
                    raise Killed
                rename(disk, source, target)

            def put(*all: Any) -> None:
                put_back(*all)
                raise Killed

            with monkeypatch.context() as patch:
                patch.setattr(Disk, "rename", renamed)
                if where == "put back":
                    patch.setattr(archive, "put_back", put)
                with pytest.raises(Killed):
                    await running.shard.restores.restore(ops.Restore(0, 1, slot_of("ada"), "ada", then))
        assert Doctor(data, encrypted.keyring(data)).examine().faults == []
        async with Running(data, backup=KEPT, **SWEEPS) as running:
            assert await whole(running) == (wanted if where == "after" else old)
            await running.rounded()  # and what nobody names is swept
            assert await whole(running) == (wanted if where == "after" else old)
            await restore(running, "ada", then)
            assert await whole(running) == wanted
            await running.stop()
        assert Doctor(data, encrypted.keyring(data)).examine().faults == []


@played
async def test_a_set_that_a_kill_cut_short_is_made_anew_with_its_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    days(monkeypatch, "20990101")()  # both lives have the same
    with laid_out() as data:
        async with Running(data, backup=KEPT) as running:
            await send(running, "a", "b", year=2024)
            await send(running, "c", "d", year=2025)
            await shelve(running)
            save = files.save

            def killed(*all: Any, **more: Any) -> None:
                raise Killed

            monkeypatch.setattr(files, "save", killed)  # the copies have their names, and nothing says what they are
            await running.shard.backups.begin(ops.BackUp(0))
            with pytest.raises(BaseExceptionGroup):
                await running.while_alive(until(lambda: False, "the kill", running.life))
            monkeypatch.setattr(files, "save", save)
        async with Running(data, backup=KEPT) as running:
            await until(lambda: running.shard.backups.state.whole, "a whole set", running.life)
            shutil.rmtree(shelf(data))
            await restore(running, "ada", now_us())
            assert await whole(running) == ["a", "b", "c", "d"]


@played
async def test_what_only_the_replaced_box_has_archived_is_kept_beside_it_and_goes_with_the_backups_of_its_day() -> None:
    async with lived(**SWEEPS) as (running, data):
        await send(running, "a", "b", year=2024)
        await shelve(running)
        await back_up(running)
        then = await moment()
        await send(running, "c", "d", year=2025)
        await shelve(running)
        done = await restore(running, "ada", then)
        assert await whole(running) == ["a", "b"]
        beside = box_path(data, "ada").parent
        (kept,) = beside.glob("archive.replaced-*")
        assert [path.name for path in kept.iterdir()] == ["messages_2025.db"], "the other year is the archive's still"
        assert held(kept / "messages_2025.db", data) == ["c"]
        await running.while_alive(running.shard.rounds.round(START_US, sweep=True))
        (beside / "archive.replaced-2026-01-01T000000.000000Z").mkdir()
        await send(running, "e")
        await back_up(running)
        assert [path.name for path in beside.glob("archive.replaced-*")] == [kept.name]
        assert done.aside


@played
async def test_a_restore_brings_back_nothing_of_the_archive_that_is_past_its_time() -> None:
    old = (now_us() - 40 * DAY_US - START_US) // 1_000_000
    async with lived(retention_days=30) as (running, data):
        for message_id in ("a", "b"):
            await running.deliver(delivery(letter(message_id, at=old), ["ada"]))
        await send(running, "c", "d")
        await shelve(running)
        await back_up(running)
        assert await whole(running) == ["a", "b", "c", "d"]
        await running.let_go()
        await running.while_alive(running.shard.rounds.round(now_us(), sweep=True))
        assert await whole(running) == ["c", "d"]
        done = await restore(running, "ada", now_us())
        assert (await whole(running), done.after.archived) == (["c", "d"], 1)
        shutil.rmtree(shelf(data))
        await restore(running, "ada", now_us())
        assert await whole(running) == ["c", "d"]
        await running.while_alive(running.shard.rounds.round(now_us(), sweep=True))
        assert await whole(running) == ["c", "d"]


def _pushed(data: Path, store: Any) -> offsite.Pushed:
    return offsite.push(data, store, None, 36_500, lambda _said: None, encrypted.keyring(data))


def _content(store: Any) -> set[str]:
    return {one["path"].rpartition("/")[2] for batch in obstore.list(store, "content/") for one in batch}


@played
async def test_archives_travel_once_and_a_node_made_of_them_lacks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_day = days(monkeypatch, "20990101", "20990102")
    store, other = from_url(f"file://{tmp_path}/store", mkdir=True), tmp_path / "other"
    with laid_out() as data:
        async with Running(data, backup=KEPT) as running:
            await send(running, "a", "b", year=2024)
            await send(running, "c", "d", year=2025)
            await shelve(running)
            await send(running, "only", user="bo")
            next_day()
            await back_up(running)
            _pushed(data, store)
            before = _content(store)
            await send(running, "e")
            next_day()
            await back_up(running)
            done = _pushed(data, store)
            entries = index_of(data)["20990102"]
            assert entries["archive_2024"].sha256 in before
            assert done.sent == 2, "the box and the journal"
            wanted = await whole(running)
            await running.stop()
        monkeypatch.setattr("shard.offsite_restore.open_keyring", lambda _settings, where: encrypted.keyring(where))
        offsite_restore.restore_all(store, other, None, lambda _said: None)
        for path in other.glob("user_storage/*/*/archive/*.db"):
            assert path.read_bytes()[MODE_AT : MODE_AT + 2] == ROLLBACK_MODE
        assert {path.stat().st_mode & 0o777 for path in other.glob("user_storage/*/*/archive")} == {0o700}
        assert Doctor(other, encrypted.keyring(other)).examine().faults == []
        async with Running(other, backup=KEPT) as running:
            assert await whole(running) == wanted == ["a", "b", "c", "d", "e"]
            assert await running.ids("bo") == ["only"]
            await shelve(running)
            assert await whole(running) == wanted
            assert (await back_up(running)).whole


@played
async def test_who_is_deleted_is_in_no_archive_of_any_backup_any_more(tmp_path: Path) -> None:
    store = from_url(f"file://{tmp_path}/store", mkdir=True)
    async with lived() as (running, data):
        for user, ids in (("ada", ["a", "b"]), ("bo", ["c", "d"])):
            await send(running, *ids, year=2024, user=user)
            await shelve(running, user)
        state = await back_up(running)
        _pushed(data, store)
        hers = {entry.sha256 for entry in index_of(data)[state.day].values()}
        elsewhere = [shutil.copyfile(path, tmp_path / kind) for kind, path in copies(data, state.day).items()]
        assert hers <= _content(store)
        await running.while_alive(running.shard.erasures.delete(ops.DeleteUser(0, 1, slot_of("ada"), "ada")))
        assert not [path for path in data.rglob("*") if path.name == "ada" and path.parent.name != "erased"]
        keyring = encrypted.keyring(data)
        oblivion.see_to(data, store, lambda _said: None, keyring)
        assert not hers & _content(store)
        if keyring is not None:
            for path in elsewhere:
                with pytest.raises(KeyLost):
                    files.reading(path, "ada", keyring)
        assert await whole(running, "bo") == ["c", "d"]
        with pytest.raises(NotFound):
            await restore(running, "ada", now_us())


STEPS = st.lists(
    st.sampled_from(["old", "older", "new", "shelve", "remove", "backup", "let go", "moment"]),
    min_size=4,
    max_size=16,
)


@pytest.mark.slow
@pytest.mark.long
@settings(max_examples=25)
@given(STEPS)
def test_whatever_happens_everything_is_there_once(steps: list[str]) -> None:
    @played
    async def play() -> None:
        async with lived() as (running, _data):
            await send(running, "first", year=2024)
            await back_up(running)
            moments: list[tuple[int, list[str]]] = []
            for number, step in enumerate(steps):
                if step in ("old", "older", "new"):
                    await send(running, f"n{number}", year={"old": 2025, "older": 2024}.get(step))
                elif step == "shelve":
                    await shelve(running)
                elif step == "remove":
                    if there := await whole(running):
                        await running.remove("ada", there[number % len(there)])
                elif step == "backup":
                    await back_up(running)
                elif step == "let go":
                    await running.settled()
                    await running.let_go()
                else:
                    moments.append((await moment(), await whole(running)))
                await moment()
            moments.append((await moment(), await whole(running)))
            await running.settled()
            await running.let_go()
            for at_us, wanted in reversed(moments):
                try:
                    await restore(running, "ada", at_us)
                except NotFound:  # a later backup of the same day took the place of the one that reached so far back
                    assert "backup" in steps
                    continue
                assert await whole(running) == wanted
                await shelve(running)
                assert await whole(running) == wanted

    play()
