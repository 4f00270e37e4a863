"""``python -m shard --index I``: one shard process. Wires, runs, ends in order."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import os
import signal
import sys
import time
from pathlib import Path

import uvloop

from node import notify, paths, placement
from node.config import Config, load
from node.errors import ConfigError, Unsure
from node.lean import structlog
from node.logs import configure_logging
from node.process import die_with_parent, raise_file_limit
from shard import sqlite
from shard.core import Shard
from shard.disk import Disk
from shard.keyring import Keyring, open_keyring
from shard.listener import Listener

log = structlog.get_logger()

_LOCK_WAIT_S = 30.0
EXIT_UNSURE = 75
"""the disk's answer was not to be trusted; the next start replays"""


def lock(path: Path) -> int:
    """Be the only process of this shard; waits for a predecessor that is still ending."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SystemExit(f"{path} is held by another process") from None
            time.sleep(0.05)


async def serve(
    config: Config, layout: placement.Placement, index: int, data: Path, keyring: Keyring | None = None
) -> None:
    """Run the shard until SIGTERM. Where any part of it fails the process ends on the spot."""
    loop = asyncio.get_running_loop()
    disk = Disk(data)  # its descriptor is open before the first write
    shard = Shard(config, layout, index, disk, keyring=keyring)
    ended = asyncio.Event()
    shard.failed = _fail
    shard.start()
    listener = Listener(shard)
    life = asyncio.create_task(shard.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await listener.start(paths.socket_path(data, index))
    gc.collect()
    gc.freeze()
    log.info("ready", shard=index, of=layout.shards, replayed=shard.backlog.waiting)
    notify.tell("READY=1")
    feeding = asyncio.create_task(notify.feed())
    await ended.wait()
    notify.tell("STOPPING=1")
    await listener.stop()
    await shard.drain()
    feeding.cancel()
    shard.mailboxes.end()
    life.cancel()
    await asyncio.wait([life])
    listener.close()
    shard.close()
    disk.close()


def _fail(error: BaseException) -> None:
    """Nothing more may be believed, flushed, let go or answered: the next start replays. Whoever is cancelled first
    could wait for a thread, and that for a disk which doesn't answer."""
    log.error("failed", error=_told(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_UNSURE)


def _told(error: BaseException) -> str:
    """The errors at the bottom of a group, in words."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_told(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shard", description=__doc__)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--supervised", action="store_true")
    options = parser.parse_args()
    if options.supervised:
        die_with_parent()
    configure_logging(f"shard-{options.index}", supervised=options.supervised)
    raise_file_limit()
    gc.set_threshold(50_000, 20, 50)  # a backlog is many objects that live for a moment, and no cycles
    sys.setswitchinterval(0.001)  # a thread whose disk has answered should not wait long for the loop
    try:
        config = load()
        data = Path(config.node.data)
        layout = placement.load(data)
        if layout is None or options.index >= layout.processes:
            raise ConfigError(f"{data} is not laid out for a shard {options.index}; run python -m shard.layout")
        keyring = open_keyring(config.encryption, data)
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    sqlite.set_up()
    held = lock(paths.shard_lock(data, options.index))
    layout = placement.settle(data)  # as it is now that a predecessor has ended
    try:
        uvloop.run(serve(config, layout, options.index, data, keyring))
    except Unsure as error:  # at the start
        _fail(error)
    os.close(held)
    # Threads may still wait for a disk that does not answer; nothing they could say matters now.
    os._exit(0)


if __name__ == "__main__":
    main()
