"""What can't be stored is refused by the name of its field, and no shard hears of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.router.conftest import Running

JSON = {"Content-Type": "application/json"}
MESSAGES = "/api/v3/messages"


def refused(answer: httpx.Response, status: int, field: str | None = None) -> dict[str, Any]:
    """The problem that ``answer`` is, checked for what every problem must have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["code"]
    assert problem.get("field") == field, problem
    return problem


def post(router: Running, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    """Post ``body`` and see that no shard got anything."""
    answer = router.http.post(MESSAGES, content=body, headers=JSON | (headers or {}))
    assert router.writes() == 0
    return answer


def message(**changes: Any) -> bytes:
    fields = {"users": ["ann"], "title": "t", "content": "c"} | changes
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


BAD_NAMES = [
    "", ".", "..", "../x", "a/b", "a\\b", "a\0b", "\0", " a", "a ", "-a", "_a", "a\n", "\na", "a\nb",
    "é", "\uff41", "a" * 129, "a%2e", "a b", ".hidden", "a\u202e", "a\r",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("field", ["id", "channelId"])
def test_an_id_that_is_no_name_is_refused(router: Running, field: str, name: str) -> None:
    refused(post(router, message(**{field: name})), 422, field)


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_user_that_is_no_name_is_refused_by_its_place(router: Running, name: str, before: int) -> None:
    users = [f"u{i}" for i in range(before)] + [name]
    refused(post(router, message(users=users)), 422, f"users[{before}]")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": ...}, "title"),
        ({"title": None}, "title"),
        ({"title": 5}, "title"),
        ({"content": ...}, "content"),
        ({"content": {"a": 1}}, "content"),
        ({"users": []}, "users"),
        ({"users": ...}, "users"),
        ({"users": "ann"}, "users"),
        ({"users": ["ann", 5]}, "users[1]"),
        ({"users": ["u"] * 10_001}, "users"),
        ({"priority": 0}, "priority"),
        ({"priority": 11}, "priority"),
        ({"priority": -1}, "priority"),
        ({"priority": 5.5}, "priority"),
        ({"priority": "5"}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 2**64}, "priority"),
        ({"messageType": ""}, "messageType"),
        ({"messageType": "x" * 65}, "messageType"),
        ({"sender": "x" * 257}, "sender"),
        ({"metadata": []}, "metadata"),
        ({"metadata": "x"}, "metadata"),
        ({"timeoutSeconds": 0}, "timeoutSeconds"),
        ({"timeoutSeconds": -1}, "timeoutSeconds"),
        ({"timeoutSeconds": 10**9}, "timeoutSeconds"),
        ({"unknown": 1}, "unknown"),
        ({"channel_id": "x"}, "channel_id"),
        ({"a`b": 1}, "a`b"),
    ],
)
def test_a_field_that_is_not_acceptable_is_named(router: Running, changes: dict[str, Any], field: str) -> None:
    refused(post(router, message(**changes)), 422, field)


@pytest.mark.parametrize(
    "time",
    [
        "", "now", "2026-01-01", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", "2026-01-01T25:00:00Z",
        "0001-01-01T00:00:00+23:00", "1969-12-31T23:59:59Z", "9999-12-31T23:00:00-10:00",
        "10000-01-01T00:00:00Z", 5, 1.5, True,
    ],
)  # fmt: skip
def test_a_timestamp_out_of_form_or_range_is_refused(router: Running, time: object) -> None:
    refused(post(router, message(createdAt=time)), 422, "createdAt")


@pytest.mark.parametrize("id", [None, "given"])
def test_a_timestamp_is_checked_with_and_without_an_id(router: Running, id: str | None) -> None:
    refused(post(router, message(id=id, createdAt="1969-01-01T00:00:00Z")), 422, "createdAt")


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1" * 30, "1" * 5000])
@pytest.mark.parametrize("shape", ["{%s}", '{"b":[{"c":%s}]}', '{"b":[1,[%s]]}'])
def test_an_integer_beyond_64_bit_is_refused(router: Running, shape: str, number: str) -> None:
    inner = f'"b":{number}' if shape == "{%s}" else number
    body = b'{"users":["a"],"title":"t","content":"c","metadata":%s}' % (shape % inner).encode()
    refused(post(router, body), 422, "metadata")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("field", ["metadata", "timeoutSeconds"])
def test_what_is_no_number_is_refused(router: Running, field: str, number: str) -> None:
    value = f'{{"a":[{number}]}}' if field == "metadata" else number
    body = f'{{"users":["a"],"title":"t","content":"c","{field}":{value}}}'
    refused(post(router, body.encode()), 422, field)


SURROGATES = [b"\\ud800", b"\\ud800x", b"\\udc00", b"\\ud800\\ud800", b"\xed\xa0\x80", b"\xff", b"\xc3"]


@pytest.mark.parametrize("text", SURROGATES)
@pytest.mark.parametrize("field", ["title", "content", "sender", "messageType", "id", "channelId"])
def test_text_that_is_not_unicode_is_refused(router: Running, field: str, text: bytes) -> None:
    body = b'{"users":["a"],"content":"c","title":"t","%s":"a%sb"}' % (field.encode(), text)
    refused(post(router, body), 422, field)


@pytest.mark.parametrize("text", SURROGATES)
@pytest.mark.parametrize("value", [b'{"a":"%s"}', b'{"%s":1}', b'{"a":[{"b":["%s"]}]}'])
def test_text_that_is_not_unicode_is_found_in_metadata(router: Running, value: bytes, text: bytes) -> None:
    body = b'{"users":["a"],"title":"t","content":"c","metadata":%s}' % (value % text)
    refused(post(router, body), 422, "metadata")


@pytest.mark.parametrize("text", SURROGATES)
def test_text_that_is_not_unicode_is_found_in_users(router: Running, text: bytes) -> None:
    refused(post(router, b'{"users":["a","%s"],"title":"t","content":"c"}' % text), 422, "users")


@pytest.mark.parametrize("text", SURROGATES)
def test_a_key_that_is_not_unicode_is_answered_all_the_same(router: Running, text: bytes) -> None:
    answer = post(router, b'{"users":["a"],"title":"t","content":"c","k%s":1}' % text)
    assert answer.status_code == 422
    assert answer.json()["field"].startswith("k")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [32, 200, 990, 5_000, 100_000])
def test_depth_is_refused(router: Running, depth: int, opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    deep = opening * depth + b"1" + closing * depth
    body = b'{"users":["a"],"title":"t","content":"c","metadata":{"m":%s}}' % deep
    refused(post(router, body), 422, "metadata")


def test_depth_up_to_the_bound_is_taken(router: Running) -> None:
    deep: object = 1
    for _ in range(31):
        deep = [deep]
    answer = router.http.post(MESSAGES, content=message(metadata={"m": deep}), headers=JSON)
    assert answer.status_code == 202, answer.text
    for peer in router.peers:
        peer.frames.clear()


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"nul", b'{"title":"t"', b'{"title":"t","content":"c"} x', b"\xef\xbb\xbf{}",
        b"{'title':1}", b"\x00", b'{"title":"a\nb","content":"c","users":["a"]}', b"\x1f\x8b\x08\x00",
        b'{"title":"\\uZZ","content":"c","users":["a"]}',
    ],
)  # fmt: skip
def test_a_body_that_is_not_json_is_refused(router: Running, body: bytes) -> None:
    refused(post(router, body), 400)


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"x"', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(router: Running, body: bytes) -> None:
    assert post(router, body).status_code in (400, 422)


@pytest.mark.parametrize(
    "type", ["text/plain", "application/xml", "", "application/x-ndjson", "application/json; charset=latin-1"]
)
def test_another_content_type_is_refused(router: Running, type: str) -> None:
    refused(post(router, message(), {"Content-Type": type}), 415, "Content-Type")


@pytest.mark.parametrize("type", ["application/json; charset=utf-8", "Application/JSON;charset=UTF-8"])
def test_a_content_type_may_say_utf_8(router: Running, type: str) -> None:
    answer = router.http.post(MESSAGES, content=message(), headers={"Content-Type": type})
    assert answer.status_code == 202
    for peer in router.peers:
        peer.frames.clear()


@pytest.mark.parametrize("key", ["", "a b", "../x", "a/b", "x" * 129, "é".encode().decode("latin-1")])
def test_an_idempotency_key_that_is_no_name_is_refused(router: Running, key: str) -> None:
    answer = router.http.post(
        MESSAGES,
        content=message(),
        headers={b"Content-Type": b"application/json", b"Idempotency-Key": key.encode("latin-1")},
    )
    refused(answer, 422, "Idempotency-Key")
    assert router.writes() == 0


def test_a_body_over_the_limit_is_refused_with_its_length_given(router: Running) -> None:
    refused(post(router, message(content="x" * 1_048_576)), 413)


def test_a_body_over_the_limit_is_refused_without_a_length_too(router: Running) -> None:
    def portions() -> Any:
        yield b'{"users":["a"],"title":"t","content":"'
        for _ in range(40):
            yield b"x" * 65_536
        yield b'"}'

    refused(router.http.post(MESSAGES, content=portions(), headers=JSON), 413)
    assert router.writes() == 0


def test_a_body_of_just_the_limit_is_taken(router: Running) -> None:
    body = message(content="")
    body = message(content="x" * (1_048_576 - len(body)))
    assert router.http.post(MESSAGES, content=body, headers=JSON).status_code == 202
    for peer in router.peers:
        peer.frames.clear()


PATH_NAMES = ["-a", ".a", "a%00", "a%0a", "%2e%2e", "..%5cx", "a%20b", "%c3%a9", "%ff", "%ed%a0%80", "a" * 129]


@pytest.mark.parametrize("name", PATH_NAMES)
@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("GET", "/api/v3/users/%s/messages", "userId"),
        ("GET", "/api/v3/users/%s/channels", "userId"),
        ("GET", "/api/v3/users/ann/messages/%s", "id"),
        ("DELETE", "/api/v3/users/ann/messages/%s", "id"),
        ("DELETE", "/api/v3/users/%s/messages/x", "userId"),
        ("GET", "/api/v3/messages/%s/receipt", "id"),
        ("PUT", "/api/v3/channels/%s", "channelId"),
        ("GET", "/api/v3/channels/%s", "channelId"),
        ("DELETE", "/api/v3/channels/%s", "channelId"),
        ("GET", "/api/v3/channels/%s/members", "channelId"),
        ("PUT", "/api/v3/channels/%s/members/ann", "channelId"),
        ("PUT", "/api/v3/channels/team/members/%s", "userId"),
        ("DELETE", "/api/v3/channels/team/members/%s", "userId"),
    ],
)
def test_a_path_that_holds_no_name_is_refused(router: Running, method: str, path: str, field: str, name: str) -> None:
    request = httpx.Request(method, router.url + path.replace("%s", name))
    refused(router.http.send(request), 422, field)
    assert router.writes() == 0


@pytest.mark.parametrize("path", ["/api/v3/users/a%2f..%2fb/messages", "/api/v3/users//messages", "/x", "/inbox/x"])
def test_a_path_of_another_shape_is_not_found(router: Running, path: str) -> None:
    answer = router.http.send(httpx.Request("GET", router.url + path))
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=x", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=%00", "cursor"),
        ("cursor=%ff", "cursor"),
        ("cursor=" + "x" * 1025, "cursor"),
        ("channelId=..", "channelId"),
        ("channelid=x", "channelid"),
        ("after=x", "after"),
    ],
)
def test_a_parameter_that_is_not_acceptable_is_named(router: Running, query: str, field: str) -> None:
    refused(router.http.get(f"/api/v3/users/ann/messages?{query}"), 422, field)
    assert not any(peer.frames for peer in router.peers)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"add": ["a/b"]}, "add[0]"),
        ({"remove": ["a", ".."]}, "remove[1]"),
        ({"add": ["a", "b"], "remove": ["b"]}, "remove"),
        ({"add": ["a"] * 10_001}, "add"),
        ({"users": ["a"]}, "users"),
        ({"add": "a"}, "add"),
    ],
)
def test_a_change_of_members_that_is_not_acceptable_is_refused(
    router: Running, body: dict[str, Any], field: str
) -> None:
    refused(router.http.post("/api/v3/channels/team/members", json=body), 422, field)
    assert router.writes() == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [({"name": ""}, "name"), ({"name": 5}, "name"), ({"nome": "x"}, "nome"), ({"name": "x" * 257}, "name")],
)
def test_a_channel_that_is_not_acceptable_is_refused(router: Running, body: dict[str, Any], field: str) -> None:
    refused(router.http.put("/api/v3/channels/team", json=body), 422, field)
    assert router.writes() == 0


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", MESSAGES, "POST"),
        ("PATCH", "/api/v3/channels/x", "DELETE, GET, HEAD, PUT"),
        ("POST", "/healthz", "GET"),
        ("PUT", "/api/v3/users/ann/messages", "GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(router: Running, method: str, path: str, allowed: str) -> None:
    answer = router.http.request(method, path)
    refused(answer, 405)
    assert set(allowed.split(", ")) <= set(answer.headers["allow"].split(", "))


def test_no_answer_says_what_is_inside(router: Running) -> None:
    for answer in (router.http.get("/nowhere"), post(router, b"{"), post(router, message(users=[".."]))):
        assert "server" not in answer.headers
        for word in ("shard", ".sock", "Traceback", "msgspec", str(Path(__file__).parents[2])):
            assert word not in answer.text
