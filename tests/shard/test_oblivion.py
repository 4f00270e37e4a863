"""Who was deleted is in no copy of a journal and in no set off-site any more, and nobody else misses anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import from_url

from node import ops, paths
from node.clock import now_us
from node.config import Backup
from node.slots import slot_of
from shard import backup_files, erased, oblivion, offsite, offsite_restore, scrub
from shard.backup_set import whole_sets
from shard.copying import copy_whole, seal
from shard.doctor import Doctor
from shard.erased import Erased
from shard.history import Position
from shard.keyring import open_with

from .playing import played
from .running import Running, box_path, delivery, laid_out, letter
from .test_backup import back_up
from .test_dead_letters import FEW, in_the_way, noted
from .test_parked import PATIENT, is_parked, stuck

ADA = "ada-of-lovelace"
BO = "bo-of-nowhere"


async def delete(running: Running, user: str) -> None:
    await running.while_alive(running.shard.erasures.delete(ops.DeleteUser(0, 1, slot_of(user), user)))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return from_url(f"file://{tmp_path}/store", mkdir=True)


def objects(store: Any, prefix: str) -> list[str]:
    return sorted(one["path"] for batch in obstore.list(store, prefix) for one in batch)


def named(store: Any) -> dict[str, set[str]]:
    """Whose boxes, by set; and that everything that is named is there."""
    there = {path.rpartition("/")[2] for path in objects(store, "content/")}
    found = {}
    for path in objects(store, "manifests/"):
        manifest = offsite.manifest_at(store, path)
        assert {item.sha256 for item in manifest.items} <= there
        found[path.split("/")[1]] = {item.user for item in manifest.items if item.user}
    return found


def content(store: Any, directory: Path) -> bytes:
    """All that is off-site, unpacked."""
    found = b"".join(path.encode() for path in objects(store, "content/"))
    for path in objects(store, "content/") + objects(store, "manifests/"):
        found += b"".join(offsite.unpack([bytes(obstore.get(store, path).bytes())]))
    return found


def _only_manifest(store: Any) -> offsite.Manifest:
    (path,) = objects(store, "manifests/")
    return offsite.manifest_at(store, path)


_STEPS = st.lists(
    st.sampled_from(["both", "ada", "bo", "channel", "join", "leave", "back", "dead", "let go", "mute"]), max_size=8
)


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(_STEPS, st.booleans())
def test_a_journal_without_somebody_is_in_order_and_names_them_nowhere(steps: list[str], small: bool) -> None:
    @played
    async def play() -> None:
        with laid_out() as data:
            async with Running(data, retry=FEW, **({"window_letters": 1} if small else {})) as running:
                await running.put_channel("news")
                await running.change("news", add=[BO, "cy"])
                for number, step in enumerate(steps):
                    body = letter(f"m{number}", channel_id="news")
                    if step in ("both", "ada", "bo"):
                        users = {"both": [ADA, BO], "ada": [ADA], "bo": [BO]}[step]
                        await running.deliver(delivery(letter(f"m{number}"), users))
                    elif step == "channel":
                        await running.deliver(delivery(body, channel="news"))
                    elif step in ("join", "back"):
                        await running.change("news", add=[ADA])
                    elif step == "leave":
                        await running.change("news", remove=[ADA, BO])
                    elif step == "dead":
                        await running.settled()
                        dead = running.shard.dead.count
                        if not box_path(data, ADA).exists():
                            with in_the_way(data, ADA):
                                await running.deliver(delivery(body, [ADA, BO]))
                                await noted(running, dead + 1)
                    elif step == "let go":
                        await running.settled()
                        await running.let_go()
                seq, waiting = running.shard.journal.last_seq, running.shard.backlog
                await running.while_alive(running.shard.office.close_books())
                assert waiting.last_seq <= seq
            path = paths.shard_db(data, 1, 0)
            copy = path.with_suffix(".copy")
            async with Running(data, retry=FEW) as running:
                await running.asked(lambda: _copy(running, copy))
                await running.settled()
            shutil.rmtree(paths.user_dir(data, ADA), ignore_errors=True)
            for one in (path, path.with_name(f"{path.name}-wal")):
                one.unlink(missing_ok=True)
            people = [Erased(ADA, now_us(), 1, seq)]
            if scrub.mentions(copy, people):
                scrub.scrub(copy, 1, now_us(), people)
            assert not scrub.mentions(copy, people)
            seal(copy)
            assert ADA.encode() not in copy.read_bytes()
            backup_files.check(copy, "journal")
            backup_files.thaw(copy, path)
            copy.unlink()
            assert Doctor(data).examine().faults == []
            async with Running(data, retry=FEW) as running:
                await running.settled()
                assert not box_path(data, ADA).exists()
                for number, step in enumerate(steps):
                    part = await running.receipt(f"m{number}")
                    assert (part.pending, part.failed) == (0, 0)
                    if step in ("both", "bo", "ada") and "let go" not in steps[number:]:
                        assert part.targets == (step != "ada"), "as long as the journal has it"

    play()


@played
async def test_what_is_parked_for_somebody_goes_too_and_waits_for_the_others() -> None:
    with laid_out() as data:
        path = paths.shard_db(data, 1, 0)
        copy = path.with_suffix(".copy")
        async with Running(data, retry=PATIENT, window_letters=8) as running:
            with stuck({ADA, BO}):
                for number in range(12):
                    users = ([ADA], [ADA, BO], [ADA, BO, "cy"])[number % 3]
                    await running.deliver(delivery(letter(f"m{number}"), users))
                await is_parked(running, 8)
                await running.asked(lambda: _copy(running, copy))
        for old in (path, path.with_name(f"{path.name}-wal"), *paths.user_dir(data, ADA).glob("*")):
            old.unlink(missing_ok=True)
        paths.user_dir(data, ADA).rmdir()
        scrub.scrub(copy, 1, 0, [Erased(ADA, now_us(), 1, 0)])  # of another shard, whose numbers are others
        assert ADA.encode() not in copy.read_bytes()
        backup_files.thaw(copy, path)
        copy.unlink()
        assert Doctor(data).examine().faults == []
        async with Running(data) as running:
            await running.settled()
            assert len(await running.ids(BO)) == 8
            assert not box_path(data, ADA).exists()


def _copy(running: Running, path: Path) -> None:
    copy_whole(running.shard.journal.db, path)
    seal(path)


@played
async def test_keys_that_are_made_while_a_push_is_under_way_are_there_before_a_set_names_their_files(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with laid_out() as data:
        keyring = open_with(bytes(32), tmp_path / "keyring", make=True)
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), [ADA]))
            assert (await back_up(running)).whole
            keyring.new(ADA)
            send, put = offsite.send, offsite.put_manifest

            def sent(*args: Any) -> int:
                keyring.close()
                keyring.new(BO)  # from another batch
                return send(*args)

            def named_after(*args: Any) -> None:
                there = {path.rpartition("/")[2] for path in objects(store, "keyring/")}
                assert there == {path.name for path in keyring.files()}
                put(*args)

            monkeypatch.setattr(offsite, "send", sent)
            monkeypatch.setattr(offsite, "put_manifest", named_after)
            offsite.push(data, store, None, 30, lambda _said: None, keyring)
            assert len(keyring.files()) > 2


@played
async def test_deleted_people_leave_the_copies_of_journals_and_what_is_off_site(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard.backup._today", lambda: "20990101")  # both backups are of the same day
    with laid_out() as data:
        async with Running(data) as running:
            await running.put_channel("news")
            await running.change("news", add=[ADA, BO])
            await running.deliver(delivery(letter("m", content="said to ada alone"), [ADA]))
            await running.deliver(delivery(letter("n"), [ADA, BO]))
            assert (await back_up(running)).whole
            offsite.push(data, store, None, 30, lambda _said: None)
            ((first, users),) = named(store).items()
            assert users == {ADA, BO}
            assert ADA.encode() in content(store, tmp_path)
            await delete(running, ADA)
            assert [one.user for one in erased.noted(data)] == [ADA]
            told: list[str] = []
            oblivion.see_to(data, store, told.append)
            assert told == ["1 deleted people: 1 copies of journals written anew, 2 objects off-site removed"]
            assert erased.noted(data) == []
            assert named(store) == {first: {BO}}
            for words in (ADA.encode(), b"said to ada alone"):
                assert words not in content(store, tmp_path)
                assert not any(words in path.read_bytes() for path in data.glob("backups/*/*/*"))
            assert offsite.push(data, store, None, 30, lambda _said: None).sent <= 1
            # Who comes back under the same name is another, and stays.
            await running.deliver(delivery(letter("again"), [ADA]))
            assert (await back_up(running)).whole
            offsite.push(data, store, None, 30, lambda _said: None)
            oblivion.see_to(data, store, told.append)
            assert len(told) == 1, "nobody is noted"
            erased.note(
                data, ADA, offsite.manifest_at(store, objects(store, "manifests/")[0]).began_us - 1, Position(1, 0)
            )
            oblivion.see_to(data, store, told.append)
            assert named(store) == {first: {ADA, BO}}
            await running.stop()
        other = tmp_path / "other"
        offsite_restore.restore_all(store, other, None, lambda _said: None)
        assert Doctor(other).examine().faults == []


@pytest.mark.parametrize("where", range(12))
@played
async def test_killed_in_the_middle_it_is_done_by_the_next(
    where: int, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("n"), [ADA, BO]))
            assert (await back_up(running)).whole
            offsite.push(data, store, None, 30, lambda _said: None)
            await delete(running, ADA)
            count = 0

            def counted(function: Callable[..., Any]) -> Callable[..., Any]:
                def call(*all: Any, **more: Any) -> Any:
                    nonlocal count
                    count += 1
                    if count > where:
                        raise Killed
                    return function(*all, **more)

                return call

            with monkeypatch.context() as patch:
                patch.setattr(Path, "rename", counted(Path.rename))
                patch.setattr(obstore, "put", counted(obstore.put))
                patch.setattr(obstore, "delete", counted(obstore.delete))
                patch.setattr(oblivion, "sync_directory", counted(oblivion.sync_directory))
                try:
                    oblivion.see_to(data, store, lambda _said: None)
                except Killed:
                    assert [one.user for one in erased.noted(data)] == [ADA]
            named(store)
            oblivion.see_to(data, store, lambda _said: None)
            assert erased.noted(data) == []
            assert list(named(store).values()) == [{BO}]
            there = {path.rpartition("/")[2] for path in objects(store, "content/")}
            assert there == {item.sha256 for item in _only_manifest(store).items}, "and nothing that no set names"
            assert not (data / "backups/erasing.json").exists()
            ((_day, _layout, (part,)),) = whole_sets(data)
            (journal,) = data.glob("backups/*/*/shard-0.db")
            assert backup_files.sha256_of(journal) == part.journal_sha256
            assert ADA.encode() not in journal.read_bytes()
            assert not [*data.glob("backups/*/*/*.fresh"), *data.glob("backups/*/*/*.part")]


@played
async def test_sets_past_their_time_go_off_site_too_with_what_no_other_needs_and_never_the_last(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsite, "_GRACE", timedelta(seconds=-60))
    with laid_out() as data:
        async with Running(data, backup=Backup(at="", keep_days=36_500)) as running:
            for day, users in (("20200101", [ADA, BO]), ("20200102", [ADA]), ("20990101", [ADA])):
                monkeypatch.setattr("shard.backup._today", lambda day=day: day)
                await running.deliver(delivery(letter(f"m{day}"), users))
                assert (await back_up(running)).whole
                done = offsite.push(data, store, day, 30, lambda _said: None)
                assert sorted(named(store)) == [f"{day}-1"], "the others are past their time; it alone would be, too"
                assert named(store)[f"{day}-1"] == {ADA, BO}
                there = {path.rpartition("/")[2] for path in objects(store, "content/")}
                assert there == {item.sha256 for item in _only_manifest(store).items}
            assert done.removed == 2, "ada's box and the journal of the day before; bo's is the same"
            await running.stop()
        assert msgspec.json.decode((data / "backups/pushed.json").read_bytes())[0] == "20990101"
        other = tmp_path / "other"
        offsite_restore.restore_all(store, other, None, lambda _said: None)
        assert Doctor(other).examine().faults == []
