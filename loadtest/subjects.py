"""What is measured: the node, its floors, and the peer, each behind the same few methods.

A subject is started once, warmed up, and loaded in turns with the others. ``stored`` counts what
it has put where it belongs since it was started; ``settle`` returns the moment when nothing is on its way.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import msgspec
import psutil  # type: ignore[import-untyped]
import uvloop

from loadtest import count
from loadtest.children import Child, answers, kept_port, python, running
from loadtest.errors import BenchError
from loadtest.peer_postgres import SCHEMA
from loadtest.postgres import Cluster, cluster
from node import ops, placement
from node.config import Config, Node, environment
from node.paths import socket_address, socket_path
from node.wire import Splitter, frame

_READY = re.compile(r"ready at (https?://[^\s/]+)\s")
_POLL_S = 0.01
_STILL_S = 10.0
"""so long may a count be wrong while nothing is waiting"""


class Subject:
    """Something that takes ``POST /api/v3/messages`` at ``url``."""

    delivers_later = False
    """whether there is work left to do after the last answer"""
    name: str
    url: str
    children: Sequence[Child]

    def stored(self) -> int:
        """User-messages stored since the start."""
        raise NotImplementedError

    def settle(self, stored: int, *, limit_s: float) -> float:
        """Wait until ``stored`` user-messages are stored and none is waiting; the time it was so
        (``time.monotonic()``). Raises :class:`BenchError` when that doesn't come true."""
        raise NotImplementedError

    def rest(self, *, limit_s: float) -> int:
        """Wait until nothing is on its way; what counts as stored then."""
        raise NotImplementedError

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far, by role: router, shard, …"""
        used: dict[str, float] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times, role = process.cpu_times(), role_of(process.cmdline())
                used[role] = used.get(role, 0.0) + times.user + times.system
        return used

    def processes(self, role: str | None = None) -> list[psutil.Process]:
        """The processes, of one role or all, by start."""
        found = [process for child in self.children for process in child.tree()]
        return found if role is None else [process for process in found if role_of(process.cmdline()) == role]


def role_of(command: Sequence[str]) -> str:
    """What a process is, from its command line: the module after ``-m``, or PostgreSQL."""
    if command and "postgres" in Path(command[0]).name:
        return "postgres"
    if "-m" in command[:-1]:
        module = command[command.index("-m") + 1]
        return {"loadtest.peer_postgres": "web", "loadtest.floor_shard": "shard", "node": "supervisor"}.get(
            module, module
        )
    return "postgres" if command and command[0].startswith("postgres:") else "other"


class PoboxNode(Subject):
    """``pobox serve`` on a data directory of its own."""

    delivers_later = True

    def __init__(self, data: Path, process: Child, url: str, shards: int, name: str) -> None:
        self.name = name
        self.data = data
        self.url = url
        self.shards = shards
        self.children = [process]

    def states(self) -> list[ops.State]:
        """What each shard says of itself."""
        return [ping(self.data, index) for index in range(self.shards)]

    def stored(self) -> int:
        return sum(state.stored for state in self.states())

    def settle(self, stored: int, *, limit_s: float) -> float:
        deadline = time.monotonic() + limit_s
        wrong_since = None
        while True:
            now = time.monotonic()
            states = self.states()
            waiting, have = sum(s.waiting for s in states), sum(s.stored for s in states)
            if waiting == 0 and have == stored:
                return now
            wrong_since = (wrong_since or now) if waiting == 0 else None
            if now > deadline or (wrong_since and now - wrong_since > _STILL_S):
                raise BenchError(f"{waiting} are waiting, {have} are stored; {stored} were accepted")
            time.sleep(_POLL_S)

    def rest(self, *, limit_s: float) -> int:
        deadline = time.monotonic() + limit_s
        while any(state.waiting for state in self.states()):
            if time.monotonic() > deadline:
                raise BenchError(f"mail is still waiting after {limit_s:.0f} s")
            time.sleep(_POLL_S)
        return self.stored()

    def stop(self) -> None:
        """In order, as by hand."""
        for child in self.children:
            child.stop()

    def verify(self, messages: int) -> count.Stored:
        """Stop, and count the rows of all mailboxes; raises :class:`BenchError` unless ``messages``."""
        self.stop()
        stored = count.elsewhere(self.data)
        if stored.messages != messages:
            raise BenchError(
                f"{messages} user-messages were accepted, {stored.messages} are in {stored.mailboxes} mailboxes"
            )
        return stored


def ping(data: Path, shard: int, *, timeout_s: float = 10.0) -> ops.State:
    """Ask a shard for its state; raises :class:`BenchError` if it doesn't answer."""
    splitter = Splitter()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(socket_address(socket_path(data, shard)))
            connection.sendall(frame(ops.encode(ops.Ping(rid=1))))
            while data_in := connection.recv(65_536):
                for payload in splitter.feed(data_in):
                    answer = ops.decode_answer(payload)
                    if isinstance(answer, ops.Done):
                        return msgspec.msgpack.decode(answer.body, type=ops.State)
    except OSError as error:
        raise BenchError(f"shard {shard} doesn't answer: {error}") from error
    raise BenchError(f"shard {shard} hung up")


def divided(shards: int, *, postmen: int | None = None, waiting_max: int | None = None) -> dict[str, str]:
    """Settings, as an environment: each of ``shards`` gets its part of what is said of the whole node."""
    settings: dict[str, str] = {}
    if postmen is not None:
        each = str(max(2, postmen // shards))
        settings |= {"POBOX_SHARD_POSTMEN": each, "POBOX_SHARD_POSTMEN_MAX": each}
    if waiting_max is not None:
        settings["POBOX_SHARD_WAITING_MAX"] = str(max(1, waiting_max // shards))
    return settings


@contextlib.contextmanager
def pobox(
    base: Path,
    *,
    shards: int,
    routers: int,
    name: str = "pobox",
    environ: Mapping[str, str] | None = None,
    cpus: Sequence[int] | None = None,
) -> Iterator[PoboxNode]:
    """A node that is ready, with its data in ``base``: fresh, unless boxes were put there before.

    ``environ`` holds settings other than the defaults; ``cpus``: where it may run, everywhere if None.
    """
    data = base / "node"
    data.mkdir(parents=True, exist_ok=True)
    options = {"data": data, "shards": shards, "routers": routers, "host": "127.0.0.1", "port": 0}
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = python("node", "serve", *arguments, cpus=cpus)
    child = Child(name, command, base / "node.log", environ=environ)
    with running(child):
        child.wait_ready(lambda: _READY.search(child.text()) is not None)
        said = _READY.search(child.text())
        assert said is not None
        yield PoboxNode(data, child, said[1], shards, name)


class Floor(Subject):
    """Something that only answers: whatever it accepted is done with."""

    def __init__(self, name: str, url: str, children: Sequence[Child]) -> None:
        self.name, self.url, self.children = name, url, children

    def stored(self) -> int:
        return 0

    def settle(self, stored: int, *, limit_s: float) -> float:
        return time.monotonic()

    def rest(self, *, limit_s: float) -> int:
        return 0


@contextlib.contextmanager
def floor(base: Path, *, shards: int, routers: int, fdatasync: bool) -> Iterator[Floor]:
    """The real router: with a handler that only decodes and answers, or (``fdatasync``) with shards
    that only put each delivery on disk."""
    name = "floor + fdatasync" if fdatasync else "floor"
    data = base / "floor"
    (data / "run").mkdir(parents=True)
    placement.save(data, placement.Placement(version=1, shards=shards))
    with kept_port() as port:
        environ = environment(Config(node=Node(data=str(data), shards=shards, routers=routers, port=port)))
        children = []
        for index in range(shards if fdatasync else 0):
            command = python(
                "loadtest.floor_shard", "--data", str(data), "--index", str(index), "--shards", str(shards)
            )
            children.append(Child(f"floor shard {index}", command, base / f"floor-shard-{index}.log"))
        for index in range(routers):
            command = python("router", "--index", str(index), *([] if fdatasync else ["--floor"]))
            children.append(Child(f"router {index}", command, base / f"router-{index}.log", environ=environ))
        url = f"http://127.0.0.1:{port}"
        with running(*reversed(children)):
            for index, child in enumerate(children):
                if index < len(children) - routers:
                    path = socket_path(data, index)
                    child.wait_ready(lambda path=path: path.exists())  # type: ignore[misc]
                else:
                    child.wait_ready(lambda: answers(f"{url}/healthz"))
            yield Floor(name, url, children)


class Postgres(Subject):
    """Falcon, asyncpg and an inbox table."""

    name = "PostgreSQL"

    def __init__(self, url: str, children: Sequence[Child], server: Cluster) -> None:
        self.url, self.children, self._server = url, children, server

    def run(self, sql: str) -> Any:
        """The first value that ``sql`` returns, on a connection of its own."""

        async def ask() -> Any:
            connection = await asyncpg.connect(host=str(self._server.sockets), user="postgres", database="postgres")
            try:
                return await connection.fetchval(sql)
            finally:
                await connection.close()

        return uvloop.run(ask())

    def stored(self) -> int:
        return int(self.run("SELECT count(*) FROM inbox"))

    def rest(self, *, limit_s: float) -> int:
        return self.stored()

    def settle(self, stored: int, *, limit_s: float) -> float:
        now = time.monotonic()  # its answer comes after the commit
        have = self.stored()
        if have != stored:
            raise BenchError(f"PostgreSQL has {have} rows; {stored} were accepted")
        return now


@contextlib.contextmanager
def postgresql(base: Path, *, processes: int) -> Iterator[Postgres]:
    """The peer with an empty inbox and ``processes`` HTTP processes."""
    with kept_port() as port, cluster(base) as server, contextlib.ExitStack() as stack:
        peer = Postgres(f"http://127.0.0.1:{port}", [server.process], server)
        for statement in filter(str.strip, SCHEMA.split(";")):
            peer.run(statement)
        webs = []
        for index in range(processes):
            command = python("loadtest.peer_postgres", "--sockets", str(server.sockets), "--port", str(port))
            webs.append(Child(f"peer {index}", command, base / f"peer-{index}.log"))
            stack.enter_context(running(webs[-1]))
        for web in webs:
            web.wait_ready(lambda: answers(f"{peer.url}/"))
        peer.children = [server.process, *webs]
        yield peer


@contextlib.contextmanager
def directory(parent: Path, name: str) -> Iterator[Path]:
    """A fresh directory of this bench's own; after an error it stays, to look at."""
    base = parent / f"pobox-bench-{name}"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    yield base
    shutil.rmtree(base)
