"""Three devices of one person, and everything that may happen to them: in the end all have what the server has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from client.folder import checksum_of
from client.marks import EFFECTS, MARKS
from node.paths import user_dir
from tests.client.dying import Done, Mortal, Order
from tests.support import Node, eventually

pytestmark = pytest.mark.slow

_DAY_US = 86_400_000_000
SKEWS_US = {"a": 0, "b": -3 * _DAY_US, "c": 3_600_000_000}
SHARDS = 2
_COLUMN = {"read": "read_at", "archived": "archived_at", "starred": "starred_at"}
_LINES = 700
"""about as many as a sync comes to"""
_people = count()
_BLOWS = 3
"""in all examples together: each time a shard is killed its supervisor waits longer before it starts another"""

device_names = st.sampled_from(sorted(SKEWS_US))


class Devices(RuleBasedStateMachine):
    """One person, known to ``node`` from now on."""

    def __init__(self, node: Node, mortal: Mortal, place: Path, blows: Iterator[int]) -> None:
        super().__init__()
        self._node, self._mortal, self._blows = node, mortal, blows
        self._user = f"person-{next(_people)}"
        self._place = place / self._user
        self._http = httpx.Client(base_url=node.url, timeout=60, trust_env=False)
        self._number = 0
        self._there: list[str] = []
        self._marks: dict[tuple[str, str], list[tuple[str, str]]] = {}
        """of (message, field): by whom, and what, in order"""
        self._unsent: dict[str, set[tuple[str, str]]] = {name: set() for name in SKEWS_US}
        self._uncertain: set[tuple[str, str]] = set()
        """marked on a device that lost its read_status.db before it had synced"""

    # -- what happens ------------------------------------------------------------------------------

    @initialize()
    def first_mail(self) -> None:
        self.deliver(5, 3_000)

    @rule(number=st.integers(1, 12), size=st.sampled_from([1, 400, 3_000, 20_000]))
    def deliver(self, number: int, size: int) -> None:
        for _ in range(number):
            self._number += 1
            id = f"{self._user}-{self._number}"
            letter = {"id": id, "users": [self._user], "title": f"{self._number}", "content": "x" * size}
            self._insist("POST", "/api/v3/messages", 202, json=letter)
            self._there.append(id)

    @precondition(lambda self: self._there)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(self._there))
        self._insist("DELETE", f"/api/v3/users/{self._user}/messages/{id}", 204, 404)
        self._there.remove(id)

    @precondition(lambda self: self._there)
    @rule(name=device_names, statuses=st.lists(st.sampled_from(MARKS), min_size=1, max_size=4), data=st.data())
    def mark(self, name: str, statuses: list[str], data: st.DataObject) -> None:
        for status in statuses:
            id = data.draw(st.sampled_from(self._there))
            assert self._do(name, mark=(id, status)).error is None
            key = (id, EFFECTS[status][0])
            self._marks.setdefault(key, []).append((name, status))
            self._unsent[name].add(key)

    @rule(name=device_names)
    def sync(self, name: str) -> None:
        done = self._do(name)
        assert done.error is None
        self._unsent[name].clear()
        assert checksum_of(self._place / name / "messages.db") == self._check()["serverChecksum"]

    @rule(name=device_names, line=st.integers(0, _LINES))
    def sync_and_be_killed(self, name: str, line: int) -> None:
        assert self._do(name, kill_at=line).error is None

    @rule(shard=st.integers(0, SHARDS - 1))
    def kill_a_shard(self, shard: int) -> None:
        if next(self._blows, None) is None:
            return
        eventually(lambda: f"shard-{shard}" in self._node.pids, f"shard-{shard}")
        self._node.kill(f"shard-{shard}")

    @rule(
        name=device_names,
        way=st.sampled_from(["flip", "cut", "unlink", "rubbish", "-journal", "-wal"]),
        at=st.floats(0, 1, exclude_max=True),
    )
    def damage_the_copy(self, name: str, way: str, at: float) -> None:
        copy = self._place / name / "messages.db"
        if not copy.exists():
            return
        if way.startswith("-"):
            copy.with_name(copy.name + way).write_bytes(b"stale" * 2_000)
        else:
            content = bytearray(copy.read_bytes())
            copy.chmod(0o600)
            position = int(len(content) * at)
            if way == "unlink":
                copy.unlink()
            elif content:
                content[position] ^= 1
                copy.write_bytes({"flip": bytes(content), "cut": bytes(content[:position]), "rubbish": b"rubbish"}[way])

    @rule(name=device_names, way=st.sampled_from(["rubbish", "empty", "unlink"]))
    def damage_the_statuses(self, name: str, way: str) -> None:
        path = self._place / name / "read_status.db"
        if not path.exists():
            return
        if way == "unlink":
            path.unlink()
        else:
            path.write_bytes(b"rubbish" * 2_000 if way == "rubbish" else b"")
        self._uncertain |= self._unsent[name]

    @rule(name=device_names)
    def delete_what_the_client_noted(self, name: str) -> None:
        shutil.rmtree(self._place / name / ".sync", ignore_errors=True)

    @rule()
    def delete_what_the_server_noted(self) -> None:
        shutil.rmtree(user_dir(self._node.data, self._user) / ".sync", ignore_errors=True)

    # -- what must be so in the end ----------------------------------------------------------------

    def teardown(self) -> None:
        if self._number:  # an example that failed at its start has nobody to judge
            for name in [*SKEWS_US, *SKEWS_US]:  # the second time each hears what the others said
                assert self._do(name).error is None
            self._judge()
        self._http.close()
        shutil.rmtree(self._place, ignore_errors=True)

    def _judge(self) -> None:
        checksum = self._check()["serverChecksum"]
        answer = self._get(f"/api/v3/sync/{self._user}/read-status?limit=10000")
        assert not answer["more"]
        server = {
            status["messageId"]: (
                status["readAt"] or "",
                status["readDevice"] if status["readAt"] else None,
                status["archivedAt"],
                status["starredAt"],
            )
            for status in answer["statuses"]
            if status["readAt"] or status["archivedAt"] or status["starredAt"]
        }
        listed = self._get(f"/api/v3/users/{self._user}/messages?limit=100")
        for name in SKEWS_US:
            directory = self._place / name
            assert checksum_of(directory / "messages.db") == checksum
            messages = {row[0] for row in _rows(directory / "messages.db", "SELECT id FROM messages")}
            assert messages == set(self._there), (messages ^ set(self._there), len(listed["messages"]))
            columns = "message_id, read_at, CASE WHEN read_at<>'' THEN read_device END, archived_at, starred_at"
            shown = {
                row[0]: row[1:] for row in _rows(directory / "read_status.db", f"SELECT {columns} FROM read_status")
            }
            assert _of(shown, messages) == _of(server, messages)
            assert _rows(directory / "read_status.db", "SELECT * FROM outbox") == []
        unread = sum(not server.get(id, ("",))[0] for id in self._there)
        assert self._get(f"/api/v3/users/{self._user}/counts")["unread"] == unread
        for (id, field), marks in self._marks.items():
            if id in self._there and (id, field) not in self._uncertain and len({name for name, _ in marks}) == 1:
                column = {"read": 0, "archived": 2, "starred": 3}[field]
                assert bool(server.get(id, ("", None, None, None))[column]) == EFFECTS[marks[-1][1]][1], (id, marks)

    # ----------------------------------------------------------------------------------------------

    def _do(self, name: str, **more: Any) -> Done:
        directory = str(self._place / name)
        order = Order(self._user, directory, self._node.url, name, skew_us=SKEWS_US[name], patience_s=60.0, **more)
        return self._mortal.do(order)

    def _check(self) -> dict[str, Any]:
        return self._get(f"/api/v3/sync/{self._user}/check")

    def _get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._insist("GET", path, 200).json()
        return answer

    def _insist(self, method: str, path: str, *expected: int, json: object = None) -> httpx.Response:
        """Until the shard that was killed is back."""
        answers: list[httpx.Response] = []

        def asked() -> bool:
            try:
                answers.append(self._http.request(method, path, json=json))
            except httpx.TransportError:
                return False
            return answers[-1].status_code not in (503, 507)

        eventually(asked, f"{method} {path}")
        assert answers[-1].status_code in expected, answers[-1].text
        return answers[-1]


def _rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(db.execute(sql))
    finally:
        db.close()


def _of(statuses: dict[str, tuple[Any, ...]], messages: set[str]) -> dict[str, tuple[Any, ...]]:
    return {id: status for id, status in statuses.items() if id in messages}


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    with Mortal() as running:
        yield running


@pytest.mark.long
def test_whatever_happens_all_devices_end_with_what_the_server_has(tmp_path: Path, mortal: Mortal) -> None:
    blows = iter(range(_BLOWS))
    with Node(tmp_path / "data", shards=SHARDS, env={"POBOX_SHARD_MAILBOXES_OPEN_MAX": "2"}) as node:
        run_state_machine_as_test(
            lambda: Devices(node, mortal, tmp_path, blows),  # type: ignore[arg-type]
            settings=settings(
                max_examples=5,
                stateful_step_count=25,
                deadline=None,
                phases=[Phase.reuse, Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
