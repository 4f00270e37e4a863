"""Who is full is named, before anybody has the message; who has room may have it then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from node.changes import Changes
from node.paths import changes_path
from node.slots import slot_of, table_for
from tests.router.conftest import Running, running
from tests.router.test_bad_input import MESSAGES, refused

SHARDS = 2
USERS = [f"user-{i}" for i in range(20)]


class Full:
    """Who is said to be full, by the shards and in what they count."""

    def __init__(self, router: Running, changes: list[Changes]) -> None:
        self.router = router
        self._changes = changes
        self._said: list[str] = []

    def __call__(self, user: str, *, really: bool = True) -> None:
        shard = self._shard(user)
        self._changes[shard].full(user)
        self._said.append(user)
        if really:
            self.router.peers[shard].full.add(user)

    def take_back(self) -> None:
        """Nobody is full."""
        while self._said:
            user = self._said.pop()
            self._changes[self._shard(user)].not_full(user)
            self.router.peers[self._shard(user)].full.discard(user)

    def _shard(self, user: str) -> int:
        return table_for(SHARDS)[slot_of(user)]


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    data = tmp_path_factory.mktemp("node")
    with contextlib.ExitStack() as closing:
        changes = [Changes(changes_path(data, shard)) for shard in range(SHARDS)]
        for one in changes:
            closing.callback(one.close)
        yield Full(closing.enter_context(running(data, SHARDS)), changes)


@pytest.fixture
def full(everybody: Full) -> Iterator[Full]:
    yield everybody
    everybody.take_back()


def body(**changes: object) -> dict[str, object]:
    return {"users": USERS, "title": "t", "content": "c"} | changes


def test_all_who_are_full_are_named_and_nothing_is_written(full: Full) -> None:
    for user in (USERS[3], USERS[7], USERS[8]):
        full(user)
    http, writes = full.router.http, full.router.writes()
    problem = refused(http.post(MESSAGES, json=body()), 409, "users")
    assert (problem["code"], problem["type"]) == ("mailbox_full", "urn:pobox:mailbox-full")
    assert problem["users"] == [USERS[3], USERS[7], USERS[8]]
    refused(http.post(MESSAGES, json=body(id="m")), 409, "users")
    assert full.router.writes() == writes
    others = [user for user in USERS if user not in problem["users"]]
    assert http.post(MESSAGES, json=body(id="m", users=others)).json()["targets"] == len(others)


def test_who_only_shares_a_bit_with_somebody_gets_the_message(full: Full) -> None:
    full(USERS[0], really=False)
    assert full.router.http.post(MESSAGES, json=body()).status_code == 202


def test_what_was_accepted_may_be_sent_again_though_it_filled_the_box(full: Full) -> None:
    http = full.router.http
    assert http.post(MESSAGES, json=body(id="o")).status_code == 202
    full(USERS[0])
    assert http.post(MESSAGES, json=body(id="o")).status_code == 202
    answer = http.post(MESSAGES, json=body(id="o", title="another"))
    assert refused(answer, 409, "id")["code"] == "conflict"
    refused(http.post(MESSAGES, json=body(id="n")), 409, "users")


def test_a_batch_rejects_the_line_and_says_for_whom(full: Full) -> None:
    full("ann")
    lines = b'{"users":["bob"],"title":"t","content":"c"}\n{"users":["cyd","ann"],"title":"t","content":"c"}\n'
    headers = {"content-type": "application/x-ndjson"}
    answer = full.router.http.post(f"{MESSAGES}/batch", content=lines, headers=headers).json()
    assert answer["accepted"] == 1
    (line,) = answer["rejected"]
    assert (line["line"], line["status"], line["field"], line["users"]) == (2, 409, "users", ["ann"])


def test_a_bad_name_is_that_also_while_somebody_is_full(full: Full) -> None:
    full("ann")
    refused(full.router.http.post(MESSAGES, json=body(users=["ann", "../x"])), 422, "users[1]")
    refused(full.router.http.post(MESSAGES, json=body(users=[])), 422, "users")


def test_a_quota_must_be_numbers(full: Full) -> None:
    http = full.router.http
    for wrong in ({"messages": -1}, {"bytes": "1"}, {"bytes": 2**60}, {"kilobytes": 1}):
        assert http.put("/api/v3/users/ann/quota", json=wrong).status_code == 422, wrong
    assert http.put("/api/v3/users/ann/quota", json={"messages": 0}).status_code == 204
    assert http.delete("/api/v3/users/ann/quota").status_code == 204
    assert http.get("/api/v3/users/ann").json()["quotaBytes"] == 3
