"""People change hands while the node runs: more and fewer shards under load, one person alone, and kills in between."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from loadtest import kill_boxes
from loadtest.kill_ledger import Ledger
from loadtest.kill_load import Load
from loadtest.kill_node import wait_drained
from node import paths, placement
from node.paths import user_dir
from node.placement import Placement
from node.slots import table_for
from tests.e2e import loading
from tests.e2e.people import owned_by
from tests.shard.elsewhere import held_elsewhere
from tests.support import Node, eventually

pytestmark = pytest.mark.slow


def _begun(node: Node, *arguments: str) -> subprocess.Popen[str]:
    """``pobox reshard`` or ``pobox move``, on its way."""
    command = [sys.executable, "-m", "node", *arguments, "--data", str(node.data)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _done(node: Node, *arguments: str) -> str:
    """What it said; it must end well."""
    said, _ = (running := _begun(node, *arguments)).communicate(timeout=240)
    assert running.returncode == 0, f"{said}\n{node.output()}"
    return said


def _kill_one(node: Node, kind: str, rng: random.Random) -> None:
    """Any of that kind, as soon as one is there."""
    found: list[str] = []

    def are_there() -> bool:
        found[:] = [name for name in node.pids if name.startswith(kind)]
        return bool(found)

    eventually(are_there, f"a {kind}")
    node.kill(rng.choice(found))


def _placed(node: Node) -> Placement:
    found = placement.load(node.data)
    assert found is not None
    return found


@pytest.mark.long
def test_more_and_fewer_shards_under_load_lose_and_double_nothing_and_fail_nobody(tmp_path: Path) -> None:
    async def moved_under_load(node: Node) -> tuple[Load, Ledger]:
        load, ledger = loading.make(node.url)
        await load.set_up()
        async with loading.under(load):
            for shards in (3, 2):
                await asyncio.sleep(0.5)
                said = await asyncio.to_thread(_done, node, "reshard", "--shards", str(shards))
                assert re.search(r"^[0-9]+ slots and [0-9]+ boxes moved", said, re.M), said
                assert _placed(node).shards == _placed(node).processes == shards
                assert _placed(node).slots == {}
        await wait_drained(node.data, 2, loading.PATIENCE_S)
        await load.ask_receipts(300)
        return load, ledger

    with Node(tmp_path / "data", routers=2) as node:
        load, ledger = asyncio.run(moved_under_load(node))
        eventually(lambda: "shard-2" not in node.pids, "the end of the third shard")
        assert not (node.data / "journals-1" / "shard-2.db").exists()
    assert load.faults.words + loading.judge(ledger, node.data).words == []
    assert load.counts["refused"] == 0
    assert ledger.acknowledged > 0


@pytest.mark.parametrize("seed", [1])
@pytest.mark.long
def test_whoever_is_killed_meanwhile_nothing_is_lost_and_the_same_again_goes_on(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    async def killed_under_load(node: Node) -> tuple[Load, Ledger]:
        load, ledger = loading.make(node.url, seed=seed)
        await load.set_up()
        async with loading.under(load):
            for shards in (3, 2):
                for victim in rng.sample(["coordinator", "shard", "shard", "router", "all"], 4):
                    running = _begun(node, "reshard", "--shards", str(shards))
                    await asyncio.sleep(rng.uniform(0.5, 2.0))
                    if victim == "all":
                        running.kill()
                        node.kill_all()
                        await asyncio.to_thread(node.start, _placed(node).shards)
                    elif victim == "coordinator":
                        running.kill()
                    else:
                        await asyncio.to_thread(_kill_one, node, victim, rng)
                        running.kill()
                    await asyncio.to_thread(running.communicate)
                await asyncio.to_thread(_done, node, "reshard", "--shards", str(shards))
        await wait_drained(node.data, 2, loading.PATIENCE_S)
        await load.ask_receipts(300)
        return load, ledger

    with Node(tmp_path / "data") as node:
        load, ledger = asyncio.run(killed_under_load(node))
    assert load.faults.words + loading.judge(ledger, node.data).words == []


def test_a_move_goes_on_without_us_when_a_shard_is_killed_in_the_middle(tmp_path: Path) -> None:
    """The command tries again by itself."""
    with Node(tmp_path / "data") as node:
        running = _begun(node, "reshard", "--shards", "3", "--batch", "32")
        eventually(lambda: _placed(node).shards == 3, "the third shard")
        for name in ("shard-0", "shard-2", "shard-1"):
            node.kill(name)
        said, _ = running.communicate(timeout=240)
        assert running.returncode == 0, said
        assert _placed(node).slots == {}


@pytest.mark.long
def test_one_person_moves_with_all_there_is_and_stays_there(tmp_path: Path) -> None:
    user = owned_by(0, 2)[0]
    with Node(tmp_path / "data") as node, httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http:
        http.put("/api/v3/channels/news").raise_for_status()
        http.put(f"/api/v3/channels/news/members/{user}").raise_for_status()
        http.put(f"/api/v3/users/{user}/channels/news/mute", json={}).raise_for_status()

        def send(id: str, **to: object) -> None:
            assert http.post("/api/v3/messages", json={"id": id, "title": id, "content": "", **to}).status_code == 202

        def ids() -> list[str]:
            return sorted(one["id"] for one in http.get(f"/api/v3/users/{user}/messages").json()["messages"])

        send("first", users=[user])
        send("news", channelId="news")
        assert ids() == ["first", "news"]
        before = http.get(f"/api/v3/sync/{user}/check").json()["serverVersion"]
        assert f"{user} is served by shard 1 from now on" in _done(node, "move", user, "--shard", "1")
        assert (_placed(node).table.shard_of(user), _placed(node).users) == (1, {user: 4096})
        assert http.get(f"/api/v3/sync/{user}/check").json()["serverVersion"] == before
        send("second", users=[user])
        assert http.get(f"/api/v3/sync/{user}/check").json()["serverVersion"] > before
        send("news2", channelId="news")
        send("first", users=[user])  # once more
        assert http.delete(f"/api/v3/users/{user}/messages/first").status_code == 204
        assert ids() == ["news", "news2", "second"]
        [channel] = http.get(f"/api/v3/users/{user}/channels").json()["channels"]
        assert (channel["id"], channel["isMuted"]) == ("news", True)
        assert http.get("/api/v3/channels/news").json()["members"] == 1
        assert [one["id"] for one in http.get("/api/v3/users").json()["users"]] == [user]
        node.restart()
        assert ids() == ["news", "news2", "second"]
        assert _done(node, "move", user, "--shard", "1") == f"{user} is at shard 1 already, and stays there\n"
        _done(node, "reshard", "--shards", "3")
        assert _placed(node).table.shard_of(user) == 1
        node.restart(2)  # on a stopped node, too
        assert _placed(node).table.shard_of(user) == 1
        _done(node, "move", user, "--shard", "0")
        assert ids() == ["news", "news2", "second"]
        http.delete(f"/api/v3/users/{user}").raise_for_status()
        assert http.get(f"/api/v3/users/{user}/messages").status_code == 404
        bad = _begun(node, "move", user, "--shard", "2")
        assert (bad.communicate()[0], bad.returncode)[1] == 1
    assert kill_boxes.doctor(node.data) is None


def test_who_is_there_already_is_told_of_and_a_name_without_a_box_is_served_where_it_is_moved_to(
    tmp_path: Path,
) -> None:
    here, ghost = owned_by(1, 2)[0], owned_by(0, 2)[0]
    with Node(tmp_path / "data") as node, httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http:

        def send(user: str) -> None:
            body = {"id": user, "title": "t", "content": "", "users": [user]}
            assert http.post("/api/v3/messages", json=body).status_code == 202

        send(here)
        said = _done(node, "move", here, "--shard", "1")
        assert said == f"{here} is at shard 1 already, with all of that slot: nothing is done\n"
        assert _placed(node).users == {}
        said = _done(node, "move", ghost, "--shard", "1")
        assert f"there is no box of {ghost} yet" in said
        send(ghost)
        assert len(http.get(f"/api/v3/users/{ghost}/messages").json()["messages"]) == 1
        assert _placed(node).users == {ghost: 4096}
    assert kill_boxes.doctor(node.data) is None


@pytest.mark.long
def test_mail_that_could_not_be_stored_and_dead_letters_go_along(tmp_path: Path) -> None:
    user = owned_by(0, 2)[0]
    env = {"POBOX_RETRY_BASE_S": "0.1", "POBOX_RETRY_CAP_S": "0.5"}
    with (
        Node(tmp_path / "data", env=env) as node,
        httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http,
    ):

        def send(id: str, **more: object) -> None:
            message = {"id": id, "title": id, "content": "", "users": [user], **more}
            assert http.post("/api/v3/messages", json=message).status_code == 202

        def dead() -> list[str]:
            return [one["messageId"] for one in http.get("/api/v3/dead-letters").json()["deadLetters"]]

        send("first")
        asyncio.run(wait_drained(node.data, 2, 60))
        node.restart()
        with held_elsewhere(user_dir(node.data, user) / "messages.db", "write"):
            send("dies", timeoutSeconds=1)
            send("waits")
            eventually(lambda: dead() == ["dies"], "a dead letter")
            said = _done(node, "move", user, "--shard", "1")
            assert "1 letter that could not be stored" in said
            assert dead() == ["dies"]
            assert http.get("/api/v3/messages/waits/receipt").json()["pending"] == 1
            node.kill("shard-1")
        eventually(
            lambda: http.get("/api/v3/messages/waits/receipt").json().get("pending") == 0, "the letter that went along"
        )
        assert http.get("/api/v3/messages/dies/receipt").json()["failed"] == 1
        letters = http.get("/api/v3/dead-letters").json()["deadLetters"]
        http.post(f"/api/v3/dead-letters/{letters[0]['id']}/requeue").raise_for_status()
        listed = http.get(f"/api/v3/users/{user}/messages").json()["messages"]
        assert sorted(one["id"] for one in listed) == ["dies", "first", "waits"]
    assert kill_boxes.doctor(node.data) is None


def _stopped_in_a_handover(node: Node, running: subprocess.Popen[str]) -> bool:
    """Whether it stands still in the middle of one now; else it goes on. Not where it has the lock, which it has for as
    long as it takes to look at a file and to rename one: whoever waits for that waits until it goes on."""
    handover = paths.handover_path(node.data)
    if handover.exists():
        running.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(BlockingIOError), paths.placement_lock(node.data).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if handover.exists():
                return True
        running.send_signal(signal.SIGCONT)
    return False


def test_a_command_that_is_stopped_in_the_middle_of_a_handover_holds_nobody_up_for_long(tmp_path: Path) -> None:
    """The shards call the handover off by themselves; a second command is refused while the first one lives."""
    with Node(tmp_path / "data") as node, httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http:
        running = _begun(node, "reshard", "--shards", "3", "--batch", "16")
        eventually(lambda: _stopped_in_a_handover(node, running), "a handover")
        try:
            for number in range(40):
                message = {"id": f"m{number}", "users": [f"user{number}"], "title": "t", "content": ""}
                eventually(lambda: http.post("/api/v3/messages", json=message).status_code == 202, "the end of it")  # noqa: B023
            second = _begun(node, "reshard", "--shards", "3")
            assert "already" in second.communicate(timeout=240)[0]
        finally:
            running.send_signal(signal.SIGCONT)
        said, _ = running.communicate(timeout=240)
        assert running.returncode == 0, said
        assert _placed(node).table.owned(2) == {slot for slot, owner in enumerate(table_for(3)) if owner == 2}
