"""A message reaches each target's shard once, and the caller learns what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from node import errors, ops
from node.slots import slot_of, table_for
from tests.router.conftest import Running, running, until
from tests.router.peer import Peer
from tests.router.test_bad_input import MESSAGES, refused

USERS = [f"user-{i}" for i in range(60)]
SHARDS = 3


@pytest.fixture(autouse=True)
def _clean(router: Running) -> None:
    for peer in router.peers:
        peer.refusal, peer.silent, peer.cutting = None, False, False
        for state in (peer.frames, peer.claims, peer.letters, peer.channels, peer.members):
            state.clear()


def body(**changes: Any) -> dict[str, Any]:
    return {"users": USERS, "title": "t", "content": "c"} | changes


def home(name: str) -> int:
    return table_for(SHARDS)[slot_of(name)]


def letter(frame: ops.Deliver) -> ops.Letter:
    return msgspec.msgpack.decode(frame.letter, type=ops.Letter)


def test_each_user_is_asked_for_once_at_the_right_shard(router: Running) -> None:
    answer = router.http.post(MESSAGES, json=body())
    assert answer.status_code == 202
    taken = answer.json()
    assert taken["targets"] == 60
    assert taken["receipt"] == f"/api/v3/messages/{taken['id']}/receipt"
    frames = [frame for peer in router.peers for frame in peer.deliveries()]
    assert len(frames) == SHARDS
    assert all(frame.fresh and not frame.claim and len(frame.digest) == 16 for frame in frames)
    assert sorted(user for frame in frames for user in frame.users) == sorted(USERS)


def test_a_user_named_twice_is_one_target(router: Running) -> None:
    assert router.http.post(MESSAGES, json=body(users=["ann", "bob", "ann"])).json()["targets"] == 2


def test_every_field_arrives_as_it_was_given(router: Running) -> None:
    given = body(
        id="m-1", users=["ann"], channelId="news", title="T\0é😀", content="", messageType="card", priority=9,
        sender="svc", createdAt="2026-11-24T10:00:00.5+02:00", metadata={"a": [1, None, 2.5, {"b": "\0"}]},
        timeoutSeconds=60,
    )  # fmt: skip
    assert router.http.post(MESSAGES, json=given).status_code == 202
    got = letter(router.peers[home("ann")].deliveries()[-1])
    assert (got.id, got.channel_id, got.title, got.content) == ("m-1", "news", "T\0é😀", "")
    assert (got.message_type, got.priority, got.sender, got.timeout_s) == ("card", 9, "svc", 60)
    assert got.created_at == "2026-11-24T08:00:00.500000Z"
    assert msgspec.json.decode(got.metadata or "") == given["metadata"]


def test_what_is_left_out_has_its_default(router: Running) -> None:
    router.http.post(MESSAGES, json=body(users=["ann"]))
    got = letter(router.peers[home("ann")].deliveries()[-1])
    assert (got.channel_id, got.message_type, got.priority) == ("direct", "text", 5)
    assert (got.sender, got.metadata, got.timeout_s) == (None, None, None)
    assert got.created_at == got.updated_at


def test_a_given_id_is_claimed_at_its_home_before_anybody_else_is_asked(router: Running) -> None:
    assert router.http.post(MESSAGES, json=body(id="m-1")).json()["id"] == "m-1"
    for peer in router.peers:
        (frame,) = peer.deliveries()
        assert frame.claim == (peer.index == home("m-1"))
        assert not frame.fresh
        assert len(frame.digest) == 16


def test_a_claim_goes_home_even_with_no_target_there(router: Running) -> None:
    user = next(u for u in USERS if home(u) != home("m-1"))
    assert router.http.post(MESSAGES, json=body(id="m-1", users=[user])).json()["targets"] == 1
    assert router.peers[home("m-1")].deliveries()[0].users == []
    assert router.peers[home(user)].deliveries()[0].users == [user]


def test_the_same_body_again_is_taken_again(router: Running) -> None:
    first = router.http.post(MESSAGES, json=body(id="m-1"))
    again = router.http.post(MESSAGES, json=body(id="m-1", users=USERS[::-1], priority=5))
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()


def test_another_body_under_the_same_id_is_a_conflict_and_nobody_else_is_asked(router: Running) -> None:
    router.http.post(MESSAGES, json=body(id="m-1"))
    for peer in router.peers:
        peer.frames.clear()
    answer = router.http.post(MESSAGES, json=body(id="m-1", title="other"))
    assert refused(answer, 409, "id")["code"] == "conflict"
    assert [len(peer.deliveries()) for peer in router.peers] == [int(i == home("m-1")) for i in range(SHARDS)]


def test_the_idempotency_key_is_the_id_where_none_is_given(router: Running) -> None:
    key = {"Idempotency-Key": "k-1"}
    assert router.http.post(MESSAGES, json=body(), headers=key).json()["id"] == "k-1"
    assert router.http.post(MESSAGES, json=body(id="m-2"), headers=key).json()["id"] == "m-2"
    assert router.http.post(MESSAGES, json=body(title="other"), headers=key).status_code == 409


def test_a_channel_message_goes_once_to_every_shard(router: Running) -> None:
    router.http.put("/api/v3/channels/team")
    router.http.post("/api/v3/channels/team/members", json={"add": USERS})
    for given in ({}, {"id": "m-1"}):
        for peer in router.peers:
            peer.frames.clear()
        answer = router.http.post(MESSAGES, json={"channelId": "team", "title": "t", "content": "c"} | given)
        assert answer.status_code == 202, answer.text
        assert answer.json()["targets"] == 60
        frames = [frame for peer in router.peers for frame in peer.deliveries()]
        assert [(frame.channel, frame.users) for frame in frames] == [("team", [])] * SHARDS


def test_a_channel_without_members_is_no_error(router: Running) -> None:
    router.http.put("/api/v3/channels/empty")
    answer = router.http.post(MESSAGES, json={"channelId": "empty", "title": "t", "content": "c"})
    assert (answer.status_code, answer.json()["targets"]) == (202, 0)


@pytest.mark.parametrize("id", [None, "m-1"])
def test_an_unknown_channel_is_not_found_and_only_one_shard_was_asked(router: Running, id: str | None) -> None:
    answer = router.http.post(MESSAGES, json={"channelId": "no", "title": "t", "content": "c", "id": id})
    refused(answer, 404, "channelId")
    assert router.deliveries() == 1


def test_a_shard_that_forgot_the_channel_has_no_members_of_it(router: Running) -> None:
    router.http.put("/api/v3/channels/team")
    router.http.post("/api/v3/channels/team/members", json={"add": USERS})
    forgetful = router.peers[(home("team") + 1) % SHARDS]
    gone = len(forgetful.members["team"])
    forgetful.channels.clear()
    answer = router.http.post(MESSAGES, json={"channelId": "team", "title": "t", "content": "c"})
    assert (answer.status_code, answer.json()["targets"]) == (202, 60 - gone)


def test_a_label_needs_no_channel(router: Running) -> None:
    assert router.http.post(MESSAGES, json=body(channelId="never-made")).json()["targets"] == 60


@pytest.mark.parametrize(
    ("refusal", "status", "retry_after"),
    [
        (errors.Overloaded(retry_after=7), 503, "7"),
        (errors.Unavailable(), 503, "1"),
        (errors.DiskFull(), 507, "5"),
    ],
)
def test_a_shard_that_cannot_take_it_is_passed_on_with_when_to_retry(
    router: Running, refusal: errors.PoboxError, status: int, retry_after: str
) -> None:
    router.peers[1].refusal = refusal
    answer = router.http.post(MESSAGES, json=body())
    refused(answer, status)
    assert answer.headers["retry-after"] == retry_after
    user = next(u for u in USERS if home(u) != 1)
    assert router.http.post(MESSAGES, json=body(users=[user])).status_code == 202


@pytest.mark.parametrize("id", [None, "m-1"])
def test_a_cut_connection_is_unavailable_and_the_same_again_succeeds(router: Running, id: str | None) -> None:
    router.peers[2].cutting = True
    answer = router.http.post(MESSAGES, json=body(id=id))
    refused(answer, 503)
    assert answer.headers["retry-after"] == "1"
    router.peers[2].cutting = False
    router.await_ready()
    assert router.http.post(MESSAGES, json=body(id=id)).json()["targets"] == 60


@pytest.mark.parametrize("given", [{}, {"id": "m-1"}, {"users": None, "channelId": "team"}])
def test_with_a_shard_down_nobody_is_asked_and_its_share_is_unavailable(router: Running, given: dict[str, Any]) -> None:
    router.peers[0].stop()
    try:
        until(lambda: router.http.get("/readyz").status_code == 503)
        for peer in router.peers:
            peer.frames.clear()
        refused(router.http.post(MESSAGES, json=body(**given)), 503)
        assert router.writes() == 0
        user = next(u for u in USERS if home(u) != 0)
        assert router.http.post(MESSAGES, json=body(users=[user])).status_code == 202
    finally:
        router.peers[0].start()
        router.await_ready()


@pytest.mark.slow
def test_a_silent_shard_is_given_up_on_and_the_others_go_on(tmp_path: Path) -> None:
    with running(tmp_path, SHARDS, settings={"shard_timeout_s": 1.5}) as router:
        router.peers[1].silent = True
        answer = router.http.post(MESSAGES, json=body())
        refused(answer, 503)
        assert answer.headers["retry-after"] == "1"
        user = next(u for u in USERS if home(u) != 1)
        assert router.http.post(MESSAGES, json=body(users=[user])).status_code == 202
        router.peers[1].silent = False
        until(lambda: router.http.post(MESSAGES, json=body()).status_code == 202)


def test_a_receipt_sums_what_the_shards_know(router: Running) -> None:
    taken = router.http.post(MESSAGES, json=body()).json()
    receipt = router.http.get(taken["receipt"]).json()
    assert receipt["accepted"].startswith("20")
    assert {k: v for k, v in receipt.items() if k != "accepted"} == {
        "targets": 60, "stored": 57, "pending": 3, "failed": 0,
    }  # fmt: skip


def test_a_receipt_of_an_unknown_id_is_not_found(router: Running) -> None:
    refused(router.http.get("/api/v3/messages/never/receipt"), 404, "id")


def test_an_error_nobody_expected_is_answered_without_a_word_about_it(router: Running) -> None:
    router.peers[0].refusal = errors.PoboxError()
    problem = refused(router.http.post(MESSAGES, json=body()), 500)
    assert problem["detail"] == "Internal error"


def full(router: Running) -> Peer:
    """The shard of ann, which says that it has room for priority 8 and above."""
    return fill(router.peers[home("ann")])


def fill(peer: Peer) -> Peer:
    peer.refusal = errors.Overloaded("For now only priority 8 and above is accepted", retry_after=7)
    peer.refusal.shut = errors.Shut(8, 0.5)
    return peer


def test_what_a_shard_has_no_room_for_is_refused_by_the_router_until_it_may_ask_again(router: Running) -> None:
    """In the shard's own words. What is more important, and what is for another shard, goes through."""
    peer, answers = full(router), []

    def was_shed() -> bool:
        answers.append(router.http.post(MESSAGES, json=body(users=["ann"])))
        return len(answers) > len(peer.deliveries())

    until(was_shed)
    assert answers[-1].status_code == 503
    assert answers[-1].json() == answers[0].json()
    assert answers[-1].headers["retry-after"] == "7"
    assert router.http.post(MESSAGES, json=body(users=["ann"], title="")).status_code == 422
    elsewhere = next(user for user in USERS if home(user) != peer.index)
    assert router.http.post(MESSAGES, json=body(users=[elsewhere])).status_code == 202
    peer.refusal = None
    assert router.http.post(MESSAGES, json=body(users=["ann"], priority=8)).status_code == 202
    assert sum(frame.shed for frame in peer.deliveries()) == 1, "the shard is told how many they were"
    until(lambda: router.http.post(MESSAGES, json=body(users=["ann"])).status_code == 202)


def test_while_no_shard_has_room_the_priority_is_all_that_is_looked_at(router: Running) -> None:
    """What hides its priority is refused for that, as ever."""
    for peer in router.peers:
        fill(peer)

    def answers(**changes: object) -> tuple[int, int]:
        """To a message for everybody, and to a faulty one right after."""
        whole = router.http.post(MESSAGES, json=body(users=USERS))
        return whole.status_code, router.http.post(MESSAGES, json=body(**changes)).status_code

    until(lambda: answers(title="") == (503, 503))
    assert router.http.post(MESSAGES, json=body(title="", priority=8)).status_code == 422
    assert answers(priority=11) == (503, 422)
    assert router.http.post(MESSAGES, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400


@pytest.mark.parametrize("changes", [{}, {"id": "m-1"}, {"users": None, "channelId": "news"}])
def test_nothing_is_sent_to_any_shard_when_one_has_no_room(router: Running, changes: dict[str, Any]) -> None:
    full(router)

    def was_shed() -> bool:
        router.http.post(MESSAGES, json=body(users=["ann"]))
        before = router.deliveries()
        assert router.http.post(MESSAGES, json=body(**changes)).status_code in (404, 503)
        return router.deliveries() == before

    until(was_shed)
