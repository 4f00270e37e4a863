"""Nothing that was written to people is on the disk in plain; devices get plain files; destroyed keys end copies."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import apsw
import pytest

from node import ops, zstd
from node.clock import now_us
from node.errors import NotFound, Unavailable
from node.keystream import Keystream
from node.slots import slot_of
from shard import archive, history
from shard import backup_files as files
from shard.copying import reveal
from shard.doctor import Doctor
from shard.empty import Empty
from shard.keyring import KeyLost
from shard.mailbox import SCHEMA, Mailbox
from tests import encrypted

from .asking import change, said, statuses
from .running import Running, box_path, delivery, laid_out, letter, stored
from .test_backup import back_up, run

SECRET = "the rain in spain stays mainly"

pytestmark = encrypted.needed


@pytest.fixture(autouse=True)
def _encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted, "ON", True)


async def downloaded(running: Running, encoding: str = "identity") -> tuple[ops.Snapshot, bytes]:
    """What a router would send to a device of ada."""
    question = ops.AskSnapshot(0, 1, slot_of("ada"), "ada", encoding, None, None)
    made = await running.while_alive(running.shard.devices.snapshot(question))
    return made, Keystream(made.hidden_by).apply((running.data / made.file).read_bytes(), 0)


async def archived(running: Running, *users: str) -> None:
    """All that they have, but for the last message, is in their archives."""
    for user in users:
        async with running.shard.mailboxes.hold(user, create=False) as box:
            assert box is not None
            assert await running.shard.mailboxes.read(lambda: archive.move(box, "2100-01-01"))


def plain_files(data: Path) -> list[str]:
    return [
        str(path.relative_to(data))
        for path in data.rglob("*")
        if path.is_file() and (SECRET.encode() in (content := path.read_bytes()) or b"SQLite format 3" in content)
    ]


def test_no_file_of_a_node_holds_a_word_in_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(running: Running, data: Path) -> None:
        for number in range(40):
            await running.deliver(delivery(letter(f"n{number}", content=f"{SECRET} {number}" * 30), ["ada", "bob"]))
        await running.settled()  # no thread makes a file while all are read
        assert plain_files(data) == []
        await change(running, "ada", said("n1", "read"))
        state = await back_up(running)
        assert (state.whole, state.failed, state.error) == (True, 0, "")
        for encoding in ("identity", "zstd", "gzip"):
            await downloaded(running, encoding)
        exported = await running.while_alive(running.shard.exports.files(ops.Export(0, 1, slot_of("ada"), "ada")))
        assert [one.name for one in exported] == ["read_status.db"]
        await running.let_go()  # into the history
        assert list((data / "history").rglob("*.seg"))
        await archived(running, "ada", "bob")
        assert list(data.rglob("archive/*.db"))
        assert plain_files(data) == []
        assert len(await running.ids("ada")) == 40
        await running.stop()
        assert plain_files(data) == []
        assert Doctor(data, encrypted.keyring(data)).examine().faults == []

    run(test)


def test_a_device_gets_a_plain_file_that_is_what_it_was_told() -> None:
    async def test(running: Running, _data: Path) -> None:
        for number in range(60):
            await running.deliver(delivery(letter(f"n{number:02}", content=SECRET * 40), ["ada"]))
        made, content = await downloaded(running)
        assert (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}") == (made.state.size, made.state.checksum)
        _made, packed = await downloaded(running, "zstd")
        assert zstd.decompress(packed) == content
        with contextlib.closing(apsw.Connection(":memory:")) as db:
            db.deserialize("main", content)
            assert db.pragma("integrity_check") == "ok"
            assert db.execute("SELECT count(*), min(content) FROM messages").fetchone() == (60, SECRET * 40)
        running.shard.snapshots.forget("ada", made.state.version)
        again, same = await downloaded(running)
        assert (again.state, same, again.hidden_by == made.hidden_by) == (made.state, content, False)

    run(test)


def test_who_is_deleted_is_unreadable_in_every_copy_that_was_made_before() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(letter("n1", content=SECRET), ["ada", "bob"]))
        await running.settled()
        await change(running, "ada", said("n1", "read"))
        await back_up(running)
        elsewhere = data.parent / "elsewhere"
        shutil.copytree(data / "user_storage", elsewhere)
        copies = list(elsewhere.glob("*/ada/**/*.db"))
        assert len(copies) == 4
        keyring = encrypted.keyring(data)
        for path in copies:
            files.reading(path, "ada", keyring).close()
        question = ops.DeleteUser(0, 1, slot_of("ada"), "ada")
        await running.while_alive(running.shard.erasures.delete(question))
        for path in copies:
            with pytest.raises(KeyLost):
                files.reading(path, "ada", keyring)
        await running.deliver(delivery(letter("n2"), ["ada", "bob"]))
        assert (await running.ids("ada"), await running.ids("bob")) == (["n2"], ["n2", "n1"])

    run(test)


def test_a_box_comes_back_from_its_encrypted_backup_and_the_history() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(letter("n1", content=SECRET), ["ada"]))
        await back_up(running)
        await running.deliver(delivery(letter("n2"), ["ada"]))
        await running.settled()
        await running.let_go()
        question = ops.Restore(0, 1, slot_of("ada"), "ada", now_us())
        done = await running.while_alive(running.shard.restores.restore(question))
        assert (done.after.messages, done.before and done.before.messages) == (2, 2)
        assert await running.ids("ada") == ["n2", "n1"]
        assert plain_files(data) == []

    run(test)


def test_a_kill_loses_nothing_and_what_was_plain_before_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        monkeypatch.setattr(encrypted, "ON", False)
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("n1"), ["ada"]))
                await running.settled()
                await change(running, "ada", said("n1", "read"))
            monkeypatch.setattr(encrypted, "ON", True)
            async with Running(data) as running:
                await running.deliver(delivery(letter("n2"), ["ada", "bob"]))
                assert (await running.ids("ada"), await running.ids("bob")) == (["n2", "n1"], ["n2"])
                assert [one.message_id for one in (await statuses(running, "ada")).statuses] == ["n1"]
                made, content = await downloaded(running)
                assert made.hidden_by == b""
                assert hashlib.sha256(content).hexdigest() in made.state.checksum
            async with Running(data) as running:
                assert await running.ids("bob") == ["n2"]
            assert stored(data) == {"ada": ["n1", "n2"], "bob": ["n2"]}

    asyncio.run(go())


def test_a_box_in_anothers_place_opens_nothing(tmp_path: Path) -> None:
    keyring = encrypted.keyring(tmp_path)
    assert keyring is not None
    box = tmp_path / "messages.db"
    box.write_bytes(Empty(SCHEMA, keyring).content("ada"))
    Mailbox("ada", box, keyring=keyring).close()
    with pytest.raises(apsw.NotADBError):
        Mailbox("bob", box, keyring=keyring)


@pytest.mark.parametrize("at", [0, 512, 9_216, -512])
def test_a_box_that_lost_a_sector_at_its_birth_is_born_anew(at: int) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("n1"), ["ada"]))
                await running.settled()
            lose(box_path(data, "ada"), at)
            async with Running(data) as running:
                assert await running.ids("ada") == ["n1"]
                assert running.shard.mailboxes.damaged == 0

    asyncio.run(go())


def test_a_box_that_is_born_anew_is_another_file_so_a_second_cut_mixes_nothing() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("n1"), ["ada"]))
                await running.settled()
            lose(box_path(data, "ada"), 9_216)
            old = data.parent / "old"
            os.link(box_path(data, "ada"), old)
            content = old.read_bytes()
            async with Running(data) as running:
                assert await running.ids("ada") == ["n1"]
            assert old.read_bytes() == content

    asyncio.run(go())


@pytest.mark.parametrize("at", [512, 9_216])
def test_a_small_box_that_was_durable_and_lost_a_sector_is_damaged(at: int) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("n1"), ["ada"]))
                await running.settled()
                await running.let_go()
                boxes = running.shard.mailboxes
                while not boxes.is_at_rest("ada"):  # what somebody holds for a moment is not closed
                    await running.while_alive(boxes.cool(0))
                    await asyncio.sleep(0.01)
            lose(box_path(data, "ada"), at)
            async with Running(data) as running:
                await running.deliver(delivery(letter("n2"), ["ada"]))
                await running.settled()
                assert await running.ids("ada") == ["n2"]
                assert running.shard.mailboxes.damaged == 1

    asyncio.run(go())


def lose(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        file.write(bytes(512))


def test_where_the_keys_are_gone_mail_waits_and_no_empty_box_is_made() -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                await running.deliver(delivery(letter("n1"), ["ada"]))
                await running.settled()
                await running.stop()
            keyring = encrypted.keyring(data)
            assert keyring is not None
            content = box_path(data, "ada").read_bytes()
            keyring.destroy("ada")
            async with Running(data) as running:
                await running.deliver(delivery(letter("n2"), ["ada", "bob"]))
                with pytest.raises((Unavailable, NotFound)):
                    await running.ids("ada")
                assert await running.ids("bob") == ["n2"]
                assert box_path(data, "ada").read_bytes() == content
                assert running.shard.mailboxes.damaged == 0

    asyncio.run(go())


def test_a_segment_of_the_history_is_read_with_its_keyring_alone(tmp_path: Path) -> None:
    keyring = encrypted.keyring(tmp_path)
    assert keyring is not None
    path = tmp_path / "0.seg"
    rows = [(1, 0, "n1", None, "ada", b"body")]
    path.write_bytes(history._block(rows, None) + history._block(rows, None))
    assert history.encrypt(path, keyring)
    assert not history.encrypt(path, keyring)
    assert [row.id for row in history.read(path, history.sealed_by(keyring))] == ["n1", "n1"]
    with pytest.raises(KeyLost):
        list(history.read(path))


def test_what_is_revealed_is_hidden_on_the_disk_and_the_same_each_time(tmp_path: Path) -> None:
    keyring = encrypted.keyring(tmp_path)
    assert keyring is not None
    (tmp_path / "messages.db").write_bytes(Empty(SCHEMA, keyring).content("ada"))
    with contextlib.closing(Mailbox("ada", tmp_path / "messages.db", keyring=keyring)) as box:
        found = set()
        for number in range(2):
            hidden = box.copy_to(tmp_path / f"copy{number}")
            assert hidden.key is not None
            found.add(reveal(tmp_path / f"copy{number}", hidden.key, tmp_path / f"file{number}", bytes([number]) * 32))
    assert len(found) == 1
    assert b"SQLite" not in (tmp_path / "file0").read_bytes()
    plain = Keystream(bytes(32)).apply((tmp_path / "file0").read_bytes(), 0)
    assert plain.startswith(b"SQLite format 3\0")
    assert Keystream(bytes(32)).apply((tmp_path / "file0").read_bytes()[5_000:], 5_000) == plain[5_000:]
