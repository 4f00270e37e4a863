"""What a service and a reader say to a node, from the first channel to the last deletion."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support import Node, eventually

pytestmark = pytest.mark.slow

JSON = dict[str, Any]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all; each test has people of its own."""
    with Node(tmp_path_factory.mktemp("conversation") / "data") as running:
        yield running


@pytest.fixture
def http(shared: Node) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.url, timeout=30, trust_env=False) as client:
        yield client


def _sent(http: httpx.Client, **message: object) -> JSON:
    """The body of the 202."""
    response = http.post("/api/v3/messages", json={"title": "a title", "content": "content"} | message)
    assert response.status_code == 202, response.text
    body: JSON = response.json()
    assert body["receipt"] == f"/api/v3/messages/{body['id']}/receipt"
    return body


def _titles(http: httpx.Client, user: str, **params: str | int) -> list[str]:
    return [message["title"] for message in _page(http, user, **params)["messages"]]


def _page(http: httpx.Client, user: str, **params: str | int) -> JSON:
    response = http.get(f"/api/v3/users/{user}/messages", params=params)
    assert response.status_code == 200, response.text
    body: JSON = response.json()
    return body


def _problem(response: httpx.Response) -> tuple[int, str, str | None]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"], response.json().get("field")


def test_a_channel_from_its_making_to_its_end(http: httpx.Client) -> None:
    spec = {"name": "All the news", "description": "what happened", "createdBy": "ada"}
    made = http.put("/api/v3/channels/news", json=spec)
    assert made.status_code == 201
    assert made.json() | spec | {"id": "news", "members": 0} == made.json()
    assert http.put("/api/v3/channels/news").status_code == 200
    assert http.get("/api/v3/channels/news").json() == made.json()

    assert _sent(http, channelId="news", title="to nobody")["targets"] == 0
    changed = http.post("/api/v3/channels/news/members", json={"add": ["ada", "bob", "cyd", "bob"]})
    assert changed.json() == {"added": 3, "removed": 0, "members": 3}
    assert http.put("/api/v3/channels/news/members/dan").status_code == 204
    assert http.put("/api/v3/channels/news/members/dan").status_code == 204
    assert http.get("/api/v3/channels/news/members").json()["members"] == ["ada", "bob", "cyd", "dan"]
    [joined] = http.get("/api/v3/users/dan/channels").json()["channels"]
    assert (joined["id"], joined["name"], joined["isMuted"]) == ("news", "All the news", False)

    assert _sent(http, channelId="news", title="to all four")["targets"] == 4
    assert http.delete("/api/v3/channels/news/members/dan").status_code == 204
    assert _sent(http, channelId="news", title="to three")["targets"] == 3
    assert _titles(http, "dan") == ["to all four"]
    assert http.get("/api/v3/users/dan/channels").json() == {"channels": []}
    for user in ("ada", "bob", "cyd"):
        assert _titles(http, user) == ["to three", "to all four"]

    assert "news" in [channel["id"] for channel in http.get("/api/v3/channels").json()["channels"]]
    assert http.delete("/api/v3/channels/news").status_code == 204
    assert _problem(http.get("/api/v3/channels/news")) == (404, "not_found", "channelId")
    again = http.post("/api/v3/messages", json={"channelId": "news", "title": "too late", "content": ""})
    assert _problem(again) == (404, "not_found", "channelId")
    assert http.get("/api/v3/users/ada/channels").json() == {"channels": []}
    assert _titles(http, "ada") == ["to three", "to all four"]  # what was delivered is the person's


def test_messages_come_newest_first_page_by_page(http: httpx.Client) -> None:
    for number in range(7):
        label = "odd" if number % 2 else "even"
        created_at = f"2026-03-0{number + 1}T12:00:00+02:00"
        _sent(http, users=["eva"], title=f"{number}", channelId=label, createdAt=created_at)
    titles, cursor, pages = list[str](), "", 0
    while True:
        page = _page(http, "eva", limit=3, cursor=cursor)
        titles += [message["title"] for message in page["messages"]]
        pages += 1
        if page["cursor"] is None:
            break
        cursor = page["cursor"]
    assert (titles, pages) == (["6", "5", "4", "3", "2", "1", "0"], 3)
    assert _titles(http, "eva", channelId="odd") == ["5", "3", "1"]
    assert _page(http, "eva", limit=1)["messages"][0]["createdAt"] == "2026-03-07T10:00:00.000000Z"


def test_whoever_got_a_202_sees_the_message_as_it_was_sent(http: httpx.Client) -> None:
    said = {
        "title": "Grüße",
        "content": "日本語 🙂 \u0000 \n",
        "messageType": "note",
        "priority": 9,
        "sender": "mail-service",
        "metadata": {"n": 2**63 - 1, "deep": [{"a": None}], "x": 1.5},
    }
    for number in range(20):
        users = [f"reader{number}", f"other{number}"]
        id = _sent(http, users=users, **said)["id"]
        for user in users:
            seen = http.get(f"/api/v3/users/{user}/messages/{id}").json()
            assert seen | said | {"id": id, "channelId": "direct"} == seen


def test_the_same_again_is_accepted_and_another_body_is_not(http: httpx.Client) -> None:
    first = _sent(http, id="order-17", users=["fay", "gus"], title="Shipped")
    assert _sent(http, users=["gus", "fay"], id="order-17", title="Shipped", priority=5) == first
    other = http.post(
        "/api/v3/messages", json={"id": "order-17", "users": ["fay", "gus"], "title": "Lost", "content": "content"}
    )
    assert _problem(other) == (409, "conflict", "id")
    assert _titles(http, "fay") == _titles(http, "gus") == ["Shipped"]


def test_an_idempotency_key_is_taken_as_the_id(http: httpx.Client) -> None:
    def sent(title: str) -> httpx.Response:
        message = {"users": ["hal"], "title": title, "content": ""}
        return http.post("/api/v3/messages", json=message, headers={"idempotency-key": "key-1"})

    assert [sent("one").status_code, sent("one").status_code] == [202, 202]
    assert sent("one").json()["id"] == "key-1"
    assert _problem(sent("two"))[:2] == (409, "conflict")
    assert _titles(http, "hal") == ["one"]


def test_a_receipt_ends_with_everything_stored(http: httpx.Client) -> None:
    users = [f"user{number}" for number in range(50)]
    accepted = _sent(http, users=users)
    assert accepted["targets"] == 50

    def receipt() -> JSON:
        body: JSON = http.get(accepted["receipt"]).json()
        assert body["targets"] == 50
        assert body["stored"] + body["pending"] + body["failed"] == 50
        return body

    eventually(lambda: receipt()["stored"] == 50, "all stored")
    assert receipt() | {"pending": 0, "failed": 0} == receipt()
    assert _problem(http.get("/api/v3/messages/unheard-of/receipt")) == (404, "not_found", "id")


def test_a_deleted_message_comes_back_by_no_retry_and_no_restart(shared: Node) -> None:
    with httpx.Client(base_url=shared.url, timeout=30, trust_env=False) as http:
        for _twice in range(2):
            _sent(http, id="gone", users=["nan", "oli"], title="gone")
        assert http.delete("/api/v3/users/nan/messages/gone").status_code == 204
        assert _problem(http.delete("/api/v3/users/nan/messages/gone")) == (404, "not_found", "id")
        assert _problem(http.get("/api/v3/users/nan/messages/gone")) == (404, "not_found", "id")
        _sent(http, id="gone", users=["nan", "oli"], title="gone")
    shared.kill_all()
    shared.start()
    with httpx.Client(base_url=shared.url, timeout=30, trust_env=False) as http:
        _sent(http, id="gone", users=["nan", "oli"], title="gone")
        assert (_titles(http, "nan"), _titles(http, "oli")) == ([], ["gone"])


def test_a_deleted_message_comes_back_not_even_when_its_receipt_is_forgotten(tmp_path: Path) -> None:
    env = {"POBOX_SHARD_RECEIPT_S": "0", "POBOX_SHARD_BARRIER_S": "0.1"}
    with Node(tmp_path / "data", env=env) as node, httpx.Client(base_url=node.url, trust_env=False, timeout=30) as http:
        receipt = _sent(http, id="gone", users=["ada", "bob"], title="gone")["receipt"]
        assert http.delete("/api/v3/users/ada/messages/gone").status_code == 204
        eventually(lambda: http.get(receipt).status_code == 404, "the end of the receipt")
        _sent(http, id="gone", users=["ada", "bob"], title="gone")
        assert (_titles(http, "ada"), _titles(http, "bob")) == ([], ["gone"])


def test_a_batch_takes_what_is_right_and_names_the_lines_that_are_not(http: httpx.Client) -> None:
    http.put("/api/v3/channels/mail")
    http.put("/api/v3/channels/mail/members/jon")
    lines = [
        {"id": "b1", "users": ["jon", "kim"], "title": "one", "content": ""},
        {"id": "b2", "users": ["jon"], "title": "", "content": ""},
        {"id": "b3", "channelId": "mail", "title": "three", "content": ""},
        {"id": "b4", "channelId": "nowhere", "title": "four", "content": ""},
        {"id": "b1", "users": ["jon", "kim"], "title": "one", "content": ""},
        {"id": "b1", "users": ["jon"], "title": "another", "content": ""},
    ]
    body = b"\n".join([*map(msgspec.json.encode, lines[:4]), b"", b"{not json", *map(msgspec.json.encode, lines[4:])])
    answer = http.post("/api/v3/messages/batch", content=body, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 3
    refused = [(line["line"], line["status"], line.get("field")) for line in answer.json()["rejected"]]
    assert refused == [(2, 422, "title"), (4, 404, "channelId"), (6, 400, None), (8, 409, "id")]
    assert (sorted(_titles(http, "jon")), _titles(http, "kim")) == (["one", "three"], ["one"])


def test_the_command_line_delivers_reads_and_shows_receipts(shared: Node) -> None:
    def pobox(*arguments: str) -> str:
        command = [sys.executable, "-m", "node", *arguments, "--server", shared.url]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    said = pobox("deliver", "--users", "leo,mia", "--title", "Hello", "--content", "The first letter", "--id", "first")
    assert said == "first accepted for 2\n"
    assert "Hello" in pobox("read", "leo")
    assert "The first letter" in pobox("read", "mia", "--id", "first")
    eventually(lambda: "2 targets, 2 stored" in pobox("receipt", "first"), "both stored")
