"""Each line of a batch stands for itself."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from node import errors
from node.slots import slot_of, table_for
from tests.router.conftest import ROOT, Running, answers, running
from tests.router.test_bad_input import refused

BATCH = "/api/v3/messages/batch"
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(autouse=True)
def _clean(router: Running) -> None:
    for peer in router.peers:
        peer.refusal = None
        for state in (peer.frames, peer.claims, peer.letters, peer.channels, peer.members):
            state.clear()


def line(**changes: Any) -> bytes:
    return json.dumps({"users": ["ann"], "title": "t", "content": "c"} | changes).encode()


def post(router: Running, body: bytes) -> httpx.Response:
    return router.http.post(BATCH, content=body, headers=NDJSON)


def test_lines_that_are_not_acceptable_are_told_by_number_and_field(router: Running) -> None:
    body = b"\n".join(
        [line(), b"", line(title=""), b"{", line(users=[".."]), b"  \r", line(id="x"), line(id="x", title="y"), line()]
    )  # fmt: skip
    answer = post(router, body)
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 3
    told = [(r["line"], r["field"], r["status"]) for r in answer.json()["rejected"]]
    assert told == [(3, "title", 422), (4, None, 400), (5, "users[0]", 422), (8, "id", 409)]
    assert all(r["error"] for r in answer.json()["rejected"])


def test_the_reference_shows_what_is_answered(router: Running) -> None:
    section = (ROOT / "docs" / "api.md").read_text().partition(f"### POST {BATCH}\n")[2].partition("\n### ")[0]
    body = "\n".join(re.findall(r"'({.*?})'", section))
    shown = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    assert [post(router, body.encode()).json()] == [json.loads(example) for example in shown]


@pytest.mark.parametrize("body", [b"", b"\n\n\n", b" \n"])
def test_a_batch_of_nothing_is_no_error(router: Running, body: bytes) -> None:
    assert post(router, body).json() == {"accepted": 0, "rejected": []}


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_last_line_needs_no_end(router: Running, end: bytes) -> None:
    assert post(router, line() + b"\r\n" + line() + end).json()["accepted"] == 2


def test_letters_reach_a_shard_in_the_order_of_their_lines(router: Running) -> None:
    body = b"\n".join(line(title=str(number)) for number in range(1000))
    assert post(router, body).json() == {"accepted": 1000, "rejected": []}
    peer = router.peers[table_for(3)[slot_of("ann")]]
    assert [letter.title for letter, _ in peer.letters.values()] == [str(n) for n in range(1000)]


def test_the_other_content_type_is_refused(router: Running) -> None:
    refused(router.http.post(BATCH, content=line(), headers={"Content-Type": "application/json"}), 415, "Content-Type")  # fmt: skip  # noqa: E501


def test_a_line_over_the_limit_of_a_message_is_rejected_alone(router: Running) -> None:
    answer = post(router, line(content="x" * 1_048_576) + b"\n" + line())
    assert answer.json()["accepted"] == 1
    assert [(r["line"], r["status"]) for r in answer.json()["rejected"]] == [(1, 413)]


def test_a_batch_over_the_limit_is_refused_before_anything_is_written(router: Running) -> None:
    refused(post(router, line() + b"\n" + b" " * 16 * 1_048_576), 413)
    refused(post(router, line() + b"\n" * 100_000 + line()), 413)
    assert router.writes() == 0


def test_a_batch_of_as_many_lines_as_may_be_is_taken(router: Running) -> None:
    for end in (b"", b"\n"):
        assert post(router, line() + b"\n" * 99_999 + end).json()["accepted"] == 1


def test_large_lines_wait_for_the_link_and_are_not_refused(router: Running) -> None:
    body = b"\n".join(line(content="x" * 1_000_000) for _ in range(15))
    assert post(router, body).json() == {"accepted": 15, "rejected": []}


def test_a_share_of_the_node_that_is_down_costs_its_lines(router: Running) -> None:
    table = table_for(3)
    users = [f"user-{i}" for i in range(60)]
    router.peers[1].refusal = errors.DiskFull()
    answer = post(router, b"\n".join(line(users=[user]) for user in users)).json()
    hit = [number for number, user in enumerate(users, 1) if table[slot_of(user)] == 1]
    told = [(r["line"], r["status"], r["retryAfter"]) for r in answer["rejected"]]
    assert told == [(number, 507, errors.DiskFull.retry_after) for number in hit]
    assert answer["accepted"] == 60 - len(hit)


def test_a_batch_of_which_nothing_can_be_taken_is_answered_as_one_message_is(router: Running) -> None:
    for peer in router.peers:
        peer.refusal = errors.DiskFull()
    answer = post(router, line() + b"\n" + line())
    refused(answer, 507)
    assert answer.headers["retry-after"] == "5"


@pytest.mark.slow
def test_others_are_served_while_a_batch_of_16_mb_runs(tmp_path: Path) -> None:
    with running(tmp_path, 2) as router:
        body = b"\n".join([line(content="x" * 600)] * 25_000 + [b"{"] * 10_000)
        assert 15 * 1_048_576 < len(body) <= 16 * 1_048_576
        answer: list[httpx.Response] = []
        batch = threading.Thread(target=lambda: answer.append(post(router, body)))
        batch.start()
        served = 0
        with httpx.Client(base_url=router.url, timeout=30) as http:
            while batch.is_alive():
                served += answers(http)
        batch.join()
        assert answer[0].json()["accepted"] == 25_000
        assert len(answer[0].json()["rejected"]) == 10_000
        assert served > 10
