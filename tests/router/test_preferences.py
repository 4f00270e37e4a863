"""What a person makes of channels and devices: bad input is named, the rest goes to the person's own shard."""

from __future__ import annotations

from typing import Any

import pytest

from node import ops
from node.changes import Changes
from node.slots import slot_of, table_for
from tests.router import peer as peers
from tests.router.conftest import Running
from tests.router.test_bad_input import refused
from tests.router.test_sync import VERSION, asked, put_box

CHANNEL = "/api/v3/users/ann/channels/club"
MUTE = f"{CHANNEL}/mute"
DEVICES = "/api/v3/users/ann/devices"


@pytest.fixture(autouse=True)
def _clean(router: Running) -> None:
    for peer in router.peers:
        for state in (peer.frames, peer.channels, peer.members, peer.mutes, peer.devices, peer.letters, peer.claims):
            state.clear()


def at_home(router: Running, user: str = "ann") -> peers.Peer:
    return router.peers[table_for(len(router.peers))[slot_of(user)]]


def test_an_open_channel_is_joined_muted_and_left(router: Running) -> None:
    made = router.http.put("/api/v3/channels/club", json={"open": True})
    assert made.json()["open"] is True
    assert router.http.put("/api/v3/channels/club", json={"name": "Club"}).json()["open"] is True
    assert router.http.put(CHANNEL).status_code == 204
    assert "ann" in at_home(router).members["club"]
    assert router.http.put(MUTE).status_code == 204
    assert at_home(router).mutes == {("ann", "club"): 0}
    assert router.http.put(MUTE, json={"until": "2100-01-01T01:00:00+01:00"}).status_code == 204
    assert at_home(router).mutes == {("ann", "club"): 4_102_444_800_000_000}
    assert router.http.delete(MUTE).status_code == 204
    assert at_home(router).mutes == {}
    assert router.http.delete(CHANNEL).status_code == 204
    assert "ann" not in at_home(router).members["club"]


def test_a_channel_that_is_not_open_is_closed_to_who_is_not_in_it(router: Running) -> None:
    assert router.http.put("/api/v3/channels/club").json()["open"] is False
    refused(router.http.put(CHANNEL), 403, "channelId")
    router.http.put("/api/v3/channels/club/members/ann")
    assert router.http.put(CHANNEL).status_code == 204
    assert router.http.delete(CHANNEL).status_code == 204
    refused(router.http.put(CHANNEL), 403, "channelId")


def test_only_open_channels_are_listed_if_that_is_asked_for(router: Running) -> None:
    for number in range(6):
        router.http.put(f"/api/v3/channels/c{number}", json={"open": number % 2 == 0})

    def listed(**params: Any) -> list[str]:
        answer = router.http.get("/api/v3/channels", params=params).json()
        return [channel["id"] for channel in answer["channels"]]

    assert listed(open="true") == ["c0", "c2", "c4"]
    assert listed(open="false") == ["c1", "c3", "c5"]
    assert listed(open="") == [f"c{number}" for number in range(6)]
    assert listed(open="true", limit=2) == ["c0", "c2"]
    assert listed(open="true", limit=2, cursor="c2") == ["c4"]
    refused(router.http.get("/api/v3/channels?open=yes"), 422, "open")
    answer = router.http.get("/api/v3/users/ann/open-channels?limit=2").json()
    assert [channel["id"] for channel in answer["channels"]] == ["c0", "c2"]
    assert answer["cursor"] == "c2"
    refused(router.http.get("/api/v3/users/-bad/open-channels"), 422, "userId")
    refused(router.http.get("/api/v3/users/ann/open-channels?open=true"), 422, "open")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"until": "2020-01-01T00:00:00Z"}, "until"),
        ({"until": "0001-01-01T00:00:00+14:00"}, "until"),
        ({"until": "9999-12-31T23:59:59-14:00"}, "until"),
        ({"until": "2100-01-01T00:00:00"}, "until"),
        ({"until": "tomorrow"}, "until"),
        ({"until": 4_102_444_800}, "until"),
        ({"for": 3600}, "for"),
    ],
)
def test_a_mute_that_is_not_acceptable_is_refused(router: Running, body: dict[str, Any], field: str) -> None:
    router.http.put("/api/v3/channels/club", json={"open": True})
    router.http.put(CHANNEL)
    refused(router.http.put(MUTE, json=body), 422, field)
    assert at_home(router).mutes == {}


def test_what_is_no_json_or_not_there_is_refused(router: Running) -> None:
    refused(router.http.put(MUTE, content=b"{", headers={"Content-Type": "application/json"}), 400, None)
    refused(router.http.put(MUTE, content=b"{}", headers={"Content-Type": "text/plain"}), 415, "Content-Type")
    for method, path in (("PUT", CHANNEL), ("DELETE", CHANNEL), ("PUT", MUTE), ("DELETE", MUTE)):
        refused(router.http.request(method, path), 404, "channelId")
    refused(router.http.put("/api/v3/channels/club", json={"open": "yes"}), 422, "open")


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("PUT", "/api/v3/users/%s/channels/club", "userId"),
        ("PUT", "/api/v3/users/ann/channels/%s", "channelId"),
        ("DELETE", "/api/v3/users/%s/channels/club", "userId"),
        ("DELETE", "/api/v3/users/ann/channels/%s", "channelId"),
        ("PUT", "/api/v3/users/%s/channels/club/mute", "userId"),
        ("DELETE", "/api/v3/users/ann/channels/%s/mute", "channelId"),
        ("GET", "/api/v3/users/%s/devices", "userId"),
        ("DELETE", "/api/v3/users/%s/devices?device=x", "userId"),
        ("GET", "/api/v3/users/%s/messages/m/devices", "userId"),
        ("GET", "/api/v3/users/ann/messages/%s/devices", "id"),
    ],
)
def test_a_name_in_the_path_that_is_not_acceptable_is_refused(
    router: Running, method: str, path: str, field: str
) -> None:
    refused(router.http.request(method, path % "-bad"), 422, field)
    assert [frame for peer in router.peers for frame in peer.writes()] == []


def test_devices_are_listed_and_forgotten_by_name(router: Running) -> None:
    at_home(router).devices["ann"] = ["Ann's phone / red", "laptop"]
    listed = router.http.get(DEVICES).json()["devices"]
    assert [device["name"] for device in listed] == ["Ann's phone / red", "laptop"]
    assert router.http.delete(DEVICES, params={"device": "Ann's phone / red"}).status_code == 204
    refused(router.http.delete(DEVICES, params={"device": "Ann's phone / red"}), 404, "device")
    refused(router.http.delete(DEVICES), 422, "device")
    refused(router.http.delete(DEVICES, params={"device": "x" * 129}), 422, "device")
    refused(router.http.delete(DEVICES, params={"name": "x"}), 422, "name")
    refused(router.http.get("/api/v3/users/ann/messages/m/devices"), 404, "id")


def test_what_a_device_has_is_told_to_the_shard_once_and_when_it_changes(
    router: Running, counted: list[Changes]
) -> None:
    put_box(router, "dev", VERSION, b"x")

    def check(**params: str) -> list[tuple[str, str | None]]:
        router.http.get("/api/v3/sync/dev/check", params=params).raise_for_status()
        return [(frame.device, frame.local) for frame in asked(router, ops.AskSync, "dev")]

    told: list[tuple[str, str | None]] = [("phone", None)]
    assert check(device="phone") == told
    assert check(device="phone") == told
    told.append(("phone", VERSION))
    assert check(device="phone", localVersion=VERSION) == told
    assert check(device="phone", localVersion=VERSION) == told
    assert check(localVersion="other") == told
    told.append(("laptop", VERSION))
    assert check(device="laptop", localVersion=VERSION) == told


def test_a_shard_that_does_not_answer_keeps_no_device_from_what_is_known(
    router: Running, counted: list[Changes]
) -> None:
    put_box(router, "kept", VERSION, b"x")
    router.http.get("/api/v3/sync/kept/check").raise_for_status()
    home = at_home(router, "kept")
    home.stop()
    try:
        answer = router.http.get("/api/v3/sync/kept/check", params={"device": "phone", "localVersion": VERSION})
        assert answer.json()["needSync"] is False
    finally:
        home.start()
        router.await_ready()
