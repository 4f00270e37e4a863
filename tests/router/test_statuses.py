"""Read status and counts over HTTP: every change is checked before a shard hears of any."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import httpx
import pytest

from node import clock, ops
from node.model import CHANGES_MAX
from router.statuses import BODY_BYTES_MAX
from tests.router.conftest import Running
from tests.router.peer import SINCE
from tests.router.test_bad_input import BAD_NAMES, JSON, MESSAGES, refused

PATH = "/api/v3/sync/ann/read-status"
AT = "2026-11-24T08:00:00Z"


@pytest.fixture(autouse=True)
def _clean(router: Running) -> None:
    for peer in router.peers:
        for state in (peer.frames, peer.claims, peer.letters, peer.channels, peer.members):
            state.clear()


def change(**fields: Any) -> dict[str, Any]:
    return {"messageId": "m", "status": "read", "at": AT} | fields


def place(**fields: Any) -> dict[str, Any]:
    return {"channelId": "news", "messageId": "m", "at": AT} | fields


def post(router: Running, body: object, **parameters: Any) -> httpx.Response:
    return router.http.post(PATH, json=body, params=parameters)


def asked(router: Running, kind: type) -> Any:
    """The one frame that left the router."""
    [frame] = [frame for peer in router.peers for frame in peer.frames]
    assert isinstance(frame, kind)
    return frame


def test_changes_go_to_the_one_shard_with_the_clock_compared(router: Running) -> None:
    before = clock.now_us()
    body = {
        "changes": [change(device="phone"), change(messageId="n", status="unstarred", at="2026-11-24T09:00:00+01:00")],
        "positions": [place(position=7)],
        "since": "2026-11-24T09:00:00+01:00",
        "clock": clock.iso(before - 3_600_000_000),
    }
    answer = post(router, body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "since": SINCE, "full": False, "more": False, "statuses": [], "positions": [], "accepted": 3, "conflicts": [],
    }  # fmt: skip
    frame = asked(router, ops.ChangeStatuses)
    assert frame.since == SINCE
    assert frame.limit == 1_000
    assert 3_600_000_000 <= frame.skew_us <= clock.now_us() - before + 3_600_000_000
    at_us = clock.us_of(datetime.fromisoformat(AT))
    assert frame.changes == [ops.StatusRow("m", "read", at_us, "phone"), ops.StatusRow("n", "unstarred", at_us, None)]
    assert frame.positions == [ops.PositionRow("news", "m", at_us, 7)]


def test_without_a_clock_the_device_is_believed(router: Running) -> None:
    assert post(router, {"changes": [change()]}).status_code == 200
    assert asked(router, ops.ChangeStatuses).skew_us == 0


def test_absurd_times_are_passed_on_unharmed(router: Running) -> None:
    times = ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00"]
    for time in times:
        body = {"changes": [change(at=at) for at in times], "positions": [place(at=time)], "clock": time}
        assert post(router, body).status_code == 200


def test_nothing_to_say_is_a_question(router: Running) -> None:
    assert post(router, {}).json()["accepted"] == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"changes": [change(), change(status="seen")]}, "changes[1].status"),
        ({"changes": [change(at="2026-11-24T08:00:00")]}, "changes[0].at"),
        ({"changes": [change(at="yesterday")]}, "changes[0].at"),
        ({"changes": [change(at=12)]}, "changes[0].at"),
        ({"changes": [change(device="x" * 129)]}, "changes[0].device"),
        ({"changes": [change(more=1)]}, "more"),
        ({"changes": [{"messageId": "m"}]}, "status"),
        ({"changes": {}}, "changes"),
        ({"changes": [7]}, "changes[0]"),
        ({"positions": [place(channelId="../x")]}, "positions[0].channelId"),
        ({"positions": [place(position=-1)]}, "positions[0].position"),
        ({"positions": [place(position=2**70)]}, "positions[0].position"),
        ({"clock": "2026-11-24T08:00:00"}, "clock"),
        ({"since": "rubbish"}, "since"),
        ({"since": ""}, "since"),
        ({"since": "2026-11-24T08:00:00"}, "since"),
        ({"since": "2026-13-24T08:00:00Z"}, "since"),
        ({"since": 5}, "since"),
        ({"since": "x" * 65}, "since"),
        ({"read": []}, "read"),
    ],
)
def test_what_is_wrong_is_named_and_no_shard_hears_of_it(router: Running, body: object, field: str) -> None:
    refused(post(router, body), 422, field)
    assert router.writes() == 0


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_message_id_that_is_no_name_is_refused(router: Running, name: str) -> None:
    refused(post(router, {"changes": [change(messageId=name)]}), 422, "changes[0].messageId")
    assert router.writes() == 0


def test_text_that_is_no_unicode_is_refused(router: Running) -> None:
    body = json.dumps({"changes": [change(device="\ud800")]})
    refused(router.http.post(PATH, content=body, headers=JSON), 422, "changes")
    assert router.writes() == 0


@pytest.mark.parametrize("field", ["changes", "positions"])
def test_one_change_more_than_the_most_is_refused_and_the_most_is_not(router: Running, field: str) -> None:
    one = change() if field == "changes" else place()
    refused(post(router, {field: [one] * (CHANGES_MAX + 1)}), 422, field)
    assert router.writes() == 0
    assert post(router, {field: [one] * CHANGES_MAX}).json()["accepted"] == CHANGES_MAX


def test_a_million_changes_are_refused_without_being_read(router: Running) -> None:
    body = b'{"changes":[' + b",".join([json.dumps(change()).encode()] * 1_000_000) + b"]}"
    assert len(body) > BODY_BYTES_MAX
    try:
        answer = router.http.post(PATH, content=body, headers=JSON)
    except httpx.TransportError:  # it answered and hung up while we were still sending
        pass
    else:
        refused(answer, 413, "changes")
    assert router.writes() == 0
    assert router.http.get("/healthz").status_code == 200


def test_another_content_type_is_refused(router: Running) -> None:
    refused(router.http.post(PATH, content=b"{}", headers={"Content-Type": "text/plain"}), 415, "Content-Type")


@pytest.mark.parametrize("path", [PATH, "/api/v3/users/ann/counts"])
@pytest.mark.parametrize("name", ["..%2fbob", "-a", "a%00", "a" * 129])
def test_a_user_that_is_no_name_is_refused(router: Running, path: str, name: str) -> None:
    answer = router.http.get(path.replace("ann", name))
    assert answer.status_code in (404, 422)
    assert not any(peer.frames for peer in router.peers)


def test_what_changed_is_asked_by_since_and_limit(router: Running) -> None:
    refused(router.http.get(PATH), 404, "userId")
    router.http.post(MESSAGES, json={"id": "m", "users": ["ann"], "title": "t", "content": "c"})
    for peer in router.peers:
        peer.frames.clear()
    answer = router.http.get(PATH, params={"since": "2026-11-24T08:00:00Z", "limit": "10000"})
    assert answer.json() == {"since": SINCE, "full": False, "more": False, "statuses": [], "positions": []}
    frame = asked(router, ops.AskStatuses)
    assert (frame.user, frame.since, frame.limit) == ("ann", SINCE, 10_000)


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"since": "rubbish"}, "since"),
        ({"since": "2026-11-24T08:00:00"}, "since"),
        ({"since": "99999-01-01T00:00:00Z"}, "since"),
        ({"limit": "0"}, "limit"),
        ({"limit": "10001"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"until": "x"}, "until"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(router: Running, parameters: dict[str, str], field: str) -> None:
    refused(router.http.get(PATH, params=parameters), 422, field)


def test_a_since_of_the_first_or_last_year_is_a_time_like_any_other(router: Running) -> None:
    router.http.post(MESSAGES, json={"id": "m", "users": ["ann"], "title": "t", "content": "c"})
    for since in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00"):
        assert router.http.get(PATH, params={"since": since}).status_code in (200, 422)
    assert router.http.get(PATH, params={"since": "9999-12-31T23:59:59.999999Z"}).status_code == 200


def test_counts_come_from_the_one_shard(router: Running) -> None:
    for number, channel in enumerate(["news", "news", "team"]):
        message = {"id": f"m{number}", "users": ["ann"], "channelId": channel, "title": "t", "content": "c"}
        assert router.http.post(MESSAGES, json=message).status_code == 202
    assert router.http.get("/api/v3/users/ann/counts").json() == {"unread": 3, "channels": {"news": 2, "team": 1}}
    refused(router.http.get("/api/v3/users/ann/counts?since=x"), 422, "since")
