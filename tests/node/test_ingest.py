from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import ingest
from node.apiclient import Api, ApiError
from router.fairness import Limiter

Handler = Callable[[httpx.Request], httpx.Response]


def _api(handler: Handler, patience_s: float = 60) -> Api:
    return Api("http://node", patience_s=patience_s, transport=httpx.MockTransport(handler), sleep=lambda _: None)


def _lines(request: httpx.Request) -> list[dict[str, object]]:
    return [json.loads(line) for line in request.content.splitlines()]


def _taken(request: httpx.Request, rejected: list[dict[str, object]] | None = None) -> httpx.Response:
    count = len(request.content.splitlines()) - len(rejected or [])
    return httpx.Response(202, json={"accepted": count, "rejected": rejected or []})


def test_recorded_traffic_gets_the_spelling_of_the_api_and_keeps_its_values() -> None:
    line = b'{"id":"1","channel_id":"c","title":"t","content":"x","sender":"s","created_at":"2020"}'
    assert ingest.prepared(line) == (
        b'{"id":"1","channelId":"c","title":"t","content":"x","sender":"s","createdAt":"2020"}'
    )


@pytest.mark.parametrize("line", [b"{", b"[1]", b"\xff", b'{"a":NaN}', b"1"])
def test_what_is_no_message_is_left_for_the_node_to_refuse(line: bytes) -> None:
    assert ingest.prepared(line) == line


@pytest.mark.parametrize("line", [b'{"title":"t"}', b'{"title":"t","id":null}'])
def test_a_line_without_an_id_gets_one(line: bytes) -> None:
    assert len(json.loads(ingest.prepared(line))["id"]) == 36


def test_values_are_sent_as_they_were_written() -> None:
    line = b'{"id":"1","metadata":{"n":123456789012345678901234567890,"f":1.10}}'
    assert ingest.prepared(line) == line


@given(st.lists(st.sampled_from([b"", b"  ", b'{"id":"1"}', b'{"id":"2","x":"' + b"y" * 300 + b'"}'])))
def test_portions_hold_every_line_once_in_order_within_the_bounds(lines: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as bounds:
        bounds.setattr(ingest, "PORTION_LINES", 3)
        bounds.setattr(ingest, "PORTION_BYTES", 500)
        made = list(ingest.portions(line + b"\n" for line in lines))
    expected = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    assert [pair for p in made for pair in zip(p.numbers, p.lines, strict=True)] == expected
    assert all(1 <= len(p.lines) <= 3 for p in made)
    assert all(len(p.lines) == 1 or sum(map(len, p.lines)) <= 500 for p in made)


def test_all_lines_arrive_and_the_figures_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "PORTION_LINES", 7)
    seen: Counter[object] = Counter()

    def take(request: httpx.Request) -> httpx.Response:
        assert request.headers["content-type"] == "application/x-ndjson"
        lines = _lines(request)
        seen.update(line["id"] for line in lines)
        bad = [i for i, line in enumerate(lines, 1) if line["id"] == "13"]
        return _taken(request, [{"line": i, "error": "no luck"} for i in bad])

    with _api(take) as api:
        figures = ingest.send(api, (b'{"id":"%d"}\n' % n for n in range(100)))
    assert seen == {str(n): 1 for n in range(100)}
    assert (figures.messages, figures.accepted, figures.rejected) == (100, 99, 1)
    assert figures.refusals == [ingest.Refusal(line=14, error="no luck")]
    assert figures.closing_line().startswith("100 messages: 99 accepted, 1 rejected in ")


def test_trouble_of_the_node_is_sat_out_with_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    troubles: Iterator[httpx.Response | httpx.TransportError] = iter(
        [
            httpx.Response(503, headers={"retry-after": "1"}),
            httpx.ConnectError("refused"),
            httpx.Response(507),
            httpx.ReadTimeout("slow"),
        ]
    )
    sent: list[bytes] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        trouble = next(troubles, None)
        if isinstance(trouble, httpx.TransportError):
            raise trouble
        return trouble or _taken(request)

    with _api(handle) as api:
        figures = ingest.send(api, [b'{"title":"one"}', b'{"title":"two"}'])
    assert figures.accepted == 2
    assert len(sent) == 5
    assert len(set(sent)) == 1


def test_lines_the_node_had_no_room_for_are_sent_again_alone() -> None:
    bodies: list[list[object]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        ids = [line["id"] for line in _lines(request)]
        bodies.append(ids)
        if len(bodies) > 1:
            return _taken(request)
        return _taken(
            request,
            [
                {"line": 1, "error": "full", "status": 507},
                {"line": 2, "error": "bad", "status": 422},
                {"line": 4, "error": "down", "status": 503},
            ],
        )

    with _api(handle) as api:
        portion = ingest.Portion([10, 20, 30, 40], [b'{"id":"%d"}' % n for n in range(4)])
        refusals = ingest.send_portion(api, portion, threading.Lock())
    assert bodies == [["0", "1", "2", "3"], ["0", "3"]]
    assert refusals == [ingest.Refusal(line=20, error="bad")]


class Limited:
    """A node whose one key has a rate, and its time, which goes on when the command line waits."""

    def __init__(self, rate: float, burst: int) -> None:
        self.delivered: list[object] = []
        self.now = 0.0
        self._limiter = Limiter("key", rate=rate, burst=burst)
        self._lock = threading.Lock()

    def api(self) -> Api:
        return Api("http://node", patience_s=60, transport=httpx.MockTransport(self._handle), sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds

    def _handle(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            verdict = self._limiter.take("", self.now)
            if not verdict.allowed:
                return httpx.Response(429, headers={"retry-after": str(verdict.retry_after_s)})
            rejected: list[dict[str, object]] = []
            for number, line in enumerate(_lines(request), 1):
                verdict = self._limiter.take("", self.now)
                if verdict.allowed:
                    self.delivered.append(line["id"])
                else:
                    told = {"line": number, "error": "slow", "status": 429, "retryAfter": verdict.retry_after_s}
                    rejected.append(told)
            return _taken(request, rejected)


@given(
    rate=st.sampled_from([0.001, 0.05, 0.7, 1, 3, 40]),
    burst=st.sampled_from([2, 3, 10, 100]),
    lines=st.integers(1, 60),
    portion=st.sampled_from([1, 5, 500]),
)
def test_a_key_with_a_rate_delivers_everything_in_its_time(rate: float, burst: int, lines: int, portion: int) -> None:
    node = Limited(rate, burst)
    with pytest.MonkeyPatch.context() as bounds, node.api() as api:
        bounds.setattr(ingest, "PORTION_LINES", portion)
        figures = ingest.send(api, [b'{"id":%d}' % n for n in range(lines)])
    assert (figures.accepted, figures.rejected) == (lines, 0)
    assert sorted(node.delivered) == list(range(lines))  # type: ignore[type-var]


def test_a_key_that_never_has_enough_for_a_line_is_told_so() -> None:
    node = Limited(1, 1)
    with node.api() as api, pytest.raises(ApiError, match="1 messages were not taken, none of them in 10 attempts"):
        ingest.send(api, [b'{"id":1}'])
    assert node.delivered == []


def test_who_fails_lets_the_others_wait_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "PORTION_LINES", 1)
    waiting = threading.Event()

    def handle(request: httpx.Request) -> httpx.Response:
        if _lines(request)[0]["id"] == 0:
            waiting.set()
            return httpx.Response(429, headers={"retry-after": "1000000"})
        waiting.wait()
        return httpx.Response(413)

    with (
        Api("http://node", patience_s=60, transport=httpx.MockTransport(handle)) as api,
        pytest.raises(ApiError, match="413"),
    ):
        ingest.send(api, [b'{"id":0}', b'{"id":1}'])


def test_a_node_that_stays_away_ends_the_patience() -> None:
    def away(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with _api(away) as api, pytest.raises(ApiError, match="no answer from http://node: refused"):
        ingest.send(api, [b'{"id":"1"}'])


def test_the_callers_fault_is_not_tried_again() -> None:
    asked = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        problem = {"title": "Too large", "status": 413, "code": "too_large", "detail": "16 MB", "field": "body"}
        return httpx.Response(413, content=msgspec.json.encode(problem))

    with _api(refuse) as api, pytest.raises(ApiError, match=r"Too large \(body\): 16 MB"):
        ingest.send(api, [b'{"id":"1"}'])
    assert len(asked) == 1


def test_channels_are_made_and_joined_in_portions_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingest, "USERS_MAX", 2)
    asked: list[tuple[str, str, object]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, json.loads(request.content)))
        if request.method == "PUT":
            made = {"id": "c", "name": "c", "description": None, "createdBy": None, "createdAt": "", "members": 0}
            return httpx.Response(201, json=made)
        return httpx.Response(200, json={"added": 2, "removed": 0, "members": 2})

    with _api(handle) as api:
        ingest.create_channels(api, {"c": ["a", "b", "d"]})
    assert [(method, path) for method, path, _ in asked] == [
        ("PUT", "/api/v3/channels/c"),
        ("POST", "/api/v3/channels/c/members"),
        ("POST", "/api/v3/channels/c/members"),
    ]
    assert [body["add"] for _, _, body in asked[1:]] == [["a", "b"], ["d"]]  # type: ignore[index]


def test_the_first_members_are_those_listed_first(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"c":["z","a","b"],"d":[]}')
    assert ingest.members_of(tmp_path / "m.json", 2) == {"c": ["z", "a"], "d": []}
    assert ingest.members_of(tmp_path / "m.json", None) == {"c": ["z", "a", "b"], "d": []}
    (tmp_path / "m.json").write_text('{"c":1}')
    with pytest.raises(ApiError, match=r"m\.json"):
        ingest.members_of(tmp_path / "m.json", None)


def test_a_file_is_read_plain_or_zipped(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"one\ntwo\n")
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    for name in ("plain", "zipped.gz"):
        with ingest.opened(str(tmp_path / name)) as source:
            assert list(source) == [b"one\n", b"two\n"]
            assert source.position == source.size


def test_a_damaged_gzip_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "bad.gz").write_bytes(gzip.compress(b"one\n" * 1000)[:-9])
    with ingest.opened(str(tmp_path / "bad.gz")) as source, pytest.raises(ApiError, match=r"bad\.gz"):
        list(source)
