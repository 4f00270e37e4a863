"""Backups in a real S3 store: sent once, gone on with after a kill, and a whole node made of them somewhere else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import apsw
import httpx
import pytest

from loadtest.children import kept_port
from node import paths
from node.config import load
from shard import archive, backup_set, offsite, offsite_store
from shard.keyring import Keyring
from shard.mailbox import FILE, Mailbox
from tests.e2e.test_backup import deliver, ids
from tests.support import Node, eventually

pytestmark = pytest.mark.slow

SECRET = "a-secret-that-is-shown-nowhere"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path]]:
    """``rclone serve s3`` on loopback: the settings for it, and the directory that its bucket is."""
    place = tmp_path_factory.mktemp("s3")
    (place / "bucket").mkdir()
    rclone = Path(sys.executable).with_name("rclone")
    log, env = place.with_suffix(".log").open("wb"), {**os.environ, "RCLONE_CONFIG": os.devnull}
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(kept_port())
        command = [rclone, "serve", "s3", place, "--addr", f"127.0.0.1:{port}", "--auth-key", f"key,{SECRET}"]
        server = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, env=env))

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{port}", trust_env=False, timeout=5).status_code > 0
            return False

        eventually(answers, "the S3 server")
        credentials = place.with_suffix(".credentials")
        credentials.write_text(f"AWS_ACCESS_KEY_ID=key\nAWS_SECRET_ACCESS_KEY={SECRET}\n")
        yield (
            {
                "POBOX_BACKUP_STORE": "s3://bucket/pobox",
                "POBOX_BACKUP_ENDPOINT": f"http://127.0.0.1:{port}",
                "POBOX_BACKUP_CREDENTIALS": str(credentials),
                "POBOX_BACKUP_AT": "",
            },
            place / "bucket" / "pobox",
        )
        server.terminate()


def pobox(settings: dict[str, str], data: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "node", *arguments, "--data", str(data)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=data.parent,
        env={**os.environ, **settings},
    )


def said(settings: dict[str, str], data: Path, *arguments: str) -> str:
    with pobox(settings, data, *arguments) as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert SECRET not in output
    return output


def go_on(settings: dict[str, str], other: Path) -> None:
    """Restore the rest of a node, unless the kill came when it was whole: until then it says that it isn't."""
    if (other / "restoring.json").exists():
        said(settings, other, "restore", "--all")
    assert (other / "placement.json").exists()


def rows(data: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every box and status of a stopped node."""
    found = {}
    for name, tables in (
        ("messages.db", ("messages", "removed", "channels", "user_channels")),
        ("read_status.db", ("read_status", "read_stats", "reading_position")),
    ):
        for path in sorted(data.glob(f"user_storage/*/*/{name}")):
            with contextlib.closing(apsw.Connection(str(path))) as db:
                for table in tables:
                    found[f"{path.relative_to(data)} {table}"] = sorted(db.execute(f"SELECT * FROM {table}"), key=repr)
    return found


def test_a_whole_node_is_made_of_what_is_off_site_alone(s3: tuple[dict[str, str], Path], tmp_path: Path) -> None:
    settings, bucket = s3
    users = [f"user{number}" for number in range(30)]
    data, other = tmp_path / "data", tmp_path / "other"
    with Node(data, env=settings) as node:
        with httpx.Client(base_url=node.url, trust_env=False, timeout=30) as http:
            http.put("/api/v3/channels/news").raise_for_status()
            http.post("/api/v3/channels/news/members", json={"add": users[:20]}).raise_for_status()
            body = {"id": "to-all", "channelId": "news", "title": "News", "content": "for all"}
            http.post("/api/v3/messages", json=body).raise_for_status()
            for number in range(5):
                deliver(node, f"m{number}", users, f"{number} " * 3_000)
            for user in users[:10]:
                assert ids(node, user)
                change = {"messageId": "m1", "status": "read", "at": "2026-01-01T00:00:00Z"}
                path = f"/api/v3/sync/{user}/read-status"
                http.post(path, json={"changes": [change]}).raise_for_status()
            http.delete(f"/api/v3/users/{users[0]}/messages/m0").raise_for_status()
            for user in users:
                ids(node, user)
        first = said(settings, data, "backup", "now")
        assert "0 sent" not in first
        # What did not change travels once: at most the journals and what was written in this moment go again.
        content = {path.name for path in bucket.glob("content/*/*")}
        time.sleep(0.01)
        said(settings, data, "backup", "push")
        assert {path.name for path in bucket.glob("content/*/*")} == content
        deliver(node, "later", users[:1])
        ids(node, users[0])
        said(settings, data, "backup", "now")
        assert len({path.name for path in bucket.glob("content/*/*")} - content) <= 3
        node.stop()
        wanted = rows(data)

        # Killed in the middle, the same command goes on.
        with pobox(settings, other, "restore", "--all") as process:
            eventually(lambda: list(other.glob("user_storage/*/*/messages.db")), "a first box")
            process.send_signal(signal.SIGKILL)
        go_on(settings, other)
    assert "0 faults" in said({}, other, "doctor")
    assert rows(other) == wanted
    with Node(other, env=settings) as node:
        assert ids(node, users[0]) == ["later", "m1", "m2", "m3", "m4", "to-all"]
        deliver(node, "new", users)
        assert "new" in ids(node, users[1])
        said(settings, other, "backup", "now")
    assert SECRET not in node.output() + (tmp_path / "data.log").read_text()


def shelve(data: Path, users: list[str], keyring: Keyring | None = None) -> None:
    """All that ``users`` have goes to their archives, but for what came last; of a stopped node."""
    for user in users:
        with contextlib.closing(Mailbox(user, paths.user_dir(data, user) / FILE, keyring=keyring)) as box:
            assert archive.move(box, "2100-01-01")


@pytest.mark.long
def test_archives_are_in_the_backup_travel_once_and_come_back(s3: tuple[dict[str, str], Path], tmp_path: Path) -> None:
    settings, bucket = s3
    settings = {**settings, "POBOX_BACKUP_HISTORY_S": "3600"}
    users = [f"user{number}" for number in range(40)]
    names = [f"m{number}" for number in range(4)]

    def killed_in_a_backup(number: int) -> bool:
        """Whether the kill came before it was whole: else it proves nothing. Each node has a store of its own."""
        settings["POBOX_BACKUP_STORE"] = f"s3://bucket/archives{number}"
        with Node(data := tmp_path / f"data{number}", shards=1, env=settings) as node:
            for user in users:  # else the files of all are the same, and so one object
                deliver(node, f"a-{user}", [user])
            for name in names:
                deliver(node, name, users, f"{name} " * 3_000)
            for user in users:
                ids(node, user)
            node.stop()
            shelve(data, users)
            node.start()
            with pobox(settings, data, "backup", "now"):
                eventually(lambda: list(data.glob("user_storage/*/*/backups/archive_*.db")), "a first copy")
                node.kill_all()
        return not backup_set.whole_sets(data)

    number = next((number for number in range(5) if killed_in_a_backup(number)), None)
    assert number is not None, "all kills came too late"
    bucket, data, other = bucket.with_name(f"archives{number}"), tmp_path / f"data{number}", tmp_path / "other"
    with Node(data, shards=1, env=settings) as node:
        eventually(lambda: backup_set.whole_sets(data), "a whole set")
        assert "0 faults" in said(settings, data, "backup", "verify")
        assert "archive_" in said(settings, data, "backup", "list", users[0])
        said(settings, data, "backup", "now")
        content = {path.name for path in bucket.glob("content/*/*")}
        assert len(content) >= 2 * len(users)
        deliver(node, "later", users[:1])
        wanted = [f"a-{users[0]}", "later", *names]
        assert ids(node, users[0]) == wanted
        said(settings, data, "backup", "now")
        assert len({path.name for path in bucket.glob("content/*/*")} - content) <= 2, "a box and the journal"

        shutil.rmtree(paths.user_dir(data, users[0]) / "archive")
        assert ids(node, users[0]) == ["later", "m3"]
        assert ", 4 archived" in said(settings, data, "restore", users[0], "--at", datetime.now(UTC).isoformat())
        assert ids(node, users[0]) == wanted

        with pobox(settings, other, "restore", "--all") as process:
            eventually(lambda: list(other.glob("user_storage/*/*/archive/*")), "a first archive")
            process.send_signal(signal.SIGKILL)
        go_on(settings, other)
    assert "0 faults" in said({}, other, "doctor")
    with Node(other, shards=1, env=settings) as node:
        assert ids(node, users[0]) == wanted
        for user in users[1:]:
            assert ids(node, user) == [f"a-{user}", *names]


@pytest.mark.long
def test_who_is_deleted_is_in_no_set_any_more_though_it_was_killed_in_the_middle(
    s3: tuple[dict[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, bucket = s3
    settings = {**settings, "POBOX_BACKUP_STORE": "s3://bucket/erased"}
    bucket, data, other = bucket.with_name("erased"), tmp_path / "data", tmp_path / "other"
    users = [f"person-{number}" for number in range(20)]
    with Node(data, shards=2, env=settings) as node:
        deliver(node, "m", users)
        for number, user in enumerate(users):
            deliver(node, f"own-{number}", [user])
            ids(node, user)
        said(settings, data, "backup", "now")
        before = {path.name for path in bucket.glob("content/*/*")}
        with httpx.Client(base_url=node.url, trust_env=False, timeout=30) as http:
            for user in users[:5]:
                http.delete(f"/api/v3/users/{user}").raise_for_status()
        with pobox(settings, data, "backup", "push") as process:
            eventually(lambda: process.poll() is not None or (data / "backups/erase.part").exists(), "its beginning")
            process.send_signal(signal.SIGKILL)
        said(settings, data, "backup", "push")
        assert list(data.glob("backups/erased/*")) == []
        assert len(before - {path.name for path in bucket.glob("content/*/*")}) >= 5
    monkeypatch.setattr(os, "environ", {**os.environ, **settings})
    store = offsite_store.store(load().backup)
    named = {item.user for path in offsite.manifests(store) for item in offsite.manifest_at(store, path).items}
    assert named - {""} == set(users[5:])
    said(settings, other, "restore", "--all")
    assert "0 faults" in said({}, other, "doctor")
    assert not any(b"person-0" in path.read_bytes() for path in other.glob("journals-*/*.db"))
    assert {path.parent.name for path in other.glob("user_storage/*/*/messages.db")} == set(users[5:])


@pytest.mark.long
def test_the_daily_backup_is_made_once_and_sent_once_and_what_failed_is_made_up_for(
    s3: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    settings, bucket = s3
    now = time.gmtime(time.time() - 60)
    settings = {**settings, "POBOX_BACKUP_STORE": "s3://bucket/daily", "POBOX_BACKUP_AT": time.strftime("%H:%M", now)}
    bucket, data = bucket.with_name("daily"), tmp_path / "data"
    away = {**settings, "POBOX_BACKUP_ENDPOINT": "http://127.0.0.1:9"}
    with Node(data, shards=1, env=settings) as node:
        deliver(node, "m", ["ann"])
        with pobox(away, data, "backup", "daily") as process:
            output, _ = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "1 boxes" in output, "it was made, and could not be sent"
        assert output.splitlines()[-1].startswith("Error: the store can't be used: ")
        assert "off-site: none" in said(settings, data, "backup", "list")
        assert "files of" in said(settings, data, "backup", "daily")
        assert "off-site: 2" in said(settings, data, "backup", "list")
        assert len(list(bucket.glob("manifests/*/*"))) == 1
        assert said(settings, data, "backup", "daily") == ""
        said(settings, data, "backup", "now")
        assert said(settings, data, "backup", "daily") == "", "one that was asked for is today's too"
        made = [path.stat().st_mtime_ns for path in data.glob("backups/*/*/*.json")]
        running = [pobox(settings, data, "backup", "daily") for _ in range(3)]
        for process in running:
            process.communicate(timeout=240)
        assert [path.stat().st_mtime_ns for path in data.glob("backups/*/*/*.json")] == made
    with pobox({**settings, "POBOX_BACKUP_AT": "00:00"}, tmp_path / "none", "backup", "daily") as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "placement.json is missing" in output
    assert "there is no daily backup" in said({**settings, "POBOX_BACKUP_AT": ""}, data, "backup", "daily")


def test_a_restore_from_a_place_that_is_none_says_so_and_makes_nothing(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pobox({}, other, "restore", "--all", "--from", f"file://{tmp_path}/none") as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "there is no directory" in output
    (tmp_path / "empty").mkdir()
    with pobox({}, other, "restore", "--all", "--from", f"file://{tmp_path}/empty") as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "there is no whole backup" in output
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.long
def test_a_push_that_was_killed_goes_on_and_what_is_damaged_is_not_sent(
    s3: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    settings, bucket = s3
    settings = {**settings, "POBOX_BACKUP_STORE": "s3://bucket/second"}
    bucket = bucket.with_name("second")
    data, other = tmp_path / "data", tmp_path / "other"
    env = {**settings, "POBOX_BACKUP_STORE": ""}
    with Node(data, shards=1, env=env) as node:
        users = [f"user{number}" for number in range(60)]
        deliver(node, "m", users, "x" * 50_000)
        for user in users:
            ids(node, user)
        said(env, data, "backup", "now")
    with pobox(settings, data, "backup", "push") as process:
        eventually(lambda: list(bucket.glob("content/*/*")), "a first object")
        process.send_signal(signal.SIGKILL)
    if not list(bucket.glob("manifests/*/*")):
        with pobox(settings, other, "restore", "--all") as process:
            output, _ = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "no whole backup" in output
    said(settings, data, "backup", "push")
    for path in other.glob("*"):
        path.unlink()
    said(settings, other, "restore", "--all")
    assert rows(other) == rows(data)
    for victim in data.glob("user_storage/*/*/backups/messages_*.db"):
        victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    with pobox({**settings, "POBOX_BACKUP_STORE": "s3://bucket/third"}, data, "backup", "push") as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "is not what was backed up" in output
