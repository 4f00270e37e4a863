"""What lies in the boxes of a stopped node, told by another process.

It shares nothing with the shard that wrote them but the library, opens each file for itself alone and
writes nothing: no checkpoint, no shared memory file.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import apsw
import click
import msgspec

from loadtest.children import ROOT, python
from loadtest.errors import BenchError

_MESSAGES = "SELECT id, channel_id, title, content, message_type, priority, sender, metadata FROM messages"
_canonical = msgspec.msgpack.Encoder(order="deterministic").encode


class Box(msgspec.Struct):
    """One person's box."""

    user: str
    messages: dict[str, str]
    """id → :func:`digest` of what it says"""
    channels: list[str]
    """those the person is in"""
    error: str | None = None
    """why it can't be read"""


def digest(
    channel_id: str,
    title: str,
    content: str,
    message_type: str,
    priority: int,
    sender: str | None,
    metadata: dict[str, Any] | None,
) -> str:
    """Stands for everything that a sender wrote into a message."""
    whole = (channel_id, title, content, message_type, priority, sender, metadata)
    return blake2b(_canonical(whole), digest_size=8).hexdigest()


def boxes(data: Path) -> Iterator[Box]:
    """Read every box under ``data``; logs included, nothing is changed."""
    for path in sorted((data / "user_storage").glob("*/*/messages.db")):
        try:
            yield _box(path)
        except apsw.Error as error:
            yield Box(path.parent.name, {}, [], error=f"{type(error).__name__}: {error}")


def _box(path: Path) -> Box:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.pragma("locking_mode", "exclusive")
        user = path.parent.name
        messages = {
            id: digest(channel, title, content, kind, priority, sender, metadata and msgspec.json.decode(metadata))
            for id, channel, title, content, kind, priority, sender, metadata in db.execute(_MESSAGES)
        }
        rows = db.execute("SELECT channel_id FROM user_channels WHERE user_id=? ORDER BY 1", (user,))
        return Box(user, messages, [row[0] for row in rows])
    finally:
        db.close()


def elsewhere(data: Path) -> Iterator[Box]:
    """:func:`boxes` in another process; raises :class:`BenchError` if that fails."""
    command = python("loadtest.kill_boxes", str(data.resolve()))
    decode = msgspec.json.Decoder(Box).decode
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        for line in reader.stdout:
            yield decode(line)
        words = reader.stderr.read().decode(errors="replace")
    if reader.returncode:
        raise BenchError(f"the boxes can't be read:\n{words}")


def doctor(data: Path) -> str | None:
    """What ``pobox doctor`` has to complain about, None if nothing."""
    command = python("node", "doctor", "--data", str(data.resolve()))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return None if done.returncode == 0 else done.stdout + done.stderr


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(data: Path) -> None:
    """Print each box as a line of JSON."""
    for box in boxes(data):
        sys.stdout.buffer.write(msgspec.json.encode(box) + b"\n")


if __name__ == "__main__":
    main()
