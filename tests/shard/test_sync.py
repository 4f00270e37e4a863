"""What a device is told is what it gets; nothing new costs nothing; and no cache decides about right and wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest

from node import ops, paths
from node.changes import Watch
from node.errors import BadField, DiskFull, NotFound, Unavailable
from node.keystream import Keystream
from node.slots import slot_of
from shard import notes

from .elsewhere import held_elsewhere
from .playing import played
from .running import Running, box_path, delivery, laid_out, letter


async def check(running: Running, user: str = "ada", device: str | None = None) -> ops.SyncState:
    question = ops.AskSync(0, running.layout.version, slot_of(user), user, device)
    return await running.while_alive(running.shard.devices.check(question))


async def snapshot(
    running: Running,
    user: str = "ada",
    encoding: str = "identity",
    version: str | None = None,
    device: str | None = None,
) -> ops.Snapshot:
    question = ops.AskSnapshot(0, running.layout.version, slot_of(user), user, encoding, version, device)
    return await running.while_alive(running.shard.devices.snapshot(question))


def content(running: Running, made: ops.Snapshot) -> bytes:
    found = (running.data / made.file).read_bytes()
    assert len(found) == made.file_size
    return Keystream(made.hidden_by).apply(found, 0)


def ids(running: Running, made: ops.Snapshot) -> list[str]:
    db = apsw.Connection(":memory:")
    db.deserialize("main", content(running, made))
    try:
        assert db.pragma("integrity_check") == "ok"
        return [row[0] for row in db.execute("SELECT id FROM messages ORDER BY id")]
    finally:
        db.close()


def note(data: Path, name: str) -> Path:
    return paths.user_dir(data, "ada") / ".sync" / name


def copies(running: Running) -> int:
    """How many copies were made since the start."""
    return running.shard.snapshots._number


@played
async def test_what_is_told_is_what_is_got_and_all_that_was_accepted_is_in_it() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            running.shard.postmen._gather = lambda: 3_600.0
            last = ""
            for n in range(5):
                await running.deliver(delivery(letter(f"m{n}", priority=1), ["ada"]))
                state = await check(running)
                made = await snapshot(running)
                assert made.state == state
                assert state.version > last
                last = state.version
                file = content(running, made)
                assert (len(file), f"sha256:{hashlib.sha256(file).hexdigest()}") == (state.size, state.checksum)
                assert ids(running, made) == [f"m{k}" for k in range(n + 1)]
            assert copies(running) == 5


@played
async def test_nothing_new_costs_neither_copy_nor_hash_also_after_a_restart() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            state = await check(running)
            assert [await check(running) for _ in range(3)] == [state] * 3
            assert copies(running) == 1
            await running.stop()
        async with Running(data) as running:
            assert await check(running) == state
            assert copies(running) == 0
            assert content(running, await snapshot(running)) == content(running, await snapshot(running))
            assert copies(running) == 1


@pytest.mark.parametrize("rubbish", [None, b"", b"\0" * 80, b"[1]", b'{"version": 7}', b'{"version":"x","size":1}'])
@played
async def test_a_cache_that_is_lost_or_rubbish_costs_a_copy_and_nothing_else(rubbish: bytes | None) -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            state = await check(running, device="phone")
            await running.stop()
        for name in (notes.MESSAGES, notes.LAST):
            note(data, name).unlink()
            if rubbish is not None:
                note(data, name).write_bytes(rubbish)
        async with Running(data) as running:
            assert await check(running, device="phone") == state
            assert copies(running) == 1
            assert json.loads(note(data, notes.MESSAGES).read_bytes())["version"] == state.version
            assert list(json.loads(note(data, notes.LAST).read_bytes())) == ["phone"]


@played
async def test_a_replay_that_changes_nothing_gives_no_new_version() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            state = await check(running)
        async with Running(data) as running:  # it was killed: the letter is in the journal still
            assert running.shard.backlog.waiting
            assert await check(running) == state


@played
async def test_everything_that_changes_a_box_gives_a_new_version() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.put_channel("news")
            await running.deliver(delivery(letter("m"), ["ada"]))
            versions = [(await check(running)).version]

            async def another() -> None:
                versions.append((await check(running)).version)
                assert versions[-1] > versions[-2]

            await running.change("news", add=["ada"])
            await another()
            await running.deliver(delivery(letter("c"), channel="news"))
            await another()
            await running.remove("ada", "m")
            await another()
            await running.change("news", remove=["ada"])
            await another()


@played
async def test_a_file_that_was_written_by_hand_gets_a_version_of_its_own() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            state = await check(running)
            await running.stop()
        db = apsw.Connection(str(box_path(data, "ada")))
        db.execute("UPDATE messages SET title='by hand'")
        db.close()
        async with Running(data) as running:
            made = await snapshot(running)
            assert made.state.version > state.version
            assert made.state.checksum != state.checksum
            assert await check(running) == made.state
            assert (await snapshot(running)).file == made.file


@played
async def test_a_box_that_is_begun_anew_has_later_versions_than_the_one_before() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            await check(running)
            await running.stop()
        future = "2999-01-01T00:00:00.000000Z"
        note(data, notes.MESSAGES).write_bytes(b'{"version":"%s","size":1,"checksum":"x"}' % future.encode())
        box_path(data, "ada").write_bytes(b"this is no database" * 1000)
        async with Running(data) as running:
            assert future < (await check(running)).version < "2999-01-01T00:00:02"


@played
async def test_devices_that_come_at_once_share_one_copy() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            made = await asyncio.gather(*(snapshot(running) for _ in range(20)), *(check(running) for _ in range(20)))
            assert len({one.file for one in made if isinstance(one, ops.Snapshot)}) == 1
            assert copies(running) == 1


@played
async def test_who_comes_while_a_copy_is_made_gets_what_was_accepted_meanwhile() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            asked = []
            for n in range(20):
                await running.deliver(delivery(letter(f"m{n:02}"), ["ada"]))
                asked.append((n, asyncio.create_task(snapshot(running))))
                await asyncio.sleep(0)
            for n, task in asked:
                assert len(ids(running, await task)) >= n + 1


@played
async def test_an_older_version_is_given_as_long_as_it_is_kept() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            old = await snapshot(running)
            await running.deliver(delivery(letter("n"), ["ada"]))
            new = await snapshot(running)
            assert (await snapshot(running, version=old.state.version)) == old
            assert (await snapshot(running, version="never heard of")) == new
            running.shard.snapshots.forget("ada", old.state.version)
            assert (await snapshot(running, version=old.state.version)) == new


@played
async def test_nobody_gets_a_directory_by_being_asked_for() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            for ask in (check, snapshot):
                with pytest.raises(NotFound):
                    await ask(running, "nobody", device="phone")
            assert not list((data / "user_storage").iterdir())
            with pytest.raises(BadField):
                await snapshot(running, encoding="br")


@played
async def test_devices_are_noted_and_the_oldest_are_forgotten() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            for n in range(notes.DEVICES_MAX + 3):
                await check(running, device=f"device {n}")
            made = await snapshot(running, device="phone")
            seen = json.loads(note(data, notes.LAST).read_bytes())
            assert len(seen) == notes.DEVICES_MAX
            assert (seen["phone"]["kind"], seen["phone"]["version"]) == ("download", made.state.version)
            assert "device 2" not in seen


@played
async def test_a_full_disk_is_told_and_what_is_known_is_answered_still() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            state = await check(running)
            running.shard.snapshots._room_bytes = lambda: 0
            assert await check(running) == state
            running.shard.snapshots.forget("ada", state.version)
            with pytest.raises(DiskFull):
                await snapshot(running)


@played
async def test_a_box_that_another_program_holds_is_told_and_free_again_afterwards() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            await check(running)
            await running.stop()
        async with Running(data) as running:
            with held_elsewhere(box_path(data, "ada"), "write"), pytest.raises(Unavailable):
                await check(running)
            assert ids(running, await snapshot(running)) == ["m"]


# -- who may answer from memory ---------------------------------------------------------------------------


def marks(data: Path) -> Watch:
    return Watch(paths.changes_path(data, 0))


@played
async def test_whatever_is_accepted_is_counted_before_anybody_is_told() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            watch = marks(data)
            await running.put_channel("news")
            seen = watch.mark("ada")

            def changed() -> bool:
                nonlocal seen
                before, seen = seen, watch.mark("ada")
                return seen != before

            def answered(_frame: bytes) -> None:
                told.append(changed())

            told: list[bool] = []
            running.shard.office.take(delivery(letter("m"), ["ada", "bob"]), answered)
            await running.while_alive(running.shard.office.drain())
            await running.change("news", add=["ada"])
            assert changed()
            running.shard.office.take(delivery(letter("c"), channel="news"), answered)
            await running.while_alive(running.shard.office.drain())
            assert told == [True, True]
            await running.remove("ada", "m")
            assert changed()
            await running.ids("ada")
            await check(running)
            assert not changed()
            await running.deliver(delivery(letter("b"), ["bob"]))
            assert not changed()


@played
async def test_an_answer_that_lacks_a_letter_which_could_not_be_stored_is_not_to_be_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            state = await check(running)
            store = running.shard.postmen._store

            def full(*_args: Any) -> None:
                raise apsw.FullError("full")

            monkeypatch.setattr(running.shard.postmen, "_store", full)
            await running.deliver(delivery(letter("n"), ["ada"]))
            before = marks(data).mark("ada")
            assert await check(running) == state
            assert marks(data).mark("ada") != before
            monkeypatch.setattr(running.shard.postmen, "_store", store)
            assert (await check(running)).version > state.version


@played
async def test_a_start_leaves_nothing_to_be_remembered() -> None:
    with laid_out() as data:
        async with Running(data):
            before = marks(data).mark("ada")
        async with Running(data):
            assert marks(data).mark("ada") != before


@played
async def test_a_note_from_the_end_of_time_costs_time_not_the_service() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("a"), ["ada"]))
            await running.settled()
            directory = box_path(data, "ada").parent / ".sync"
            directory.mkdir()
            note = notes.Messages("9999-12-31T23:59:59.999999Z", 1, "sha256:0")
            notes.save(directory.parent, notes.MESSAGES, note)
            first = await check(running)
            await running.deliver(delivery(letter("b"), ["ada"]))
            second = await check(running)
            assert first.version < second.version < note.version


@played
async def test_a_version_that_a_power_cut_took_back_is_not_issued_for_other_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither log nor note are flushed when a version is told; with the clock behind it is not the clock that tells
    the next one apart."""
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("a"), ["ada"]))
            await check(running)
            await running.settled()
        before = shutil.copytree(data, tmp_path / "cut")
        monkeypatch.setattr("shard.sync.now_us", lambda: 0)
        async with Running(data) as running:
            await running.deliver(delivery(letter("b"), ["ada"]))
            told = await check(running)
        async with Running(before) as running:
            await running.deliver(delivery(letter("b"), ["ada"]))
            await running.deliver(delivery(letter("c"), ["ada"]))
            assert (await check(running)).version != told.version
