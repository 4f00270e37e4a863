"""``python -m tests.powercut --lives 100``: the long proof. Exit 1 and the disk's name where it fails."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter

import structlog

from .proof import verdicts
from .scratch import scratch_directory
from .workload import record


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.powercut", description=__doc__)
    parser.add_argument("--lives", type=int, default=10, help="lives to record and cut (default: 10)")
    parser.add_argument("--first", type=int, default=1, help="seed of the first one (default: 1)")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    total: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.lives):
        with scratch_directory() as scratch:
            recording = record(scratch / "data", seed=seed)
            disks: Counter[str] = Counter()
            for verdict in verdicts(recording, scratch / "disk", seed=seed):
                disks[verdict.mode] += 1
                if not verdict.is_good:
                    disks["BAD"] += 1
                    told = "\n  ".join(verdict.broken)
                    print(f"seed {seed} cut {verdict.cut} {verdict.mode}: {verdict.set_aside} set aside\n  {told}")
        total += disks
        print(f"seed {seed}: {len(recording.events)} events, disks: {dict(disks)}", flush=True)
    print(f"{options.lives} lives, disks: {dict(total)}")
    return 1 if total["BAD"] else 0


if __name__ == "__main__":
    sys.exit(main())
