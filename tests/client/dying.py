"""A process whose children do one thing with a device each, and may be killed before any line of ``client``.

``python -m tests.client.dying`` reads orders, one JSON line each, and answers each with one. A child is forked
for an order, before this process has opened anything; so it costs some milliseconds, not a start of Python.
The kill is SIGKILL, given by the child to itself when it has come to the line of the order's number.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import msgspec

from client import Device, DeviceError

ROOT = Path(__file__).parents[2]
_WATCHED = (str(ROOT / "client") + os.sep, str(ROOT / "node" / "placement.py"))


class Order(msgspec.Struct):
    user: str
    directory: str
    server: str
    name: str
    skew_us: int = 0
    """how far the device's clock is ahead"""
    kill_at: int | None = None
    """the number of the line before which it dies"""
    mark: tuple[str, str] | None = None
    """message and status; else it syncs"""
    patience_s: float = 30.0


class Done(msgspec.Struct):
    killed: bool
    lines: int = 0
    """that it came to"""
    how: str = ""
    error: str | None = None
    conflicts: int = 0


class Mortal:
    """The process, for tests. A context manager."""

    def __enter__(self) -> Mortal:
        command = [sys.executable, "-m", "tests.client.dying"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def do(self, order: Order) -> Done:
        """Wait until it is done, or dead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Done)


def _act(order: Order) -> Done:
    from node.clock import now_us

    device = Device(
        order.user,
        order.directory,
        server=order.server,
        name=order.name,
        clock=lambda: now_us() + order.skew_us,
        patience_s=order.patience_s,
    )
    lines = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(_WATCHED):
            return None
        if event == "line":
            if lines == order.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            lines += 1
        return trace

    done = Done(killed=False)
    sys.settrace(trace)
    try:
        if order.mark is not None:
            device.mark(order.mark[0], order.mark[1])  # type: ignore[arg-type]
        else:
            synced = device.sync()
            done.how, done.conflicts = synced.how, len(synced.conflicts)
    except DeviceError as error:
        done.error = f"{type(error).__name__}: {error}"
    sys.settrace(None)
    done.lines = lines
    return done


def main() -> None:
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, msgspec.json.encode(_act(order)))
            os._exit(0)
        os.close(writing)
        _pid, status = os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as answer:
            said = answer.read()
        if os.WIFSIGNALED(status):
            said = msgspec.json.encode(Done(killed=True))
        sys.stdout.buffer.write(said + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
