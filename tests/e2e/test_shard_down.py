"""Parts of a node are frozen or dead: the rest goes on, and nobody is told what is inside."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtest import kill_boxes
from loadtest.kill_node import wait_drained
from tests.e2e.people import owned_by
from tests.support import PATIENCE_S, Node, eventually, is_alive

pytestmark = pytest.mark.slow

HERE, THERE = owned_by(0, 2, 3), owned_by(1, 2, 3)
_QUICK = {"POBOX_ROUTER_SILENCE_S": "3", "POBOX_ROUTER_SHARD_TIMEOUT_S": "5"}
_INSIDE = ("shard", "sock", "/", "router", "pid", "Traceback", "node.", "errno", "python")


def _send(node: Node, id: str, users: list[str]) -> httpx.Response:
    message = {"id": id, "users": users, "title": id, "content": id}
    return httpx.post(f"{node.url}/api/v3/messages", json=message, timeout=30, trust_env=False)


def _assert_refused(response: httpx.Response) -> None:
    """503, when to come again, and not a word about the inside."""
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    problem: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    told = " ".join(str(value) for key, value in problem.items() if key != "type")
    assert not [word for word in _INSIDE if word in told], told


def _stored(node: Node) -> dict[str, list[str]]:
    """In whose box is what, when all is there; the node is stopped for it."""
    asyncio.run(wait_drained(node.data, 2, PATIENCE_S))
    node.stop()
    return {box.user: sorted(box.messages) for box in kill_boxes.elsewhere(node.data) if box.messages}


@pytest.mark.parametrize("kind", ["frozen", "dead"])
def test_with_a_shard_down_the_others_go_on_and_the_same_id_later_doubles_nothing(tmp_path: Path, kind: str) -> None:
    with Node(tmp_path / "data", env=_QUICK) as node:
        assert _send(node, "before", HERE + THERE).status_code == 202
        if kind == "frozen":
            frozen = node.kill("shard-1", signal.SIGSTOP)
        else:  # and nobody there to start it again
            frozen = node.kill("supervisor", signal.SIGSTOP)
            node.kill("shard-1")
        try:
            _assert_refused(_send(node, "there", THERE))
            _assert_refused(_send(node, "both", HERE + THERE))
            for user in THERE:
                path = f"{node.url}/api/v3/users/{user}/messages"
                _assert_refused(httpx.get(path, timeout=30, trust_env=False))
            # Ids made by the node need no other shard's opinion.
            message = {"users": HERE, "title": "goes on", "content": ""}
            answer = httpx.post(f"{node.url}/api/v3/messages", json=message, trust_env=False, timeout=30)
            assert answer.status_code == 202
            for user in HERE:
                page = httpx.get(f"{node.url}/api/v3/users/{user}/messages", trust_env=False, timeout=30).json()
                assert {m["title"] for m in page["messages"]} >= {"before", "goes on"}
            assert httpx.get(f"{node.url}/healthz", trust_env=False, timeout=30).status_code == 200
        finally:
            os.kill(frozen, signal.SIGCONT)
        for id, users in (("there", THERE), ("both", HERE + THERE)):
            eventually(lambda id=id, users=users: _send(node, id, users).status_code == 202, f"202 for {id}")  # type: ignore[misc]
        receipt = httpx.get(f"{node.url}/api/v3/messages/both/receipt", trust_env=False, timeout=30).json()
        assert receipt["targets"] == len(HERE + THERE)
        made = answer.json()["id"]
        expected = {user: sorted(["before", "both", made]) for user in HERE}
        assert _stored(node) == expected | {user: sorted(["before", "both", "there"]) for user in THERE}
    assert kill_boxes.doctor(node.data) is None


def test_a_batch_with_a_shard_down_takes_the_lines_it_can_and_names_the_others(tmp_path: Path) -> None:
    with Node(tmp_path / "data", env=_QUICK) as node:
        frozen = node.kill("shard-1", signal.SIGSTOP)
        try:
            lines = b"".join(
                b'{"users": ["%s"], "title": "t", "content": ""}\n' % user.encode() for user in (HERE[0], THERE[0])
            )
            answer = httpx.post(
                f"{node.url}/api/v3/messages/batch",
                content=lines,
                headers={"content-type": "application/x-ndjson"},
                timeout=30,
                trust_env=False,
            )
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert answer.status_code == 202
        assert answer.json()["accepted"] == 1
        assert [(line["line"], line["status"]) for line in answer.json()["rejected"]] == [(2, 503)]


def test_a_killed_router_comes_back_on_the_same_port(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node:
        assert _send(node, "before", HERE + THERE).status_code == 202
        killed = node.kill("router-0")
        eventually(lambda: node.pids.get("router-0", killed) != killed, "another router")
        node.wait_ready()
        assert _send(node, "after", HERE + THERE).status_code == 202
        assert _stored(node) == {user: ["after", "before"] for user in HERE + THERE}


@pytest.mark.long
def test_a_killed_supervisor_leaves_nobody_behind_and_the_data_serves_the_next(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node:
        assert _send(node, "before", HERE + THERE).status_code == 202
        pids = node.pids
        assert pids.keys() == {"supervisor", "shard-0", "shard-1", "router-0"}
        node.kill("supervisor")
        eventually(lambda: not any(is_alive(pid) for pid in pids.values()), "the end of all children")
        node.start()
        assert _send(node, "before", HERE + THERE).status_code == 202
        assert _send(node, "after", HERE + THERE).status_code == 202
        assert _stored(node) == {user: ["after", "before"] for user in HERE + THERE}
    assert kill_boxes.doctor(node.data) is None


@pytest.mark.long
def test_a_node_started_right_after_the_supervisor_was_killed_waits_for_its_children(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node:
        for round_ in range(2):
            assert _send(node, f"round{round_}", HERE + THERE).status_code == 202
            node.kill("supervisor")
            node.start()
        assert _stored(node) == {user: ["round0", "round1"] for user in HERE + THERE}
