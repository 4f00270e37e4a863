"""Pages of users, over three shards."""

from __future__ import annotations

import pytest

from tests.router.conftest import Running

NAMES = [f"{name}{n}" for name in ("una", "ulf", "uwe") for n in range(9)]


@pytest.fixture(scope="module", autouse=True)
def _known(router: Running) -> None:
    body = {"users": NAMES, "title": "t", "content": ""}
    assert router.http.post("/api/v3/messages", json=body).status_code == 202


@pytest.mark.parametrize("limit", [1, 4, 9, 10, 500])
@pytest.mark.parametrize("prefix", ["u", "ulf", "una3", "nobody"])
def test_pages_come_by_id_each_user_once_whatever_their_length(router: Running, limit: int, prefix: str) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        answer = router.http.get("/api/v3/users", params={"prefix": prefix, "limit": limit, "cursor": cursor}).json()
        assert len(answer["users"]) <= limit
        seen += [user["id"] for user in answer["users"]]
        if (cursor := answer["cursor"]) is None:
            break
    assert seen == sorted(name for name in NAMES if name.startswith(prefix))


def test_a_user_has_size_messages_and_last_delivery(router: Running) -> None:
    assert router.http.get("/api/v3/users?prefix=una1").json() == {
        "users": [{"id": "una1", "size": 4096, "messages": 1, "lastDelivery": None}],
        "cursor": None,
    }


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ("prefix=%2e%2e%2f", "prefix"),
        ("prefix=%00", "prefix"),
        ("prefix=" + "a" * 129, "prefix"),
        ("prefix=a&prefix=b", "prefix"),
        ("prefix=a%25", "prefix"),
        ("cursor=%2e%2e", "cursor"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("search=a", "search"),
    ],
)
@pytest.mark.parametrize("path", ["users", "channels"])
def test_a_bad_parameter_is_named(router: Running, path: str, asked: str, field: str) -> None:
    answer = router.http.get(f"/api/v3/{path}?{asked}")
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_channels_and_members_are_searched_by_their_beginning(router: Running) -> None:
    for channel in ("sea", "season", "sky"):
        assert router.http.put(f"/api/v3/channels/{channel}").status_code == 201
    found = router.http.get("/api/v3/channels?prefix=sea&limit=1").json()
    assert ([channel["id"] for channel in found["channels"]], found["cursor"]) == (["sea"], "sea")
    assert router.http.post("/api/v3/channels/sky/members", json={"add": NAMES}).status_code == 200
    members = router.http.get("/api/v3/channels/sky/members?prefix=ulf&limit=500").json()["members"]
    assert members == [f"ulf{n}" for n in range(9)]


@pytest.mark.parametrize("rest", ["?x/messages/m1", "?userId=bob", "/", "//messages/m1", "%00", "%2f..%2fbob", "%20"])
def test_a_path_that_is_not_quite_a_person_deletes_nobody(router: Running, rest: str) -> None:
    before = router.writes()
    answer = router.http.delete(f"/api/v3/users/una0{rest}")
    assert answer.status_code in (404, 405, 422)
    assert router.writes() == before
