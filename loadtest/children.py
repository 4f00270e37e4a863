"""Processes under test: started with a log, waited for, paused while another is measured, stopped.

Only what was started here is signalled, by its pid. Whatever is not ready in time, or ends early,
is reported with the end of its log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil  # type: ignore[import-untyped]

from loadtest.errors import BenchError

T = TypeVar("T")

READY_S = 120.0
STOP_S = 30.0
"""a node takes 20 s at most: ten for its routers, and ten for its shards"""
_LOG_TAIL = 4_000
ROOT = Path(__file__).resolve().parent.parent


class Child:
    """A process (and what it starts) with its output in ``log``."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environ: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_begins = log.stat().st_size if log.exists() else 0
        environment = {k: v for k, v in os.environ.items() if not k.startswith("POBOX_")} | dict(environ or {})
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=log.parent,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def text(self) -> str:
        """What it has printed so far; a predecessor with the same log doesn't count."""
        return self.log.read_bytes()[self._log_begins :].decode(errors="replace")

    def wait_ready(self, ready: Callable[[], bool], *, limit_s: float = READY_S) -> None:
        """Ask ``ready`` until it says yes; raises :class:`BenchError` with the log if it doesn't."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchError(f"{self.name} ended with {self._process.returncode}:\n{self._tail()}")
            if ready():
                return
            time.sleep(0.05)
        raise BenchError(f"{self.name} was not ready in {limit_s:.0f} s:\n{self._tail()}")

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing of this runs inside the block."""
        processes = self.tree()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in reversed(processes):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def stop(self) -> None:
        """Ask it to stop, and kill what is left after 30 s; raises :class:`BenchError` then."""
        if self._process.poll() is not None:
            return
        processes = self.tree()
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()
            raise BenchError(f"{self.name} did not stop in {STOP_S:.0f} s:\n{self._tail()}") from None

    def interrupt(self) -> None:
        """Ask it to finish as Ctrl-C would, and wait until it has written what it has to."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.stop()

    def _tail(self) -> str:
        return self.text()[-_LOG_TAIL:]


@contextlib.contextmanager
def running(*children: Child) -> Iterator[None]:
    """Stop all of ``children`` at the end, whatever happens."""
    try:
        yield
    finally:
        with contextlib.ExitStack() as stack:
            for child in children:
                stack.callback(child.stop)


def unwind_on_sigterm() -> None:
    """SIGTERM unwinds like Ctrl-C does, so that whatever was started is stopped."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))


def python(module: str, *arguments: str, cpus: Sequence[int] | None = None) -> list[str]:
    """The command that runs ``module`` with this interpreter; ``cpus``: where it may run, everywhere if None."""
    pinned = [] if cpus is None else ["taskset", "-c", ",".join(map(str, cpus))]
    return [*pinned, sys.executable, "-m", module, *arguments]


def reported(module: str, kind: type[T], *arguments: str) -> T:
    """What ``module``, run with this interpreter, prints as JSON; raises :class:`BenchError` if it fails."""
    done = subprocess.run(python(module, *arguments), capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise BenchError(f"{module} ended with {done.returncode}:\n{done.stderr}")
    return msgspec.json.decode(done.stdout, type=kind)


def answers(url: str) -> bool:
    """Whether HTTP is spoken at ``url``, whatever the status."""
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """A loopback port that nobody else gets meanwhile; see :func:`keep_port`."""
    with keep_port() as kept:
        port: int = kept.getsockname()[1]
        yield port


def keep_port(port: int = 0) -> socket.socket:
    """A socket on ``port`` of loopback, a free one if that is 0. Nobody else gets the port while it is open; a node of
    the same user does."""
    kept = socket.socket()
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        kept.setsockopt(socket.SOL_SOCKET, option, 1)
    kept.bind(("127.0.0.1", port))
    return kept
