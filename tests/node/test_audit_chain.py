"""A chain of the audit log stays whole through kills, full disks and its own age."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import audit, audit_chain, audit_files, placement
from node.audit import Place
from node.audit_chain import Chain, Held
from node.audit_files import first_line, head_path, path_of
from node.audit_verify import heads, verify
from node.clock import DAY_US
from node.config import Audit
from tests.audited import NOON_US, SMALL, append, entry, faults, lines_of
from tests.shard.disks import fill, small_disk


def test_a_chain_goes_through_files_and_other_processes_and_is_whole(tmp_path: Path) -> None:
    for _ in range(4):
        append(tmp_path, 7)
    found = verify(tmp_path)
    assert (found.faults, found.notes) == ([], [])
    assert found.files > 3
    said = lines_of(tmp_path)
    assert [line["n"] for line in said] == list(range(1, len(said) + 1))
    assert [line["whom"] for line in said if line["deed"] == "users.delete"] == [
        {"user": f"u{n}"} for n in range(7)
    ] * 4
    for number in audit_files.files_of(tmp_path, "router-0"):
        first = first_line(path_of(tmp_path, "router-0", number))
        assert first is not None
        assert first.what["file"] == number
    assert path_of(tmp_path, "router-0", 1).stat().st_mode & 0o777 == 0o600


def test_a_new_file_begins_each_day(tmp_path: Path) -> None:
    for day in range(3):
        append(tmp_path, 2, at_us=NOON_US + day * DAY_US, settings=Audit())
    assert audit_files.files_of(tmp_path, "router-0") == [1, 2, 3]
    assert faults(tmp_path) == []


# -- kills -----------------------------------------------------------------------------------------


def writing(data: Path, pipe: int) -> None:
    """Append for ever, and say what is promised; in a process of its own."""
    chain = Chain(data, "router-0", SMALL)
    number = 0
    while True:
        numbers = chain.append([(NOON_US, entry(number)), (NOON_US, entry(number + 1))], NOON_US)
        number += 2
        os.write(pipe, f"{numbers[-1]}\n".encode())


def test_what_was_promised_is_there_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    promised = 0
    for round in range(6):
        reader, writer = os.pipe()
        process = multiprocessing.get_context("fork").Process(target=writing, args=(tmp_path, writer))
        process.start()
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            for _ in range(3 + round):
                promised = int(pipe.readline())
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            promised = max([promised, *map(int, pipe.read().split())])
        process.join()
        assert faults(tmp_path) == []
        assert len(lines_of(tmp_path)) >= promised
    append(tmp_path, 1)
    found = verify(tmp_path)
    assert found.faults == []
    assert found.reach["router-0"].n > promised


@given(torn=st.integers(1, 200), garbage=st.booleans())
@settings(max_examples=60)
def test_a_torn_end_is_mended_and_noted(tmp_path_factory: pytest.TempPathFactory, torn: int, garbage: bool) -> None:
    data = tmp_path_factory.mktemp("torn")
    append(data, 2, settings=Audit())
    path, head = path_of(data, "router-0", 1), audit_files.load_head(data, "router-0")
    assert head is not None
    line, _place = audit.sealed(Place(head.n, head.hash), NOON_US, entry(9))
    rest = bytes(torn) + b"\n" if garbage else line[: min(torn, len(line) - 1)]
    with path.open("ab") as file:
        file.write(rest)
    found = verify(data)
    assert found.faults == []
    assert len(found.notes) == 1
    append(data, 1, settings=Audit())
    mended = [line for line in lines_of(data) if line["deed"] == audit.MENDED]
    assert [line["what"] for line in mended] == [{"file": 1, "bytes": len(rest)}]
    assert faults(data) == []


def test_lines_that_are_whole_behind_the_head_are_kept(tmp_path: Path) -> None:
    append(tmp_path, 3)
    old = head_path(tmp_path, "router-0").read_bytes()
    append(tmp_path, 9)
    count = len(lines_of(tmp_path))
    assert len(audit_files.files_of(tmp_path, "router-0")) > 2
    append(tmp_path, 0)
    head_path(tmp_path, "router-0").write_bytes(old)
    found = verify(tmp_path)
    assert found.faults == []
    assert "after the head" in found.notes[0]
    # A kill leaves one group and one new file at most behind the head.
    for number in audit_files.files_of(tmp_path, "router-0")[2:]:
        path_of(tmp_path, "router-0", number).unlink()
    kept = len(lines_of(tmp_path))
    append(tmp_path, 1)
    assert faults(tmp_path) == []
    assert len(lines_of(tmp_path)) > kept
    assert count > kept


@pytest.mark.parametrize("step", ["head", "no line", "half a line", "a file", "lines"])
def test_a_kill_at_the_very_beginning_of_a_chain_leaves_a_whole_one(tmp_path: Path, step: str) -> None:
    class Killed(BaseException):
        pass

    def die(*_arguments: object, **_more: object) -> None:
        raise Killed

    def half(fd: int, content: bytes) -> None:
        os.write(fd, content[: len(content) // 2])
        raise Killed

    count = 0

    def second(*arguments: Any, **more: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise Killed
        placement.write_durably(*arguments, **more)

    where, how = {
        "head": ("path_of", die),
        "no line": ("write_all", die),
        "half a line": ("write_all", half),
        "a file": ("sync_directory", die),
        "lines": ("write_durably", second),
    }[step]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audit_chain, where, how)
        with pytest.raises(Killed):
            append(tmp_path, 1)
    assert faults(tmp_path) == []
    append(tmp_path, 2)
    assert faults(tmp_path) == []
    assert not [line for line in lines_of(tmp_path) if line["deed"] == audit.FOUND]


def test_a_full_disk_at_the_very_beginning_leaves_a_whole_chain(tmp_path: Path) -> None:
    with small_disk(tmp_path / "data", 1024 * 1024) as data:
        placement.save(data, placement.Placement(version=1, shards=1))
        fill(data / "ballast")
        with pytest.raises(OSError, match="No space"):
            append(data, 1)
        assert faults(data) == []
        (data / "ballast").unlink()
        append(data, 3)
        found = verify(data)
        assert (found.faults, found.notes) == ([], [])


@pytest.mark.parametrize("size", [0, 10, 60])
def test_a_file_that_was_cut_off_at_its_beginning_begins_again(tmp_path: Path, size: int) -> None:
    append(tmp_path, 3)
    head = audit_files.load_head(tmp_path, "router-0")
    assert head is not None
    place = Place(head.n, head.hash)
    line, _place = audit.sealed(place, NOON_US, audit.file_entry("router-0", head.file + 1, place))
    path_of(tmp_path, "router-0", head.file + 1).write_bytes(line[:size])
    assert faults(tmp_path) == []
    append(tmp_path, 9)
    assert faults(tmp_path) == []


def test_a_cut_is_not_healed_by_a_start(tmp_path: Path) -> None:
    append(tmp_path, 9, settings=Audit())
    path = path_of(tmp_path, "router-0", 1)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))
    append(tmp_path, 5, settings=Audit())
    told = faults(tmp_path)
    assert any("a start found: fault: a file ends before the head" in fault for fault in told)
    assert any("line 1 doesn't follow line 7" in fault for fault in told)


def test_a_head_that_went_is_told_of_after_a_start_too(tmp_path: Path) -> None:
    append(tmp_path, 9, settings=Audit())
    head_path(tmp_path, "router-0").unlink()
    append(tmp_path, 5, settings=Audit())
    assert ["the head is missing" in fault for fault in faults(tmp_path)] == [True]


# -- disks, owners, age ----------------------------------------------------------------------------


class FullDisk:
    """Takes no more than ``room`` writes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write_all(self, fd: int, content: bytes) -> None:
        self.room -= 1
        if self.room < 0:
            os.write(fd, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        placement_write_all(fd, content)


placement_write_all = placement.write_all


@pytest.mark.parametrize("room", range(4))
def test_on_a_full_disk_nothing_is_appended_and_then_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    append(tmp_path, 4)
    before = len(lines_of(tmp_path))
    disk = FullDisk(room)
    chain = Chain(tmp_path, "router-0", SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(audit_chain, "write_all", disk.write_all)
        patched.setattr(placement, "write_all", disk.write_all)
        for number in range(9):
            with contextlib.suppress(OSError):
                chain.append([(NOON_US, entry(number))], NOON_US)
                before = len(lines_of(tmp_path))
        assert disk.room < 0
        with pytest.raises(OSError, match="No space"):
            chain.append([(NOON_US, entry(99))], NOON_US)
    assert {"user": "u99"} not in [line.get("whom") for line in lines_of(tmp_path)]
    chain.append([(NOON_US, entry(100))], NOON_US)
    chain.close()
    found = verify(tmp_path)
    assert (found.faults, found.notes) == ([], [])
    assert [line.get("whom") for line in lines_of(tmp_path)][-1] == {"user": "u100"}
    assert len(lines_of(tmp_path)) - before in (1, 2)


def test_a_chain_has_one_writer(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "router-0", SMALL)
    chain.append([(NOON_US, entry(1))], NOON_US)
    other = Chain(tmp_path, "router-0", SMALL)
    with pytest.raises(Held):
        other.append([(NOON_US, entry(2))], NOON_US)
    chain.close()
    other.append([(NOON_US, entry(2))], NOON_US)
    other.close()
    assert faults(tmp_path) == []


def test_what_is_old_goes_and_what_is_left_says_so(tmp_path: Path) -> None:
    keep = Audit(keep_days=3)
    anchors = []
    for day in range(10):
        append(tmp_path, 2, at_us=NOON_US + day * DAY_US, settings=keep)
        anchors += heads(tmp_path)
        assert faults(tmp_path) == []
    numbers = audit_files.files_of(tmp_path, "router-0")
    assert numbers == [7, 8, 9, 10]
    found = verify(tmp_path, anchors)
    assert found.faults == []
    assert len(found.notes) == 5, "heads from before what is kept"
    path_of(tmp_path, "router-0", 7).unlink()
    assert faults(tmp_path) == ["router-0: what was before router-0-000008.jsonl is missing"]


def test_an_idle_chain_ages_too(tmp_path: Path) -> None:
    keep = Audit(keep_days=3)
    append(tmp_path, 2, name="cli", settings=keep)
    audit_chain.tend(tmp_path, ["cli"], keep, NOON_US + DAY_US)
    assert audit_files.files_of(tmp_path, "cli") == [1]
    for later in (9, 10):
        audit_chain.tend(tmp_path, ["cli"], keep, NOON_US + later * DAY_US)
        assert audit_files.files_of(tmp_path, "cli") == [2]
        assert faults(tmp_path) == []
