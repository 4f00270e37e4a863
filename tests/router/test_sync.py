"""Check: what is told, what is refused, and when the answer comes from memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node import ops
from node.changes import Changes
from node.paths import changes_path
from node.slots import slot_of, table_for
from tests.router.conftest import Running
from tests.router.test_bad_input import refused

VERSION = "2026-11-24T08:44:00.000000Z"


def put_box(router: Running, user: str, version: str, content: bytes) -> Path:
    """A file for devices at ``user``'s shard, of that version."""
    peer = router.peers[table_for(len(router.peers))[slot_of(user)]]
    path = peer._data / "snapshots" / user / version
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    peer.boxes[user] = path
    return path


def asked(router: Running, kind: type, user: str) -> list[Any]:
    return [f for peer in router.peers for f in peer.frames if isinstance(f, kind) and f.user == user]


def test_a_device_is_told_what_there_is_and_whether_it_needs_it(router: Running) -> None:
    put_box(router, "ann", VERSION, b"x" * 4096)
    answer = router.http.get("/api/v3/sync/ann/check", params={"localVersion": "older", "device": "Ann's phone"})
    assert answer.status_code == 200
    assert answer.json() == {
        "serverVersion": VERSION,
        "serverSize": 4096,
        "serverChecksum": "sha256:97af9e9db2f4f4eb8cf96d46b5cd00b4c8d82b8ae5ea0f5a7e1a4e8b1a9d7c3e",
        "localVersion": "older",
        "needSync": True,
    } | {"serverChecksum": answer.json()["serverChecksum"]}
    assert asked(router, ops.AskSync, "ann")[-1].device == "Ann's phone"
    same = router.http.get("/api/v3/sync/ann/check", params={"localVersion": VERSION}).json()
    assert (same["needSync"], same["localVersion"]) == (False, VERSION)
    none = router.http.get("/api/v3/sync/ann/check").json()
    assert (none["needSync"], none["localVersion"]) == (True, None)


def test_nothing_new_is_answered_from_memory(router: Running, counted: list[Changes]) -> None:
    put_box(router, "mem", VERSION, b"x")
    first = router.http.get("/api/v3/sync/mem/check").json()
    for _ in range(3):
        assert router.http.get("/api/v3/sync/mem/check").json() == first
    assert len(asked(router, ops.AskSync, "mem")) == 1


@pytest.mark.parametrize("how", ["for the user", "for anybody", "a restart of the shard"])
def test_whatever_came_is_asked_for(router: Running, counted: list[Changes], how: str) -> None:
    user = f"new-{how.split()[-1]}"
    put_box(router, user, VERSION, b"x")
    shard = table_for(len(router.peers))[slot_of(user)]
    router.http.get(f"/api/v3/sync/{user}/check")
    put_box(router, user, "2027", b"y")
    if how == "for the user":
        counted[shard].for_users([user])
    elif how == "for anybody":
        counted[shard].for_anybody()
    else:
        counted[shard].close()
        counted[shard] = Changes(changes_path(router.peers[shard]._data, shard))
    assert router.http.get(f"/api/v3/sync/{user}/check").json()["serverVersion"] == "2027"


def test_what_came_while_the_shard_was_asked_is_asked_for_the_next_time(
    router: Running, counted: list[Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    user = "race"
    put_box(router, user, VERSION, b"x")
    shard = table_for(len(router.peers))[slot_of(user)]
    peer = router.peers[shard]
    answer = peer.answer

    def meanwhile(request: Any) -> Any:
        body = answer(request)
        counted[shard].for_users([user])
        put_box(router, user, "2027", b"y")
        return body

    monkeypatch.setattr(peer, "answer", meanwhile)
    assert router.http.get(f"/api/v3/sync/{user}/check").json()["serverVersion"] == VERSION
    monkeypatch.setattr(peer, "answer", answer)
    assert router.http.get(f"/api/v3/sync/{user}/check").json()["serverVersion"] == "2027"


def test_without_counters_the_shard_is_asked_every_time(router: Running) -> None:
    for peer in router.peers:
        changes_path(peer._data, peer.index).unlink(missing_ok=True)
    put_box(router, "bare", VERSION, b"x")
    for _ in range(3):
        router.http.get("/api/v3/sync/bare/check")
    assert len(asked(router, ops.AskSync, "bare")) == 3


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"localVersion": "x" * 65}, "localVersion"),
        ({"device": "x" * 129}, "device"),
        ({"device": "a\nb"}, "device"),
        ({"since": "now"}, "since"),
    ],
)
def test_what_makes_no_sense_is_refused(router: Running, query: dict[str, str], field: str) -> None:
    refused(router.http.get("/api/v3/sync/ann/check", params=query), 422, field)


def test_an_unknown_user_and_a_name_that_is_none_are_refused(router: Running) -> None:
    refused(router.http.get("/api/v3/sync/nobody/check"), 404, "userId")
    refused(router.http.get("/api/v3/sync/.../check"), 422, "userId")
