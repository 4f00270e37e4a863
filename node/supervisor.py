"""``pobox serve``: one node, from its lock to its last child's end.

The order is the rule. Up: lock, port, layout of the data directory, shards, routers, ready: nobody
is let in before those behind him are there. Down: routers first, which finish what they began, then
shards: an answer is never owed by somebody who is gone. Each step down is bounded in time, and what
is killed instead loses nothing, since every 202 is in a journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

from node import daily, listen, ops, paths, placement, preflight, process, rundir
from node.child import Child, ending
from node.clock import now_us
from node.config import Config, handed_on
from node.console import Console
from node.errors import PoboxError
from node.lean import structlog
from node.link import ask_once
from node.readiness import is_ready

_POLL_S = 0.05
_FOLLOW_S = 0.25
_ANSWER_MAX_S = 2.0
_LOOK_S = 60.0  # the clock may be set
_AGAIN_S = 3_600.0
_PATIENCE_S = 10.0  # between two lines that say who is waited for
_PORT_S = 5.0  # an earlier run that was killed may hold it for so long

_log = structlog.get_logger()


class Commands:
    """How this node's processes are started; tests put small ones in their place."""

    def layout(self) -> list[str]:
        return [sys.executable, "-m", "shard.layout"]

    def shard(self, index: int) -> list[str]:
        return [sys.executable, "-m", "shard", "--index", str(index), "--supervised"]

    def router(self, index: int, fd: int) -> list[str]:
        return [sys.executable, "-m", "router", "--index", str(index), "--fd", str(fd), "--supervised"]

    def backup(self) -> list[str]:
        return [sys.executable, "-m", "node", "backup", "daily"]


class StartFailed(Exception):
    """The node can't come up; the message says why."""


class Supervisor:
    """One run of a node. ``on_ready(url, is_new)`` is called when it serves; ``is_new``: the data
    directory held nothing before."""

    def __init__(
        self,
        config: Config,
        *,
        on_ready: Callable[[str, bool], None],
        console: Console | None = None,
        commands: Commands | None = None,
    ) -> None:
        self._config = config
        self._data = Path(config.node.data)
        self._on_ready = on_ready
        self._console = console or Console()
        self._commands = commands or Commands()
        self._environ = {**handed_on(config), "PYTHONUNBUFFERED": "1", **process.supervised_by(os.getpid())}
        self._layout: Child | None = None
        self._shards: list[Child] = []
        self._routers: list[Child] = []
        self._backup: Child | None = None
        self._daily: asyncio.Task[None] | None = None
        self._listeners: list[socket.socket] = []
        self._hurry = asyncio.Event()
        self._over: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Serve until a signal comes, then stop in order.

        Raises :class:`ConfigError`, or what keeps the node from coming up: :class:`StartFailed`,
        :class:`~node.child.GaveUp`, :class:`~node.rundir.InUse`, :class:`~node.listen.PortTaken`.
        """
        preflight.check(self._config)
        rundir.create(self._data)
        lock = rundir.lock(self._data)
        try:
            was_killed = await asyncio.to_thread(rundir.await_leftovers, self._data)
            self._environ.update(rundir.marked(self._data))
            self._listeners = await self._bound(_PORT_S if was_killed else 0.0)
            await self._serve()
        finally:
            os.close(lock)

    async def _bound(self, patience_s: float) -> list[socket.socket]:
        """A socket a router; a port that is taken is waited for so long."""
        node, loop = self._config.node, asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while True:
            try:
                return listen.bind(node.host, node.port, node.routers)
            except listen.PortTaken:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(_POLL_S)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        if self._config.tls.certificate:  # without one a SIGHUP is the end of a terminal
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        process.raise_file_limit()
        rising = asyncio.create_task(self._rise())
        rising.add_done_callback(self._watch)
        try:
            await self._over
        finally:
            rising.cancel()
            await asyncio.wait({rising})
            await self._fall()

    async def _rise(self) -> None:
        node = self._config.node
        is_new = placement.load(self._data) is None
        self._layout = self._child("layout", self._commands.layout())
        if code := await asyncio.shield(self._layout.once()):
            raise StartFailed(f"the data directory can't be used ({ending(code)}): {self._layout.last_words()}")
        placed = placement.load(self._data)
        shard_cores, router_cores = process.affinities(node.shards, node.routers, process.cores())
        for index in range(placed.processes if placed else node.shards):
            self._begin_shard(index, shard_cores[index] if index < node.shards else None)
        await self._patiently("shards", self._await_shards())
        for index, listener in enumerate(self._listeners):
            fd = listener.fileno()
            command = self._commands.router(index, fd)
            child = self._child(f"router-{index}", command, fds=(fd,), cores=router_cores)
            self._routers.append(child)
            child.keep().add_done_callback(self._watch)
        url = listen.url(self._listeners[0], "https" if self._config.tls.certificate else "http")
        await self._patiently("routers", self._await_routers(url))
        for child in [*self._shards, *self._routers]:
            child.settled = True
        self._daily = asyncio.create_task(self._back_up_daily())
        self._daily.add_done_callback(self._watch)
        self._on_ready(url, is_new)
        await self._follow()

    def _begin_shard(self, index: int, cores: set[int] | None) -> Child:
        child = self._child(f"shard-{index}", self._commands.shard(index), cores=cores)
        self._shards.append(child)
        child.keep().add_done_callback(self._watch)
        return child

    async def _follow(self) -> None:
        """Begin and end shards as the number of them is changed (:mod:`node.reshard`), until cancelled."""
        file = placement.Watched(self._data)
        while True:
            await asyncio.sleep(_FOLLOW_S)
            placed = await asyncio.to_thread(file.news)
            if placed is None:
                continue
            while len(self._shards) < placed.processes:
                _log.info("beginning a shard", shard=len(self._shards))
                self._begin_shard(len(self._shards), None).settled = True
            while len(self._shards) > placed.processes:
                _log.info("ending a shard", shard=len(self._shards) - 1)
                await self._shards.pop().stop(self._hurry)

    async def _back_up_daily(self) -> None:
        """Start the daily backup when its time comes; one that failed, or may have been missed, at once or in an hour.
        Whether there is anything to do the command knows itself."""
        at = self._config.backup.at
        missed = any(paths.backups_dir(self._data).glob("*/*"))
        while at:
            if not missed:
                due_us = daily.next_us(at, now_us())
                while now_us() < due_us:
                    await asyncio.sleep(min(_LOOK_S, (due_us - now_us()) / 1e6 + 0.001))
            self._backup = self._child("backup", self._commands.backup())
            code = await asyncio.shield(self._backup.once())
            missed = code != 0
            if missed:
                _log.error("the daily backup is not done: it is tried again", ending=ending(code), in_s=_AGAIN_S)
                await asyncio.sleep(_AGAIN_S)

    async def _fall(self) -> None:
        if self._daily is not None:
            self._daily.cancel()
            await asyncio.wait({self._daily})
        # With this copy open, a router that closed its own would still have callers queue up.
        for listener in self._listeners:
            listener.close()
        layout = [self._layout] if self._layout is not None else []
        backup = [self._backup] if self._backup is not None else []
        for step in ([*self._routers, *backup], self._shards, layout):
            await asyncio.gather(*(child.stop(self._hurry) for child in step))
        rundir.clear_pids(self._data)

    def _child(
        self, name: str, command: Sequence[str], *, fds: Sequence[int] = (), cores: set[int] | None = None
    ) -> Child:
        return Child(
            name,
            command,
            environ=self._environ,
            on_line=self._console.line,
            on_change=self._write_pids,
            fds=fds,
            cores=cores,
        )

    def _write_pids(self) -> None:
        children = [*([self._layout] if self._layout else []), *self._shards, *self._routers]
        pids = {child.name: child.pid for child in children if child.pid is not None}
        # Without it a node still runs; on a full disk it has to.
        with contextlib.suppress(OSError):
            rundir.write_pids(self._data, {"supervisor": os.getpid(), **pids})

    def _watch(self, task: asyncio.Task[None]) -> None:
        """A task of this node that fails ends the node."""
        if not task.cancelled() and (error := task.exception()) is not None:
            assert self._over is not None
            if not self._over.done():
                self._over.set_exception(error)

    def _asked_to_stop(self, number: signal.Signals) -> None:
        assert self._over is not None
        if not self._over.done():
            _log.info("stopping", signal=number.name)
            self._over.set_result(None)
        elif number == signal.SIGINT:
            self._hurry.set()

    def _hang_up(self) -> None:
        for router in self._routers:
            router.hang_up()

    async def _await_shards(self) -> None:
        await asyncio.gather(*(self._await_shard(index) for index in range(self._config.node.shards)))

    async def _await_shard(self, index: int) -> None:
        while True:
            with contextlib.suppress(OSError, PoboxError, TimeoutError):
                await ask_once(paths.socket_path(self._data, index), ops.Ping(0), ops.State, timeout_s=_ANSWER_MAX_S)
                return
            await asyncio.sleep(_POLL_S)

    async def _await_routers(self, url: str) -> None:
        """Each has begun to listen, and the whole answers that it is ready."""
        while True:
            with contextlib.suppress(OSError):
                if all(listen.listens(listener) for listener in self._listeners) and await is_ready(url):
                    return
            await asyncio.sleep(_POLL_S)

    async def _patiently(self, whom: str, ready: Coroutine[None, None, None]) -> None:
        """Wait for ``ready`` and say so now and then: a long journal takes its time to replay."""
        task = asyncio.create_task(ready)
        try:
            while not (await asyncio.wait({task}, timeout=_PATIENCE_S))[0]:
                _log.info("still waiting", waiting_for=whom)
            task.result()
        finally:
            task.cancel()
