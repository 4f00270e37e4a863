"""The victim: ``pobox serve`` on one data directory, whose processes are killed one by one or all at once.

Only processes that belong to it are killed: its supervisor, and those that are this supervisor's
children at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from loadtest.children import Child, keep_port, python
from loadtest.errors import BenchError
from node import ops, rundir
from node.errors import PoboxError
from node.link import ask_once
from node.paths import socket_path

KINDS = ("shard", "router", "supervisor", "all")
READY_S = 120.0
GONE_S = 30.0
_POLL_S = 0.02
_ANSWER_MAX_S = 5.0
_READY = re.compile(r"^pobox ready at ", re.MULTILINE)


class Victim:
    """A node on ``data`` with a port of its own, which stays the same over its starts: :meth:`close` lets go of it."""

    def __init__(self, data: Path, *, shards: int, routers: int, environ: Mapping[str, str]) -> None:
        self.data = data
        self.shards = shards
        self.log = data.parent / f"{data.name}.log"
        """what it printed, over all its starts"""
        self._kept = keep_port()
        port = self._kept.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        numbers = {"--shards": shards, "--routers": routers, "--port": port}
        options = [str(part) for pair in numbers.items() for part in pair]
        self._command = python("node", "serve", "--data", str(data), *options)
        self._environ = dict(environ)
        self._child: Child | None = None
        self._began_at = 0

    def start(self) -> None:
        """Start it; a predecessor that was killed may still be ending."""
        self._began_at = self.log.stat().st_size if self.log.exists() else 0
        self._child = Child("pobox", self._command, self.log, environ=self._environ)

    def wait_ready(self) -> None:
        """Until it serves; raises :class:`BenchError` with its log if it doesn't."""
        assert self._child is not None
        self._child.wait_ready(lambda: bool(_READY.search(self._said())), limit_s=READY_S)

    def _said(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._began_at)
            return log.read().decode(errors="replace")

    def kill(self, kind: str, rng: random.Random) -> str:
        """SIGKILL for a shard, a router, the supervisor or all of them; who it was, "" if there was nobody.

        Raises :class:`BenchError` if the supervisor has ended by itself.
        """
        assert self._child is not None
        try:
            supervisor = psutil.Process(self._child.pid)
            if kind == "all":  # or it would start again whom the next signal is for
                _send(supervisor.pid, signal.SIGSTOP)
            children = supervisor.children()
        except psutil.NoSuchProcess:
            raise BenchError(f"the supervisor has ended; log: {self.log}") from None
        if kind == "all":
            # The supervisor last, or the others would hear of its end, and stop in order.
            for process in (*children, supervisor):
                _send(process.pid, signal.SIGKILL)
            self._reap(children)
            return "all"
        if kind == "supervisor":
            _send(supervisor.pid, signal.SIGKILL)
            self._reap([])
            return "supervisor"
        mine = {process.pid for process in children}
        found = {name: pid for name, pid in self._pids().items() if name.startswith(kind) and pid in mine}
        if not found:
            return ""
        name = rng.choice(sorted(found))
        _send(found[name], signal.SIGKILL)
        return name

    def _pids(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError):
            return msgspec.json.decode(rundir.pids_path(self.data).read_bytes(), type=dict[str, int])
        return {}

    def _reap(self, others: list[psutil.Process]) -> None:
        """Wait for the end of the supervisor, which is our child, and of ``others``, which aren't."""
        assert self._child is not None
        self._child.stop()
        _gone, alive = psutil.wait_procs(others, timeout=GONE_S)
        if alive:
            raise BenchError(f"killed and still there: {alive}")

    def stop(self) -> None:
        """In order, as by hand; nothing if it doesn't run."""
        if self._child is not None:
            self._child.stop()

    def close(self) -> None:
        """Stop it for good."""
        try:
            self.stop()
        finally:
            self._kept.close()

    def leftovers(self) -> list[int]:
        """Processes of a killed node that still live."""
        return rundir.leftovers(self.data)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def wait_drained(data: Path, shards: int, limit_s: float) -> None:
    """Until no shard of the node on ``data`` has mail waiting; raises :class:`BenchError` if that doesn't come true."""
    deadline = time.monotonic() + limit_s
    waiting = None
    while time.monotonic() < deadline:
        with contextlib.suppress(PoboxError, OSError):
            waiting = sum([await _waiting(data, index) for index in range(shards)])
            if waiting == 0:
                return
        await asyncio.sleep(_POLL_S)
    raise BenchError(f"{waiting} deliveries are waiting after {limit_s:.0f} s")


async def _waiting(data: Path, index: int) -> int:
    return (await ask_once(socket_path(data, index), ops.Ping(0), ops.State, timeout_s=_ANSWER_MAX_S)).waiting
