"""From a recording to a verdict on each of its cuts: rebuild the disk, start a shard on it, look."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .recorder import Recording
from .replayer import Mode, Place, disks
from .workload import broken_promises, broken_versions, recover

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
                set_aside, broken = 0, ["".join(traceback.format_exception(error))]
            yield Verdict(seed, replayer.cut, mode, tuple(broken), set_aside, dict(replayer.promised))
