"""``python -m loadtest.backups``: what a backup, keeping delivered letters, and quotas take from deliveries.

Turns of one node each, the ways by turns: as it is, with a history, with a quota that nobody reaches, and with a backup
being made of all boxes while the load lasts. Counted is what is stored, from the first request until nothing waits any
more; look at the ratios, which are made round by round. The processor time of the shards for each delivery says the
same on a machine that has other work.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from loadtest import load
from loadtest.subjects import PoboxNode, directory, pobox
from node import ops, paths
from node.link import ask_once

_BASE = "as it is"
_WAYS: dict[str, dict[str, str]] = {
    _BASE: {},
    "with a history": {"POBOX_BACKUP_HISTORY_S": "172800"},
    "with a quota": {"POBOX_SHARD_QUOTA_BYTES": "1000000000000"},
    "during a backup": {},
}
_SHARDS = 2
_LIMIT_S = 300.0
_ANSWER_S = 5.0


class Turn(NamedTuple):
    """Deliveries stored a second, and the shards' processor time for one, in microseconds."""

    rate: float
    cpu_us: float


async def _begin(node: PoboxNode) -> None:
    for shard in range(_SHARDS):
        await ask_once(paths.socket_path(node.data, shard), ops.BackUp(0), ops.BackupState, timeout_s=_ANSWER_S)


def turn(base: Path, way: str, *, seconds: float, users: int) -> Turn:
    with pobox(base, shards=_SHARDS, routers=1, environ={"POBOX_BACKUP_AT": "", **_WAYS[way]}) as node:
        load.run(f"{node.url}", seconds=1, users=users, targets=100, seed=2)  # so that there are boxes
        node.rest(limit_s=_LIMIT_S)
        if way == "during a backup":
            asyncio.run(_begin(node))
        before = node.cpu_s().get("shard", 0.0)
        done = load.run(f"{node.url}", seconds=seconds, users=users, targets=1, connections=128)
        node.rest(limit_s=_LIMIT_S)
        took_s, used_s = time.monotonic() - done.first_s, node.cpu_s().get("shard", 0.0) - before
        return Turn(done.accepted / took_s, used_s / done.accepted * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.backups", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--way", action="append", choices=[way for way in _WAYS if way != _BASE], help="only this one")
    parser.add_argument("--data", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    ways = [way for way in _WAYS if way == _BASE or not options.way or way in options.way]
    turns: dict[str, list[Turn]] = defaultdict(list)
    for _ in range(options.rounds):
        for way in ways:
            with directory(options.data, "backups") as base:
                turns[way].append(turn(base, way, seconds=options.seconds, users=options.users))
    for way, found in turns.items():
        pairs = list(zip(turns[_BASE], found, strict=True))
        shares = [ours.rate / plain.rate for plain, ours in pairs]
        cpu = statistics.median(ours.cpu_us / plain.cpu_us for plain, ours in pairs)
        shown = ", ".join(f"{one.rate:,.0f}" for one in found)
        print(
            f"{way:16} {statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f}) of what is stored as it"
            f" is, for {cpu:.2f} of the processor time of the shards ({shown} a second)"
        )


if __name__ == "__main__":
    main()
