"""``python -m tests.powercut --lives 100``: the long proof. Exit 1 and the disk's name where it fails."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import structlog

from shard.sqlite import can_encrypt
from tests import encrypted

from .proof import MODES, Verdict, second_verdicts, verdicts
from .recorder import Recording
from .scratch import scratch_directory
from .workload import record


def main() -> int:
    options = _options()
    encrypted.ON = options.encrypted
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    total: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.lives):
        with scratch_directory() as scratch:
            recording = record(scratch / "data", seed=seed, trouble=options.trouble)
            disks: Counter[str] = Counter()
            for name, verdict in _verdicts(recording, scratch / "disk", seed, options):
                disks[verdict.mode] += 1
                if not verdict.is_good:
                    disks["BAD"] += 1
                    told = "\n  ".join(verdict.broken)
                    print(f"seed {seed} {name} {verdict.mode}: {verdict.set_aside} set aside\n  {told}")
        total += disks
        print(f"seed {seed}: {len(recording.events)} events, disks: {dict(disks)}", flush=True)
    print(f"{options.lives} lives, disks: {dict(total)}")
    return 1 if total["BAD"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.powercut", description=__doc__)
    parser.add_argument("--lives", type=int, default=10, help="lives to record and cut (default: 10)")
    parser.add_argument("--first", type=int, default=1, help="seed of the first one (default: 1)")
    parser.add_argument("--step", type=int, default=1, metavar="N", help="only every Nth cut (default: 1)")
    parser.add_argument("--trouble", action="store_true", help="lives in which a box can't be written for a while")
    parser.add_argument(
        "--second",
        type=int,
        metavar="N",
        help="instead: after N cuts of each life, taken by chance, the next start is cut",
    )
    parser.add_argument("--encrypted", action="store_true", help="with encryption on: needs apsw-sqlite3mc")
    options = parser.parse_args()
    if options.encrypted and not can_encrypt():
        parser.error("apsw-sqlite3mc isn't in the place of apsw")
    return options


def _verdicts(
    recording: Recording, into: Path, seed: int, options: argparse.Namespace
) -> Iterator[tuple[str, Verdict]]:
    """Each with the name of its cut."""
    if options.second is None:
        cuts = range(0, len(recording.events) + 1, options.step)
        for verdict in verdicts(recording, into, seed=seed, cuts=cuts):
            yield f"cut {verdict.cut}", verdict
    else:
        second = second_verdicts(recording, into, seed=seed, number=options.second, step=options.step, modes=MODES)
        for cut, verdict in second:
            yield f"cut {cut}, then {verdict.cut}", verdict


if __name__ == "__main__":
    sys.exit(main())
