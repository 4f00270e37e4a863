"""Events: word of what came, at once for who missed it, and an end when the node stops."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from node.changes import Changes
from node.errors import NotFound
from node.paths import changes_path
from node.slots import slot_of, table_for
from tests.router.conftest import Running, running, until
from tests.router.test_bad_input import refused


class Ear:
    """The blocks of a stream, as they come."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def block(self) -> dict[str, str]:
        """The next block that is no heartbeat: its fields."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                return fields
        return fields


@contextmanager
def listening(router: Running, user: str, last: str | None = None) -> Iterator[Ear]:
    headers = {} if last is None else {"Last-Event-ID": last}
    with router.http.stream("GET", f"/api/v3/users/{user}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        ear = Ear(answer)
        assert "retry" in ear.block()
        yield ear


def _box(router: Running, user: str) -> int:
    """``user`` has a box; his shard."""
    shard = table_for(len(router.peers))[slot_of(user)]
    sent = {"users": [user], "title": "t", "content": "c"}
    assert router.http.post("/api/v3/messages", json=sent).status_code == 202
    return shard


def test_a_change_is_told_within_a_moment_and_many_are_one(router: Running, counted: list[Changes]) -> None:
    shard = _box(router, "ann")
    with listening(router, "ann") as ear:
        first = ear.block()
        assert list(first) == ["id"], "who comes for the first time is told the id alone"
        began = time.monotonic()
        for _ in range(100):
            counted[shard].for_users(["ann"])
        second = ear.block()
        assert second["data"] == "{}"
        assert second["id"] != first["id"]
        assert time.monotonic() - began < 30
        counted[shard].for_anybody()
        counted[shard].for_users(["ann"])
        assert ear.block()["id"] not in (first["id"], second["id"])


def test_who_was_away_is_told_at_once_and_only_if_there_was_something(router: Running, counted: list[Changes]) -> None:
    shard = _box(router, "bob")
    with listening(router, "bob") as ear:
        last = ear.block()["id"]
    with listening(router, "bob", last) as ear:
        counted[shard].for_users(["bob"])
        assert ear.block()["id"] != last
    with listening(router, "bob", last) as ear:
        assert ear.block()["data"] == "{}"


def test_a_shard_that_was_started_anew_is_told_of(router: Running, counted: list[Changes]) -> None:
    shard = _box(router, "cyd")
    with listening(router, "cyd") as ear:
        last = ear.block()["id"]
        again = Changes(changes_path(router.peers[shard]._data, shard))
        told = ear.block()
        assert told["data"] == "{}"
        assert told["id"] != last
        again.close()


def test_nobody_listens_for_a_stranger(router: Running) -> None:
    for peer in router.peers:
        peer.refusal = NotFound("no such user", field="userId")
    refused(router.http.get("/api/v3/users/nobody/events"), 404, "userId")
    for peer in router.peers:
        peer.refusal = None
    refused(router.http.get("/api/v3/users/a%20b/events"), 422, "userId")
    refused(router.http.get("/api/v3/users/ann/events?x=1"), 422, "x")


@pytest.mark.slow
def test_listeners_are_bounded_and_a_stop_ends_their_streams(tmp_path: Path) -> None:
    with running(tmp_path, 1, settings={"listeners_max": 2}) as router:
        _box(router, "ann")
        with listening(router, "ann"), listening(router, "ann") as ear:
            full = router.http.get("/api/v3/users/ann/events")
            assert (full.status_code, full.headers["retry-after"]) == (503, "10")
            router.process.terminate()
            while ear.block():
                pass
            assert router.process.wait(60) == 0


@pytest.mark.slow
def test_who_is_gone_before_the_stream_begins_is_not_counted(tmp_path: Path) -> None:
    """Another request in the pipeline, and the connection cut: whatever moment that is, nobody listens after it."""
    with running(tmp_path, 1, settings={"listeners_max": 5}) as router:
        _box(router, "ann")
        asked = b"".join(
            b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in (b"/api/v3/users/ann/events", b"/healthz")
        )
        for number in range(100):
            with socket.create_connection(router.address) as connection:
                connection.sendall(asked)
                time.sleep(number % 10 * 0.0004)

        def may_listen() -> bool:
            with router.http.stream("GET", "/api/v3/users/ann/events") as answer:
                return answer.status_code == 200

        until(may_listen)
        assert "Traceback" not in router.log.read_text()
