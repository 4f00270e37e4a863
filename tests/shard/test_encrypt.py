"""``pobox encrypt``: everything that was plain is encrypted, and whole at every moment of it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from node import ops
from node.clock import now_us
from node.keystream import Keystream
from node.slots import slot_of
from shard import backup_files as files
from shard.doctor import Doctor
from tests import encrypted

from .asking import change, said, statuses
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


def command(data: Path) -> subprocess.Popen[bytes]:
    key = data.parent / "master.key"
    if not key.exists():
        key.write_text(encrypted.MASTER.hex())
        key.chmod(0o600)
    return subprocess.Popen(
        [sys.executable, "-m", "node", "encrypt", "--data", str(data)],
        env={**os.environ, "POBOX_ENCRYPTION_ENABLED": "true", "POBOX_ENCRYPTION_MASTER_KEY": str(key)},
        cwd=data.parent,
        stdout=subprocess.DEVNULL,
    )


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
        assert command(data).wait() == 0
        monkeypatch.setattr(encrypted, "ON", True)
        assert plain_files(data) == []
        assert not list(data.rglob("*.encrypting*"))
        assert stored(data) == before
        assert Doctor(data, encrypted.keyring(data)).examine().faults == []
        assert command(data).wait() == 0
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
            assert await asyncio.to_thread(command(data).wait) == 0
            monkeypatch.setattr(encrypted, "ON", True)
            async with Running(data) as running:
                after = await running.while_alive(running.shard.devices.check(question))
                assert after.version > before.version
                assert after.checksum != before.checksum

    asyncio.run(go())
