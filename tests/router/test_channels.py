"""Channels and their members, and the reads that one shard answers."""

from __future__ import annotations

from typing import Any

import pytest

from node import ops
from node.slots import slot_of, table_for
from tests.router.conftest import Running
from tests.router.test_bad_input import MESSAGES, refused

USERS = sorted(f"user-{i}" for i in range(60))
SHARDS = 3


@pytest.fixture(autouse=True)
def _clean(router: Running) -> None:
    for peer in router.peers:
        for state in (peer.frames, peer.claims, peer.letters, peer.channels, peer.members):
            state.clear()


def home(name: str) -> int:
    return table_for(SHARDS)[slot_of(name)]


def test_a_channel_is_made_then_changed(router: Running) -> None:
    made = router.http.put("/api/v3/channels/team", json={"name": "Team"})
    assert (made.status_code, made.json()["name"], made.json()["members"]) == (201, "Team", 0)
    changed = router.http.put("/api/v3/channels/team", json={"description": "ours"})
    assert changed.status_code == 200
    assert (changed.json()["name"], changed.json()["description"]) == ("Team", "ours")
    assert router.http.get("/api/v3/channels/team").json() == changed.json()


def test_a_channel_needs_no_body(router: Running) -> None:
    assert router.http.put("/api/v3/channels/team").json()["name"] == "team"


def test_the_home_of_a_channel_is_put_last_and_dropped_first(router: Running) -> None:
    order: list[tuple[type, int]] = []
    for peer in router.peers:
        frames = _Noting(order, peer.index)
        peer.frames = frames
    try:
        router.http.put("/api/v3/channels/team")
        assert router.http.delete("/api/v3/channels/team").status_code == 204
    finally:
        for peer in router.peers:
            peer.frames = []
    puts = [shard for kind, shard in order if kind is ops.PutChannel]
    drops = [shard for kind, shard in order if kind is ops.DropChannel]
    assert puts[-1] == drops[0] == home("team")
    assert sorted(puts) == sorted(drops) == [0, 1, 2]


class _Noting(list[Any]):
    """Frames of one peer that also go into an order common to all."""

    def __init__(self, order: list[tuple[type, int]], index: int) -> None:
        super().__init__()
        self._order, self._index = order, index

    def append(self, frame: Any) -> None:
        self._order.append((type(frame), self._index))
        super().append(frame)


def test_an_unknown_channel_is_not_found_anywhere(router: Running) -> None:
    for method, path in [
        ("GET", "/api/v3/channels/no"),
        ("DELETE", "/api/v3/channels/no"),
        ("GET", "/api/v3/channels/no/members"),
        ("PUT", "/api/v3/channels/no/members/ann"),
        ("DELETE", "/api/v3/channels/no/members/ann"),
    ]:
        refused(router.http.request(method, path), 404, "channelId")
    refused(router.http.post("/api/v3/channels/no/members", json={"add": USERS}), 404, "channelId")
    assert not [f for peer in router.peers for f in peer.frames if isinstance(f, ops.ChangeMembers)]


def test_a_drop_that_came_no_further_than_home_can_be_ended(router: Running) -> None:
    router.http.put("/api/v3/channels/team")
    router.peers[home("team")].channels.clear()
    assert router.http.delete("/api/v3/channels/team").status_code == 204
    assert not any(peer.channels for peer in router.peers)
    refused(router.http.delete("/api/v3/channels/team"), 404, "channelId")


def test_members_are_kept_by_their_own_shards_and_counted_over_all(router: Running) -> None:
    router.http.put("/api/v3/channels/team")
    change = router.http.post("/api/v3/channels/team/members", json={"add": [*USERS, USERS[0]]})
    assert change.json() == {"added": 60, "removed": 0, "members": 60}
    for peer in router.peers:
        assert peer.members["team"] == {user for user in USERS if home(user) == peer.index}
    change = router.http.post("/api/v3/channels/team/members", json={"add": ["new"], "remove": USERS[:5]})
    assert change.json() == {"added": 1, "removed": 5, "members": 56}
    assert router.http.get("/api/v3/channels/team").json()["members"] == 56


def test_one_person_joins_and_leaves_as_often_as_it_is_said(router: Running) -> None:
    router.http.put("/api/v3/channels/team")
    for method, members in [("PUT", ["ann"]), ("PUT", ["ann"]), ("DELETE", []), ("DELETE", [])]:
        assert router.http.request(method, "/api/v3/channels/team/members/ann").status_code == 204
        assert router.http.get("/api/v3/channels/team/members").json()["members"] == members


def pages(router: Running, path: str, key: str, limit: int) -> list[list[Any]]:
    found, cursor = [], ""
    while cursor is not None:
        page = router.http.get(path, params={"limit": limit, "cursor": cursor}).json()
        found.append(page[key])
        cursor = page["cursor"]
    return found


@pytest.mark.parametrize("limit", [1, 7, 30, 60, 500])
def test_members_are_listed_by_id_over_all_shards(router: Running, limit: int) -> None:
    router.http.put("/api/v3/channels/team")
    router.http.post("/api/v3/channels/team/members", json={"add": USERS})
    found = pages(router, "/api/v3/channels/team/members", "members", limit)
    assert [user for page in found for user in page] == USERS
    assert all(len(page) == limit for page in found[:-1])
    assert found[-1]


@pytest.mark.parametrize("limit", [1, 3, 12, 500])
def test_channels_are_listed_by_id_with_members_of_all_shards(router: Running, limit: int) -> None:
    names = sorted(f"team-{i}" for i in range(12))
    for name in names:
        router.http.put(f"/api/v3/channels/{name}")
        router.http.post(f"/api/v3/channels/{name}/members", json={"add": USERS[: int(name[5:])]})
    found = [channel for page in pages(router, "/api/v3/channels", "channels", limit) for channel in page]
    assert [(c["id"], c["members"]) for c in found] == [(name, int(name[5:])) for name in names]


def test_a_channel_that_its_home_does_not_know_is_not_listed(router: Running) -> None:
    for name in ("a", "b", "c"):
        router.http.put(f"/api/v3/channels/{name}")
    router.peers[home("b")].channels.pop("b")
    found = pages(router, "/api/v3/channels", "channels", 1)
    assert [channel["id"] for page in found for channel in page] == ["a", "c"]


def test_a_box_is_read_from_its_own_shard(router: Running) -> None:
    for title in ("one", "two", "three"):
        message = {"id": title, "users": ["ann"], "title": title, "content": "c", "metadata": {"n": [1]}}
        router.http.post(MESSAGES, json=message)
    page = router.http.get("/api/v3/users/ann/messages?limit=2").json()
    assert [message["title"] for message in page["messages"]] == ["three", "two"]
    assert page["cursor"] is None
    one = router.http.get("/api/v3/users/ann/messages/one").json()
    assert (one["id"], one["channelId"], one["metadata"]) == ("one", "direct", {"n": [1]})
    assert router.http.get("/api/v3/users/ann/messages?channelId=x").json()["messages"] == []
    asked = [peer.index for peer in router.peers for frame in peer.frames if isinstance(frame, ops.Page)]
    assert set(asked) == {home("ann")}


def test_a_message_is_deleted_once(router: Running) -> None:
    router.http.post(MESSAGES, json={"id": "m", "users": ["ann"], "title": "t", "content": "c"})
    assert router.http.delete("/api/v3/users/ann/messages/m").status_code == 204
    refused(router.http.delete("/api/v3/users/ann/messages/m"), 404, "id")
    refused(router.http.get("/api/v3/users/ann/messages/m"), 404, "id")


def test_a_person_sees_the_channels_joined(router: Running) -> None:
    router.http.put("/api/v3/channels/team", json={"name": "Team"})
    router.http.put("/api/v3/channels/team/members/ann")
    (channel,) = router.http.get("/api/v3/users/ann/channels").json()["channels"]
    assert (channel["id"], channel["name"], channel["isMuted"]) == ("team", "Team", False)
