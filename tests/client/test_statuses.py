"""``read_status.db`` of a device: what it shows is always the server's word, changed by what waits."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from client import DeviceError
from client.marks import MARKS, Waiting, after, holds
from client.statuses import FILE, Statuses
from node.clock import iso
from node.model import ReadingPosition, ReadStatus, Status
from tests.client.conftest import Person
from tests.client.line import Fault, Line

pytestmark = pytest.mark.slow

_USER = "ada"
_SHOWN = "SELECT message_id, read_at, read_device, archived_at, starred_at FROM read_status"
_KEYS = [f"m{number}" for number in range(4)]
_key = st.sampled_from(_KEYS)
_mark = st.sampled_from(MARKS)


def _table(path: Path) -> dict[str, tuple[Any, ...]]:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return {row[0]: row[1:] for row in db.execute(_SHOWN)}
    finally:
        db.close()


def _row(status: Status | None) -> tuple[Any, ...] | None:
    if status is None or not (status.read_at or status.archived_at or status.starred_at):
        return None
    return status.read_at or "", status.read_device, status.archived_at, status.starred_at


class Server:
    """A server in a few lines: its statuses and positions, and in which order they changed."""

    def __init__(self) -> None:
        self.said: dict[str, Status | ReadingPosition] = {}
        self.log: list[str] = []

    def change(self, waiting: Waiting, device: str) -> None:
        if holds(self.said.get(waiting.key), waiting):
            return
        said = after(waiting.kind, waiting.key, self.said.get(waiting.key), [waiting], device)
        if said is None:
            said = Status(message_id=waiting.key, read_at=None, read_device=None, archived_at=None, starred_at=None)
        self.said[waiting.key] = said
        self.log.append(waiting.key)

    def pull(self, since: str | None, limit: int) -> ReadStatus:
        full = since is None or int(since) > len(self.log)
        began = 0 if since is None or full else int(since)
        keys: list[str] = []
        at = began
        while at < len(self.log) and len(keys) < limit:
            if self.log[at] not in self.log[at + 1 :]:
                keys.append(self.log[at])
            at += 1
        said = [self.said[key] for key in keys]
        return ReadStatus(
            since=str(at),
            full=full,
            more=at < len(self.log),
            statuses=[word for word in said if isinstance(word, Status)],
            positions=[word for word in said if isinstance(word, ReadingPosition)],
        )


class Table(RuleBasedStateMachine):
    """One device's file and a server; answers may be lost, and the server may start over."""

    @initialize()
    def start(self) -> None:
        self._place = tempfile.TemporaryDirectory()
        self.path = Path(self._place.name) / FILE
        self.server = Server()
        self.now = 1_000_000
        self.word: dict[str, Status | ReadingPosition] = {}

    def teardown(self) -> None:
        self._place.cleanup()

    def _open(self) -> Statuses:
        return Statuses(self.path, _USER, name="phone")

    @rule(key=_key, status=_mark)
    def mark(self, key: str, status: Any) -> None:
        self.now += 1
        with self._open() as local:
            local.mark(key, status, self.now)

    @rule(channel=st.sampled_from(["c1", "c2"]), key=_key, position=st.integers(0, 9))
    def move(self, channel: str, key: str, position: int) -> None:
        self.now += 1
        with self._open() as local:
            local.move(channel, key, position, self.now)

    @rule(key=_key, status=_mark)
    def another_device(self, key: str, status: str) -> None:
        self.now += 1
        field = {"read": "read", "unread": "read", "archived": "archived", "unarchived": "archived"}
        self.server.change(Waiting(0, field.get(status, "starred"), key, status, key, 0, self.now), "desk")

    @rule(limit=st.integers(1, 5), page=st.integers(1, 9), refuse=st.sets(st.integers(0, 4)), answered=st.booleans())
    def push(self, limit: int, page: int, refuse: set[int], answered: bool) -> None:
        with self._open() as local:
            portion = local.waiting(local.last(), limit)
            for index, waiting in enumerate(portion):
                if index not in refuse:
                    self.server.change(waiting, "phone")
            if answered and portion:
                local.apply(self.server.pull(local.since, page), portion, refuse, self.now)

    @rule(page=st.integers(1, 3))
    def pull_a_page(self, page: int) -> None:
        with self._open() as local:
            local.apply(self.server.pull(local.since, page))

    @rule()
    def the_server_is_another(self) -> None:
        self.server.log = self.server.log[: len(self.server.log) // 2]
        self.server.said = {key: word for key, word in self.server.said.items() if key in self.server.log}
        with self._open() as local:
            local.forget_since()

    @rule()
    def all_comes_through(self) -> None:
        with self._open() as local:
            while portion := local.waiting(local.last(), 3):
                for waiting in portion:
                    self.server.change(waiting, "phone")
                local.apply(self.server.pull(local.since, 2), portion, (), self.now)
            while (answer := self.server.pull(local.since, 2)).more:
                local.apply(answer)
            local.apply(answer)
        shown = _table(self.path)
        expected = {key: _row(word) for key, word in self.server.said.items() if isinstance(word, Status)}
        assert shown == {key: row for key, row in expected.items() if row is not None}
        db = apsw.Connection(str(self.path))
        assert db.execute("SELECT count(*) FROM outbox").get == 0
        assert db.execute("SELECT count(*) FROM word").get == 0
        positions = {
            row[0]: row[1:]
            for row in db.execute(
                "SELECT channel_id, last_read_message_id, last_read_at, position FROM reading_position"
            )
        }
        db.close()
        assert positions == {
            key: (word.last_read_message_id, word.last_read_at, word.position)
            for key, word in self.server.said.items()
            if isinstance(word, ReadingPosition)
        }

    @invariant()
    def what_waits_is_shown(self) -> None:
        if not hasattr(self, "path") or not self.path.exists():
            return
        shown = _table(self.path)
        with self._open() as local:
            for waiting in local.waiting(local.last(), 100):
                if waiting.kind == "message":
                    row = shown.get(waiting.key, ("", None, None, None))
                    column = {"read": 0, "archived": 2, "starred": 3}[waiting.field]
                    assert bool(row[column]) == (not waiting.status.startswith("un"))


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE


def test_only_the_last_mark_of_a_field_waits_and_times_never_go_back(path: Path) -> None:
    with Statuses(path, _USER) as local:
        local.mark("m", "read", 1_000)
        local.mark("m", "starred", 2_000)
        local.mark("m", "unread", 500)
        found = local.waiting(local.last(), 10)
    assert [(waiting.status, waiting.at_us) for waiting in found] == [("starred", 2_000), ("unread", 2_000)]
    assert _table(path) == {"m": ("", None, None, iso(2_000))}


def test_a_later_mark_than_one_that_was_just_answered_is_not_older_to_the_server(path: Path) -> None:
    with Statuses(path, _USER) as local:
        local.mark("m", "read", 1_000)
        sent = local.waiting(local.last(), 10)
        local.mark("m", "unread", 1_500)
        answer = ReadStatus(since="1", full=False, more=False, statuses=[], positions=[])
        local.apply(answer, sent, (), 9_000)
        assert [(waiting.status, waiting.at_us) for waiting in local.waiting(local.last(), 10)] == [("unread", 9_000)]


def test_a_device_keeps_the_name_it_made_up(path: Path) -> None:
    with Statuses(path, _USER) as local:
        name = local.name
    with Statuses(path, _USER) as local:
        assert local.name == name
    with Statuses(path, _USER, name="given") as local:
        assert local.name == "given"
    with Statuses(path, _USER) as local:
        assert local.name == "given"


def test_an_app_may_read_it_with_another_library_meanwhile(path: Path) -> None:
    with Statuses(path, _USER) as local:
        for number in range(3):
            local.mark(f"m{number}", "read", 1_000_000)
            script = (
                "import sqlite3, sys\n"
                "print(sqlite3.connect(sys.argv[1]).execute('SELECT * FROM read_stats').fetchall())"
            )
            said = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
            assert said.stdout.startswith(f"[('1970-01-01', {number + 1}, ")


@pytest.mark.parametrize("damage", ["rubbish", "cut", "flipped", "another's tables", "no row", "empty"])
def test_a_damaged_file_is_set_aside_and_what_the_server_knows_comes_anew(person: Person, damage: str) -> None:
    ids = person.get_mail(3)
    device = person.device()
    device.mark(ids[0], "read")
    device.sync()
    path = device.directory / FILE
    content = path.read_bytes()
    if damage in ("another's tables", "no row"):
        db = apsw.Connection(str(path))
        db.execute("DROP TABLE outbox" if damage == "another's tables" else "DELETE FROM device").fetchall()
        db.close()
    else:
        path.write_bytes(
            {
                "rubbish": b"rubbish" * 3_000,
                "cut": content[:8_192],
                "flipped": content[:4_096] + b"\xff" * (len(content) - 4_096),
                "empty": b"",
            }[damage]
        )
    device.mark(ids[1], "starred")
    device.sync()
    assert set(_table(path)) == {ids[0], ids[1]}
    assert set(person.statuses()) == {ids[0], ids[1]}
    assert len(list(device.directory.glob("read_status.db.damaged-*"))) == (damage != "empty")
    for _ in range(4):
        path.write_bytes(b"rubbish")
        device.mark(ids[2], "archived")
    assert len(list(device.directory.glob("read_status.db.damaged-*"))) == 2
    device.sync()
    assert set(_table(path)) == set(ids)


@pytest.mark.parametrize("since", ["rubbish", "9999-01-01T00:00:00.000000Z", "2001-01-01T00:00:00.000000Z", ""])
def test_a_since_that_makes_no_sense_brings_everything_and_keeps_what_waits(person: Person, since: str) -> None:
    ids = person.get_mail(4)
    device, desk = person.device(), person.device("desk")
    device.mark(ids[0], "read")
    device.sync()
    path = device.directory / FILE
    db = apsw.Connection(str(path))
    db.execute("UPDATE device SET since=?", (since,)).fetchall()
    db.execute("INSERT INTO read_status(message_id, read_at) VALUES('not-there', 'x')").fetchall()
    db.close()
    desk.mark(ids[1], "read")
    desk.sync()
    device.mark(ids[2], "starred")
    device.sync()
    expected = {ids[0], ids[1], ids[2]}
    assert set(_table(path)) - {"not-there"} == expected
    if since != "2001-01-01T00:00:00.000000Z":  # that one is in the past, and gets what came after it
        assert set(_table(path)) == expected
    desk.sync()
    assert _table(desk.directory / FILE).keys() == expected


def test_a_mark_that_lost_goes_and_the_table_returns_to_the_servers_word(person: Person) -> None:
    ids = person.get_mail(2)
    skewless, late = person.device("desk"), person.device("phone", clock=lambda: 1_000_000)
    late.mark(ids[0], "unread")  # in 1970, by a clock that stands
    skewless.mark(ids[0], "read")
    skewless.sync()
    old = person.device("phone")
    late_clock = old.sync()
    assert [(conflict.message_id, conflict.reason) for conflict in late_clock.conflicts] == [(ids[0], "newer")]
    assert _table(old.directory / FILE) == _table(skewless.directory / FILE) != {}
    old.mark("never-sent", "starred")
    assert [conflict.reason for conflict in old.sync().conflicts] == ["no_message"]
    assert "never-sent" not in _table(old.directory / FILE)
    assert old.sync().sent == 0


def test_a_mark_the_server_cannot_take_does_not_hold_up_the_others(person: Person) -> None:
    ids = person.get_mail(9)
    device = person.device()
    for id in ids:
        device.mark(id, "read")
    db = apsw.Connection(str(device.directory / FILE))
    db.execute("UPDATE outbox SET message_id='no id at all', key='no id at all' WHERE key=?", (ids[4],)).fetchall()
    db.close()
    synced = device.sync()
    assert synced.dropped == ["no id at all"]
    assert synced.sent == 8
    assert set(person.statuses()) == set(ids) - {ids[4]}
    assert device.sync().sent == 0


def test_more_marks_than_a_portion_holds_and_more_statuses_than_a_page(person: Person) -> None:
    ids = person.get_mail(60, size=1)
    device, desk = person.device(), person.device("desk")
    for id in ids:
        device.mark(id, "read")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.exchange.PORTION_MAX", 7)
        patch.setattr("client.exchange.PAGE", 11)
        device.move("direct", ids[-1], 3)
        assert device.sync().sent == 61
        desk.sync()
    assert _table(desk.directory / FILE) == _table(device.directory / FILE)
    assert len(_table(desk.directory / FILE)) == 60


def test_an_answer_that_never_came_is_asked_for_again(person: Person) -> None:
    ids = person.get_mail(3)
    deaf = [Fault(deaf=True), Fault(deaf=True)]

    def plan(method: str, _target: str) -> Fault | None:
        return deaf.pop() if method == "POST" and deaf else None

    with Line(person.node.url, plan) as line:
        device = person.device(server=line.url)
        for id in ids:
            device.mark(id, "read")
        synced = device.sync()
    assert (synced.sent, synced.conflicts) == (3, [])
    assert set(person.statuses()) == set(ids)


def test_a_file_that_another_program_holds_is_an_error_that_says_so(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.statuses._BUSY_MS", 50)
    [id] = person.get_mail()
    device = person.device()
    device.mark(id, "read")
    script = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('BEGIN EXCLUSIVE')\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, device.directory / FILE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DeviceError, match="held by another program"):
            device.mark(id, "starred")
        with pytest.raises(DeviceError, match="held by another program"):
            device.sync()
        assert person.has(device)
        holder.communicate(b"")
    device.mark(id, "starred")
    device.sync()
    assert person.statuses()[id]["starredAt"] is not None
