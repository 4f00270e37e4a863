"""The units: what is installed is sound, says little, and runs a node under the real systemd."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.children import kept_port
from node.commands_systemd import write
from node.config import Backup, Config, Node
from tests.support import eventually
from tests.systemd.manager import UNITS, Manager, install, managed, why_not

_EXPOSURE_MAX = 15  # tenths
needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What is installed on a machine of eight cores."""
    install(tmp_path, 8080, shards=6, routers=2, cores=list(range(8)), python=sys.executable)
    return tmp_path


def text(path: Path) -> str:
    return path.read_text()


def test_each_shard_gets_a_core_of_its_own_and_the_routers_the_rest(tree: Path) -> None:
    units = tree / UNITS
    for index in range(6):
        assert f"CPUAffinity={index}\n" in text(units / f"pobox-shard@{index}.service.d/30-instance.conf")
    assert "CPUAffinity=6 7\n" in text(units / "pobox-router@1.service.d/30-instance.conf")


def test_fewer_shards_leave_nothing_of_the_others(tree: Path) -> None:
    install(tree, 8080, shards=2, routers=1, cores=list(range(8)), python=sys.executable)
    units = tree / UNITS
    wanted = {path.name for path in (units / "pobox.target.wants").iterdir()}
    assert wanted == {
        "pobox-backup.timer", "pobox-router@0.service", "pobox-router@0.socket", "pobox-shard@0.service",
        "pobox-shard@1.service",
    }  # fmt: skip
    assert not list(units.glob("pobox-shard@[2-9].service.d"))
    assert "POBOX_NODE_SHARDS=2\n" in text(tree / "etc/pobox/node.env")


def test_another_python_and_data_directory_are_in_drop_ins(tmp_path: Path) -> None:
    write(tmp_path, Config(node=Node(data="/mail")), cores=[0, 1], python="/usr/local/bin/python3")
    units = tmp_path / UNITS
    assert "ExecStart=/usr/local/bin/python3 -m shard --index %i --supervised\n" in text(
        units / "pobox-shard@.service.d/20-node.conf"
    )
    assert "ReadWritePaths=/mail\n" in text(units / "pobox-.service.d/20-node.conf")


def test_the_time_of_the_daily_backup_is_that_of_the_settings(tmp_path: Path) -> None:
    units = tmp_path / UNITS
    write(tmp_path, Config(backup=Backup(at="22:05")), cores=[0], python=sys.executable)
    assert "OnCalendar=\nOnCalendar=*-*-* 22:05:00 UTC\n" in text(units / "pobox-backup.timer.d/20-node.conf")
    write(tmp_path, Config(backup=Backup(at="")), cores=[0], python=sys.executable)
    assert not (units / "pobox.target.wants/pobox-backup.timer").is_symlink()
    assert not (units / "pobox-backup.timer.d").exists()


def test_the_master_key_is_handed_to_those_who_open_boxes_and_to_no_router(tree: Path) -> None:
    named = {
        path.name
        for path in (tree / UNITS).glob("*")
        if path.is_file() and not path.is_symlink() and "master-key" in path.read_text()
    }
    assert named == {"pobox-shard@.service", "pobox-layout.service", "pobox-backup.service"}


@pytest.mark.slow
@needs_analyze
def test_systemd_finds_nothing_to_say(tree: Path) -> None:
    for command in (Path(sys.executable), Path("/bin/kill")):  # it looks whether there is something to run
        place = tree / command.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", place)
    shutil.copytree("/lib/systemd/system", tree / "lib/systemd/system", symlinks=True)
    units = [*(f"pobox-shard@{n}.service" for n in (0, 5)), "pobox-router@1.service", "pobox-router@1.socket"]
    units += ["pobox-layout.service", "pobox-backup.service", "pobox-backup.timer", "pobox.target", "pobox.slice"]
    command = ["systemd-analyze", "verify", f"--root={tree}", "--man=no", "--recursive-errors=no", *units]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pobox" not in done.stderr


@pytest.mark.slow
@needs_analyze
@pytest.mark.parametrize(
    "unit", ["pobox-shard@.service", "pobox-router@.service", "pobox-layout.service", "pobox-backup.service"]
)
def test_a_service_may_do_little_else(tree: Path, unit: str) -> None:
    name = unit.replace("@.", "@0.")
    command = ["systemd-analyze", "security", "--offline=yes", f"--root={tree}", f"--threshold={_EXPOSURE_MAX}", name]
    done = subprocess.run([*command, "--json=short"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, json.dumps([row for row in json.loads(done.stdout or "[]") if row.get("exposure")])


# -- for real -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with kept_port() as kept:
        yield kept


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Manager]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    tree = tmp_path_factory.mktemp("tree")
    (tree / "etc/credstore").mkdir(parents=True)
    (tree / "etc/credstore/pobox.jwt-secret").write_text("known to root alone")
    with managed(tree, port, shards=2, routers=2) as manager:
        manager.await_active("pobox.target", "pobox-layout.service", *SERVICES)
        yield manager


SERVICES = ["pobox-shard@0.service", "pobox-shard@1.service", "pobox-router@0.service", "pobox-router@1.service"]


@pytest.mark.slow
class TestForReal:
    def test_a_message_is_delivered_and_read(self, manager: Manager, port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            users = [f"user-{n}" for n in range(8)]
            body = {"id": "first", "users": users, "title": "Hello", "content": "under systemd"}
            # A router comes up whether or not the shards are there.
            eventually(lambda: client.post("/api/v3/messages", json=body).status_code == 202, "links to both shards")
            for user in users:
                assert client.get(f"/api/v3/users/{user}/messages/first").json()["title"] == "Hello"

    def test_a_secret_of_roots_is_handed_to_the_unit_that_needs_it(self, manager: Manager) -> None:
        handed = Path(f"/proc/{manager.pid}/root/run/credentials/pobox-router@0.service")
        assert [path.name for path in handed.iterdir()] == ["pobox.jwt-secret"], "what is not there is none"
        assert (handed.stat().st_uid, handed.stat().st_mode & 0o777) == (990, 0o500)

    def test_the_daily_backup_is_made_when_its_timer_says_and_once(self, manager: Manager) -> None:
        assert manager.show("pobox-backup.timer", "ActiveState") == "active"
        assert "*-*-* 03:10:00 UTC" in manager.show("pobox-backup.timer", "TimersCalendar")
        backups = Path(f"/proc/{manager.pid}/root/var/lib/pobox/backups")

        def run() -> list[tuple[str, int]]:
            assert manager.run("start", "pobox-backup.service") == ""
            assert manager.show("pobox-backup.service", "Result") == "success"
            return sorted((path.name, path.stat().st_mtime_ns) for path in backups.glob("*/*/*.json"))

        first = run()
        assert [name for name, _when in first] == ["shard-0.json", "shard-1.json"]
        assert run() == first

    def test_a_shard_that_hangs_is_started_again(self, manager: Manager) -> None:
        main = manager.show("pobox-shard@0.service", "MainPID")
        manager.run("kill", "--signal=STOP", "--kill-whom=main", "pobox-shard@0.service")
        eventually(lambda: manager.show("pobox-shard@0.service", "MainPID") not in (main, "0"), "another process")
        manager.await_active("pobox-shard@0.service")

    def test_a_process_that_is_killed_comes_back(self, manager: Manager) -> None:
        manager.run("kill", "--signal=KILL", "pobox-shard@1.service")
        eventually(lambda: manager.show("pobox-shard@1.service", "NRestarts") != "0", "another start")
        manager.await_active("pobox-shard@1.service")

    def test_a_rolling_restart_fails_no_request(self, manager: Manager, port: int) -> None:
        load = Load(port)
        load.start()
        try:
            for unit in SERVICES:
                manager.run("restart", unit)
                manager.await_active(unit)
        finally:
            accepted, failures = load.stop()
        assert not failures
        assert accepted
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            for message_id in accepted:
                receipt = client.get(f"/api/v3/messages/{message_id}/receipt").json()
                assert receipt["targets"] == 4, message_id
            stored = {m["id"] for m in _all_of(client, "rolling-0")}
        assert stored == set(accepted)

    def test_it_stops_in_order(self, manager: Manager) -> None:
        assert manager.run("stop", "pobox.target") == ""
        for unit in SERVICES:
            eventually(lambda: manager.show(unit, "ActiveState") == "inactive", f"the end of {unit}")  # noqa: B023
            assert manager.show(unit, "Result") == "success", manager.log.read_text(errors="replace")[-4000:]


class Load(threading.Thread):
    """Sends one message after the other, each again until it is taken; what else is answered is a failure."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._over = threading.Event()
        self._accepted: list[str] = []
        self._failures: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self._port}", trust_env=False, timeout=30) as client:
            number = 0
            while not self._over.is_set():
                number += 1
                body = {
                    "id": f"rolling-{number}",
                    "users": [f"rolling-{n}" for n in range(4)],
                    "title": "t",
                    "content": "c",
                }
                while True:
                    try:
                        answer = client.post("/api/v3/messages", json=body)
                    except httpx.HTTPError as error:
                        self._failures.append(repr(error))
                        break
                    if answer.status_code == 503 and "retry-after" in answer.headers:
                        time.sleep(0.05)
                        continue
                    (self._accepted if answer.status_code == 202 else self._failures).append(body["id"])  # type: ignore[arg-type]
                    break

    def stop(self) -> tuple[list[str], list[str]]:
        self._over.set()
        self.join()
        return self._accepted, self._failures


def _all_of(client: httpx.Client, user: str) -> Iterator[dict[str, str]]:
    cursor: str | None = None
    while True:
        page = client.get(
            f"/api/v3/users/{user}/messages", params={"limit": 100, **({"cursor": cursor} if cursor else {})}
        ).json()
        yield from page["messages"]
        cursor = page["cursor"]
        if cursor is None:
            return
