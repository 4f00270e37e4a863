"""The chain of the audit log: what is written stays whole through kills, and what is done to it shows."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from node import audit, audit_chain, paths, placement
from node.audit import BEGINNING, Entry, Place
from node.audit_chain import Chain, Held, first_line, head_path, path_of
from node.audit_verify import Found, heads, heard, said, verify
from node.cli import main
from node.clock import DAY_US
from node.config import Audit
from node.errors import ConfigError
from tests.shard.disks import fill, small_disk

SMALL = Audit(file_bytes_max=1_000)
NOON_US = 1_795_521_600_000_000
ENTRIES = st.builds(
    Entry,
    deed=st.text(max_size=20),
    who=st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=2),
    whom=st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=2),
    status=st.none() | st.integers(100, 599) | st.text(max_size=5),
    what=st.dictionaries(st.text(max_size=4), st.integers(-5, 5) | st.text(max_size=8), max_size=2),
)


def entry(number: int) -> Entry:
    return Entry(deed="users.delete", who={"key": "k"}, whom={"user": f"u{number}"}, status=204)


def append(data: Path, count: int, *, name: str = "router-0", at_us: int = NOON_US, settings: Audit = SMALL) -> None:
    """Lines, one at a time."""
    with contextlib.closing(Chain(data, name, settings)) as chain:
        for number in range(count):
            chain.append([(at_us, entry(number))], at_us)


def lines_of(data: Path, name: str = "router-0") -> list[dict[str, object]]:
    """All that are whole, over all files."""
    content = b"".join(path_of(data, name, number).read_bytes() for number in audit_chain.files_of(data, name))
    return [msgspec.json.decode(line) for _at, line in audit.whole_lines(content)]


def faults(data: Path) -> list[str]:
    return verify(data).faults


@given(st.lists(ENTRIES, min_size=1, max_size=20))
def test_lines_follow_each_other_and_are_json(entries: list[Entry]) -> None:
    place = BEGINNING
    for number, one in enumerate(entries, 1):
        line, then = audit.sealed(place, NOON_US + number, one)
        assert line.count(b"\n") == 1
        read = audit.follows(line[:-1], place)
        assert read is not None
        assert (read.n, read.deed, Place(read.n, read.hash)) == (number, one.deed, then)
        known = msgspec.json.decode(line)
        assert known["n"] == number
        assert known.get("whom", {}) == one.whom
        place = then


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
    for number in audit_chain.files_of(tmp_path, "router-0"):
        first = first_line(path_of(tmp_path, "router-0", number))
        assert first is not None
        assert first.what["file"] == number
    assert path_of(tmp_path, "router-0", 1).stat().st_mode & 0o777 == 0o600


def test_a_new_file_begins_each_day(tmp_path: Path) -> None:
    for day in range(3):
        append(tmp_path, 2, at_us=NOON_US + day * DAY_US, settings=Audit())
    assert audit_chain.files_of(tmp_path, "router-0") == [1, 2, 3]
    assert faults(tmp_path) == []


# -- what is done to it shows ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chains of several files."""
    data = tmp_path_factory.mktemp("written")
    append(data, 12)
    append(data, 12, name="router-1")
    return data


def files(data: Path) -> list[Path]:
    return sorted(paths.audit_dir(data).iterdir())


def split(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def swap(draw: st.DataObject, parts: list[bytes]) -> list[bytes]:
    one, other = draw.draw(st.lists(st.integers(0, len(parts) - 1), min_size=2, max_size=2, unique=True))
    parts[one], parts[other] = parts[other], parts[one]
    return parts


def change_bytes(draw: st.DataObject, content: bytes) -> bytes:
    at = draw.draw(st.integers(0, len(content) - 1))
    byte = draw.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    return content[:at] + bytes([byte]) + content[at + 1 :]


def cut_out(draw: st.DataObject, content: bytes) -> bytes:
    first, last = sorted(draw.draw(st.lists(st.integers(0, len(content)), min_size=2, max_size=2, unique=True)))
    return content[:first] + content[last:]


def cut_lines(draw: st.DataObject, content: bytes) -> bytes:
    parts = split(content)
    first, last = sorted(draw.draw(st.lists(st.integers(0, len(parts)), min_size=2, max_size=2, unique=True)))
    return b"".join(parts[:first] + parts[last:])


def put_in(draw: st.DataObject, content: bytes) -> bytes:
    parts = split(content)
    line = draw.draw(st.sampled_from(parts) | st.just(b"\n") | st.binary(min_size=1, max_size=30))
    parts.insert(draw.draw(st.integers(0, len(parts))), line)
    return b"".join(parts)


def exchange_lines(draw: st.DataObject, content: bytes) -> bytes:
    return b"".join(swap(draw, split(content)))


def reseal(draw: st.DataObject, content: bytes) -> bytes:
    """One line anew, with a hash that is right for it."""
    parts = split(content)
    index = draw.draw(st.integers(0, len(parts) - 1))
    known = audit.read(parts[index][:-1])
    assert known is not None
    before = audit.read(parts[index - 1][:-1]) if index else None
    place = Place(known.n - 1, before.hash if before is not None else str(known.what["previous"]))
    parts[index] = audit.sealed(place, NOON_US, Entry(deed="nothing"))[0]
    return b"".join(parts)


CHANGES = [change_bytes, cut_out, cut_lines, put_in, exchange_lines, reseal]


@settings(max_examples=400)
@given(st.data(), st.sampled_from(CHANGES))
def test_any_change_to_a_file_is_found(
    written: Path, data: st.DataObject, change: Callable[[st.DataObject, bytes], bytes]
) -> None:
    path = data.draw(st.sampled_from(files(written)))
    content = path.read_bytes()
    try:
        changed = change(data, content)
        path.write_bytes(changed)
        if changed != content:
            found = verify(written)
            assert found.faults or (changed.startswith(content) and found.notes)
    finally:
        path.write_bytes(content)
    assert faults(written) == []


@settings(max_examples=100)
@given(st.data(), st.sampled_from(["remove", "exchange", "copy"]))
def test_a_file_that_is_gone_moved_or_another_is_found(written: Path, data: st.DataObject, what: str) -> None:
    all_files = files(written)
    contents = {path: path.read_bytes() for path in all_files}
    one, other = data.draw(st.lists(st.sampled_from(all_files), min_size=2, max_size=2, unique=True))
    try:
        one.unlink()
        if what != "remove":
            one.write_bytes(contents[other])
        if what == "exchange":
            other.write_bytes(contents[one])
        assert faults(written)
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
    assert faults(written) == []


@given(st.data())
def test_a_head_that_is_changed_or_gone_is_found(written: Path, data: st.DataObject) -> None:
    path = head_path(written, "router-0")
    content = path.read_bytes()
    try:
        if data.draw(st.booleans()):
            changed = change_bytes(data, content)
            path.write_bytes(changed)
            known = audit_chain.load_head(written, "router-0")
            if known is not None and msgspec.json.encode(known) + b"\n" == content:
                return
            before = msgspec.json.decode(content, type=audit.Head)
            if known is not None and msgspec.structs.replace(known, at=before.at) == before:
                return  # its time says nothing of the chain
        else:
            path.unlink()
        assert faults(written)
    finally:
        path.write_bytes(content)


def test_a_name_that_does_not_belong_there_is_found(written: Path) -> None:
    stranger = paths.audit_dir(written) / "router-0-000001.jsonl.bak"
    stranger.touch()
    try:
        assert faults(written) == [f"{stranger.name}: is no file of the audit log"]
    finally:
        stranger.unlink()


def test_who_makes_a_whole_chain_anew_is_found_by_a_head_kept_elsewhere(tmp_path: Path) -> None:
    append(tmp_path, 12)
    kept = heard("\n".join(said(head) for head in heads(tmp_path)))
    assert verify(tmp_path, kept).faults == []
    append(tmp_path, 3)
    assert verify(tmp_path, kept).faults == [], "more lines change nothing"
    placement.save(tmp_path, placement.Placement(version=1, shards=1))
    shutil.rmtree(paths.audit_dir(tmp_path))
    shutil.rmtree(paths.audit_heads_dir(tmp_path))
    assert verify(tmp_path).faults == [], "nothing here tells"
    assert f"router-0: line {kept[0].n} of --head is missing" in verify(tmp_path, kept).faults
    append(tmp_path, 25)
    assert verify(tmp_path).faults == []
    chain = Chain(tmp_path, "router-0", SMALL)
    chain.append([(NOON_US, Entry(deed="another"))], NOON_US)
    chain.close()
    anew = [msgspec.structs.replace(kept[0], hash=audit.ZERO)]
    assert verify(tmp_path, anew).faults == [f"router-0: line {kept[0].n} of --head is another one"]


@pytest.mark.parametrize("text", ["router-0", "router-0 x y", "router-0 1 2 3", "../x 1 ab", "router-0 ¹ ab"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--head"):
        heard(text)


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
    path, head = path_of(data, "router-0", 1), audit_chain.load_head(data, "router-0")
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
    assert len(audit_chain.files_of(tmp_path, "router-0")) > 2
    append(tmp_path, 0)
    head_path(tmp_path, "router-0").write_bytes(old)
    found = verify(tmp_path)
    assert found.faults == []
    assert "after the head" in found.notes[0]
    # A kill leaves one group and one new file at most behind the head.
    for number in audit_chain.files_of(tmp_path, "router-0")[2:]:
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
    head = audit_chain.load_head(tmp_path, "router-0")
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
    path.write_bytes(b"".join(split(path.read_bytes())[:-3]))
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
    numbers = audit_chain.files_of(tmp_path, "router-0")
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
    assert audit_chain.files_of(tmp_path, "cli") == [1]
    for later in (9, 10):
        audit_chain.tend(tmp_path, ["cli"], keep, NOON_US + later * DAY_US)
        assert audit_chain.files_of(tmp_path, "cli") == [2]
        assert faults(tmp_path) == []


# -- the commands ----------------------------------------------------------------------------------


def pobox(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--data", str(data)])


@pytest.fixture
def deeds(tmp_path: Path) -> Path:
    """A data directory in which keys and tokens were made."""
    placement.save(tmp_path, placement.Placement(version=1, shards=1))
    pobox(tmp_path, "key", "create", "--name", "crm", "--scope", "read")
    pobox(tmp_path, "key", "create", "--name", "crm", "--scope", "read")  # taken
    pobox(tmp_path, "token", "ada")
    pobox(tmp_path, "key", "revoke", "crm")
    return tmp_path


def test_the_commands_deeds_are_written_down_before_and_after(deeds: Path) -> None:
    written = [line for line in lines_of(deeds, "cli") if not str(line["deed"]).startswith("audit.")]
    assert [(line["deed"], line.get("state", line.get("status"))) for line in written] == [
        ("keys.create", "begins"), ("keys.create", "done"), ("keys.create", "begins"), ("keys.create", "bad_field"),
        ("tokens.issue", "begins"), ("tokens.issue", "done"), ("keys.revoke", "begins"), ("keys.revoke", "done"),
    ]  # fmt: skip
    assert all(line["of"] == before["n"] for before, line in zip(written[::2], written[1::2], strict=True))
    assert all(line["who"] for line in written)
    secret = (paths.token_secret_path(deeds)).read_text()
    log = path_of(deeds, "cli", 1).read_text()
    assert secret not in log
    assert "eyJ" not in log


def test_a_deed_that_can_not_be_written_down_is_not_done(tmp_path: Path) -> None:
    paths.audit_dir(tmp_path).write_text("no directory")
    refused = pobox(tmp_path, "key", "create", "--name", "crm", "--scope", "read")
    assert refused.exit_code == 1
    assert "nothing is done, for the audit log can't be written" in refused.output
    assert not paths.keys_path(tmp_path).exists()


def test_verify_and_head_say_how_far_it_reaches_and_what_is_wrong(deeds: Path) -> None:
    head = pobox(deeds, "audit", "head")
    assert head.exit_code == 0
    kept = deeds / "head.txt"
    kept.write_text(head.output)
    right = pobox(deeds, "audit", "verify", "--head", str(kept))
    assert right.exit_code == 0, right.output
    assert "1 file, 0 faults" in right.output
    (line,) = [line for line in lines_of(deeds, "cli") if line["deed"] == "audit.verify"]
    assert (line["status"], line["what"]) == ("done", {"faults": 0, "anchors": 1})
    path = path_of(deeds, "cli", 1)
    path.write_bytes(path.read_bytes().replace(b'"ada"', b'"bob"'))
    wrong = pobox(deeds, "audit", "verify")
    assert wrong.exit_code == 1
    assert "FAULT  cli-000001.jsonl: line 6 doesn't follow line 5" in wrong.output


def test_a_copy_of_a_log_is_verified_and_nothing_is_written_there(deeds: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for directory in (paths.audit_dir, paths.audit_heads_dir):
        shutil.copytree(directory(deeds), directory(copy))
    before = lines_of(copy, "cli")
    assert pobox(copy, "audit", "verify").exit_code == 0
    assert lines_of(copy, "cli") == before


def test_where_there_is_no_node_there_is_no_log_that_could_be_whole(tmp_path: Path) -> None:
    nowhere = pobox(tmp_path / "typo", "audit", "verify")
    assert nowhere.exit_code == 1
    assert "holds neither a node nor an audit log" in nowhere.output
    assert not (tmp_path / "typo").exists()
    placement.save(tmp_path, placement.Placement(version=1, shards=1))
    assert verify(tmp_path) == Found()
