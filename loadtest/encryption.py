"""``python -m loadtest.encryption``: what encryption takes from deliveries. Needs apsw-sqlite3mc in the place of apsw.

Turns of one node each, plain and encrypted by turns, with one user a request and with a hundred. Counted is what is
stored, from the first request until nothing waits any more; look at the ratios. The processor time of the shards for
each delivery says the same on a machine that has other work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from loadtest import load
from loadtest.subjects import directory, pobox
from shard import master_key
from shard.sqlite import can_encrypt

_SHARDS = 2
_LIMIT_S = 300.0
_TARGETS = (1, 100)
_WAYS = ("plain", "encrypted")


class Turn(NamedTuple):
    """Deliveries stored a second, and the shards' processor time for one, in microseconds."""

    rate: float
    cpu_us: float


def turn(base: Path, way: str, *, targets: int, seconds: float, users: int) -> Turn:
    environ = {"POBOX_BACKUP_AT": ""}
    if way == "encrypted":
        key = base / "master.key"
        master_key.make(key)
        environ |= {"POBOX_ENCRYPTION_ENABLED": "true", "POBOX_ENCRYPTION_MASTER_KEY": str(key)}
    with pobox(base, shards=_SHARDS, routers=1, environ=environ) as node:
        load.run(node.url, seconds=1, users=users, targets=100, seed=2)  # so that there are boxes
        node.rest(limit_s=_LIMIT_S)
        before = node.cpu_s().get("shard", 0.0)
        done = load.run(node.url, seconds=seconds, users=users, targets=targets, connections=128)
        node.rest(limit_s=_LIMIT_S)
        deliveries, took_s = done.accepted * targets, time.monotonic() - done.first_s
        return Turn(deliveries / took_s, (node.cpu_s().get("shard", 0.0) - before) / deliveries * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.encryption", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--data", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    if not can_encrypt():
        raise SystemExit("apsw-sqlite3mc is not in the place of apsw")
    turns: dict[tuple[int, str], list[Turn]] = defaultdict(list)
    for _ in range(options.rounds):
        for targets in _TARGETS:
            for way in _WAYS:
                with directory(options.data, "encryption") as base:
                    turns[targets, way].append(
                        turn(base, way, targets=targets, seconds=options.seconds, users=options.users)
                    )
    for targets in _TARGETS:
        for way in _WAYS:
            found = turns[targets, way]
            rates = ", ".join(f"{one.rate:,.0f}" for one in sorted(found))
            cpu_us = statistics.median(one.cpu_us for one in found)
            rate = statistics.median(one.rate for one in found)
            print(f"{targets:3} users, {way:9} {rate:8,.0f}/s ({rates}), {cpu_us:.1f} us")
        # Of each round, since a machine of others is not the same for long.
        pairs = list(zip(turns[targets, "plain"], turns[targets, "encrypted"], strict=True))
        share = statistics.median(ours.rate / plain.rate for plain, ours in pairs)
        cpu = statistics.median(ours.cpu_us / plain.cpu_us for plain, ours in pairs)
        print(
            f"{targets:3} users: {share:.2f} of what it stores plain, for {cpu:.2f} of the processor time of the shards"
        )


if __name__ == "__main__":
    main()
