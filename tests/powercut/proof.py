"""From a recording to a verdict on each of its cuts: rebuild the disk, start a shard on it, look."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .recorder import Recording
from .replayer import Mode, Place, Replayer, disks
from .workload import broken_promises, broken_versions, recover, restart_recorded

MODES: tuple[Mode, ...] = ("none", "random", "torn")


@dataclass(frozen=True)
class Verdict:
    """On the disk of ``cut`` and ``mode``, after a restart on it."""

    seed: int
    cut: int
    mode: Mode
    broken: tuple[str, ...]
    """promises that were not kept, or why the shard didn't start"""
    set_aside: int
    """boxes that were taken for damaged; a power cut should not do that either"""
    promised: Mapping[Place, frozenset[bool]]

    @property
    def is_good(self) -> bool:
        return not self.broken and not self.set_aside


def verdicts(
    recording: Recording,
    into: Path,
    *,
    seed: int,
    modes: Iterable[Mode] = MODES,
    cuts: Iterable[int] | None = None,
    promised: Mapping[Place, frozenset[bool]] | None = None,
) -> Iterator[Verdict]:
    """One for each disk (see :func:`.replayer.disks`); ``into`` is left as the restart left it."""
    with asyncio.Runner() as runner:
        for replayer, mode in disks(recording, into, seed=seed, modes=modes, cuts=cuts, promised=promised):
            try:
                set_aside, broken = runner.run(recover(into)), broken_promises(into, replayer.promised)
                broken += broken_versions(into, recording.versions)
            except Exception as error:
                set_aside, broken = 0, [_told(error)]
            yield Verdict(seed, replayer.cut, mode, tuple(broken), set_aside, dict(replayer.promised))


def second_verdicts(
    first: Recording, into: Path, *, seed: int, number: int, step: int, modes: Iterable[Mode]
) -> Iterator[tuple[int, Verdict]]:
    """A second cut while the first is repaired: after ``number`` cuts of ``first``, taken by chance, the next start is
    recorded, and every ``step``-th cut of that made. Each verdict comes with the first cut; ``into`` is left as it
    is."""
    rng = random.Random(seed)
    every = range(len(first.events))
    for place, cut in enumerate(sorted(rng.sample(every, min(number, len(every))))):
        repaired = into / f"first-{place}"
        replayer = Replayer(first, repaired)
        replayer.advance(cut)
        replayer.rebuild("random", rng)
        try:
            second = restart_recorded(repaired)
        except Exception as error:
            yield cut, Verdict(place, 0, "random", (_told(error),), 0, replayer.promised)
            continue
        cuts = range(0, len(second.events) + 1, step)
        again = into / f"second-{place}"
        for verdict in verdicts(second, again, seed=place, modes=modes, cuts=cuts, promised=replayer.promised):
            yield cut, verdict


def _told(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
