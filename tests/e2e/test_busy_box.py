"""A box that another program has open: its mail waits, is delivered later, and in the order of acceptance."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import httpx
import pytest

from loadtest import kill_boxes
from loadtest.kill_node import wait_drained
from node.paths import user_dir
from tests.e2e.people import owned_by
from tests.shard.elsewhere import held_elsewhere
from tests.support import Node, eventually

pytestmark = pytest.mark.slow


@contextmanager
def _opened(data: Path, user: str) -> Iterator[None]:
    """The box of ``user`` is held by us, as a backup program might."""
    path = user_dir(data, user) / "messages.db"
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.pragma("locking_mode", "exclusive")
        db.execute("BEGIN IMMEDIATE; SELECT count(*) FROM messages").fetchall()
        yield
    finally:
        db.close()


def test_a_join_that_had_to_wait_does_not_undo_the_leave_that_came_after_it(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node, httpx.Client(timeout=30, trust_env=False) as http:
        channel = f"{node.url}/api/v3/channels/news"
        assert http.put(channel).status_code == 201
        first = {"id": "first", "users": ["ada"], "title": "makes a box", "content": ""}
        assert http.post(f"{node.url}/api/v3/messages", json=first).status_code == 202
        asyncio.run(wait_drained(node.data, 2, 60))
        node.restart()  # no box is open after it
        with _opened(node.data, "ada"):
            assert http.put(f"{channel}/members/ada").status_code == 204
            second = first | {"id": "second", "title": "has to wait"}
            assert http.post(f"{node.url}/api/v3/messages", json=second).status_code == 202
            eventually(lambda: "delivery put off" in node.output(), "the first attempt")
            read = http.get(f"{node.url}/api/v3/users/ada/messages")
            assert (read.status_code, read.headers["retry-after"]) == (503, "1")
        assert http.delete(f"{channel}/members/ada").status_code == 204
        asyncio.run(wait_drained(node.data, 2, 60))
    [box] = kill_boxes.elsewhere(node.data)
    assert (sorted(box.messages), box.channels) == (["first", "second"], [])
    assert kill_boxes.doctor(node.data) is None


@pytest.mark.parametrize("how", ["write", "read"])
def test_a_box_that_another_process_holds_is_waited_for_and_others_notice_nothing(tmp_path: Path, how: str) -> None:
    """The neighbour lives on the same shard; all that is theirs comes through while the box is held."""
    ada, bo = owned_by(0, 2, 2)
    with Node(tmp_path / "data") as node, httpx.Client(timeout=30, trust_env=False) as http:

        def send(message_id: str, *users: str) -> None:
            message = {"id": message_id, "users": users, "title": "t", "content": "c"}
            assert http.post(f"{node.url}/api/v3/messages", json=message).status_code == 202

        def ids(user: str) -> list[str]:
            answer = http.get(f"{node.url}/api/v3/users/{user}/messages")
            assert answer.status_code == 200, answer.text
            return sorted(message["id"] for message in answer.json()["messages"])

        send("first", ada, bo)
        assert ids(ada) == ids(bo) == ["first"]
        asyncio.run(wait_drained(node.data, 2, 60))
        node.restart()  # no box is open after it
        with held_elsewhere(user_dir(node.data, ada) / "messages.db", how) as holder:
            for number in range(20):
                send(f"m{number:02}", ada, bo)
                assert ids(bo)[-1] == f"m{number:02}"
            for path in (f"users/{ada}/messages", f"users/{ada}/counts"):
                busy = http.get(f"{node.url}/api/v3/{path}")
                assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
            assert http.get(f"{node.url}/api/v3/users/{bo}/counts").json()["unread"] == 21
            eventually(lambda: "delivery put off" in node.output(), "the retry schedule")
            holder.kill()
            holder.wait()
        asyncio.run(wait_drained(node.data, 2, 60))
        assert ids(ada) == ids(bo)
        assert len(ids(ada)) == 21
    assert kill_boxes.doctor(node.data) is None
