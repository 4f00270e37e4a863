"""A data directory of every earlier layout, as a crash left it, is taken up by this program: nothing is missing."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from shard.mailbox import SCHEMA_VERSION
from tests import layouts
from tests.layouts.__main__ import DATA, FACTS, HELD, PLACE, USERS, Facts
from tests.support import Node, eventually

pytestmark = pytest.mark.slow

# What is remembered for a day, or for a month, is older than that by now.
KEPT = {"POBOX_SHARD_RECEIPT_S": str(10**9), "POBOX_RETRY_DEAD_LETTERS_S": str(10**9)}
LAYOUTS = sorted(path.name.removesuffix(".tar.xz") for path in Path(layouts.__file__).parent.glob("*.tar.xz"))


@pytest.fixture(params=LAYOUTS)
def found(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Facts]:
    with tarfile.open(PLACE / f"{request.param}.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.2 of Debian 12 has none
        archive.extractall(tmp_path)
    return tmp_path / DATA, msgspec.json.decode((tmp_path / FACTS).read_bytes(), type=Facts)


def holds(answer: Any, earlier: Any) -> bool:
    """Whether ``answer`` says all that ``earlier`` said; it may say more."""
    if isinstance(earlier, dict):
        return isinstance(answer, dict) and all(key in answer and holds(answer[key], earlier[key]) for key in earlier)
    if isinstance(earlier, list):
        return len(answer) == len(earlier) and all(map(holds, answer, earlier))
    return bool(answer == earlier)


def check(node: Node, facts: Facts) -> None:
    """What was answered before is answered now, and what waited is there."""
    with httpx.Client(base_url=node.url, timeout=30) as client:
        for path, earlier in facts.answers.items():
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert holds(answer.json(), earlier), (path, answer.json(), earlier)
        late = [one["id"] for one in client.get(f"/api/v3/users/{HELD}/messages").json()["messages"]]
        if "/api/v3/dead-letters" not in facts.answers and "dead" in late:
            late.remove("dead")  # before there were dead letters, what had failed was tried again after a crash
        assert sorted(late) == sorted([*facts.late, "direct-3"])
        for message in facts.deleted:
            assert client.get(f"/api/v3/users/ann/messages/{message}").status_code == 404


def use(node: Node) -> None:
    """What only a later program can do, done with all of it."""
    with httpx.Client(base_url=node.url, timeout=30) as client:
        before = client.get("/api/v3/users/ann/messages").json()["messages"]
        again = {"id": "direct-0", "users": ["ann"], "title": "To 1", "content": "just so", "sender": "the shop"}
        again["metadata"] = {"order": 0, "deep": {"list": [1, 2.5, None, "x"]}}
        assert client.post("/api/v3/messages", json=again).status_code == 202
        assert client.get("/api/v3/users/ann/messages").json()["messages"] == before, "what was sent is not sent again"
        for user in (*USERS, HELD):
            assert client.put(f"/api/v3/channels/news/members/{user}").status_code in (200, 204)
            assert client.put(f"/api/v3/users/{user}/channels/news/mute").status_code == 204
            (news,) = (c for c in client.get(f"/api/v3/users/{user}/channels").json()["channels"] if c["id"] == "news")
            assert news["isMuted"]
            check = client.get(f"/api/v3/sync/{user}/check", headers={"x-device": "phone"})
            assert check.status_code == 200
            assert client.delete(f"/api/v3/users/{user}/channels/news/mute").status_code == 204
        mark = {"messageId": "direct-2", "status": "starred", "at": "2026-11-04T09:00:00Z"}
        assert client.post("/api/v3/sync/cyd/read-status", json={"changes": [mark]}).json()["accepted"] == 1


def doctor(data: Path) -> None:
    command = [sys.executable, "-m", "node", "doctor", "--data", str(data)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=data.parent, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def schemas(data: Path) -> set[int]:
    """Of all boxes; the node must be stopped."""
    found = set()
    for path in data.glob("user_storage/*/*/messages.db"):
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        found.add(db.execute("PRAGMA user_version").fetchone()[0])
        db.close()
    return found


def upgraded(data: Path, node: Node) -> bool:
    """Whether both shards have noted that they are through."""
    marks = []
    for path in data.glob("journals-*/shard-*.db"):
        copy = node.data.parent / f"copy-{path.name}"
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        with contextlib.closing(sqlite3.connect(copy)) as db:
            try:
                marks += db.execute("SELECT schema FROM boxes").fetchall()
            except sqlite3.DatabaseError:  # not there yet, or torn by the copying
                return False
    return marks == [(SCHEMA_VERSION,)] * 2


def test_boxes_of_an_earlier_schema_are_brought_up_to_date_in_the_background(found: tuple[Path, Facts]) -> None:
    data, _facts = found
    with Node(data) as node:
        eventually(lambda: upgraded(data, node), "all boxes are seen to")
    assert schemas(data) == {SCHEMA_VERSION}
    doctor(data)


@pytest.mark.long
def test_a_layout_of_an_earlier_program_is_taken_up_whole(found: tuple[Path, Facts]) -> None:
    data, facts = found
    with Node(data, env=KEPT) as node:
        check(node, facts)
        node.kill_all()
        node.start()
        check(node, facts)
        node.restart(shards=3)
        check(node, facts)
        use(node)
        node.kill("supervisor", signal.SIGKILL)
        node.start()
        for path in (f"/api/v3/users/{user}/messages" for user in (*USERS, HELD)):
            assert httpx.get(node.url + path, timeout=30).status_code == 200
        node.stop()
    doctor(data)
    assert schemas(data) == {SCHEMA_VERSION}
