"""The audit log of a whole node: what was answered is in it, whatever is killed."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from node import audit_files
from node.audit_verify import heads, said, verify
from tests import audited
from tests.shard.disks import fill, small_disk
from tests.support import Node, eventually

pytestmark = pytest.mark.slow


def lines_of(data: Path) -> list[dict[str, Any]]:
    """Of all chains."""
    return [line for chain in audit_files.chains(data) for line in audited.lines_of(data, chain)]


def test_what_was_answered_is_in_the_log_after_kills_and_the_log_is_whole(tmp_path: Path) -> None:
    data, chance = tmp_path / "data", random.Random(7)
    answered: set[str] = set()

    def change(url: str, number: int, stop: threading.Event) -> None:
        """Make channels until told to stop, and remember those of which the node said so."""
        with httpx.Client(base_url=url, timeout=5, trust_env=False) as http:
            made = 0
            while not stop.is_set():
                name = f"c{number}-{made}"
                made += 1
                try:
                    if http.put(f"/api/v3/channels/{name}").status_code == 201:
                        answered.add(name)
                except httpx.TransportError:
                    stop.wait(0.02)

    with Node(data, routers=2) as node:
        for round in range(2):
            stop = threading.Event()
            threads = [
                threading.Thread(target=change, args=(node.url, 10 * round + number, stop)) for number in range(4)
            ]
            for thread in threads:
                thread.start()
            before = len(answered)
            stop.wait(0.5 + chance.random())
            eventually(lambda: len(answered) > before, "an answer")  # noqa: B023
            kept = heads(data)
            if round % 2:
                node.kill_all()
            else:
                node.kill("router-0")
            stop.set()
            for thread in threads:
                thread.join()
            found = verify(data, kept)
            assert found.faults == []
            if round % 2:
                node.start()
            node.wait_ready()
    assert answered
    lines = [line for line in lines_of(data) if line["deed"] == "channels.put"]
    begun = {line["whom"]["channel"] for line in lines if line.get("state") == "begins"}
    done = {line["whom"]["channel"] for line in lines if line.get("status") == 201}
    assert answered <= begun
    assert answered <= done
    assert verify(data).faults == []


def test_on_a_full_disk_deeds_are_refused_before_they_are_done_and_the_log_stays_whole(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "data", 64 * 1_048_576) as data,
        Node(data, shards=1, env={"POBOX_SHARD_DISK_RESERVE_BYTES": "0"}) as node,
        httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http,
    ):
        for name in ("ada", "bob"):
            body = {"users": [name], "title": "t", "content": "c", "id": f"m-{name}"}
            assert http.post("/api/v3/messages", json=body).status_code == 202
            assert http.get(f"/api/v3/users/{name}/messages").status_code == 200
        assert http.put("/api/v3/channels/crew").status_code == 201
        ballast = data / "ballast"
        fill(ballast)
        refused = []
        for number in range(200):  # what is left of a page of the log's takes a few lines
            answer = http.put(f"/api/v3/channels/c{number}")
            if answer.status_code == 507:
                refused.append(answer.json()["code"])
        assert set(refused[-20:]) == {"disk_full"}
        for path in ("/api/v3/users/ada", "/api/v3/users/ada/messages/m-ada"):
            assert http.delete(path).status_code == 507
        assert http.get("/api/v3/users/ada/export").status_code == 507
        assert http.get("/api/v3/users/ada/messages").status_code == 200
        key = [sys.executable, "-m", "node", "key", "create", "--name", "k", "--scope", "read", "--data", str(data)]
        made = subprocess.run(key, capture_output=True, text=True)
        assert made.returncode == 1
        assert "nothing is done, for the audit log can't be written" in made.stderr
        assert verify(data).faults == []
        ballast.unlink()
        # 404: it was done, and not answered in time
        eventually(lambda: http.delete("/api/v3/users/bob").status_code in (204, 404), "room again")
        assert http.get("/api/v3/users/ada/messages/m-ada").status_code == 200
        node.stop()
        found = verify(data)
        assert (found.faults, found.notes) == ([], [])


def test_a_restore_is_written_down_by_the_command(node: Node) -> None:
    def pobox(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "node", *arguments, "--data", str(node.data)]
        return subprocess.run(command, capture_output=True, text=True, cwd=node.data.parent)

    body = {"users": ["ada"], "title": "planted-title", "content": "planted-content", "id": "m1"}
    assert httpx.post(f"{node.url}/api/v3/messages", json=body, trust_env=False, timeout=30).status_code == 202
    assert httpx.get(f"{node.url}/api/v3/users/ada/messages", trust_env=False, timeout=30).status_code == 200
    assert pobox("backup", "now").returncode == 0
    assert pobox("restore", "ada", "--at", "2020-01-01").returncode == 1
    assert pobox("restore", "ada", "--at", "2100-01-01").returncode == 1
    lines = [line for line in lines_of(node.data) if line["deed"] == "boxes.restore"]
    assert [line.get("state", line.get("status")) for line in lines] == ["begins", "not_found", "begins", "bad_field"]
    assert all(line["whom"] == {"user": "ada"} for line in lines)
    verified = pobox("audit", "verify")
    assert verified.returncode == 0, verified.stdout
    anchored = subprocess.run(
        [sys.executable, "-m", "node", "audit", "verify", "--head", "-", "--data", str(node.data)],
        input="\n".join(map(said, heads(node.data))), capture_output=True, text=True, cwd=node.data.parent,
    )  # fmt: skip
    assert anchored.returncode == 0, anchored.stdout
    assert "planted" not in str(lines_of(node.data))
