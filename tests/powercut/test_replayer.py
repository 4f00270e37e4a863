"""The model itself, on trial with plain SQLite: what should survive does, what shouldn't doesn't."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from .recorder import (
    Ack,
    Create,
    Delete,
    Fact,
    MakeDirectory,
    Offer,
    Recording,
    RecordingDisk,
    RecordingVFS,
    Rename,
    Sync,
    Truncate,
    Write,
    contents,
)
from .replayer import Mode, Replayer, disks
from .scratch import scratch_directory

VFS = "powercut-selftest"
SEEDS = range(4)


@pytest.fixture
def scratch() -> Iterator[Path]:
    with scratch_directory() as path:
        yield path


@pytest.fixture
def recording(scratch: Path) -> Iterator[Recording]:
    (scratch / "real").mkdir()
    recording = Recording(scratch / "real")
    vfs = RecordingVFS(VFS, recording)
    yield recording
    vfs.unregister()


def open_db(path: Path, *, synchronous: str, exclusive: bool = True, vfs: str | None = VFS) -> apsw.Connection:
    db = apsw.Connection(str(path), vfs=vfs)
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.pragma("locking_mode", "exclusive" if exclusive else "normal")
    db.pragma("journal_mode", "wal")
    db.pragma("wal_autocheckpoint", 0)
    db.pragma("synchronous", synchronous)
    return db


def flushing_checkpoint(db: apsw.Connection) -> None:
    db.pragma("synchronous", "full")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.pragma("synchronous", "off")


def row(number: int) -> tuple[Fact]:
    return (Fact("a", "t", str(number)),)


def insert(recording: Recording, db: apsw.Connection, number: int) -> None:
    """A row that is acknowledged when its transaction has ended."""
    recording.add(Offer(row(number)))
    db.execute("INSERT INTO t VALUES(?, ?)", (number, f"{number:05}" * 300))
    recording.add(Ack(row(number)))


def verdicts(recording: Recording, into: Path, seeds: range) -> Counter[str]:
    """How many disks were good, lost an acknowledged row, or were damaged."""
    return Counter(
        verdict(into / "a.db", replayer) for seed in seeds for replayer, _mode in disks(recording, into, seed=seed)
    )


def verdict(path: Path, replayer: Replayer) -> str:
    found: list[str] = []
    try:
        if path.exists():
            db = apsw.Connection(str(path))
            try:
                if db.execute("PRAGMA integrity_check").get != "ok":
                    return "damaged"
                if db.execute("SELECT 1 FROM sqlite_schema WHERE name='t'").get:
                    found = [str(id_) for (id_,) in db.execute("SELECT id FROM t")]
                    db.execute("INSERT INTO t VALUES(-1, 'it can be written to')")
            finally:
                db.close()
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError):
        return "damaged"
    assert len(found) == len(set(found))
    assert set(found) <= {place.id for place in replayer.promised}
    lost = any((place.id in found) not in states for place, states in replayer.promised.items())
    return "lost" if lost else "good"


def checkpointing_run(recording: Recording, checkpoint: Callable[[apsw.Connection], object]) -> None:
    """A database born durably, then run under OFF: three rounds of inserts, each covered by a
    barrier (and acknowledged when it ended), and then checkpointed."""
    disk = RecordingDisk(recording)
    db = open_db(recording.root / "a.db", synchronous="full")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    disk.flush()
    db.pragma("synchronous", "off")
    for round_ in range(3):
        numbers = range(round_ * 6, round_ * 6 + 6)
        for number in numbers:
            recording.add(Offer(row(number)))
            db.execute("INSERT INTO t VALUES(?, ?)", (number, f"{number:05}" * 300))
        disk.flush()
        recording.add(*(Ack(row(number)) for number in numbers))
        checkpoint(db)
    db.close()
    disk.close()


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "shared"])
def test_full_synchronous_keeps_every_acknowledged_row(recording: Recording, scratch: Path, exclusive: bool) -> None:
    db = open_db(recording.root / "a.db", synchronous="full", exclusive=exclusive)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)")
    for number in range(12):
        insert(recording, db, number)
        if number % 5 == 4:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()
    assert set(verdicts(recording, scratch / "disk", SEEDS)) == {"good"}


def test_off_without_a_barrier_loses_acknowledged_rows(recording: Recording, scratch: Path) -> None:
    db = open_db(recording.root / "a.db", synchronous="off")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)")
    for number in range(8):
        insert(recording, db, number)
    db.close()
    assert verdicts(recording, scratch / "disk", SEEDS)["lost"] > 0


@pytest.mark.slow
def test_off_keeps_what_a_barrier_covered_if_checkpoints_flush_and_so_does_the_cut_log(
    recording: Recording, scratch: Path
) -> None:
    disk = RecordingDisk(recording)

    def flushing(db: apsw.Connection) -> None:
        flushing_checkpoint(db)
        disk.sync_file(recording.root / "a.db-wal")

    checkpointing_run(recording, flushing)
    disk.close()
    assert set(verdicts(recording, scratch / "disk", SEEDS)) == {"good"}


@pytest.mark.slow
def test_a_checkpoint_under_off_damages_what_a_barrier_had_covered(recording: Recording, scratch: Path) -> None:
    checkpointing_run(recording, lambda db: db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE))
    seen = verdicts(recording, scratch / "disk", SEEDS)
    assert seen["lost"] > 0
    assert seen["damaged"] > 0


@pytest.mark.slow
def test_a_flushing_checkpoint_whose_cut_isnt_flushed_mixes_old_frames_with_new(
    recording: Recording, scratch: Path
) -> None:
    checkpointing_run(recording, flushing_checkpoint)
    seen = verdicts(recording, scratch / "disk", SEEDS)
    assert seen["lost"] + seen["damaged"] > 0


def test_with_everything_kept_the_last_disk_is_the_real_one(recording: Recording, scratch: Path) -> None:
    disk = RecordingDisk(recording)
    disk.make_directory(recording.root / "x" / "y")
    disk.write(recording.root / "x" / "y" / "f", b"1" * 700)
    disk.write(recording.root / "x" / "y" / "f", b"2" * 300)
    disk.rename(recording.root / "x" / "y" / "f", recording.root / "x" / "g")
    disk.write(recording.root / "gone", b"3")
    disk.remove(recording.root / "gone")
    disk.close()
    db = open_db(recording.root / "x" / "a.db", synchronous="off")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)")
    insert(recording, db, 1)
    db.close()
    replayer = Replayer(recording, scratch / "disk")
    replayer.advance(len(recording.events))
    replayer.rebuild("all", random.Random(0))
    assert contents(scratch / "disk") == contents(recording.root)


def replayed(recording: Recording, into: Path, mode: Mode, seed: int = 0) -> dict[str, bytes]:
    replayer = Replayer(recording, into)
    replayer.advance(len(recording.events))
    replayer.rebuild(mode, random.Random(seed))
    return contents(into)


def every(recording: Recording, into: Path, mode: Mode = "random") -> list[dict[str, bytes]]:
    return [replayed(recording, into, mode, seed) for seed in range(200)]


def test_an_unsynced_file_may_be_absent_and_a_synced_one_brings_its_directory(
    recording: Recording, scratch: Path
) -> None:
    recording.add(MakeDirectory("d"), Create("d/f"), Write("d/f", 0, b"f"), Create("d/g"), Write("d/g", 0, b"g"))
    assert replayed(recording, scratch / "disk", "none") == {}
    recording.add(Sync("d/f", False, recording.position()))
    assert replayed(recording, scratch / "disk", "none") == {"d/f": b"f"}
    assert {frozenset(disk.items()) for disk in every(recording, scratch / "disk")} == {
        frozenset({("d/f", b"f")}),
        frozenset({("d/f", b"f"), ("d/g", b"")}),
        frozenset({("d/f", b"f"), ("d/g", b"g")}),
    }


def test_sectors_are_kept_each_by_itself_and_lost_ones_below_the_length_read_as_zeros(
    recording: Recording, scratch: Path
) -> None:
    recording.add(Create("f"), Sync("f", False, 1), Write("f", 0, b"a" * 1024), Write("f", 100, b"b"))
    first, with_b, second = b"a" * 512, b"a" * 100 + b"b" + b"a" * 411, b"a" * 512
    assert {disk["f"] for disk in every(recording, scratch / "disk")} == {
        b"",
        first,
        with_b,
        bytes(512) + second,
        first + second,
        with_b + second,
    }


def test_a_flush_covers_only_what_was_written_before_it_began(recording: Recording, scratch: Path) -> None:
    recording.add(Create("f"), Write("f", 0, b"before"), Write("f", 0, b"during"), Sync("f", False, 2))
    assert replayed(recording, scratch / "disk", "none") == {"f": b"before"}


def test_names_in_a_directory_reach_the_disk_in_order(recording: Recording, scratch: Path) -> None:
    recording.add(Create("a"), Write("a", 0, b"old"), Sync("a", False, 2))
    recording.add(Create("b"), Delete("a"), Rename("b", "a"), Create("c"))
    assert {tuple(sorted(disk.items())) for disk in every(recording, scratch / "disk")} == {
        (("a", b"old"),),
        (("a", b"old"), ("b", b"")),
        (("b", b""),),
        (("a", b""),),
        (("a", b""), ("c", b"")),
    }


def test_new_content_may_lie_on_an_old_length(recording: Recording, scratch: Path) -> None:
    recording.add(Create("f"), Write("f", 0, b"oldold"), Sync("f", False, 2), Truncate("f", 0), Write("f", 0, b"new"))
    assert {disk["f"] for disk in every(recording, scratch / "disk")} == {b"oldold", b"", b"new", b"newold"}
