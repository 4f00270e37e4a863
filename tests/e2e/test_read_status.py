"""Read status and counts over a whole node: what was answered 200 is there, whatever is killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from node.clock import iso, now_us
from node.paths import user_dir
from tests.e2e.people import owned_by
from tests.support import Node, eventually

pytestmark = pytest.mark.slow

AT_US = now_us() - 86_400_000_000
"""so long ago that no test sends more changes, a second apart, than there are seconds since"""
_users = iter(owned_by(0, 2, 8))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One for all tests here: each has a user of its own."""
    with Node(tmp_path_factory.mktemp("statuses") / "data") as running:
        yield running


class Person:
    """A user of shard 0, over HTTP."""

    def __init__(self, node: Node, name: str) -> None:
        self.name = name
        self.http = httpx.Client(base_url=f"{node.url}/api/v3", timeout=30, trust_env=False)

    def send(self, *ids: str, channel: str = "news") -> None:
        for id in ids:
            message = {"id": id, "users": [self.name], "channelId": channel, "title": "t", "content": "c"}
            assert self.http.post("/messages", json=message).status_code == 202

    def say(self, *changes: dict[str, Any], **more: Any) -> httpx.Response:
        return self.http.post(f"/sync/{self.name}/read-status", json={"changes": changes, **more})

    def counts(self) -> dict[str, Any]:
        counts: dict[str, Any] = self.http.get(f"/users/{self.name}/counts").json()
        return counts

    def everything(self) -> dict[str, Any]:
        told = self.http.get(f"/sync/{self.name}/read-status", params={"limit": 10_000})
        assert told.status_code == 200, told.text
        return {status["messageId"]: status for status in told.json()["statuses"]}


@pytest.fixture
def ann(node: Node) -> Iterator[Person]:
    person = Person(node, next(_users))
    with person.http:
        yield person


def _change(message_id: str, status: str, second: int) -> dict[str, Any]:
    return {"messageId": message_id, "status": status, "at": iso(AT_US + second * 1_000_000), "device": "phone"}


def test_two_devices_agree_and_the_counts_follow(ann: Person) -> None:
    ann.send("a", "b", "c")
    ann.send("d", channel="team")
    phone = ann.say(_change("a", "read", 1), _change("d", "starred", 1)).json()
    assert (phone["accepted"], phone["conflicts"], phone["full"]) == (2, [], True)
    assert ann.counts() == {"unread": 3, "channels": {"news": 2, "team": 1}}
    tablet = ann.say(_change("b", "read", 2), _change("a", "unread", 0), since=phone["since"]).json()
    assert [(c["index"], c["reason"]) for c in tablet["conflicts"]] == [(1, "newer")]
    assert {s["messageId"] for s in tablet["statuses"]} == {"a", "b"}
    later = ann.http.get(f"/sync/{ann.name}/read-status", params={"since": phone["since"]}).json()
    assert [s["messageId"] for s in later["statuses"]] == ["b"]
    assert ann.counts() == {"unread": 2, "channels": {"news": 1, "team": 1}}
    place = {"channelId": "news", "messageId": "b", "at": iso(AT_US), "position": 3}
    assert ann.say(positions=[place]).json()["accepted"] == 1


def test_a_wrong_clock_that_is_sent_along_is_put_right(ann: Person) -> None:
    ann.send("late")
    year_us = 365 * 86_400_000_000
    behind = {"messageId": "late", "status": "read", "at": iso(now_us() - year_us)}
    ann.say(behind, clock=iso(now_us() - year_us))
    assert ann.say(_change("late", "unread", 0)).json()["conflicts"]
    assert ann.everything()["late"]["readAt"] > iso(AT_US)


@pytest.mark.parametrize("path", ["/sync/nobody/read-status", "/users/nobody/counts"])
def test_for_an_unknown_user_nothing_is_made(node: Node, ann: Person, path: str) -> None:
    assert ann.http.get(path).status_code == 404
    if path.startswith("/sync"):
        assert ann.http.post(path, json={"changes": [_change("a", "read", 0)]}).status_code == 404
    assert not user_dir(node.data, "nobody").exists()


def test_what_one_person_says_does_not_touch_another(ann: Person) -> None:
    others = {"id": "theirs", "users": ["somebody"], "title": "t", "content": "c"}
    assert ann.http.post("/messages", json=others).status_code == 202
    ann.send("mine")
    assert ann.say(_change("theirs", "read", 0)).json()["conflicts"][0]["reason"] == "no_message"
    assert ann.http.get("/users/somebody/counts").json()["unread"] == 1


def test_a_shard_killed_right_after_the_answers_loses_no_status(node: Node, ann: Person) -> None:
    """Statuses are sent without a pause while the shard is killed again and again."""
    ids = [f"m{number}" for number in range(20)]
    ann.send(*ids)
    answered: dict[str, int] = {}
    sent: dict[str, int] = {}
    stop = threading.Event()

    def talk() -> None:
        mine = Person(node, ann.name)
        with mine.http:
            second = 0
            while not stop.is_set():
                second += 1
                message_id = ids[second % len(ids)]
                sent[message_id] = second
                status = ("read", "unread")[second // len(ids) % 2]
                answer = mine.say(_change(message_id, status, second))
                if answer.status_code == 200:
                    assert answer.json()["accepted"] == 1
                    answered[message_id] = second
                else:
                    assert answer.status_code == 503, answer.text

    thread = threading.Thread(target=talk)
    thread.start()
    for _ in range(4):
        before = max(answered.values(), default=0)
        eventually(lambda: max(answered.values(), default=0) > before, "another answer")  # noqa: B023
        node.kill("shard-0")
        node.wait_ready()
    stop.set()
    thread.join()
    node.kill("shard-0")
    node.wait_ready()
    told = ann.everything()
    for message_id, second in answered.items():
        if sent[message_id] == second:  # nothing later may have been taken without an answer
            is_read = not second // len(ids) % 2
            assert bool(told[message_id]["readAt"]) == is_read, (message_id, second)
    unread = sum(not status["readAt"] for status in told.values()) + len(ids) - len(told)
    assert ann.counts()["unread"] == unread
