from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from node import listen, rundir
from node.config import Auth, Config
from node.config import Node as NodeConfig
from node.errors import ConfigError
from node.preflight import check, sqlite_is_safe
from tests.support import Node, eventually, is_alive

pytestmark = pytest.mark.slow

FAKE = [sys.executable, str(Path(__file__).with_name("fake_node.py"))]
MakeNode = Callable[..., Node]


def said(process: str, line: str) -> str:
    """What a node's log holds of a ``line`` that ``process`` printed."""
    return f'{{"event": "{line}", "process": "{process}"'


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[MakeNode]:
    """Makes nodes with fake children; what still runs at the end is stopped."""
    made: list[Node] = []

    def make(**options: object) -> Node:
        node = Node(tmp_path / "data", command=FAKE, **options)  # type: ignore[arg-type]
        made.append(node)
        return node

    yield make
    for node in made:
        node.stop()


def test_a_node_comes_up_says_where_it_is_and_goes_down_in_order(fake: MakeNode) -> None:
    node = fake(shards=2, routers=2).start()
    assert set(node.pids) == {"supervisor", "shard-0", "shard-1", "router-0", "router-1"}
    assert all(is_alive(pid) for pid in node.pids.values())
    assert f"pobox ready at {node.url} (2 shards, 2 routers)" in node.output()
    eventually(lambda: said("shard-1", "shard 1 starts with 2 shards") in node.output(), "a child's first line")
    assert (node.data.stat().st_mode & 0o777, (node.data / "run").stat().st_mode & 0o777) == (0o700, 0o700)
    pids = node.pids
    assert node.stop() == 0
    assert node.pids == {}
    assert not any(is_alive(pid) for pid in pids.values())
    output = node.output()
    last_router = max(output.index(said(f"router-{i}", "stopped")) for i in range(2))
    assert last_router < min(output.index(said(f"shard-{i}", "stopping")) for i in range(2))
    with (node.data / "node.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_backup_that_may_have_been_missed_is_started_and_on_a_new_node_none(fake: MakeNode) -> None:
    in_12_h = time.strftime("%H:%M", time.gmtime(time.time() + 43_200))
    node = fake(shards=1, env={"POBOX_BACKUP_AT": in_12_h}).start()
    assert '"backup"' not in node.output()
    node.stop()
    (node.data / "backups/20260101/1").mkdir(parents=True)
    node.start(env={"FAKE_BACKUP": "dies"})
    eventually(lambda: "the daily backup is not done" in node.output(), "a try that fails")
    assert node.output().count(said("backup", "backup 0 starts with 1 shards")) == 1


def test_only_a_new_node_says_what_to_do_next(fake: MakeNode) -> None:
    node = fake(shards=1).start()
    eventually(lambda: "deliver --users" in node.output(), "what to do next")
    node.stop()
    (node.data / "placement.json").write_text('{"version":1,"shards":1}')
    node.start()
    node.stop()
    assert "deliver --users" not in node.output()


@pytest.mark.parametrize("name", ["shard-0", "router-0"])
def test_a_child_that_dies_is_started_again(fake: MakeNode, name: str) -> None:
    node = fake(shards=1).start()
    dead = node.kill(name)
    eventually(lambda: node.pids.get(name) not in (None, dead), f"another {name}")
    assert is_alive(node.pids[name])
    assert "SIGKILL" in node.output()
    node.wait_ready()


def test_callers_wait_in_the_queue_while_a_router_is_started_again(fake: MakeNode) -> None:
    node = fake(shards=1).start()
    dead = node.kill("router-0")
    answer = httpx.get(node.url, timeout=30, trust_env=False)
    assert answer.status_code == 200
    assert answer.text != str(dead)


def test_a_child_that_never_comes_up_is_given_up_on_with_its_last_words(fake: MakeNode) -> None:
    node = fake(shards=1, env={"FAKE_SHARD": "dies"}).start(ready=False)
    assert node.wait() == 1
    assert "shard-0 ended 5 times before the node was ready (exit 1)" in node.output()
    assert node.output().endswith("the shard has no luck\n")
    assert node.pids == {}


def test_a_layout_that_fails_stops_the_start_with_its_message(fake: MakeNode) -> None:
    node = fake(env={"FAKE_LAYOUT": "dies"}).start(ready=False)
    assert node.wait() == 1
    assert "the data directory can't be used (exit 1)" in node.output()
    assert "the layout has no luck" in node.output()
    assert '"shard-0"' not in node.output()


def test_a_second_node_on_the_same_data_is_refused(fake: MakeNode) -> None:
    first = fake(shards=1).start()
    second = fake(shards=1).start(ready=False)
    assert second.wait() == 1
    assert f"another node runs on {first.data} (pid {first.pids['supervisor']})" in second.output()
    assert is_alive(first.pids["shard-0"])


def test_a_taken_port_is_refused_before_the_data_is_touched(fake: MakeNode) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = fake(shards=1)
        node._port = taken.getsockname()[1]
        node.start(ready=False)
        assert node.wait() == 1
    assert "is taken" in node.output()
    assert '"layout"' not in node.output()


def test_children_of_a_killed_supervisor_end_and_the_next_one_waits_for_them(fake: MakeNode) -> None:
    node = fake(shards=2, env={"FAKE_SHARD": "slow", "FAKE_ROUTER": "slow"}).start()
    before = node.pids
    node.kill("supervisor")
    node.start()
    assert not any(is_alive(pid) for pid in before.values())
    assert not set(before.values()) & set(node.pids.values())


def test_a_second_interrupt_hurries(fake: MakeNode) -> None:
    node = fake(shards=1, env={"FAKE_SHARD": "stubborn"}).start()
    shard = node.pids["shard-0"]
    node.kill("supervisor", signal.SIGINT)
    eventually(lambda: said("router-0", "stopped") in node.output(), "the router's end")
    node.kill("supervisor", signal.SIGINT)
    assert node.wait() == 0
    assert not is_alive(shard)
    assert "it did not stop in time" in node.output()


def test_a_node_asked_to_stop_while_it_comes_up_leaves_nobody(fake: MakeNode) -> None:
    node = fake(shards=1).start(ready=False)
    eventually(lambda: "shard-0" in node.pids, "a shard")
    pids = node.pids
    assert node.stop() == 0
    assert node.pids == {}
    assert not any(is_alive(pid) for pid in pids.values())


def test_pids_of_strangers_are_not_waited_for(fake: MakeNode) -> None:
    node = fake(shards=1)
    (node.data / "run").mkdir(parents=True)
    (node.data / "run" / "pids.json").write_text(f'{{"supervisor":1,"shard-0":{os.getpid()}}}')
    node.start()
    assert node.stop() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_authentication_only_loopback_is_served(host: str) -> None:
    with pytest.raises(ConfigError, match="host"):
        check(Config(node=NodeConfig(host=host), auth=Auth(mode="open")))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.0.0.2", "localhost"])
def test_loopback_is_served(host: str) -> None:
    check(Config(node=NodeConfig(host=host), auth=Auth(mode="open")))


def test_an_sqlite_with_the_wal_reset_fault_is_refused() -> None:
    assert not sqlite_is_safe("3.40.1")
    assert not sqlite_is_safe("3.51.2")
    assert sqlite_is_safe("3.51.3")
    assert sqlite_is_safe("3.100.0")


def test_all_routers_get_a_socket_on_one_free_port() -> None:
    sockets = listen.bind("127.0.0.1", 0, 3)
    try:
        assert len({listener.getsockname() for listener in sockets}) == 1
        sockets[0].listen()
        with pytest.raises(listen.PortTaken):
            listen.bind("127.0.0.1", sockets[0].getsockname()[1], 1)
    finally:
        for listener in sockets:
            listener.close()


def test_an_address_of_another_machine_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match="can't listen"):
        listen.bind("192.0.2.1", 0, 1)


def test_a_port_that_a_killed_run_still_holds_is_waited_for(fake: MakeNode) -> None:
    node = fake(shards=1).start()
    node.kill("supervisor")
    eventually(lambda: not rundir.leftovers(node.data), "the end of its children")
    with socket.socket() as dying:  # as a router that has no environment any more, and its files still
        dying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        dying.bind(("127.0.0.1", int(node.url.rpartition(":")[2])))
        dying.listen()
        node.start(ready=False)
        eventually(lambda: not rundir.pids_path(node.data).exists(), "the moment before the next one binds it")
    node.wait_ready()
