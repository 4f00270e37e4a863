"""``python -m loadtest.backups``: what a backup, keeping delivered letters, and quotas take from deliveries.

Turns of one node each, the ways by turns: as it is, with a history, with a quota that nobody reaches, and with a backup
being made of all boxes while the load lasts. Counted is what is stored, from the first request until nothing waits any
more; look at the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from pathlib import Path

from loadtest import load
from loadtest.subjects import PoboxNode, directory, pobox
from node import ops, paths
from node.link import ask_once

_WAYS: dict[str, dict[str, str]] = {
    "as it is": {"POBOX_BACKUP_AT": ""},
    "with a history": {"POBOX_BACKUP_AT": "", "POBOX_BACKUP_HISTORY_S": "172800"},
    "with a quota": {"POBOX_BACKUP_AT": "", "POBOX_SHARD_QUOTA_BYTES": "1000000000000"},
    "during a backup": {"POBOX_BACKUP_AT": ""},
}
_SHARDS = 2
_LIMIT_S = 300.0
_ANSWER_S = 5.0


async def _begin(node: PoboxNode) -> None:
    for shard in range(_SHARDS):
        await ask_once(paths.socket_path(node.data, shard), ops.BackUp(0), ops.BackupState, timeout_s=_ANSWER_S)


def turn(base: Path, way: str, *, seconds: float, users: int) -> float:
    """Deliveries stored a second."""
    with pobox(base, shards=_SHARDS, routers=1, environ=_WAYS[way]) as node:
        load.run(f"{node.url}", seconds=1, users=users, targets=100, seed=2)  # so that there are boxes
        node.rest(limit_s=_LIMIT_S)
        if way == "during a backup":
            asyncio.run(_begin(node))
        done = load.run(f"{node.url}", seconds=seconds, users=users, targets=1, connections=128)
        node.rest(limit_s=_LIMIT_S)
        return done.accepted / (time.monotonic() - done.first_s)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.backups", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--data", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for way in _WAYS:
            with directory(options.data, "backups") as base:
                rates[way].append(turn(base, way, seconds=options.seconds, users=options.users))
    plain = statistics.median(rates["as it is"])
    for way, found in rates.items():
        median = statistics.median(found)
        shown = ", ".join(f"{rate:,.0f}" for rate in sorted(found))
        print(f"{way:16} {median:8,.0f} stored a second, {median / plain:.2f} of it as it is ({shown})")


if __name__ == "__main__":
    main()
