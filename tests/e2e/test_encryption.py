"""A node that encrypts, from the first letter to a restore from off-site alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import httpx
import pytest

from node.config import Encryption
from shard import master_key
from shard.keyring import open_keyring
from tests import encrypted
from tests.e2e.test_backup import deliver, ids
from tests.e2e.test_offsite import pobox, said, shelve
from tests.support import Node, eventually

pytestmark = [encrypted.needed, pytest.mark.slow]

WORD = "nobody-else-reads-this"
USERS = [f"user{number}" for number in range(8)]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    key = tmp_path / "master.key"
    master_key.make(key)
    (tmp_path / "store").mkdir()
    return {
        "POBOX_ENCRYPTION_ENABLED": "true",
        "POBOX_ENCRYPTION_MASTER_KEY": str(key),
        "POBOX_BACKUP_AT": "",
        "POBOX_SHARD_BARRIER_S": "0.3",  # the journal of a backup holds no letter any more
        "POBOX_BACKUP_STORE": f"file://{tmp_path}/store",
        "POBOX_BACKUP_HISTORY_S": "3600",
        "PYTHONPATH": os.getcwd(),
    }


def refused(settings: dict[str, str], data: Path, *arguments: str) -> str:
    """What a command says that does nothing."""
    with pobox(settings, data, *arguments) as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    return output


def holding(place: Path, *words: str) -> list[Path]:
    """Files that have one of ``words`` in them, or in their name."""
    found = []
    for path in place.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # of a node that runs: they come and go
            if path.is_file() and any(word.encode() in path.read_bytes() or word in path.name for word in words):
                found.append(path)
    return found


@pytest.mark.long
def test_a_node_lives_and_comes_back_and_tells_nobody(settings: dict[str, str], tmp_path: Path) -> None:
    data, other, store = tmp_path / "data", tmp_path / "other", tmp_path / "store"
    with Node(data, env=settings) as node:
        for number in range(4):
            deliver(node, f"m{number}", ["ada-lovelace", "bob", "cy"], f"{WORD} {number} " * 900)
        with httpx.Client(base_url=node.url, trust_env=False, timeout=30) as http:
            change = {"messageId": "m1", "status": "read", "at": "2026-01-01T00:00:00Z"}
            http.post("/api/v3/sync/bob/read-status", json={"changes": [change]}).raise_for_status()
            for coding in ("identity", "gzip"):
                answer = http.get("/api/v3/sync/bob/download", headers={"Accept-Encoding": coding})
                answer.raise_for_status()
                assert f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == answer.headers["Pobox-Checksum"]
                assert answer.content.startswith(b"SQLite format 3\0")
            part = http.get(
                "/api/v3/sync/bob/download", headers={"Accept-Encoding": "identity", "Range": "bytes=5001-"}
            )
            whole = http.get("/api/v3/sync/bob/download", headers={"Accept-Encoding": "identity"}).content
            assert (part.status_code, part.content) == (206, whole[5_001:])
            exported = http.get("/api/v3/users/bob/export")
            assert WORD.encode() in exported.content
        node.stop()
        key = Encryption(enabled=True, master_key=settings["POBOX_ENCRYPTION_MASTER_KEY"])
        shelve(data, ["ada-lovelace", "bob"], open_keyring(key, data))
        node.start()
        said(settings, data, "backup", "now")
        assert len(list(data.glob("user_storage/*/*/backups/archive_*.db"))) == 2
        assert holding(data, WORD) == []
        assert holding(store, WORD, "ada-lovelace") == []
        node.kill_all()
        node.start()
        assert ids(node, "bob") == ["m0", "m1", "m2", "m3"]
        with httpx.Client(base_url=node.url, trust_env=False, timeout=30) as http:
            http.delete("/api/v3/users/ada-lovelace").raise_for_status()
        said(settings, data, "backup", "push")
    assert "0 faults" in said(settings, data, "doctor")
    assert "0 faults" in said(settings, data, "backup", "verify")

    fresh = tmp_path / "fresh.key"
    master_key.make(fresh)
    said(settings, data, "master-key", "rotate", str(fresh))
    assert "two master keys" in said(settings, data, "doctor")
    assert "names no file with the new" in refused(settings, data, "master-key", "confirm")
    old, settings = settings, {**settings, "POBOX_ENCRYPTION_MASTER_KEY": str(fresh)}
    said(settings, data, "master-key", "confirm")
    assert "another one's" in refused(old, data, "doctor")
    said(settings, data, "backup", "push")

    assert "enabled must be true" in refused(
        {**settings, "POBOX_ENCRYPTION_ENABLED": "false"}, other, "restore", "--all"
    )
    said(settings, other, "restore", "--all")
    assert "0 faults" in said(settings, other, "doctor")
    with Node(other, env=settings) as node:
        assert ids(node, "bob") == ["m0", "m1", "m2", "m3"]
        with httpx.Client(base_url=node.url, trust_env=False, timeout=30) as http:
            assert http.get("/api/v3/users/ada-lovelace/messages").status_code == 404


def test_a_change_of_the_number_of_shards_takes_everything_along(settings: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    users = [f"user{number}" for number in range(20)]
    with Node(data, env=settings, shards=2) as node:
        deliver(node, "m0", users, WORD)
        node.restart(shards=3)
        deliver(node, "m1", users, WORD)
        for user in users:
            assert ids(node, user) == ["m0", "m1"]
    assert holding(data, WORD) == []
    assert "0 faults" in said(settings, data, "doctor")


def test_people_who_change_hands_while_it_runs_stay_encrypted(settings: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    users = [f"user{number}" for number in range(20)]
    with Node(data, env=settings, shards=2) as node:
        deliver(node, "m0", users, WORD)
        said(settings, data, "reshard", "--shards", "3")
        deliver(node, "m1", users, WORD)
        for user in users:
            assert ids(node, user) == ["m0", "m1"]
    assert holding(data, WORD, "SQLite format 3") == []
    assert "0 faults" in said(settings, data, "doctor")


def test_an_encrypted_node_doesnt_start_without_its_key(settings: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Node(data, env=settings) as node:
        deliver(node, "m0", ["ada"], WORD)
    for wrong, why in (
        ({"POBOX_ENCRYPTION_ENABLED": "false"}, "enabled must be true"),
        ({"POBOX_ENCRYPTION_MASTER_KEY": str(tmp_path / "none")}, "No such file"),
    ):
        assert why in refused({**settings, **wrong}, data, "serve", "--port", "0")


def test_whatever_is_started_in_the_middle_of_a_rotation_finds_its_key(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """Each shard is killed at each step, and comes up by the settings that it was started with."""
    data, new = tmp_path / "data", tmp_path / "new.key"

    def killed(node: Node) -> None:
        for shard in ("shard-0", "shard-1"):
            before = node.kill(shard)
            eventually(lambda before=before, shard=shard: node.pids.get(shard, before) != before, "another process")  # type: ignore[misc]
        eventually(
            lambda: httpx.get(f"{node.url}/readyz", trust_env=False, timeout=30).status_code == 200, "all shards again"
        )
        for user in USERS:
            assert ids(node, user) == ["m0"]

    with Node(data, env=settings) as node:
        deliver(node, "m0", USERS, WORD)
        master_key.make(new)
        said(settings, data, "master-key", "rotate", str(new))
        killed(node)  # by the old key
        node.stop()
        settings["POBOX_ENCRYPTION_MASTER_KEY"] = str(new)
        node.start(env=settings)
        killed(node)
        said(settings, data, "master-key", "confirm")
        killed(node)
        assert "no rotation" in said(settings, data, "master-key", "confirm")
    assert "0 faults" in said(settings, data, "doctor")
    assert holding(data, WORD) == []
