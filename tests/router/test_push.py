"""Push over HTTP: a subscription goes to the one shard of its user, and only if it can be one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from node import ops
from tests.router.conftest import Running
from tests.router.test_bad_input import BAD_NAMES, refused

PATH = "/api/v3/users/ann/devices/Chrome%20Linux%201a2b/push"
GIVEN = {
    "endpoint": "https://push.example/abc",
    "expirationTime": None,
    "keys": {"p256dh": "B" * 87, "auth": "A" * 22},
}


@pytest.fixture(autouse=True)
def _clean(router: Running) -> None:
    for peer in router.peers:
        peer.frames.clear()
        peer.pushes.clear()


def test_a_device_subscribes_is_listed_and_leaves(router: Running) -> None:
    http = router.http
    assert http.get("/api/v3/push/key").json() == {"publicKey": "the key"}
    assert http.put(PATH, json=GIVEN).status_code == 201
    assert http.put(PATH, json=GIVEN | {"priorityMin": 8}).status_code == 204
    [kept] = [one for peer in router.peers for one in peer.pushes.values()]
    assert isinstance(kept, ops.PutPush)
    assert (kept.user, kept.device, kept.endpoint) == ("ann", "Chrome Linux 1a2b", GIVEN["endpoint"])
    assert (kept.p256dh, kept.auth, kept.priority_min) == ("B" * 87, "A" * 22, 8)
    [listed] = http.get("/api/v3/users/ann/push").json()["devices"]
    assert listed == {"device": "Chrome Linux 1a2b", "host": "push.example", "priorityMin": 8, "createdAt": ""}
    assert http.delete(PATH).status_code == 204
    refused(http.delete(PATH), 404, "device")
    assert http.get("/api/v3/users/ann/push").json() == {"devices": []}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoint": None}, "endpoint"),
        ({"endpoint": "https://push.example/" + "x" * 2_048}, "endpoint"),
        ({"keys": {"p256dh": "B" * 87}}, "auth"),
        ({"keys": {"p256dh": "B" * 129, "auth": ""}}, "keys.p256dh"),
        ({"priorityMin": 0}, "priorityMin"),
        ({"priorityMin": 11}, "priorityMin"),
        ({"other": 1}, "other"),
    ],
)
def test_what_can_not_be_a_subscription_reaches_no_shard(router: Running, change: dict[str, Any], field: str) -> None:
    answer = router.http.put(PATH, json=GIVEN | change)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] in (field, field.split(".")[0])
    assert router.writes() == 0


@pytest.mark.parametrize("device", ["x" * 129, "a%0Ab", "a%00"])
def test_a_device_is_named_as_when_it_syncs(router: Running, device: str) -> None:
    path = f"/api/v3/users/ann/devices/{device}/push"
    refused(router.http.put(path, json=GIVEN), 422, "device")
    refused(router.http.delete(path), 422, "device")
    assert router.writes() == 0


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_users_are_refused(router: Running, name: str) -> None:
    answers = [router.http.put(f"/api/v3/users/{quote(name, safe='')}/devices/d/push", json=GIVEN)]
    if name != ".":  # that goes on the way, and leads to somebody called "push"
        answers.append(router.http.get(f"/api/v3/users/{quote(name, safe='')}/push"))
    for answer in answers:
        assert answer.status_code in (404, 405, 422)
    assert router.writes() == 0
