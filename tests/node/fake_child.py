"""A small child in place of a layout, a shard or a router: what a supervisor sees of the real ones.

How it behaves comes from the environment: ``FAKE_<KIND>`` of ``layout``, ``shard``, ``router``, ``backup`` is
``dies``, ``stubborn`` (ignores SIGTERM), ``slow`` (takes 0.5 s to stop) or unset.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from node import config as configuration
from node import ops, paths, process
from node.wire import Framed


class _Pong(Framed):
    def frame_received(self, payload: bytes) -> None:
        request = ops.decode_request(payload)
        state = msgspec.msgpack.encode(ops.State(0, 1, 1, 0, 0, 0, 0, 0))
        self.send(ops.encode(ops.Done(rid=request.rid, body=msgspec.Raw(state))))

    def closed(self) -> None:
        pass


async def _shard(index: int, stop: asyncio.Event) -> None:
    path = paths.socket_path(Path(configuration.load().node.data), index)
    path.unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(_Pong, paths.socket_address(path))
    await stop.wait()
    server.close()


async def _router(fd: int, stop: asyncio.Event) -> None:
    async def ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = str(os.getpid()).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(ready, sock=socket.socket(fileno=fd))
    await stop.wait()
    server.close()


async def _child(kind: str, index: int, fd: int) -> None:
    behaviour = os.environ.get(f"FAKE_{kind.upper()}")
    print(f"{kind} {index} starts with {configuration.load().node.shards} shards", flush=True)
    if behaviour == "dies":
        sys.exit(f"the {kind} has no luck")
    if kind in ("layout", "backup"):
        return
    stop = asyncio.Event()
    if behaviour != "stubborn":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await (_shard(index, stop) if kind == "shard" else _router(fd, stop))
    print("stopping", flush=True)
    if behaviour == "slow":
        await asyncio.sleep(0.5)
    print("stopped", flush=True)


if __name__ == "__main__":
    process.die_with_parent()
    kind, index, fd = sys.argv[1:]
    asyncio.run(_child(kind, int(index), int(fd)))
