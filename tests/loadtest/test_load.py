"""wrk's output is read exactly, and a load of which anything was lost gives no figure."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from loadtest import load
from loadtest.errors import BenchError
from node import ids
from node.model import NewMessage

_FIGURES = {
    "sent": 100, "answered": 100, "refused": 0, "connect": 0, "read": 0, "write": 0, "timeout": 0,
    "first_s": 10.0, "last_s": 12.0, "p50_us": 900, "p99_us": 3000, "max_us": 9000,
}  # fmt: skip


def _output(**changes: float) -> str:
    return (
        "Running 2s test @ http://127.0.0.1:1\n  1 threads and 64 connections\nquiet\n"
        f"Requests/sec:  50.00\n\nfigures: {json.dumps(_FIGURES | changes)}\n"
    )


def test_the_figures_are_found_between_wrk_s_own_lines() -> None:
    found = load.figures(_output(refused=10), load.Load)
    assert (found.accepted, found.rate, found.p99_us) == (90, 45.0, 3000)


def test_output_without_figures_is_an_error_that_shows_it() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        load.figures("unable to connect to 127.0.0.1:1 Connection refused\n", load.Load)


def test_figures_that_are_not_whole_are_an_error() -> None:
    with pytest.raises(BenchError, match="figures"):
        load.figures('figures: {"sent":1}\n', load.Load)


@pytest.mark.parametrize(
    "changes", [{"refused": 1}, {"answered": 99}, {"connect": 1}, {"read": 1}, {"write": 1}, {"sent": 0, "answered": 0}]
)
def test_a_load_of_which_anything_was_lost_gives_no_figure(changes: dict[str, float]) -> None:
    with pytest.raises(BenchError):
        load.check(load.figures(_output(**changes), load.Load))


def test_a_load_that_was_accepted_as_a_whole_is_passed_on() -> None:
    whole = load.figures(_output(), load.Load)
    assert load.check(whole) is whole


class _Server(asyncio.Protocol):
    """Answers each POST with ``status`` and keeps its body; one in ``refuse_every`` with 503."""

    def __init__(self, bodies: list[bytes], refuse_every: int) -> None:
        self._bodies, self._refuse_every, self._rest = bodies, refuse_every, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while b"\r\n\r\n" in self._rest:
            head, _, rest = self._rest.partition(b"\r\n\r\n")
            headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            length = int(headers[b"Content-Length"])
            if len(rest) < length:
                return
            body, self._rest = rest[:length], rest[length:]
            self._bodies.append(body)
            refused = self._refuse_every and len(self._bodies) % self._refuse_every == 0
            status = b"503 Unavailable" if refused else b"202 Accepted"
            self._transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def _serving(refuse_every: int = 0) -> Iterator[tuple[str, list[bytes]]]:
    bodies: list[bytes] = []
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: _Server(bodies, refuse_every), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", bodies
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@needs_wrk
@pytest.mark.parametrize("targets", [1, 100])
@pytest.mark.slow
def test_what_wrk_counts_is_what_the_server_was_sent(targets: int) -> None:
    with _serving() as (url, bodies):
        done = load.run(url, seconds=1, users=1_000, targets=targets, connections=8)
    assert done.accepted == len(bodies)
    assert done.last_s > done.first_s
    messages = [msgspec.json.decode(body, type=NewMessage) for body in bodies]
    for message in messages:
        assert message.users is not None
        ids.check_names(message.users, "users")
        assert len(set(message.users)) == len(message.users) == targets
        assert message.id is None
    known = {load.user(number) for number in range(1_000)}
    assert {user for message in messages for user in message.users or ()} <= known
    names = targets * len('"u0000000000",') - 1
    counted = {len(body) if targets == 1 else len(body) - names for body in bodies}
    assert counted == {600}


@pytest.mark.slow
@needs_wrk
def test_a_refusal_during_the_load_gives_no_figure() -> None:
    with _serving(refuse_every=50) as (url, _), pytest.raises(BenchError, match="refused"):
        load.run(url, seconds=1, users=10, targets=1, connections=4)
