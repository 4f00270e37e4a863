"""A real node for tests: ``pobox serve`` on a free loopback port, its processes open to murder."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import httpx
import msgspec

from loadtest.children import keep_port

PATIENCE_S = 120.0
PATIENT = {"POBOX_ROUTER_SILENCE_S": "30", "POBOX_ROUTER_SHARD_TIMEOUT_S": "30", "POBOX_BACKUP_AT": ""}
"""no shard is taken for hung because the machine is busy, and no daily backup begins because it is ten past three"""
_POLL_S = 0.02
_THREADS = 16
"""the place of their number in /proc/PID/stat, counted from the process's parent"""
_READY = re.compile(r"pobox ready at (https?://\S+:(\d+)) ")


def eventually(true: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until ``true()`` holds; fail, saying ``what`` was waited for, when patience ends."""
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {patience_s} s"
        time.sleep(_POLL_S)


def is_alive(pid: int) -> bool:
    """Whether ``pid`` runs. A zombie doesn't, unless it is one thread of several: another may wait for a disk still,
    with all files and locks."""
    try:
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" or int(others[_THREADS]) > 1


class Node:
    """``pobox serve`` on ``data``. The first start takes a free port, later ones the same.

    A context manager: entered, it is ready; left, it is stopped. ``command`` is what runs instead
    of ``python -m node`` where a test needs children of its own, or an earlier program, which may not know
    what :data:`PATIENT` says; ``env`` comes before that.
    """

    def __init__(
        self,
        data: Path,
        *,
        shards: int = 2,
        routers: int = 1,
        env: Mapping[str, str] | None = None,
        command: list[str] | None = None,
    ) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        """everything the node printed, over all its starts"""
        self.url = ""
        self._shards, self._routers, self._env = shards, routers, {**({} if command else PATIENT), **(env or {})}
        self._command = command or [sys.executable, "-m", "node"]
        self._port = 0
        self._kept: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._began_at = 0

    def __enter__(self) -> Node:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._kept is not None:
            self._kept.close()

    def start(
        self,
        shards: int | None = None,
        routers: int | None = None,
        env: Mapping[str, str] | None = None,
        *,
        ready: bool = True,
    ) -> Node:
        """Start it (what isn't told stays as it was) and wait until it is ready, unless told not to."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        self._shards = shards or self._shards
        self._routers = routers or self._routers
        self._env.update(env or {})
        arguments = ["--data", self.data, "--shards", self._shards, "--routers", self._routers]
        self._began_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "serve", *map(str, arguments), "--port", str(self._port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data.parent,
                env={**os.environ, **self._env},
            )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, patience_s: float = PATIENCE_S) -> None:
        """Until it has said that it is ready and says so over HTTP too."""

        def is_ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, f"it ended:\n{self.output()}"
            if not (said := _READY.search(self.output())):
                return False
            self.url, self._port = said[1], int(said[2])
            self._keep_port()
            try:
                return httpx.get(f"{self.url}/readyz", trust_env=False, verify=False, timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        eventually(is_ready, f"ready, {self.log}", patience_s)

    def _keep_port(self) -> None:
        """Nobody else gets it while the node is down: it is bound by us too, who never listen. A node of another user
        shares its port with nobody."""
        if self._kept is None and self.data.stat().st_uid == os.geteuid():
            self._kept = keep_port(self._port)

    def output(self) -> str:
        """What it printed since the last start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._began_at)
            return log.read().decode(errors="replace")

    @property
    def pids(self) -> dict[str, int]:
        """``{"supervisor": …, "shard-0": …, "router-0": …}``: those that live; empty when it is stopped."""
        try:
            content = (self.data / "run" / "pids.json").read_bytes()
        except FileNotFoundError:
            return {}
        return msgspec.json.decode(content, type=dict[str, int])

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send ``number`` to the process ``name``; its pid. One that is just being started again is waited for. SIGKILL
        returns when it is gone."""
        pid = 0

        def lives() -> bool:
            nonlocal pid
            pid = self.pids.get(name, 0)
            return is_alive(pid)

        eventually(lives, f"a living {name}")
        os.kill(pid, number)
        if number == signal.SIGKILL:
            if name == "supervisor":
                self.wait()
            else:
                eventually(lambda: not is_alive(pid), f"the end of {name}")
        return pid

    def kill_all(self) -> None:
        """SIGKILL for every process, as a crash of the machine would (the kernel lives on); then all are gone.

        The supervisor is stopped first and killed last: else it would start the others again, or they would hear of its
        end, and stop in order.
        """
        os.kill(self.pids["supervisor"], signal.SIGSTOP)
        pids = self.pids
        for name in sorted(pids, key="supervisor".__eq__):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[name], signal.SIGKILL)
        self.wait()
        eventually(lambda: not any(map(is_alive, pids.values())), "the end of all processes")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it in order; the exit code. A node that doesn't run stays stopped."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self.wait()

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """The exit code, when it has ended; one that doesn't end is killed and the test fails."""
        assert self._process is not None
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def restart(self, shards: int | None = None, routers: int | None = None) -> None:
        """Stop it in order and start it again, perhaps with another number of processes."""
        self.stop()
        self.start(shards, routers)
