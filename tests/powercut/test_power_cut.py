"""What was answered 202 is in every target's box exactly once, through a power cut at any moment.

And the controls: take away any one of the things that the promise rests on, and a disk is found on
which it is broken. Without them the proof would prove nothing. Here some of the cuts of one life are made;
``python -m tests.powercut`` makes all of them, of as many lives as it is told.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shard.sqlite import Sync as Synchronous
from shard.tail import Tail
from tests import encrypted

from .proof import second_verdicts, verdicts
from .recorder import (
    Ack,
    BarrierBegin,
    BarrierEnd,
    Create,
    Event,
    Purge,
    Recording,
    RecordingDisk,
    Truncate,
    Write,
    contents,
)
from .replayer import Replayer
from .scratch import scratch_directory
from .workload import record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

_STEP = 6
_CONTROL_SEEDS = range(8)
_CONTROL_STEP = 3


def _step(plain: int) -> int:
    """What is tried of every so many cuts where boxes are plain: of encrypted ones, which have the same ways, fewer."""
    return plain * 3 if encrypted.ON else plain


class NoBarrierDisk(RecordingDisk):
    """Says that the barrier succeeded, and does nothing."""

    def flush(self) -> None:
        return


class UnflushedLogDisk(RecordingDisk):
    """Says that a box's cut log is durable, and does nothing."""

    def sync_file(self, path: Path) -> None:
        return


@pytest.fixture
def scratch() -> Iterator[Path]:
    with scratch_directory() as path:
        yield path


@pytest.mark.long
@pytest.mark.parametrize("seed", [4, 5])
def test_a_power_cut_at_any_moment_loses_and_doubles_nothing(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    with monkeypatch.context() as watched:
        tail = _watch_tail(watched)
        recording = record(scratch / "data", seed=seed)
    assert min(tail["add"], tail["take"]) > 0
    _assert_eventful(recording.events)
    _assert_faithful(recording, scratch / "disk")
    cuts = range(0, len(recording.events) + 1, _step(_STEP))
    for verdict in verdicts(recording, scratch / "disk", seed=seed, cuts=cuts):
        assert verdict.is_good, verdict


@pytest.mark.long
def test_a_second_power_cut_while_the_first_is_repaired_loses_and_doubles_nothing(scratch: Path) -> None:
    first = record(scratch / "data", seed=2)
    for cut, verdict in second_verdicts(first, scratch, seed=2, number=8, step=_step(3), modes=("random",)):
        assert verdict.is_good, (cut, verdict)


@pytest.mark.long
def test_what_waits_for_a_box_in_trouble_is_in_it_or_dead_through_a_power_cut(scratch: Path) -> None:
    """Or waits: then it is in the box as soon as that can be written, which it can be after the cut."""
    recording = record(scratch / "data", seed=3, trouble=True)
    for verdict in verdicts(recording, scratch / "disk", seed=3, cuts=range(0, len(recording.events) + 1, _step(3))):
        assert verdict.is_good, verdict


@pytest.mark.parametrize("options", [(), ("--trouble",), ("--second", "1"), ("--trouble", "--second", "1")])
def test_the_long_proof_makes_the_cuts_that_it_is_told(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "tests.powercut", "--lives", "1", "--step", "150", *options]
    proof = subprocess.run([*command, *["--encrypted"] * encrypted.ON], capture_output=True, text=True)
    assert (proof.returncode, proof.stderr) == (0, ""), proof
    assert re.fullmatch(r"seed 1: \d+ events, disks: (.+)\n1 lives, disks: \1\n", proof.stdout), proof.stdout
    assert "'none': " in proof.stdout


def test_without_the_barrier_it_is_lost(scratch: Path) -> None:
    assert _breaks(scratch, disk=NoBarrierDisk, since=lambda event: isinstance(event, Purge))


def test_with_a_journal_that_doesnt_flush_it_is_lost(scratch: Path) -> None:
    assert _breaks(scratch, journal=Synchronous.OFF)


def test_with_a_cut_log_that_isnt_flushed_it_is_lost(scratch: Path) -> None:
    assert _breaks(scratch, disk=UnflushedLogDisk, since=_is_cut_of_a_log)


def test_without_the_repair_of_boxes_torn_at_birth_some_are_damaged(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard.opener.torn_at_birth", lambda content, template: False)
    monkeypatch.setattr("shard.opener.torn_when_encrypted", lambda content, size: False)
    assert _breaks(scratch)


def test_without_the_note_of_a_change_a_version_is_given_to_two_contents(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard.mailbox.SOIL", "SELECT 1")
    assert _breaks(scratch)


def _breaks(
    scratch: Path,
    *,
    disk: type[RecordingDisk] = RecordingDisk,
    journal: Synchronous = Synchronous.FULL,
    since: Callable[[Event], bool] = lambda event: True,
) -> bool:
    """Whether a disk is found on which the promise is broken, by a cut after the first event for which ``since``
    holds."""
    for seed in _CONTROL_SEEDS:
        recording = record(scratch / f"data-{seed}", seed=seed, disk=disk, journal=journal)
        count = len(recording.events)
        first = next((number for number, event in enumerate(recording.events) if since(event)), count)
        cuts = range(first, count + 1, _CONTROL_STEP)
        if any(not verdict.is_good for verdict in verdicts(recording, scratch / f"disk-{seed}", seed=seed, cuts=cuts)):
            return True
    return False


def _is_cut_of_a_log(event: Event) -> bool:
    return isinstance(event, Truncate) and event.size == 0 and event.path.endswith("/messages.db-wal")


def _watch_tail(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often letters went to the tail, and were taken from it."""
    seen: Counter[str] = Counter()
    for name in ("add", "take"):
        work = getattr(Tail, name)

        def watched(self: Tail, *arguments: Any, name: str = name, work: Any = work) -> Any:
            seen[name] += 1
            return work(self, *arguments)

        monkeypatch.setattr(Tail, name, watched)
    return seen


def _assert_eventful(events: list[Event]) -> None:
    """Everything that could go wrong did happen, so that it was cut."""
    seen: Counter[str] = Counter()
    flushing = False
    for event in events:
        match event:
            case BarrierBegin():
                flushing = True
            case BarrierEnd():
                flushing = False
                seen["barrier"] += 1
            case Ack():
                seen["answer during a barrier" if flushing else "answer"] += 1
            case Create(path=path) if path.endswith("/messages.db"):
                seen["birth during a barrier" if flushing else "birth"] += 1
            case Truncate() if _is_cut_of_a_log(event):
                seen["checkpoint of a box"] += 1
            case Write(path=path) if path.endswith("/shard-0.db"):
                seen["checkpoint of the journal"] += 1
            case Purge():
                seen["purge"] += 1
    assert set(seen) == {
        "barrier",
        "answer during a barrier",
        "answer",
        "birth during a barrier",
        "birth",
        "checkpoint of a box",
        "checkpoint of the journal",
        "purge",
    }


def _assert_faithful(recording: Recording, into: Path) -> None:
    """With everything kept the last disk is the real one: nothing went past the recorder, but for notes in a keyring,
    which a replay finds as it was at the beginning."""
    replayer = Replayer(recording, into)
    replayer.advance(len(recording.events))
    replayer.rebuild("all", random.Random(0))
    found, real = contents(into), contents(recording.root)
    for keys in [path for path in real if "/keyring/" in path]:
        del found[keys], real[keys]
    assert found == real
