"""A device against a real node: what it has in the end is what the node has, whatever was in the folder before."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from client import BadCall, Busy, Device, DeviceError, NoBox, NoRoom, Synced, Unavailable
from client.folder import Folder, Version, checksum_of
from tests.client.conftest import Person
from tests.shard.disks import fill, small_disk
from tests.support import eventually

pytestmark = pytest.mark.slow


def _ids(device: Device) -> set[str]:
    db = apsw.Connection(str(device.directory / "messages.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return {row[0] for row in db.execute("SELECT id FROM messages")}
    finally:
        db.close()


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def _everything(directory: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("*") if path.is_file()}


def _mark_many(device: Device) -> None:
    for id in range(10_000):
        device.mark(f"some-message-{id}", "read")


def test_first_the_whole_box_then_nothing_then_the_pages_that_differ(person: Person) -> None:
    said: list[Synced] = []
    device = person.device(on_change=said.append)
    first = set(person.get_mail(40))
    assert device.sync().how == "download"
    assert device.sync().how == "nothing"
    second = set(person.get_mail())
    synced = device.sync()
    assert synced.how == "delta"
    assert synced.received < synced.size / 2
    assert person.has(device)
    assert _ids(device) == first | second
    assert [change.how for change in said] == ["download", "delta"]
    assert _names(device.directory / ".sync") == ["state.json"]


def test_the_sqlite_shell_opens_the_copy_and_finds_it_sound(person: Person) -> None:
    person.get_mail(5)
    device = person.device()
    device.sync()
    asked = "PRAGMA integrity_check; PRAGMA journal_mode; SELECT count(*) FROM messages"
    command = ["sqlite3", str(device.directory / "messages.db"), asked]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["ok", "delete", "5"]
    assert _names(device.directory) == [".sync", "messages.db", "read_status.db"]


def test_work_that_is_taken_away_in_the_middle_of_a_sync_is_begun_anew(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = set(person.get_mail(40))
    device = person.device()
    device.sync()
    mail |= set(person.get_mail())
    replace = Folder.replace

    def without_it(folder: Folder, new: Path, of: Version) -> None:
        monkeypatch.undo()
        shutil.rmtree(new.parent)
        replace(folder, new, of)

    monkeypatch.setattr(Folder, "replace", without_it)
    assert device.sync().how == "delta"
    assert _ids(device) == mail


@pytest.mark.parametrize("at", ["start_from_copy", "note"])
def test_a_copy_that_is_taken_away_in_the_middle_of_a_sync_costs_a_download(
    person: Person, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    mail = set(person.get_mail(40))
    device = person.device()
    device.sync()
    if at == "start_from_copy":  # the pages that differ are to be put over it
        mail |= set(person.get_mail())
    else:  # nothing is new; that it is the same copy is to be noted
        (device.directory / ".sync" / "state.json").unlink()
    step = getattr(Folder, at)

    def without_it(folder: Folder, *args: object) -> None:
        monkeypatch.undo()
        folder.copy.unlink()
        step(folder, *args)

    monkeypatch.setattr(Folder, at, without_it)
    assert device.sync().how == "download"
    assert _ids(device) == mail


def test_an_unknown_user_is_an_error_and_leaves_no_trace(person: Person) -> None:
    device = Device("nobody-at-all", person.place / "new", server=person.node.url)
    with pytest.raises(NoBox, match="has no box for nobody-at-all"):
        device.sync()
    assert not device.directory.exists()


def test_a_user_that_is_unknown_touches_nothing_in_a_folder_that_is_there(person: Person) -> None:
    person.get_mail()
    device = person.device()
    device.sync()
    before = _everything(device.directory)
    with pytest.raises(NoBox):
        Device("nobody-at-all", device.directory, server=person.node.url).sync()
    assert _everything(device.directory) == before
    assert device.sync().how == "nothing"


@pytest.mark.parametrize("way", ["flipped", "cut", "emptied", "gone", "lengthened", "another", "same size and time"])
def test_a_damaged_copy_is_found_and_replaced(person: Person, way: str) -> None:
    person.get_mail(30)
    device = person.device()
    device.sync()
    copy = device.directory / "messages.db"
    copy.chmod(0o600)
    content, status = copy.read_bytes(), copy.stat()
    flipped = content[:9_000] + bytes([content[9_000] ^ 1]) + content[9_001:]
    damaged = {
        "flipped": flipped,
        "same size and time": flipped,
        "cut": content[:10_001],
        "emptied": b"",
        "lengthened": content + b"x",
        "another": b"no database at all",
    }
    if way == "gone":
        copy.unlink()
    else:
        copy.write_bytes(damaged[way])
    if way == "same size and time":
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    synced = device.sync()
    assert synced.how == ("delta" if way in ("flipped", "same size and time", "lengthened") else "download")
    assert person.has(device)
    assert device.sync().how == "nothing"


@pytest.mark.parametrize(
    "name", ["state.json", "download.json", "download.part", "fresh.db", "state.json.new", "download.json.new"]
)
@pytest.mark.parametrize("content", [b"", b"rubbish", b"{}", b'{"server":1}', b"\xff" * 5_000, None])
def test_no_rest_of_work_can_wedge_it(person: Person, name: str, content: bytes | None) -> None:
    person.get_mail()
    device = person.device()
    device.sync()
    person.get_mail()
    rest = device.directory / ".sync" / name
    rest.unlink(missing_ok=True)
    if content is None:
        (rest / "a directory").mkdir(parents=True)
    else:
        rest.write_bytes(content)
    if name == "download.part":
        (device.directory / "messages.db").unlink()
    device.sync()
    assert person.has(device)
    assert device.sync().how == "nothing"


@pytest.mark.parametrize("way", ["gone", "a file"])
def test_a_sync_directory_that_is_not_there_costs_a_look_at_the_copy_and_no_download(person: Person, way: str) -> None:
    person.get_mail()
    device = person.device()
    device.sync()
    shutil.rmtree(device.directory / ".sync")
    if way == "a file":
        (device.directory / ".sync").write_bytes(b"")
    assert device.sync().how == "nothing"
    assert _names(device.directory / ".sync") == ["state.json"]


def test_a_folder_of_another_person_becomes_this_ones(person: Person, someone: Callable[[], Person]) -> None:
    other = someone()
    ids, others = person.get_mail(3), other.get_mail(3)
    device = person.device()
    device.mark(ids[0], "read")
    device.sync()
    device.mark(ids[1], "starred")
    theirs = Device(other.name, device.directory, server=person.node.url)
    theirs.mark(others[2], "read")
    theirs.sync()
    assert other.has(theirs)
    assert set(other.statuses()) == {others[2]}
    assert set(person.statuses()) == {ids[0]}, "what waits for one person isn't sent as another's"
    device.sync()
    assert person.has(device)
    assert set(person.statuses()) == {ids[0], ids[1]}, "and is sent when the folder is that person's again"


def test_an_address_that_changes_costs_a_look_and_keeps_what_waits(person: Person) -> None:
    ids = person.get_mail(3)
    device = person.device()
    device.sync()
    device.mark(ids[0], "read")
    moved = person.device(server=person.node.url.replace("127.0.0.1", "localhost"))
    assert moved.sync().how == "nothing"
    assert set(person.statuses()) == {ids[0]}


def test_a_reader_with_the_old_file_open_goes_on_reading_it(person: Person) -> None:
    before = set(person.get_mail(20))
    device = person.device()
    device.sync()
    reader = apsw.Connection(str(device.directory / "messages.db"), flags=apsw.SQLITE_OPEN_READONLY)
    rows = reader.execute("SELECT id FROM messages")
    assert next(rows)[0] in before
    person.get_mail(20)
    device.sync()
    assert person.has(device)
    assert len(list(rows)) == len(before) - 1
    assert reader.execute("SELECT count(*) FROM messages").get == len(before)
    reader.close()
    assert len(_ids(device)) == 40


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_what_a_local_program_left_beside_the_copy_cannot_spoil_the_next_one(person: Person, suffix: str) -> None:
    """The rests are real: made by a program that wrote into the copy, and died."""
    person.get_mail(20)
    device = person.device()
    device.sync()
    copy = device.directory / "messages.db"
    copy.chmod(0o600)
    script = (
        "import apsw, os, signal, sys\n"
        "db = apsw.Connection(sys.argv[1])\n"
        "db.pragma('journal_mode', 'wal' if sys.argv[2] == '-wal' else 'delete')\n"
        "db.pragma('cache_size', 1)\n"
        "db.execute('BEGIN; DELETE FROM messages; CREATE TABLE junk(x)')\n"
        "db.execute('INSERT INTO junk SELECT randomblob(9000) FROM sqlite_schema a, sqlite_schema b').fetchall()\n"
        "if sys.argv[2] == '-wal': db.execute('COMMIT')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, copy, suffix], check=False)
    assert copy.with_name(copy.name + suffix).stat().st_size > 4_096
    person.get_mail()
    device.sync()
    assert _names(device.directory) == [".sync", "messages.db", "read_status.db"]
    assert len(_ids(device)) == 21
    assert person.has(device)


def test_a_stale_log_beside_a_copy_that_is_current_goes_too(person: Person) -> None:
    person.get_mail()
    device = person.device()
    device.sync()
    for suffix in ("-journal", "-wal", "-shm"):
        (device.directory / f"messages.db{suffix}").write_bytes(b"stale")
    assert device.sync().how == "nothing"
    assert _names(device.directory) == [".sync", "messages.db", "read_status.db"]


def test_one_sync_a_folder_at_a_time_the_second_waits_or_says_so(person: Person) -> None:
    person.get_mail()
    device = person.device()
    device.sync()
    fd = os.open(device.directory, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    shutil.rmtree(device.directory / ".sync")  # it isn't what holds the lock
    with pytest.raises(Busy, match="another process is syncing"):
        device.sync(wait_s=0)
    release = threading.Timer(0.3, os.close, [fd])
    release.start()
    assert device.sync(wait_s=60).how == "nothing"
    release.join()


def test_a_full_disk_is_a_clean_error_and_with_room_again_it_goes_on(person: Person, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1_500_000) as disk:
        person.get_mail(100)
        device = Device(person.name, disk / "phone", server=person.node.url)
        device.sync()
        before = checksum_of(device.directory / "messages.db")
        person.get_mail(200)
        with pytest.raises(NoRoom, match="no room in"):
            device.sync()
        assert checksum_of(device.directory / "messages.db") == before
        assert "download.part" not in _names(device.directory / ".sync")
        assert "fresh.db" not in _names(device.directory / ".sync")
        fill(disk / "ballast")
        with pytest.raises(NoRoom):
            device.sync()
        with pytest.raises(NoRoom):
            _mark_many(device)
        (disk / "ballast").unlink()
        (disk / "phone" / "messages.db").unlink()
        device.sync()
        assert person.has(device)


def test_a_node_that_is_not_there_is_an_error_after_some_patience(tmp_path: Path) -> None:
    device = Device("ada", tmp_path / "ada", server="http://127.0.0.1:1", patience_s=0.5)
    with pytest.raises(Unavailable, match="no answer from http://127"):
        device.sync()
    assert not device.directory.exists()


def test_watching_goes_on_through_trouble_until_it_is_stopped(person: Person) -> None:
    stop, changes, errors = threading.Event(), list[Synced](), list[DeviceError]()
    seen = threading.Event()

    def changed(synced: Synced) -> None:
        changes.append(synced)
        seen.set()

    device = Device(person.name, person.place / "w", server=person.node.url, on_change=changed)
    watching = threading.Thread(target=device.watch, args=(0.05, stop), kwargs={"on_error": errors.append})
    watching.start()
    try:
        eventually(lambda: errors or not watching.is_alive(), "word that nobody has written to this person yet")
        assert isinstance(errors[0], NoBox)
        person.get_mail()
        assert seen.wait(60)
    finally:
        stop.set()
        watching.join(60)
    assert not watching.is_alive()
    assert person.has(device)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Device("../etc", "x"),
        lambda: Device("ada", "x", name=""),
        lambda: Device("ada", "x", name="a\nb"),
        lambda: Device("ada", "x", server="ftp://somewhere"),
        lambda: Device("ada", "x", server="nonsense"),
        lambda: Device("ada", "x").mark("m", "eaten"),  # type: ignore[arg-type]
        lambda: Device("ada", "x").mark("a b", "read"),
        lambda: Device("ada", "x").move("c", "m", -1),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    wrong: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCall):
        wrong()
    assert list(tmp_path.iterdir()) == []
