"""Devices that disagree come to agree, whatever their clocks say; and what was accepted survives a power cut."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import ops
from node.clock import iso, now_us, us_of
from node.model import ReadingPosition, ReadStatus, Status
from shard import notes, read_status, sqlite
from shard.disk import Disk
from shard.merge import EFFECTS, Marks, Place, effective_us
from shard.read_status import NOTE, StatusFile
from shard.status_birth import FILE, give_birth, template
from tests.powercut.recorder import Recording, RecordingDisk, RecordingVFS, Write
from tests.powercut.replayer import disks

from .running import START_US, scratch

MESSAGES = {"a": "news", "b": "news", "c": "direct"}
DEVICES = ["phone", "tablet", None]
SECOND = 1_000_000
_TEMPLATE = template()


def born(directory: Path) -> Path:
    """A new file of a person who has a directory."""
    box = directory / "user_storage" / "1" / "ada"
    box.mkdir(parents=True)
    disk = Disk(directory)
    give_birth(box / FILE, _TEMPLATE, disk)
    disk.close()
    return box / FILE


@pytest.fixture
def file() -> Iterator[StatusFile]:
    with scratch() as directory:
        opened = StatusFile(born(directory))
        yield opened
        opened.close()


def row(message: str, status: str, second: int, device: str | None = "phone") -> ops.StatusRow:
    return ops.StatusRow(message, status, START_US + second * SECOND, device)


def place(message: str, second: int, position: int = 0) -> ops.PositionRow:
    return ops.PositionRow(MESSAGES.get(message, "news"), message, START_US + second * SECOND, position)


def merge(
    file: StatusFile,
    changes: list[ops.StatusRow] | None = None,
    positions: list[ops.PositionRow] | None = None,
    *,
    now: int = 1_000,
    skew_us: int = 0,
) -> read_status.Merged:
    return file.merge(changes or [], positions or [], MESSAGES, skew_us=skew_us, now_us=START_US + now * SECOND)


def everything(file: StatusFile) -> ReadStatus:
    return file.pull(None, 1_000_000)


def status_of(file: StatusFile, message: str) -> Status:
    [found] = file.statuses([message])
    return found


class Device:
    """What a device knows: it applies what it is told, and nothing else."""

    def __init__(self) -> None:
        self.since: int | None = None
        self.statuses: dict[str, Status] = {}
        self.positions: dict[str, ReadingPosition] = {}

    def pull(self, file: StatusFile, limit: int) -> bool:
        """One page; whether there is more."""
        told = file.pull(self.since, limit)
        assert len(told.statuses) + len(told.positions) <= limit
        if told.full:
            self.statuses, self.positions = {}, {}
        self.statuses.update({status.message_id: status for status in told.statuses})
        self.positions.update({position.channel_id: position for position in told.positions})
        self.since = _us(told.since)
        return told.more

    def knows(self) -> tuple[dict[str, Status], dict[str, ReadingPosition]]:
        return self.statuses, self.positions


def pull_all(device: Device, file: StatusFile, limit: int = 1) -> int:
    """Until there is no more; how many pages it took."""
    for pages in range(1, 1_000):
        if not device.pull(file, limit):
            return pages
    raise AssertionError("it never ends")


def _us(since: str) -> int:
    return us_of(datetime.fromisoformat(since))


def whole(file: StatusFile) -> tuple[dict[str, Status], dict[str, ReadingPosition]]:
    told = everything(file)
    return {s.message_id: s for s in told.statuses}, {p.channel_id: p for p in told.positions}


def recounted(path: Path) -> dict[str, tuple[int, dict[str, int]]]:
    """What ``read_stats`` should say, from the rows."""
    db = apsw.Connection(str(path))
    days: dict[str, Counter[str]] = {}
    for read_at, channel in db.execute("SELECT read_at, channel_id FROM read_status WHERE read_at<>''"):
        days.setdefault(read_at[:10], Counter())[channel] += 1
    db.close()
    return {day: (channels.total(), dict(channels)) for day, channels in days.items()}


def stats(path: Path) -> dict[str, tuple[int, dict[str, int]]]:
    db = apsw.Connection(str(path))
    found = {
        day: (total, msgspec.json.decode(channels))
        for day, total, channels in db.execute("SELECT date, total_read, channel_stats FROM read_stats")
    }
    db.close()
    return found


# -- who is right ------------------------------------------------------------------------------------


@given(st.permutations([(n, status) for n, status in enumerate([*EFFECTS, *reversed(EFFECTS)])]))
def test_the_order_in_which_devices_come_decides_nothing(order: list[tuple[int, str]]) -> None:
    marks = Marks("a", "news")
    for second, status in order:
        marks.merge(status, second, f"device {second % 3}")
    last = {EFFECTS[status][0]: EFFECTS[status][1] for _second, status in sorted(order)}
    assert [bool(mark.at) for mark in (marks.read, marks.archived, marks.starred)] == [last[n] for n in range(3)]


@given(st.permutations([(n, f"m{n % 4}") for n in range(8)]))
def test_the_latest_position_holds_in_any_order(order: list[tuple[int, str]]) -> None:
    place_ = Place("news")
    for second, message in order:
        place_.merge(message, 0, second)
    assert (place_.message_id, place_.us) == ("m3", 7)


@given(st.integers(-(2**60), 2**60), st.integers(-(2**60), 2**60))
def test_no_clock_is_later_than_now_or_earlier_than_1970(at_us: int, skew_us: int) -> None:
    us = effective_us(at_us, skew_us, START_US)
    assert 0 <= us <= START_US
    assert len(iso(us)) == 27


def test_a_later_change_holds_and_an_earlier_one_is_a_conflict(file: StatusFile) -> None:
    assert merge(file, [row("a", "read", 10)]).accepted == 1
    late = merge(file, [row("a", "unread", 9, "tablet"), row("a", "starred", 1, "tablet")])
    assert late.accepted == 1
    assert [(c.index, c.message_id, c.status, c.reason) for c in late.conflicts] == [(0, "a", "unread", "newer")]
    assert merge(file, [row("a", "unread", 11, "tablet")]).accepted == 1
    found = status_of(file, "a")
    assert (found.read_at, found.read_device, found.starred_at) == (None, None, iso(START_US + SECOND))


def test_to_say_once_more_what_holds_counts_as_said_later(file: StatusFile) -> None:
    merge(file, [row("a", "read", 10)])
    before = everything(file)
    assert merge(file, [row("a", "read", 20, "tablet")]).accepted == 1
    assert everything(file) == before
    assert [c.reason for c in merge(file, [row("a", "unread", 15)]).conflicts] == ["newer"]
    assert status_of(file, "a").read_device == "phone"


def test_at_one_time_the_first_device_keeps_it_and_may_change_its_mind(file: StatusFile) -> None:
    merge(file, [row("a", "read", 10)])
    assert merge(file, [row("a", "unread", 10, "tablet")]).conflicts
    assert merge(file, [row("a", "unread", 10), row("a", "read", 10), row("a", "unread", 10)]).accepted == 3
    assert status_of(file, "a").read_at is None


def test_a_clock_that_is_years_ahead_does_not_win_for_years(file: StatusFile) -> None:
    merge(file, [row("a", "read", 10**9)], now=100)
    assert status_of(file, "a").read_at == iso(START_US + 100 * SECOND)
    assert merge(file, [row("a", "unread", 101)], now=101).accepted == 1


def test_a_clock_that_is_known_to_be_wrong_is_put_right(file: StatusFile) -> None:
    merge(file, [row("a", "read", 50)])
    hour = 3_600
    assert merge(file, [row("a", "unread", 49 + hour, "tablet")], skew_us=-hour * SECOND).conflicts
    assert merge(file, [row("a", "unread", 51 - hour, "tablet")], skew_us=hour * SECOND).accepted == 1


@pytest.mark.parametrize("at_us", [-62_135_596_800_000_000, 253_402_300_799_999_999, -(2**62), 2**62])
def test_absurd_times_are_brought_into_bounds(file: StatusFile, at_us: int) -> None:
    done = merge(file, [ops.StatusRow("a", "read", at_us, None)], [ops.PositionRow("news", "a", at_us, 3)])
    assert done.accepted == 2
    assert status_of(file, "a").read_at in (iso(0), iso(START_US + 1_000 * SECOND))


def test_a_message_that_is_not_in_the_box_or_not_in_that_channel_is_told(file: StatusFile) -> None:
    elsewhere = ops.PositionRow("direct", "a", START_US, 0)
    done = merge(file, [row("zz", "read", 1), row("a", "read", 1)], [place("zz", 1), elsewhere, place("a", 1)])
    assert done.accepted == 2
    assert [(c.index, c.message_id, c.status, c.reason) for c in done.conflicts] == [
        (0, "zz", "read", "no_message"),
        (2, "zz", "position", "no_message"),
        (3, "a", "position", "no_message"),
    ]


def test_an_earlier_position_or_one_of_the_same_time_is_a_conflict(file: StatusFile) -> None:
    merge(file, [], [place("a", 10, 1)])
    assert [c.reason for c in merge(file, [], [place("b", 10, 2), place("b", 9, 2)]).conflicts] == ["newer"] * 2
    assert merge(file, [], [place("a", 10, 1), place("a", 9, 1), place("b", 11, 0)]).accepted == 3
    [found] = file.positions(["news"])
    assert (found.last_read_message_id, found.last_read_at, found.position) == ("b", iso(START_US + 11 * SECOND), 0)


# -- since -------------------------------------------------------------------------------------------


def test_a_since_of_another_life_of_the_file_gets_everything(file: StatusFile) -> None:
    merge(file, [row("a", "read", 1)])
    told = everything(file)
    newest = _us(told.since)
    for since in (0, newest - 10 * SECOND, newest + 1, _us("9999-12-31T23:59:59.999999Z")):
        again = file.pull(since, 10)
        assert (again.full, again.statuses, again.since) == (True, told.statuses, told.since)
    assert not file.pull(newest, 10).full


def test_an_older_file_that_somebody_put_back_makes_every_device_begin_anew() -> None:
    with scratch() as directory:
        path = born(directory)
        file = StatusFile(path)
        now = now_us()

        def change(message: str, at_us: int) -> None:
            changes = [ops.StatusRow(message, "read", at_us, None)]
            positions = [ops.PositionRow(MESSAGES[message], message, at_us, 0)]
            file.merge(changes, positions, MESSAGES, skew_us=0, now_us=at_us)

        change("a", now - 9)
        change("c", now - 8)
        file.close()
        kept = {name: (path.parent / name).read_bytes() for name in (FILE, f"{FILE}-wal")}
        devices = [Device(), Device()]
        file = StatusFile(path)
        change("b", now - 5)
        for device in devices:
            device.pull(file, 10)
        file.close()
        for name, content in kept.items():
            (path.parent / name).write_bytes(content)
        file = StatusFile(path)
        assert pull_all(devices[0], file) == 4
        assert devices[0].knows() == whole(file)
        assert set(devices[0].statuses) == {"a", "c"}
        file.close()
        file = StatusFile(path)
        change("c", now - 4)
        assert pull_all(devices[0], file) <= 1
        for device in devices:
            pull_all(device, file)
            assert device.knows() == whole(file)
        file.close()


@pytest.mark.parametrize(
    "note", [None, b"", b"rubbish", b"[]", b'{"since":5}', b'{"since":"9999-12-31T23:59:59.999999Z"}', b"\xff"]
)
def test_a_note_that_is_gone_or_rubbish_changes_nothing(note: bytes | None) -> None:
    with scratch() as directory:
        path = born(directory)
        file = StatusFile(path)
        merge(file, [row("a", "read", 1)], [place("a", 2)])
        told = everything(file)
        assert notes.load(path.parent, NOTE, dict[str, str]) == {"since": told.since}
        file.close()
        if note is None:
            (path.parent / ".sync" / NOTE).unlink()
        else:
            (path.parent / ".sync" / NOTE).write_bytes(note)
        file = StatusFile(path)
        assert everything(file) == told
        assert not file.pull(_us(told.since), 10).full
        file.close()


_CHANGES = st.lists(
    st.builds(row, st.sampled_from([*MESSAGES, "zz"]), st.sampled_from([*EFFECTS]), st.integers(-5, 40)), max_size=5
)
_POSITIONS = st.lists(st.builds(place, st.sampled_from([*MESSAGES, "zz"]), st.integers(-5, 40), st.integers(0, 2)),
                      max_size=3)  # fmt: skip
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 2), _CHANGES, _POSITIONS, st.integers(-30, 30)),
        st.tuples(st.just("pull"), st.integers(0, 2), st.integers(1, 3)),
        st.tuples(st.just("again"), st.integers(0, 2)),
        st.tuples(st.just("time"), st.integers(-20, 20)),
        st.tuples(st.just("reopen")),
    ),
    max_size=25,
)


@given(_STEPS)
def test_devices_converge_by_deltas_alone_and_the_statistics_are_a_recount(steps: list[tuple[Any, ...]]) -> None:
    """In any order, with clocks that are off and are set, resends, small pages, and the file opened anew."""
    with scratch() as directory:
        path = born(directory)
        file = StatusFile(path)
        now = 20
        devices = [Device() for _ in DEVICES]
        said: dict[int, tuple[Any, ...]] = {}
        for step in steps:
            match step:
                case ("say", index, changes, positions, skew):
                    mine = [ops.StatusRow(c.message_id, c.status, c.at_us, DEVICES[index]) for c in changes]
                    done = merge(file, mine, positions, now=now, skew_us=skew * SECOND)
                    assert done.accepted + len(done.conflicts) == len(mine) + len(positions)
                    said[index] = (mine, positions, skew)
                    before = everything(file)
                    merge(file, mine, positions, now=now, skew_us=skew * SECOND)
                    assert _without_times(everything(file)) == _without_times(before)
                case ("pull", index, limit):
                    devices[index].pull(file, limit)
                case ("again", index) if index in said:
                    mine, positions, skew = said[index]
                    merge(file, mine, positions, now=now, skew_us=skew * SECOND)
                case ("time", seconds):
                    now += seconds
                case ("reopen",):
                    file.close()
                    file = StatusFile(path)
        for device, limit in zip(devices, (1, 2, 1_000), strict=True):
            pull_all(device, file, limit)
            assert device.knows() == whole(file)
        file.close()
        assert stats(path) == recounted(path)


def _without_times(told: ReadStatus) -> Any:
    """What is so, not since when: a device that takes back what it said in the same breath says both again."""
    return (
        {(s.message_id, bool(s.read_at), bool(s.archived_at), bool(s.starred_at)) for s in told.statuses},
        {(p.channel_id, p.last_read_message_id, p.position) for p in told.positions},
    )


def test_a_page_ends_anywhere_and_loses_nothing(file: StatusFile) -> None:
    messages = {f"m{n:03}": f"c{n}" for n in range(50)}
    changes = [ops.StatusRow(message, "read", START_US, None) for message in messages]
    positions = [ops.PositionRow(channel, message, START_US, 0) for message, channel in messages.items()]
    file.merge(changes, positions, messages, skew_us=0, now_us=START_US)
    for limit in (1, 7, 99, 100, 101):
        device = Device()
        assert pull_all(device, file, limit) == -(-100 // limit)
        assert device.knows() == whole(file)


# -- the disk ----------------------------------------------------------------------------------------


def test_a_resend_writes_nothing(file: StatusFile) -> None:
    changes, positions = [row("a", "read", 1), row("b", "starred", 2)], [place("a", 3)]
    merge(file, changes, positions)
    changed = file._db.total_changes()
    assert merge(file, changes, positions).accepted == 3
    assert file._db.total_changes() == changed


def test_the_log_is_bounded() -> None:
    with scratch() as directory:
        path = born(directory)
        file = StatusFile(path)
        for second in range(600):
            merge(file, [row("a", ("read", "unread")[second % 2], second)], now=second)
        assert path.with_name(f"{FILE}-wal").stat().st_size < 2 * 1_048_576
        file.close()


def test_a_log_without_its_file_does_not_get_into_a_new_one() -> None:
    with scratch() as directory:
        path = born(directory)
        file = StatusFile(path)
        merge(file, [row("a", "read", 1)])
        file.close()
        path.unlink()
        disk = Disk(directory)
        give_birth(path, _TEMPLATE, disk)
        disk.close()
        file = StatusFile(path)
        assert everything(file).statuses == []
        file.close()


class UnflushedDisk(RecordingDisk):
    """Says that a file is durable, and does nothing."""

    def sync_file(self, path: Path) -> None:
        return


_VFS = "status-powercut"
_ROUNDS = 14


def _recorded(directory: Path, kind: type[RecordingDisk]) -> tuple[Recording, list[tuple[int, object]]]:
    """A life, and at which event which table had been answered."""
    data = directory / "data"
    (data / "user_storage" / "1" / "ada").mkdir(parents=True)
    recording = Recording(data)
    vfs = RecordingVFS(_VFS, recording, sqlite.LOCKLESS)
    disk = kind(recording)
    path = recording.root / "user_storage" / "1" / "ada" / FILE
    rng = random.Random(1)
    give_birth(path, _TEMPLATE, disk)
    file = StatusFile(path, vfs=_VFS)
    file._db.pragma("wal_autocheckpoint", 8)
    answered: list[tuple[int, object]] = [(recording.position(), whole(file))]
    for second in range(_ROUNDS):
        statuses = [row(message, rng.choice([*EFFECTS]), second) for message in MESSAGES]
        merge(file, statuses, [place(rng.choice("ab"), second)], now=second)
        answered.append((recording.position(), whole(file)))
        if second == _ROUNDS // 2:
            file.close()
            file = StatusFile(path, vfs=_VFS)
    file.close()
    disk.close()
    vfs.unregister()
    checkpoint = [e for e in recording.events if isinstance(e, Write) and e.path.endswith(FILE)]
    assert checkpoint, "no checkpoint was cut"
    return recording, answered


def _lost(directory: Path, kind: type[RecordingDisk] = RecordingDisk) -> list[str]:
    """Disks that a power cut could leave, on which something that was answered isn't so."""
    recording, answered = _recorded(directory, kind)
    path = directory / "cut" / "user_storage" / "1" / "ada" / FILE
    lost = []
    built = 0
    for replayer, mode in disks(recording, directory / "cut", seed=1, modes=("none", "random", "torn", "all")):
        built += 1
        last = [number for number, (event, _table) in enumerate(answered) if event <= replayer.cut]
        if not last:  # nothing was answered yet: a file that is there is a whole one
            wanted = [({}, {}), answered[0][1]]
            if not path.exists():
                continue
        else:
            wanted = [table for _event, table in answered[last[-1] : last[-1] + 2]]
        try:
            file = StatusFile(path)
            if whole(file) not in wanted:
                lost.append(f"cut {replayer.cut} {mode}: {whole(file)}")
            file.close()
            if stats(path) != recounted(path):
                lost.append(f"cut {replayer.cut} {mode}: statistics")
        except (apsw.Error, OSError) as error:
            lost.append(f"cut {replayer.cut} {mode}: {error!r}")
    assert built > 100
    return lost


def test_what_was_answered_survives_a_power_cut_at_any_moment() -> None:
    with scratch() as directory:
        assert _lost(directory) == []


def test_without_the_flush_at_birth_it_does_not() -> None:
    with scratch() as directory:
        assert _lost(directory, UnflushedDisk)


def test_without_the_flush_at_a_commit_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite.connect

    def careless(path: Path, **settings: Any) -> apsw.Connection:
        return connect(path, **settings | {"sync": sqlite.Sync.OFF})

    monkeypatch.setattr(sqlite, "connect", careless)
    with scratch() as directory:
        assert _lost(directory)
