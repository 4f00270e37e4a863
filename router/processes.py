"""The processes of the node, and what each tells of itself.

Whoever is asked for figures may be any of the routers, so each tells the others its own: on a Unix socket, as shards
do. Every question has a connection to itself. So it neither waits behind the mail nor is taken for a sign that
the link is bad; and one process that hangs costs the asker no more than :data:`ANSWER_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from node import ops
from node.errors import PoboxError
from node.link import ask_once
from node.paths import router_socket_path, socket_address, socket_path
from node.peers import is_ours
from node.wire import Framed
from router.metrics import Metrics

ANSWER_S = 1.0


class Process(NamedTuple):
    """``label`` and ``value`` mark its samples: ``shard="0"``, ``process="router-0"``."""

    label: str
    value: str
    path: Path


Told = Iterable[tuple[Process, ops.Metrics | None]]
"""by each; None: it doesn't answer"""


class Processes:
    """The shards, so many as ``shards`` says when it is asked, and the ``routers`` of the node in ``data``; ``own`` is
    what this router tells."""

    def __init__(self, data: Path, own: Metrics, *, shards: Callable[[], int], routers: int) -> None:
        self._own = own
        self._server: asyncio.AbstractServer | None = None
        self._data = data
        self._count = shards
        self.routers = [
            Process("process", f"router-{index}", router_socket_path(data, index))
            for index in range(max(routers, own.index + 1))
        ]

    @property
    def shards(self) -> list[Process]:
        """Those of now."""
        return [Process("shard", str(index), socket_path(self._data, index)) for index in range(self._count())]

    @property
    def here(self) -> Process:
        """This very one."""
        return self.routers[self._own.index]

    async def start(self) -> None:
        """Tell the others, from now on. A socket left by a predecessor is replaced; without one, nobody is told."""
        path = self.here.path
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: _Telling(self._own), socket_address(path))
            path.chmod(0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self.here.path.unlink(missing_ok=True)

    async def ask(self, process: Process) -> ops.Metrics | None:
        """What ``process`` tells, None if it doesn't within :data:`ANSWER_S`."""
        if process is self.here:
            return self._own.ask()
        try:
            return await ask_once(process.path, ops.AskMetrics(0), ops.Metrics, timeout_s=ANSWER_S)
        except (OSError, PoboxError, TimeoutError, msgspec.MsgspecError):
            return None

    async def ask_all(self, processes: list[Process]) -> list[tuple[Process, ops.Metrics | None]]:
        """All at once."""
        answers = await asyncio.gather(*map(self.ask, processes))
        return list(zip(processes, answers, strict=True))


class _Telling(Framed):
    """Another router's connection."""

    def __init__(self, own: Metrics) -> None:
        super().__init__()
        self._own = own

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not is_ours(transport):
            self.abort()

    def frame_received(self, payload: bytes) -> None:
        try:
            request = ops.decode_request(payload)
        except msgspec.MsgspecError:
            self.close()
            return
        if isinstance(request, ops.AskMetrics):
            self.send(ops.encode(ops.Done(request.rid, msgspec.Raw(ops.encode(self._own.ask())))))
        else:
            self.close()

    def closed(self) -> None:
        """Nobody waits for anything."""
