"""The network between a device and a node, for tests: a proxy that may cut, damage, delay, or answer itself.

Each request gets a connection of its own to the node. What happens to it is decided by the ``plan`` of the test.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_READ = 65_536


@dataclass
class Fault:
    """What is done to one answer; positions count the bytes of its body."""

    cut_at: int | None = None
    flip_at: int | None = None
    delay_s: float = 0.0
    """before anything of the answer"""
    instead: bytes | None = None
    """the whole answer; the node isn't asked"""
    headers: dict[str, str] = field(default_factory=dict)
    """replaced in the answer's head (by lower-case name)"""
    at: int = 0
    then: Callable[[], None] | None = None
    """called when ``at`` bytes have been passed on"""
    deaf: bool = False
    """the node gets the request, and the device no answer"""


Plan = Callable[[str, str], Fault | None]
"""of method and target"""


class Line:
    """A context manager; ``url`` is where a device asks. ``asked`` lists what went over it."""

    def __init__(self, node_url: str, plan: Plan | None = None) -> None:
        parts = urlsplit(node_url)
        self.plan = plan
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.passed = 0
        """bytes to the device"""
        line = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    line._carry(self.request, (parts.hostname or "", parts.port or 80))

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Line:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def count(self, name: str) -> int:
        """How often ``…/name`` was asked for."""
        return sum(urlsplit(target).path.endswith("/" + name) for _method, target, _headers in self.asked)

    def _carry(self, device: socket.socket, node_address: tuple[str, int]) -> None:
        head, body = _message(device)
        if not head:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        method, target, _version = first.split(" ")
        self.asked.append((method, target, headers))
        fault = (self.plan(method, target) if self.plan else None) or Fault()
        if fault.instead is not None:
            device.sendall(fault.instead)
            return
        headers["connection"] = "close"
        request = "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items())]) + "\r\n\r\n"
        with socket.create_connection(node_address, 10) as node:
            node.settimeout(60)
            node.sendall(request.encode("latin-1") + body)
            if fault.deaf:
                while node.recv(_READ):
                    continue
                return
            self._answer(node, device, fault)

    def _answer(self, node: socket.socket, device: socket.socket, fault: Fault) -> None:
        head, rest = _head(node)
        for name, value in fault.headers.items():
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(name.encode() + b":")]
            head = b"\r\n".join([*lines, f"{name}: {value}".encode()])
        time.sleep(fault.delay_s)
        device.sendall(head + b"\r\n\r\n")
        position = 0
        piece = rest or node.recv(_READ)
        while piece:
            if fault.flip_at is not None and position <= fault.flip_at < position + len(piece):
                at = fault.flip_at - position
                piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
            if fault.cut_at is not None and position + len(piece) > fault.cut_at:
                device.sendall(piece[: fault.cut_at - position])
                return
            device.sendall(piece)
            position += len(piece)
            self.passed += len(piece)
            if fault.then is not None and position >= fault.at:
                fault.then()
                fault.then = None
            piece = node.recv(_READ)


def _head(source: socket.socket) -> tuple[bytes, bytes]:
    """Up to the empty line, and what came after it already."""
    content = b""
    while b"\r\n\r\n" not in content:
        piece = source.recv(_READ)
        if not piece:
            return b"", b""
        content += piece
    head, _, rest = content.partition(b"\r\n\r\n")
    return head, rest


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    """A request: its head, and its body as long as Content-Length says."""
    head, body = _head(source)
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        piece = source.recv(_READ)
        if not piece:
            return b"", b""
        body += piece
    return head, body
