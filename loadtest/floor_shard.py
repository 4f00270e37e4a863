"""The floor under a 202: a shard that does nothing but put each delivery on disk.

It speaks the shards' protocol to the real router, writes the frame of a delivery to one plain file,
and answers when an fdatasync that was begun after the write has succeeded; one fdatasync carries
all that came in while the one before it ran. Nothing is parsed beyond the request, nothing stored
elsewhere, nothing checked. A real shard can't do less and keep the promise.

The file is written full of zeros first and then used round and round: an fdatasync that need not
change the file's size takes half the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import msgspec
import uvloop

from node import ops
from node.errors import Unavailable
from node.paths import run_dir, socket_address, socket_path
from node.wire import Framed

FILE_BYTES = 64 * 1024 * 1024


class Disk:
    """A file used as a ring. :meth:`put` returns when its bytes are on disk; one call at a time."""

    def __init__(self, path: Path, size: int = FILE_BYTES) -> None:
        self._size = size
        self._at = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.pwrite(self._fd, bytes(size), 0)
        os.fsync(self._fd)

    def put(self, content: bytes) -> None:
        if self._at + len(content) > self._size:
            self._at = 0
        os.pwrite(self._fd, content, self._at)
        self._at += len(content)
        os.fdatasync(self._fd)


class Group:
    """Group commit: what comes in while ``put`` runs in its thread is put together, next."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._thread = ThreadPoolExecutor(1, "disk")
        self._frames: list[bytes] = []
        self._then: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """the disk's error; nothing is answered any more"""

    def add(self, content: bytes, then: Callable[[], None]) -> None:
        """Call ``then`` once ``content`` is on disk; never if the disk failed."""
        self._frames.append(content)
        self._then.append(then)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # whatever else arrived in this turn of the loop comes along
        while self._frames:
            frames, self._frames = self._frames, []
            then, self._then = self._then, []
            try:
                await loop.run_in_executor(self._thread, self._put, b"".join(frames))
            except OSError as error:
                self.failed.set_exception(error)
                return
            for call in then:
                call()
        self._task = None


class Peer(Framed):
    """A router's connection."""

    def __init__(self, group: Group, state: ops.State) -> None:
        super().__init__()
        self._group = group
        self._state = state

    def frame_received(self, payload: bytes) -> None:
        request = ops.decode_request(payload)
        if isinstance(request, ops.Deliver):
            rid, targets = request.rid, len(request.users)
            self._group.add(payload, lambda: self._taken(rid, targets))
        elif isinstance(request, ops.Ping):
            self._answer(request.rid, self._state)
        else:
            self.send(ops.failed(request.rid, Unavailable("deliveries only")))

    def _taken(self, rid: int, targets: int) -> None:
        self._state.journal_rows += 1
        self._answer(rid, ops.Taken(targets))

    def _answer(self, rid: int, body: ops.Taken | ops.State) -> None:
        self.send(ops.encode(ops.Done(rid, msgspec.Raw(ops.encode(body)))))

    def closed(self) -> None:
        """Answers that are still to come go nowhere."""


async def serve(data: Path, index: int, shards: int, table: int) -> None:
    """Be shard ``index`` of ``data`` until SIGTERM."""
    loop = asyncio.get_running_loop()
    run_dir(data).mkdir(parents=True, exist_ok=True)
    group = Group(Disk(data / f"floor-{index}.log").put)
    state = ops.State(
        shard=index,
        table=table,
        shards=shards,
        waiting=0,
        journal_rows=0,
        stored=0,
        open_mailboxes=0,
        transactions=0,
    )
    path = socket_path(data, index)
    path.unlink(missing_ok=True)
    server = await loop.create_unix_server(lambda: Peer(group, state), socket_address(path))
    loop.add_signal_handler(signal.SIGTERM, group.failed.cancel)
    async with server:
        with contextlib.suppress(asyncio.CancelledError):
            await group.failed


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--index", type=int, required=True)
@click.option("--shards", type=int, required=True)
@click.option("--table", type=int, default=1, show_default=True, help="Version of the placement.")
def main(data: Path, index: int, shards: int, table: int) -> None:
    """Serve one shard's socket."""
    uvloop.run(serve(data, index, shards, table))


if __name__ == "__main__":
    main()
