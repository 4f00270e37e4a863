"""growth: an insert into a mailbox of a million messages, and into one of a thousand.

The boxes are the shard's own (its template, its Mailbox, its checkpoint); only the messages that
make one large are put in beforehand by plain SQL. It runs in a process of its own, since the shard
sets up SQLite for a whole process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec

from loadtest.children import reported
from loadtest.figures import Result, Row, number, ratio
from loadtest.filled import Writer, seed
from loadtest.settings import Settings
from loadtest.subjects import directory
from shard.disk import Disk
from shard.mailbox import Mailbox, template
from shard.rows import Row as Message
from shard.sqlite import set_up

SMALL = 1_000
_SINGLE = 400
_BATCHES = 20
_BATCH = 50


class Grown(msgspec.Struct, kw_only=True):
    """Microseconds an insert, one value a round; sizes in bytes."""

    single_small: list[float] = []
    single_large: list[float] = []
    batch_small: list[float] = []
    batch_large: list[float] = []
    open_small: list[float] = []
    open_large: list[float] = []
    checkpoint_small: list[float] = []
    checkpoint_large: list[float] = []
    bytes_small: int = 0
    bytes_large: int = 0


def _insert(box: Mailbox, portions: list[list[Message]]) -> float:
    """Microseconds an insert, each portion in its own transaction as a postman does it."""
    began = time.perf_counter()
    for portion in portions:
        box.begin()
        box.insert(portion)
        box.commit()
    return (time.perf_counter() - began) * 1e6 / sum(map(len, portions))


def measure(data: Path, *, rows: int, rounds: int) -> Grown:
    """Make both boxes in ``data`` and insert into them in turns."""
    set_up()
    disk, empty, grown = Disk(data), template(), Grown()
    paths = {"small": data / "small.db", "large": data / "large.db"}
    writers = {name: Writer(seed) for seed, name in enumerate(paths)}
    for name, count in (("small", SMALL), ("large", rows)):
        paths[name].write_bytes(empty)
        seed(paths[name], writers[name], count)
    small = paths["small"].read_bytes()
    disk.flush()
    grown.bytes_small, grown.bytes_large = (paths[name].stat().st_size for name in ("small", "large"))
    for round_ in range(-1, rounds):
        paths["small"].write_bytes(small)
        for name, path in paths.items():
            began = time.perf_counter()
            box = Mailbox(name, path)
            opened_us = (time.perf_counter() - began) * 1e6
            take = writers[name].take
            _insert(box, [take(1)])  # the statement is prepared, the upper pages are read
            single_us = _insert(box, [take(1) for _ in range(_SINGLE)])
            batch_us = _insert(box, [take(_BATCH) for _ in range(_BATCHES)])
            began = time.perf_counter()
            box.checkpoint(disk)
            checkpoint_us = (time.perf_counter() - began) * 1e6 / (1 + _SINGLE + _BATCHES * _BATCH)
            box.close()
            if round_ >= 0:
                for what, value in (
                    ("open", opened_us),
                    ("single", single_us),
                    ("batch", batch_us),
                    ("checkpoint", checkpoint_us),
                ):
                    getattr(grown, f"{what}_{name}").append(value)
    return grown


def growth(settings: Settings) -> Result:
    with directory(settings.data, "growth") as base:
        options = ("--rows", str(settings.rows), "--rounds", str(settings.rounds))
        grown = reported("loadtest.growth", Grown, str(base.resolve()), *options)
    large, small = f"of {number(settings.rows)}", f"of {number(SMALL)}"
    rows = []
    for what, label in (
        ("single", "insert, one a transaction"),
        ("batch", f"insert, {_BATCH} a transaction"),
        ("open", "opening"),
        ("checkpoint", "checkpoint, an inserted message"),
    ):
        ours, theirs = getattr(grown, f"{what}_large"), getattr(grown, f"{what}_small")
        rows += [
            Row(label=f"{label}: {large}", values=ours, unit="µs"),
            Row(label=f"{label}: {small}", values=theirs, unit="µs"),
            ratio(f"{label}: large / small", ours, theirs, at_most=1.5 if what in ("single", "batch") else None),
        ]
    rows.append(Row(label=f"size of the file {large}", values=[grown.bytes_large / 1e6], unit="MB"))
    return Result(
        name="growth",
        title=f"a mailbox of {number(settings.rows)} messages beside one of {number(SMALL)}",
        how="The shard's own mailbox code, messages of about 600 B in 20 channels, in turns; the files are in the "
        "page cache, and the small box is a new one in each round.",
        rows=rows,
    )


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--rows", type=int, required=True)
@click.option("--rounds", type=int, required=True)
def main(data: Path, rows: int, rounds: int) -> None:
    """Measure in the directory DATA and print the figures as JSON."""
    sys.stdout.buffer.write(msgspec.json.encode(measure(data, rows=rows, rounds=rounds)))


if __name__ == "__main__":
    main()
