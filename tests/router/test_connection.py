"""Callers that are slow, broken or too many, on bare sockets."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.router.conftest import Running, launch, running, until
from tests.router.test_bad_input import MESSAGES, refused

pytestmark = pytest.mark.slow

HASTY = dict.fromkeys(("header_timeout_s", "body_timeout_s", "stall_timeout_s"), 0.4)
IDLE_S = 1.0
PATIENT = {"header_timeout_s": 30.0, "body_timeout_s": 30.0, "idle_timeout_s": IDLE_S, "connections_max": 20}
LINGERING = (
    "import router.__main__ as it; from router import protocol; it._STOP_S = protocol._LAST_REQUEST_S = 60; it.main()"
)
"""a router that, when it stops, waits for a last request longer than a busy machine keeps anybody from sending it"""
HEAD = b"POST /api/v3/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"users":["ann"],"title":"t","content":"c"}'


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A router that waits for nobody: who asks it for more than that it is too slow may be too slow himself."""
    with running(tmp_path_factory.mktemp("hasty"), 1, settings=HASTY) as made:
        yield made


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A router that waits longer than a busy machine keeps anybody from going on, but for a next request."""
    with running(tmp_path_factory.mktemp("patient"), 1, settings=PATIENT) as made:
        yield made


def talk(router: Running, *portions: bytes, bound_s: float = 60) -> bytes:
    """Send ``portions`` and return all that comes until the router closes."""
    with socket.create_connection(router.address, timeout=bound_s) as caller:
        with contextlib.suppress(OSError):  # it may have had enough, and hung up
            for portion in portions:
                caller.sendall(portion)
                time.sleep(0.05)
        return to_the_end(caller)


def to_the_end(caller: socket.socket) -> bytes:
    got = b""
    try:
        while data := caller.recv(65_536):
            got += data
    except ConnectionResetError:
        pass
    return got


def healthy(caller: socket.socket) -> bytes:
    """The whole of one answer of /healthz; the connection may stay. Raises ``OSError`` if it is closed before."""
    got = b""
    while not got.endswith(b'{"status":"ok"}'):
        data = caller.recv(65_536)
        if not data:
            raise ConnectionError(f"closed after {got!r}")
        got += data
    return got


def get(router: Running, path: str) -> int:
    """The status, over a connection of its own: one that is idle may be closed just when it is used."""
    return httpx.get(router.url + path, timeout=60).status_code


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def problem(answer: bytes, code: str) -> None:
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == code


def test_a_head_that_does_not_end_is_timed_out(hasty: Running) -> None:
    answer = talk(hasty, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
    assert status(answer) == 408
    problem(answer, "too_slow")


def test_a_head_that_trickles_is_timed_out(hasty: Running) -> None:
    with socket.create_connection(hasty.address, timeout=60) as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\n")
        sent = 0
        try:
            for sent in range(400):  # noqa: B007
                caller.sendall(b"A: b\r\n")
                time.sleep(0.05)
        except OSError:
            pass
        assert sent < 399


def test_a_caller_that_says_nothing_is_timed_out(hasty: Running) -> None:
    assert status(talk(hasty)) == 408


def test_a_body_that_does_not_come_is_timed_out(hasty: Running) -> None:
    before = hasty.deliveries()
    answer = talk(hasty, HEAD + b"Content-Length: 50\r\n\r\n", b'{"users":')
    assert status(answer) == 408
    problem(answer, "too_slow")
    assert answer.count(b"HTTP/1.1") == 1
    assert hasty.deliveries() == before


def test_a_body_in_chunks_that_does_not_end_is_timed_out(hasty: Running) -> None:
    answer = talk(hasty, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"2b\r\n" + BODY + b"\r\n")
    assert status(answer) == 408


def test_an_idle_connection_is_closed_without_a_word(patient: Running) -> None:
    answer = talk(patient, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status(answer) == 200
    assert b"connection: close" not in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_a_busy_connection_is_not_idle(patient: Running) -> None:
    def stays() -> bool:
        """Whether it does for several times as long as an idle one may; False if it was we who left it idle."""
        with socket.create_connection(patient.address, timeout=60) as caller:
            asked_at = time.monotonic()
            end = asked_at + 4 * IDLE_S
            while asked_at < end:
                before, asked_at = asked_at, time.monotonic()
                try:
                    caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    healthy(caller)
                except OSError:
                    if time.monotonic() - before < IDLE_S:
                        raise
                    return False
                time.sleep(0.1)
        return True

    until(stays)


def test_a_body_refused_early_is_not_waited_for_for_ever(hasty: Running) -> None:
    answers: list[bytes] = []

    def came_in_time() -> bool:
        answers.append(talk(hasty, HEAD + b"Content-Length: 99999999\r\n\r\n" + b"x" * 1000))
        return status(answers[-1]) != 408

    until(came_in_time)
    assert status(answers[-1]) == 413
    problem(answers[-1], "too_large")


def test_an_answer_that_nobody_takes_is_cut_off(hasty: Running) -> None:
    with socket.create_connection(hasty.address, timeout=60) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.setblocking(False)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"

        def cut() -> bool:
            try:
                caller.send(request * 20)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        until(cut)
    until(lambda: get(hasty, "/healthz") == 200)


def test_headers_without_end_are_refused(patient: Running) -> None:
    answer = talk(patient, b"GET /healthz HTTP/1.1\r\n" + b"A: %s\r\n" % (b"x" * 1000) * 200)
    assert status(answer) == 431
    problem(answer, "headers_too_large")


def test_headers_that_are_too_large_are_refused_though_they_end(patient: Running) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"A: %s\r\n" % (b"x" * 1000) * 60 + b"\r\n"
    answer = talk(patient, head)
    assert status(answer) == 431
    problem(answer, "headers_too_large")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 43\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 43\r\n",
        b"Content-Length: 43\r\nContent-Length: 42\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 4x\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"A: \x00\r\nContent-Length: 43\r\n",
    ],
)
def test_a_request_with_two_meanings_is_refused(patient: Running, head: bytes) -> None:
    before = patient.deliveries()
    answer = talk(patient, HEAD + head + b"\r\n" + BODY)
    assert status(answer) == 400
    problem(answer, "bad_request")
    assert answer.count(b"HTTP/1.1") == 1
    assert patient.deliveries() == before


@pytest.mark.parametrize(
    "request_line",
    [b"\x16\x03\x01\x02\x00\x01", b"FOO / HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET / HTTP/9.9", b"CONNECT a:1 HTTP/1.1",
     b"OPTIONS * HTTP/1.1", b"GET /a?\xff HTTP/1.1", b"\x00", b"PRI * HTTP/2.0"],
)  # fmt: skip
def test_what_is_no_request_is_refused(patient: Running, request_line: bytes) -> None:
    answer = talk(patient, request_line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status(answer) in (400, 404)
    assert b"application/problem+json" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_an_offer_of_another_protocol_is_answered_in_this_one(patient: Running) -> None:
    for protocol in (b"h2c", b"websocket"):
        head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: " + protocol
        assert status(talk(patient, head + b"\r\n\r\n")) == 200


def test_requests_in_a_row_are_answered_in_a_row(patient: Running) -> None:
    post = HEAD + b"Content-Length: 43\r\n\r\n" + BODY
    answer = talk(patient, post * 3 + b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert [status(b"HTTP/1.1" + part) for part in answer.split(b"HTTP/1.1")[1:]] == [202, 202, 202, 404]


def test_a_body_in_many_portions_is_read(patient: Running) -> None:
    head = HEAD + b"Connection: close\r\nContent-Length: 43\r\n\r\n"
    answer = talk(patient, head, BODY[:10], BODY[10:20], BODY[20:])
    assert status(answer) == 202


def test_a_caller_that_leaves_in_the_middle_leaves_nothing_behind(patient: Running) -> None:
    before = patient.deliveries()
    for _ in range(5):
        with socket.create_connection(patient.address, timeout=60) as caller:
            caller.sendall(HEAD + b"Content-Length: 50\r\n\r\n" + b'{"users":')
    whole = HEAD + b"Connection: close\r\nContent-Length: 43\r\n\r\n" + BODY
    assert status(talk(patient, whole)) == 202
    assert patient.deliveries() == before + 1


def test_more_connections_than_allowed_are_turned_away(patient: Running) -> None:
    callers = [socket.create_connection(patient.address, timeout=60) for _ in range(30)]
    try:
        callers[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = to_the_end(callers[-1])
        assert status(answer) == 503
        assert b"retry-after: 1" in answer
        problem(answer, "overloaded")
    finally:
        for caller in callers:
            caller.close()
    until(lambda: get(patient, "/healthz") == 200)


def test_health_readiness_and_document(router: Running) -> None:
    assert router.http.get("/healthz").json() == {"status": "ok"}
    assert router.http.get("/readyz").json() == {"status": "ready"}
    assert router.http.get("/openapi.json").json()["openapi"] == "3.1.0"
    head = router.http.head("/healthz")
    assert (head.status_code, head.content) == (200, b"")
    assert "POST" in router.http.options(MESSAGES).headers["allow"]


def test_a_router_is_up_while_no_shard_is(tmp_path: Path) -> None:
    with running(tmp_path, 2, start=False) as router:
        assert router.http.get("/healthz").status_code == 200
        answer = router.http.get("/readyz")
        refused(answer, 503)
        assert answer.headers["retry-after"] == "1"
        for peer in router.peers:
            peer.start()
        router.await_ready()


def test_a_floor_answers_and_asks_nobody(tmp_path: Path) -> None:
    with running(tmp_path, 2, "--floor") as router:
        answer = router.http.post(MESSAGES, json={"users": ["a", "b"], "title": "t", "content": "c"})
        assert (answer.status_code, answer.json()["targets"]) == (202, 2)
        refused(router.http.post(MESSAGES, json={"users": ["a"], "title": "", "content": "c"}), 422, "title")
        assert router.writes() == 0


def test_a_router_ends_in_order_on_sigterm(tmp_path: Path) -> None:
    with running(tmp_path, 1) as router:
        with socket.create_connection(router.address, timeout=60) as caller:
            caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status(caller.recv(65_536)) == 200
            router.process.send_signal(signal.SIGTERM)
            assert router.process.wait(60) == 0
        with pytest.raises(httpx.TransportError):
            router.http.get("/healthz")


def test_a_router_that_stops_answers_what_is_on_its_way_and_says_that_it_was_the_last(tmp_path: Path) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        running(tmp_path, 1, program=("-c", LINGERING)) as router,
        socket.create_connection(router.address, timeout=60) as kept,
        socket.create_connection(router.address, timeout=60) as fresh,
    ):
        kept.sendall(request)
        assert b"connection: close" not in healthy(kept)
        router.http.close()  # it won't ask again
        router.process.send_signal(signal.SIGTERM)
        answer = b""
        while b"connection: close" not in answer:  # it hasn't noticed the signal yet
            kept.sendall(request)
            answer = healthy(kept)
        fresh.sendall(request)
        last = to_the_end(fresh)
        assert status(last) == 200
        assert b"connection: close" in last
        assert to_the_end(kept) == b""
        assert router.process.wait(60) == 0


def test_a_directory_without_a_layout_is_refused(tmp_path: Path) -> None:
    from node import config

    made = config.load(environ={}, overrides={"node": {"data": str(tmp_path)}})
    process, _url, log = launch(tmp_path, made)
    assert process.wait(60) == 1
    assert "not laid out" in log.read_text()
