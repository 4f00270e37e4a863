"""``pobox encrypt``: everything that was plain is encrypted, and whole at every moment of it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from node import ops, paths, placement
from node.clock import now_us
from node.keystream import Keystream
from node.slots import slot_of
from shard import backup_files as files
from shard.doctor import Doctor
from shard.layout import lay_out
from tests import encrypted

from .asking import change, said, statuses
from .disks import fill, small_disk
from .running import Running, box_path, delivery, laid_out, letter, stored
from .test_backup import KEPT, back_up
from .test_encryption import SECRET, archived, plain_files

pytestmark = encrypted.needed

USERS = [f"user{number}" for number in range(24)]


@pytest.fixture(autouse=True)
def _plain_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted, "ON", False)


async def lived(data: Path) -> dict[str, list[str]]:
    """A plain node that has everything; who has which messages."""
    async with Running(data, backup=KEPT) as running:
        for number in range(3):
            await running.deliver(delivery(letter(f"old{number}", content=SECRET), ["ada", *USERS]))
        await running.settled()
        await archived(running, "ada", *USERS)
        await running.remove("ada", "old2")
        for number in range(3):
            await running.deliver(delivery(letter(f"n{number}", content=SECRET), ["ada", *USERS]))
        await running.settled()
        await change(running, "ada", said("n1", "read"))
        assert (await back_up(running)).whole
        await running.let_go()
        question = ops.Restore(0, 1, slot_of("bo"), "user1", now_us())
        await running.while_alive(running.shard.restores.restore(question))
        await running.deliver(delivery(letter("last", content=SECRET), ["ada"]))
        await running.settled()
    return stored(data)


def command(data: Path) -> subprocess.Popen[str]:
    key = data.parent / "master.key"
    if not key.exists():
        key.write_text(encrypted.MASTER.hex())
        key.chmod(0o600)
    return subprocess.Popen(
        [sys.executable, "-m", "node", "encrypt", "--data", str(data)],
        env={**os.environ, "POBOX_ENCRYPTION_ENABLED": "true", "POBOX_ENCRYPTION_MASTER_KEY": str(key)},
        cwd=data.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(data: Path) -> tuple[int, str]:
    """Of the command, run to its end: exit code, and what went wrong."""
    with command(data) as process:
        _output, wrong = process.communicate()
    return process.returncode, wrong


def encrypted_boxes(data: Path) -> int:
    return sum(box_path(data, user).read_bytes()[:4] == b"pbx1" for user in USERS)


def test_a_node_is_encrypted_whole_however_often_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random()
    with laid_out() as data:
        before = asyncio.run(lived(data))
        assert plain_files(data)
        for shelf in list(data.glob("user_storage/*/*/archive")):  # as of a box that is gone
            shutil.copytree(shelf, shelf.with_name("archive.damaged-2026-01-01T000000.000000Z"))
        for _ in range(4):
            process = command(data)
            target = encrypted_boxes(data) + rng.randrange(1, 6)
            while process.poll() is None and encrypted_boxes(data) < target:
                time.sleep(0.0005)
            time.sleep(rng.random() * 0.01)
            process.kill()
            process.wait()
            monkeypatch.setattr(encrypted, "ON", (data / "user_storage" / "keyring").exists())
            assert stored(data) == before
        assert outcome(data) == (0, "")
        monkeypatch.setattr(encrypted, "ON", True)
        assert plain_files(data) == []
        assert not list(data.rglob("*.encrypting*"))
        assert stored(data) == before
        assert Doctor(data, encrypted.keyring(data)).examine().faults == []
        assert outcome(data) == (0, "")
        asyncio.run(goes_on(data))


async def goes_on(data: Path) -> None:
    """Everything is as it was before, encrypted."""
    keyring = encrypted.keyring(data)
    async with Running(data, backup=KEPT) as running:
        assert sorted(await running.ids("ada")) == ["last", "n0", "n1", "n2", "old0", "old1"]
        assert [one.message_id for one in (await statuses(running, "ada")).statuses] == ["n1"]
        for user in ("ada", "user1"):
            for day, entries in files.load(files.directory(data, user)).items():
                for kind, entry in entries.items():
                    files.check_against(files.file(files.directory(data, user), kind, day), kind, entry, keyring)
        question = ops.Restore(0, 1, slot_of("ada"), "ada", now_us())
        done = await running.while_alive(running.shard.restores.restore(question))
        assert done.before == done.after
        await running.deliver(delivery(letter("after"), ["ada", "new"]))
        assert "after" in await running.ids("ada")
        snapshot = ops.AskSnapshot(0, 1, slot_of("ada"), "ada", "identity", None, None)
        made = await running.while_alive(running.shard.devices.snapshot(snapshot))
        content = Keystream(made.hidden_by).apply((data / made.file).read_bytes(), 0)
        assert content.startswith(b"SQLite format 3\0")
    assert plain_files(data) == []


def test_a_version_that_devices_have_is_of_the_plain_pages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        with laid_out() as data:
            question = ops.AskSync(0, 1, slot_of("ada"), "ada", None)
            async with Running(data) as running:
                await running.deliver(delivery(letter("n1"), ["ada"]))
                before = await running.while_alive(running.shard.devices.check(question))
            assert await asyncio.to_thread(outcome, data) == (0, "")
            monkeypatch.setattr(encrypted, "ON", True)
            async with Running(data) as running:
                after = await running.while_alive(running.shard.devices.check(question))
                assert after.version > before.version
                assert after.checksum != before.checksum

    asyncio.run(go())


THEN = "2026-01-01T000000.000000Z"
IN_A_DIRECTORY = [
    "messages.db.encrypting",
    "messages.db.restoring",
    "messages.db.restoring-wal",
    "read_status.db.restoring",
    "read_status.db.new",
    "read_status.db-wal.stray",
    f"messages.db-wal.replaced-{THEN}",
    f"messages.db.damaged-{THEN}.restored",
    f"messages.db-wal.damaged-{THEN}.restored",
    f"archive.damaged-{THEN}/messages_2025.db.encrypting",
    "backups/messages_20260101.db.part",
    "backups/messages_20260101.db.encrypting",
]
"""what kills, repairs and restores may leave of somebody's files"""
IN_THE_NODES = [
    "user_storage/erased-zoe/messages.db",
    "user_storage/erased-zoe/archive/messages_2025.db",
    "journals-0/shard-0.db",
    "journals-0/shard-0.db-wal",
    "journals-1/shard-0.db.encrypting",
    "run/parcel-0-0",
    "backups/erase.part",
    "backups/20260101/1/shard-0.db",
    "backups/20260101/1/shard-0.db.part",
    "history/1-1/shard-0/1.seg.new",
    "snapshots/shard-0/1.db",
]
"""and of a shard's"""


def test_nothing_that_lies_around_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    with laid_out() as data:
        before = asyncio.run(lived(data))
        placed = placement.load(data)
        assert placed is not None
        placement.save(data, msgspec.structs.replace(placed, starting=2))  # shard 1 has begun, and owns nothing yet
        shutil.copyfile(paths.shard_db(data, 1, 0), paths.shard_db(data, 1, 1))
        ada = paths.user_dir(data, "ada")
        shutil.copyfile(ada / "messages.db", ada / f"messages.db.replaced-{THEN}")
        strewn = [ada / name for name in IN_A_DIRECTORY] + [data / name for name in IN_THE_NODES]
        for path in strewn:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"SQLite format 3\0" + SECRET.encode())
        assert outcome(data) == (0, "")
        assert plain_files(data) == []
        assert [path for path in strewn if path.exists()] == []
        monkeypatch.setattr(encrypted, "ON", True)
        assert stored(data) == before
        assert Doctor(data, encrypted.keyring(data)).examine().notes == []


def test_what_is_damaged_stays_and_all_else_is_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    with laid_out() as data:
        before = asyncio.run(lived(data))
        ada = paths.user_dir(data, "ada")
        (backup,) = (paths.user_dir(data, "user2") / "backups").glob("messages_*.db")
        torn = [
            box_path(data, "user1"),
            backup,
            next((paths.user_dir(data, "user3") / "archive").glob("messages_*.db")),
        ]
        for path in torn:
            with path.open("r+b") as file:
                file.seek(100)
                file.write(b"\xff" * 4_000)
        aside = [ada / f"messages.db.damaged-{THEN}", ada / f"messages.db-wal.damaged-{THEN}"]
        for path in aside:
            path.write_bytes(SECRET.encode())
        kept = {path: path.read_bytes() for path in (*torn, *aside)}
        code, wrong = outcome(data)
        assert code == 1
        assert "Traceback" not in wrong
        names = sorted(str(path.relative_to(data)) for path in kept)
        assert sorted(line.split()[1].rstrip(":") for line in wrong.splitlines()) == names
        assert sorted(plain_files(data)) == names
        assert {path: path.read_bytes() for path in kept} == kept
        for path in kept:
            path.unlink()
        assert outcome(data) == (0, "")
        monkeypatch.setattr(encrypted, "ON", True)
        del before["user1"]
        assert stored(data) == before


def test_a_box_that_another_program_has_open_stays_and_the_same_again_goes_on() -> None:
    with laid_out() as data:
        asyncio.run(lived(data))
        other = sqlite3.connect(box_path(data, "user1"))
        try:
            other.execute("BEGIN EXCLUSIVE")
            code, wrong = outcome(data)
        finally:
            other.close()
        assert (code, wrong.count("\n")) == (1, 1)
        assert "another program has it open" in wrong
        assert outcome(data) == (0, "")
        assert plain_files(data) == []


def test_a_disk_that_gets_full_in_the_middle_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "data", 96 * 1_048_576) as data:
        ballast = data / "ballast"
        asyncio.run(grown(data))
        before = stored(data)
        stops = 0
        for room in (0, 4, 24, 90, 150, 400, 900):  # KiB
            fill(ballast)
            os.truncate(ballast, max(0, ballast.stat().st_size - room * 1_024))
            code, wrong = outcome(data)
            ballast.unlink()
            if code == 0:
                break
            stops += 1
            assert (code, "Traceback" in wrong) == (1, False), wrong
            assert "disk is full" in wrong or "nothing is done" in wrong, wrong
            assert [path for path in data.rglob("*") if path.suffix in (".encrypting", ".new")] == []
            monkeypatch.setattr(encrypted, "ON", (data / "user_storage" / "keyring" / "root.json").exists())
            assert stored(data) == before
            assert bad_backups(data) == []
        assert stops > 4
        assert outcome(data) == (0, "")
        monkeypatch.setattr(encrypted, "ON", True)
        assert plain_files(data) == []
        assert stored(data) == before
        assert bad_backups(data) == []
        assert Doctor(data, encrypted.keyring(data)).examine().notes == []


async def grown(data: Path) -> None:
    """A plain node on which some have more than others."""
    lay_out(data, 1)
    async with Running(data, backup=KEPT) as running:
        for number in range(20):
            content = SECRET * (100, 1_000, 5_000)[number % 3]
            users = [f"user{one}" for one in range(number % 5, 20, 5)]
            await running.deliver(delivery(letter(f"n{number}", content=content), users))
        assert (await back_up(running)).whole
        await running.let_go()
        await running.deliver(delivery(letter("last", content=SECRET), USERS))
        await running.settled()


def bad_backups(data: Path) -> list[str]:
    """Which are not what is said of them."""
    keyring, bad = encrypted.keyring(data), list[str]()
    for place in data.glob("user_storage/*/*/backups"):
        for day, entries in files.load(place).items():
            for kind, entry in entries.items():
                try:
                    files.check_against(files.file(place, kind, day), kind, entry, keyring)
                except files.Damaged as error:
                    bad.append(str(error))
    return bad
