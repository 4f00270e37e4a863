"""``python -m loadtest.copying``: snapshots by the shard's own code beside the plain backup API.

In a process of its own, since the shard sets up SQLite for a whole process.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from pathlib import Path

import apsw
import click
import msgspec

from loadtest.filled import Writer, fill
from loadtest.syncing import Copied
from node.clock import now_us
from shard.mailbox import Mailbox
from shard.snapshots import Snapshots
from shard.sqlite import set_up


def _plain(path: Path, target: Path) -> None:
    source, copy = apsw.Connection(str(path)), apsw.Connection(str(target))
    with copy.backup("main", source, "main") as backup:
        backup.step()
    copy.close()
    source.close()
    with target.open("rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()
    target.unlink()


async def measure(base: Path, *, bytes_min: int, rounds: int) -> Copied:
    """Copy two boxes of the same size in turns; each round has a message more."""
    set_up()
    ours, theirs, copied = base / "ours" / "messages.db", base / "theirs" / "messages.db", Copied()
    for path in (ours, theirs):
        fill(path, bytes_min)
    copied.bytes = ours.stat().st_size
    snapshots = Snapshots(base / "snapshots", bytes_max=2**30, keep_s=600, room_bytes=lambda: 2**40)
    box, writer = Mailbox("ours", ours), Writer(3)
    for round_ in range(-1, rounds):
        box.begin()
        box.insert(writer.take(1))
        box.commit()
        began = time.perf_counter()
        version, path, hidden = await snapshots.copy(box, lambda: box.issue(now_us(), None))
        kept = await snapshots.finish("ours", version, path, hidden)
        mine = time.perf_counter() - began
        snapshots.forget("ours", kept.state.version)
        began = time.perf_counter()
        _plain(theirs, base / "plain.db")
        plain = time.perf_counter() - began
        if round_ >= 0:
            copied.ours.append(mine)
            copied.plain.append(plain)
    box.close()
    snapshots.close()
    return copied


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--bytes", "bytes_min", type=int, required=True)
@click.option("--rounds", type=int, required=True)
def main(data: Path, bytes_min: int, rounds: int) -> None:
    """Measure in the directory DATA and print the figures as JSON."""
    copied = asyncio.run(measure(data, bytes_min=bytes_min, rounds=rounds))
    sys.stdout.buffer.write(msgspec.json.encode(copied))


if __name__ == "__main__":
    main()
