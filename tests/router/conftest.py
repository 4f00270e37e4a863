"""A real router process over a socket, with peers in place of its shards."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from node import config, listen, placement
from node.changes import Changes
from node.config import Config
from node.paths import changes_path
from tests.router.peer import TABLE, Peer

ROOT = Path(__file__).parents[2]
PROGRAM = ("-m", "router")


class Running:
    """A router that answers at ``url``, and the shards behind it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, peers: list[Peer], log: Path) -> None:
        self.process = process
        self.url = url
        self.peers = peers
        self.log = log
        self.http = httpx.Client(base_url=url, timeout=120)

    @property
    def address(self) -> tuple[str, int]:
        parsed = httpx.URL(self.url)
        return parsed.host, parsed.port or 80

    def deliveries(self) -> int:
        """How many frames with a letter left the router so far."""
        return sum(len(peer.deliveries()) for peer in self.peers)

    def writes(self) -> int:
        """How many frames that change something left the router so far."""
        return sum(len(peer.writes()) for peer in self.peers)

    def await_ready(self) -> None:
        until(lambda: answers(self.http, "/readyz"))


def until(condition: Callable[[], bool], bound_s: float = 60) -> None:
    """Wait for ``condition``, generously: only a router that never gets there fails."""
    end = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@contextlib.contextmanager
def running(
    data: Path,
    shards: int,
    *flags: str,
    settings: dict[str, float] | None = None,
    node: dict[str, str] | None = None,
    auth: dict[str, str] | None = None,
    audit: dict[str, bool] | None = None,
    start: bool = True,
    program: Sequence[str] = PROGRAM,
) -> Iterator[Running]:
    """A router over ``shards`` peers in ``data``; ``settings`` are keys of ``[router]``, ``node`` of ``[node]``,
    ``auth`` of ``[auth]``, ``audit`` of ``[audit]``. ``program``: what Python is to run as the router."""
    placement.save(data, placement.Placement(version=TABLE, shards=shards))
    peers = [Peer(data, index, shards) for index in range(shards)]
    if start:
        for peer in peers:
            peer.start()
    overrides: dict[str, dict[str, Any]] = {
        "node": {"data": str(data), "shards": shards, **(node or {})},
        "router": {"silence_s": 30, "shard_timeout_s": 30, **(settings or {})},
        "auth": auth or {},
        "audit": audit or {},
    }
    made = config.load(environ={}, overrides=overrides)
    process, url, log = launch(data, made, *flags, program=program)
    router = Running(process, url, peers, log)
    try:
        until(lambda: answers(router.http))
        if start:
            router.await_ready()
        for peer in peers:
            peer.frames.clear()
        yield router
    finally:
        router.http.close()
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            for peer in peers:
                peer.end()


def launch(
    data: Path, made: Config, *flags: str, program: Sequence[str] = PROGRAM
) -> tuple[subprocess.Popen[bytes], str, Path]:
    """Start a router process on a free port; its log goes to a file."""
    listener = listen.bind("127.0.0.1", 0, 1)[0]
    log = data / "router.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, *program, "--fd", str(listener.fileno()), *flags],
            cwd=ROOT,
            env=config.handed_on(made),
            pass_fds=[listener.fileno()],
            stderr=out,
        )
    url = listen.url(listener)
    listener.close()
    return process, url, log


def answers(http: httpx.Client, path: str = "/healthz") -> bool:
    try:
        return http.get(path).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A router over three shards, for all tests of a module."""
    with running(tmp_path_factory.mktemp("node"), 3) as made:
        yield made


@pytest.fixture
def counted(router: Running) -> Iterator[list[Changes]]:
    """The counters of all shards."""
    made = [Changes(changes_path(peer._data, peer.index)) for peer in router.peers]
    yield made
    for changes in made:
        changes.close()
