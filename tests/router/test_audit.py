"""What a router writes into the audit log, and what it does when it can't."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from node import audit, audit_files, keys, paths
from node.audit_verify import verify
from tests import audited
from tests.router.conftest import Running, running, until
from tests.router.credentials import AUTH, bearer, key, token

BODY = {"users": ["ann"], "title": "planted-title", "content": "planted-content"}


class Guarded(NamedTuple):
    router: Running
    data: Path
    admin: dict[str, str]
    ann: dict[str, str]


@contextlib.contextmanager
def started(data: Path, *, proxies: str = "", **settings: Any) -> Iterator[Guarded]:
    data.mkdir(exist_ok=True)
    router_settings: dict[str, Any] = {"trusted_proxies": proxies}
    admin, ann = key(data, "all", *keys.SCOPES), token(data, "ann")
    with running(data, 2, settings=router_settings, auth=AUTH, audit=settings) as router:
        yield Guarded(router, data, admin, ann)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with started(tmp_path / "data") as made:
        yield made


def lines_of(data: Path) -> list[dict[str, Any]]:
    """Without those of the log itself."""
    return [line for line in audited.lines_of(data) if not line["deed"].startswith("audit.f")]


def test_a_deed_is_on_disk_before_it_is_done_and_before_it_is_answered(guarded: Guarded) -> None:
    http = guarded.router.http
    assert http.delete("/api/v3/users/ann", headers=guarded.admin).status_code == 404
    assert http.put("/api/v3/channels/crew", headers=guarded.admin).status_code == 201
    lines = lines_of(guarded.data)
    assert [(line["deed"], line.get("state"), line.get("status")) for line in lines[-2:]] == [
        ("channels.put", "begins", None),
        ("channels.put", None, 201),
    ]
    assert lines[-1]["of"] == lines[-2]["n"]
    assert lines[-1]["whom"] == {"channel": "crew"}
    assert lines[-1]["route"] == "/api/v3/channels/{channelId}"
    until(lambda: [line["status"] for line in lines_of(guarded.data) if line.get("of")] == [404, 201])
    assert lines_of(guarded.data)[0]["whom"] == {"user": "ann"}


@pytest.mark.slow
def test_neither_deliveries_nor_own_reads_are_written_down_unless_told(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["boxes.messages"]),
        ({"deliveries": True, "own_reads": True}, ["messages.post", "boxes.messages", "boxes.messages"]),
    ]
    for settings, expected in cases:
        data = tmp_path / str(len(settings))
        with started(data, **settings) as made:
            http = made.router.http
            assert http.post("/api/v3/messages", json={**BODY, "id": "m1"}, headers=made.admin).status_code == 202
            assert http.get("/api/v3/users/ann/messages", headers=made.ann).status_code == 200
            assert http.get("/api/v3/users/ann/messages", headers=made.admin).status_code == 200
        lines = lines_of(data)
        assert [line["deed"] for line in lines] == expected
        assert lines[0]["whom"] == {"message": "m1"} if settings else {"user": "ann"}
        log = b"".join(path.read_bytes() for path in paths.audit_dir(data).iterdir())
        assert b"planted" not in log
        assert b"Bearer" not in log


@pytest.mark.slow
def test_refusals_are_written_down_until_there_are_too_many_and_then_counted(guarded: Guarded) -> None:
    http = guarded.router.http
    for _ in range(60):
        assert http.get("/api/v3/users/ann/messages").status_code == 401
    assert http.get("/api/v3/users/bob/messages", headers=guarded.ann).status_code == 403
    assert http.get("/api/v3/users/ann/messages", headers=bearer("pobox_" + "0" * 12)).status_code == 401
    until(lambda: audit.LEFT_OUT in [line["deed"] for line in lines_of(guarded.data)])
    guarded.router.process.terminate()
    guarded.router.process.wait(60)
    lines = lines_of(guarded.data)
    refused = [line for line in lines if line["deed"] == "refused"]
    left_out = [line["what"] for line in lines if line["deed"] == audit.LEFT_OUT]
    assert 20 <= len(refused) < 60
    assert left_out
    assert len(refused) + sum(sum(what.values()) for what in left_out) == 62
    assert refused[0]["whom"] == {"user": "ann"}
    assert refused[0]["route"] == "/api/v3/users/{userId}/messages"
    assert "who" not in refused[0]
    assert verify(guarded.data).faults == []


def test_a_page_of_another_site_is_written_down(guarded: Guarded) -> None:
    answer = guarded.router.http.delete("/api/v3/users/ann", headers={**guarded.admin, "sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    until(lambda: [line["deed"] for line in lines_of(guarded.data)] == ["refused"])


@pytest.mark.slow
def test_a_trusted_proxy_says_from_where_and_nobody_else(tmp_path: Path) -> None:
    for trusted, expected in [("127.0.0.1", "203.0.113.9"), ("", "127.0.0.1")]:
        data = tmp_path / str(len(trusted))
        with started(data, proxies=trusted) as made:
            made.router.http.get("/api/v3/users", headers={"x-forwarded-for": "203.0.113.9"})
        assert [line["from"] for line in lines_of(data)] == [expected]


def test_what_is_in_a_path_or_header_gets_in_only_as_a_name(guarded: Guarded) -> None:
    path = "/api/v3/users/%22%2C%22hash%22%3A/messages"
    assert guarded.router.http.get(path, headers={**guarded.admin, "x-request-id": 'a"b'}).status_code == 422
    until(lambda: len(lines_of(guarded.data)) == 1)
    [line] = lines_of(guarded.data)
    assert line["whom"] == {"user": "?"}
    assert "request" not in line


def test_a_log_that_can_not_be_written_refuses_deeds_and_nothing_else(guarded: Guarded) -> None:
    http, place = guarded.router.http, paths.audit_dir(guarded.data)
    until(place.exists)
    shutil.rmtree(place)
    place.write_text("no directory")
    for peer in guarded.router.peers:
        peer.frames.clear()
    answer = http.put("/api/v3/channels/crew", headers=guarded.admin)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert [frame for peer in guarded.router.peers for frame in peer.frames] == [], "it isn't done"
    assert http.post("/api/v3/messages", json=BODY, headers=guarded.admin).status_code == 202
    assert http.get("/api/v3/users/ann/messages", headers=guarded.admin).status_code == 200
    figures = http.get("/metrics?process=router-0", headers=guarded.admin).text
    assert 'pobox_audit_fails{process="router-0"} 1' in figures
    place.unlink()
    until(lambda: http.put("/api/v3/channels/crew", headers=guarded.admin).status_code == 201)
    until(lambda: "boxes.messages" in [line["deed"] for line in lines_of(guarded.data)])


def test_a_full_disk_is_507_before_anything_is_done(guarded: Guarded) -> None:
    """A limit of the process's own on how long a file may get would be a signal; so a disk of no size at all."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    http = guarded.router.http
    head = audit_files.head_path(guarded.data, "router-0")
    assert http.put("/api/v3/channels/one", headers=guarded.admin).status_code == 201
    fresh = head.with_name(f"{head.name}.new")
    os.symlink(full, fresh)
    for peer in guarded.router.peers:
        peer.frames.clear()
    answer = http.put("/api/v3/channels/crew", headers=guarded.admin)
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full"), errno.errorcode
    assert answer.headers["retry-after"]
    assert [frame for peer in guarded.router.peers for frame in peer.frames] == []
    assert not fresh.is_symlink(), "what could not be written is taken away"
    assert http.put("/api/v3/channels/crew", headers=guarded.admin).status_code == 201
    assert verify(guarded.data).faults == []


def test_after_a_kill_the_chain_is_whole_and_goes_on(guarded: Guarded, tmp_path: Path) -> None:
    for number in range(5):
        assert guarded.router.http.put(f"/api/v3/channels/c{number}", headers=guarded.admin).status_code == 201
    guarded.router.process.kill()
    guarded.router.process.wait()
    assert verify(guarded.data).faults == []
    assert len([line for line in lines_of(guarded.data) if line.get("status") == 201]) == 5
