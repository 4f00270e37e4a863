"""Count what is in the mailboxes of a data directory, from outside: a node that is stopped.

It runs in its own process, reads the files with plain SQLite calls, and shares nothing with the
shard that wrote them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import click
import msgspec

from loadtest.children import ROOT, python
from loadtest.errors import BenchError


class Stored(msgspec.Struct, frozen=True):
    mailboxes: int
    messages: int


def count(data: Path) -> Stored:
    """Mailboxes and messages under ``data``; every file is read, logs included."""
    mailboxes = messages = 0
    for _user, db in boxes(data):
        mailboxes += 1
        messages += db.execute("SELECT count(*) FROM messages").get
    return Stored(mailboxes, messages)


def boxes(data: Path) -> Iterator[tuple[str, apsw.Connection]]:
    """Whose it is, and every box under ``data``, open until the next; logs included, nothing is changed."""
    for path in (data / "user_storage").glob("*/*/messages.db"):
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        yield path.parent.name, db
        db.close()


def elsewhere(data: Path) -> Stored:
    """:func:`count` in another process; raises :class:`BenchError` if a file can't be read."""
    command = python("loadtest.count", str(data.resolve()))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise BenchError(f"the mailboxes can't be read:\n{done.stderr}")
    return msgspec.json.decode(done.stdout, type=Stored)


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(data: Path) -> None:
    """Print how many mailboxes and messages there are, as JSON."""
    sys.stdout.buffer.write(msgspec.json.encode(count(data)) + b"\n")


if __name__ == "__main__":
    main()
