"""A person is deleted on a real node, over HTTP and by the command."""

from __future__ import annotations

import contextlib
import hashlib
import io
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from node.export import Manifest, verify
from router.export import AT_ONCE
from tests.support import Node, eventually


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One for those tests that have people of their own."""
    with Node(tmp_path_factory.mktemp("rights") / "data") as running:
        yield running


@pytest.mark.slow
def test_who_is_deleted_is_unknown_everywhere_and_after_a_kill_too(node: Node) -> None:
    body = {"users": ["ada", "bob"], "title": "t", "content": "c"}
    with httpx.Client(base_url=node.url, trust_env=False, timeout=60) as http:
        assert http.post("/api/v3/messages", json={**body, "id": "m1"}).status_code == 202
        assert http.get("/api/v3/sync/ada/check").status_code == 200
        command = [sys.executable, "-m", "node", "delete", "ada", "--yes", "--server", node.url]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "ada is deleted\n"
        unknown = [
            "/api/v3/users/{}/messages", "/api/v3/users/{}/messages/m1", "/api/v3/users/{}/channels",
            "/api/v3/users/{}/counts", "/api/v3/users/{}/devices", "/api/v3/users/{}/events",
            "/api/v3/sync/{}/check", "/api/v3/sync/{}/download", "/api/v3/sync/{}/read-status",
        ]  # fmt: skip
        for path in unknown:
            gone, stranger = http.get(path.format("ada")), http.get(path.format("stranger"))
            assert gone.status_code == stranger.status_code == 404
            assert gone.content == stranger.content
        assert http.delete("/api/v3/users/ada").status_code == 404
        listed = {user["id"] for user in http.get("/api/v3/users").json()["users"]}
        assert listed & {"ada", "bob"} == {"bob"}
    node.kill_all()
    node.start()
    with httpx.Client(base_url=node.url, trust_env=False, timeout=60) as http:
        assert http.get("/api/v3/users/ada/messages").status_code == 404
        assert http.post("/api/v3/messages", json={**body, "id": "m2"}).status_code == 202
        assert [m["id"] for m in http.get("/api/v3/users/ada/messages").json()["messages"]] == ["m2"]
        assert [m["id"] for m in http.get("/api/v3/users/bob/messages").json()["messages"]] == ["m2", "m1"]


@pytest.mark.slow
def test_an_export_holds_all_there_is_and_says_what_it_holds(node: Node, tmp_path: Path) -> None:
    with httpx.Client(base_url=node.url, trust_env=False, timeout=60) as http:
        for number in range(600):
            body = {"users": ["eve"], "title": "t", "content": "c" * 2_000, "id": f"e{number}"}
            assert http.post("/api/v3/messages", json=body).status_code == 202
        read = {"changes": [{"messageId": "e1", "status": "read", "at": "2026-11-24T08:00:00Z"}]}
        said = http.post("/api/v3/sync/eve/read-status", json=read)
        assert said.status_code == 200, said.text
        assert http.get("/api/v3/users/nobody/export").status_code == 404
        answer = http.get("/api/v3/users/eve/export")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as made:
        assert made.testzip() is None
        manifest = msgspec.json.decode(made.read("manifest.json"), type=Manifest)
        assert {file.name for file in manifest.files} | {"manifest.json"} == set(made.namelist())
        for file in manifest.files:
            content = made.read(file.name)
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
        assert len(made.read("messages.ndjson").splitlines()) == 600
        made.extract("messages.db", tmp_path)
        made.extract("read_status.db", tmp_path)
    assert asked(tmp_path / "messages.db", "SELECT count(*) FROM messages") == [(600,)]
    assert asked(tmp_path / "read_status.db", "SELECT message_id FROM read_status") == [("e1",)]
    assert not list(tmp_path.glob("*.db-*")), "no log and no index of one"


@pytest.mark.slow
def test_no_more_exports_than_may_be_are_under_way(tmp_path: Path) -> None:
    """Of a box too large for what the sockets hold, by callers who take nothing of it."""
    with (
        Node(tmp_path / "data", shards=1) as node,
        httpx.Client(base_url=node.url, trust_env=False, timeout=60) as http,
    ):
        for number in range(16):
            body = {"users": ["ada"], "title": "t", "content": "c" * 900_000, "id": f"m{number}"}
            answer = http.post("/api/v3/messages", json=body)
            assert answer.status_code == 202, answer.text
        with contextlib.ExitStack() as open_:
            under_way = [
                open_.enter_context(
                    httpx.stream("GET", f"{node.url}/api/v3/users/ada/export", trust_env=False, timeout=60)
                )
                for _ in range(AT_ONCE)
            ]
            assert {answer.status_code for answer in under_way} == {200}
            refused = http.get("/api/v3/users/ada/export")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        eventually(lambda: http.get("/api/v3/users/ada/export").status_code == 200, "room for another")


def asked(path: Path, query: str) -> list[tuple[object, ...]]:
    """By any SQLite, where it may not write."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def export(node: Node, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "node", "export", *arguments, "--server", node.url]
    return subprocess.run(command, capture_output=True, cwd=node.data.parent)


@pytest.mark.slow
def test_the_command_exports_and_checks_what_it_got(node: Node, tmp_path: Path) -> None:
    body = {"users": ["cyd"], "title": "t", "content": "c", "id": "c1"}
    assert httpx.post(f"{node.url}/api/v3/messages", json=body, trust_env=False, timeout=60).status_code == 202
    made = export(node, "cyd")
    assert made.returncode == 0, made.stderr
    file = node.data.parent / "cyd.zip"
    with file.open("rb") as zip:
        manifest = verify(zip, "cyd")
    assert made.stdout.decode().startswith(f"cyd.zip: {len(manifest.files)} files, ")
    assert export(node, "cyd").returncode == 2, "what is there is not written over"
    piped = export(node, "cyd", "-o", "-")
    assert verify(io.BytesIO(piped.stdout), "cyd").user == "cyd"
    other = export(node, "cyd", "-o", str(tmp_path / "no" / "where.zip"))
    assert other.returncode == 1
    assert b"No such file or directory" in other.stderr
    unknown = export(node, "nobody")
    assert unknown.returncode == 1
    assert b"Not found" in unknown.stderr
    assert export(node, "../cyd").returncode == 2
    assert [path.name for path in node.data.parent.iterdir() if "export" in path.name or "zip" in path.name] == [
        "cyd.zip"
    ]
