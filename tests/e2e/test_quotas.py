"""A person's quota on a node as it is run: refused with names, made room, and set from the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import Node, eventually

pytestmark = pytest.mark.slow
MESSAGES = "/api/v3/messages"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("quotas") / "data", env={"POBOX_SHARD_QUOTA_MESSAGES": "5"}) as running:
        yield running


@pytest.fixture
def http(node: Node) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.url, timeout=30, trust_env=False) as client:
        yield client


def send(http: httpx.Client, *users: str, **more: object) -> httpx.Response:
    return http.post(MESSAGES, json={"users": list(users), "title": "t", "content": "c" * 100} | more)


def fill(http: httpx.Client, user: str, count: int) -> None:
    for _ in range(count):
        assert send(http, user).status_code == 202
    assert len(http.get(f"/api/v3/users/{user}/messages").json()["messages"]) == count


def pobox(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *words, "--server", node.url]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_message_goes_to_nobody_until_those_who_are_full_are_left_out(http: httpx.Client) -> None:
    everybody = [f"e{number}" for number in range(20)]
    for user in everybody[::5]:
        fill(http, user, 5)
    refused = send(http, *everybody, id="news")
    assert (refused.status_code, refused.json()["code"]) == (409, "mailbox_full")
    assert refused.json()["users"] == everybody[::5]
    assert http.get("/api/v3/users/e1").status_code == 404, "nobody has it"
    others = [user for user in everybody if user not in refused.json()["users"]]
    assert send(http, *others, id="news").json()["targets"] == 16
    said = http.get("/api/v3/users/e0").json()
    assert said == {
        "id": "e0", "messages": 5, "bytes": 505, "quotaMessages": 5, "quotaBytes": None, "ownQuota": False,
        "full": True,
    }  # fmt: skip
    newest = http.get("/api/v3/users/e0/messages").json()["messages"][0]
    assert http.delete(f"/api/v3/users/e0/messages/{newest['id']}").status_code == 204
    assert send(http, "e0").status_code == 202


def test_a_channels_message_is_a_dead_letter_for_who_is_full(http: httpx.Client) -> None:
    fill(http, "full", 5)
    http.put("/api/v3/channels/crew")
    http.post("/api/v3/channels/crew/members", json={"add": ["full", "free"]})
    sent = http.post(MESSAGES, json={"id": "crew-1", "channelId": "crew", "title": "t", "content": "c"})
    assert sent.json()["targets"] == 2

    def receipt() -> dict[str, int]:
        found: dict[str, int] = http.get(f"{MESSAGES}/crew-1/receipt").json()
        return found

    eventually(lambda: receipt()["pending"] == 0, "an end of it")
    assert (receipt()["stored"], receipt()["failed"]) == (1, 1)

    def dead() -> list[dict[str, object]]:
        found: list[dict[str, object]] = http.get("/api/v3/dead-letters?reason=full").json()["deadLetters"]
        return found

    eventually(dead, "a dead letter")
    assert [one["id"] for one in dead()] == ["full~crew-1"]
    assert http.post("/api/v3/dead-letters/full~crew-1/requeue").json()["code"] == "mailbox_full"
    assert http.put("/api/v3/users/full/quota", json={"messages": 6}).status_code == 204
    assert http.post("/api/v3/dead-letters/full~crew-1/requeue").status_code == 202
    eventually(lambda: receipt()["stored"] == 2, "the letter in the box")
    # A shard that is busy for a second is left out.
    eventually(lambda: http.get("/metrics").text.count("pobox_mailboxes_full{") == 2, "the figures of both shards")


def test_the_command_line_shows_and_sets(node: Node, http: httpx.Client) -> None:
    fill(http, "cli", 2)
    assert pobox(node, "quota", "cli").stdout == "messages 2 of 5 (40%)\nbytes    202\n"
    assert pobox(node, "quota", "cli", "--messages", "0", "--bytes", "1k").returncode == 0
    assert pobox(node, "quota", "cli").stdout == "messages 2\nbytes    202 of 1024 (19%)\n"
    assert pobox(node, "quota", "cli", "--bytes", "202").returncode == 0
    assert pobox(node, "quota", "cli").stdout.endswith("cli is full: nothing new is taken\n")
    assert send(http, "cli").status_code == 409
    assert pobox(node, "quota", "cli", "--default").returncode == 0
    assert send(http, "cli").status_code == 202
    assert pobox(node, "quota", "cli", "--bytes", "much").returncode == 2
    assert "no such user" in pobox(node, "quota", "nobody").stderr


def test_a_full_box_is_full_after_a_kill_too(tmp_path: Path) -> None:
    with Node(tmp_path / "data", env={"POBOX_SHARD_QUOTA_MESSAGES": "2"}) as node:
        with httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http:
            fill(http, "ann", 2)
        node.kill_all()
        node.start()
        with httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http:
            # What is replayed is in the box then.
            assert len(http.get("/api/v3/users/ann/messages").json()["messages"]) == 2
            assert send(http, "ann").json()["users"] == ["ann"]
