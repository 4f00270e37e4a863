"""A disk of its own that gets full: 507, reads go on, and with room again it recovers by itself."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.kill_ledger import Ledger
from loadtest.kill_load import Load
from loadtest.kill_node import wait_drained
from tests.e2e import loading
from tests.support import Node, eventually

pytestmark = pytest.mark.slow

SIZE, BALLAST = 96 * 1_048_576, 24 * 1_048_576
RESERVES = [0, 4 * 1_048_576]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with a small file system of its own."""
    path = tmp_path / "data"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own needs root, and leave to mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _fill(path: Path, size: int = SIZE) -> None:
    """Write ``size`` bytes, or as many as there is room for."""
    with path.open("wb", buffering=0) as file:
        for piece in (65_536, 4_096):
            try:
                while file.tell() < size:
                    file.write(bytes(piece))
            except OSError as error:
                assert error.errno == errno.ENOSPC


def _message(number: int) -> dict[str, object]:
    users = [f"user{(number + step) % 25}" for step in range(8)]
    return {"id": f"m{number}", "users": users, "title": f"{number}", "content": f"{number} " * 5_000}


@pytest.mark.parametrize("reserve", RESERVES)
def test_a_full_disk_answers_507_reads_go_on_and_it_recovers(disk: Path, reserve: int) -> None:
    _fill(ballast := disk / "ballast", BALLAST)
    env = {"POBOX_SHARD_DISK_RESERVE_BYTES": str(reserve)}
    with Node(disk, env=env) as node, httpx.Client(base_url=node.url, timeout=60, trust_env=False) as http:
        taken, refused = list[int](), list[int]()
        for number in range(2_000):
            answer = http.post("/api/v3/messages", json=_message(number))
            if answer.status_code == 202:
                taken.append(number)
                if len(refused) > 5:
                    break
                continue
            assert answer.status_code == 507
            assert answer.json()["code"] == "disk_full"
            assert int(answer.headers["retry-after"]) >= 1
            refused.append(number)
            if len(refused) == 20:
                break
        assert taken
        assert refused

        for user in range(25):
            page = http.get(f"/api/v3/users/user{user}/messages", params={"limit": 3})
            assert page.status_code == 200
            assert page.json()["messages"]
        assert http.get("/healthz").status_code == 200

        ballast.unlink()
        for number in refused:
            eventually(
                lambda number=number: http.post("/api/v3/messages", json=_message(number)).status_code == 202,  # type: ignore[misc]
                "202 again, with room on the disk",
            )
        asyncio.run(wait_drained(disk, 2, loading.PATIENCE_S))
        boxes = {f"user{user}": set[str]() for user in range(25)}
        for number in taken + refused:
            for user in _message(number)["users"]:  # type: ignore[attr-defined]
                boxes[user].add(f"m{number}")
    found = {}
    for box in loading.kill_boxes.elsewhere(disk):
        assert box.error is None
        found[box.user] = set(box.messages)
    assert found == boxes
    assert loading.kill_boxes.doctor(disk) is None


@pytest.mark.parametrize("reserve", RESERVES)
def test_a_disk_that_is_full_now_and_then_loses_and_doubles_nothing(disk: Path, reserve: int) -> None:
    """Everything that a node can be asked for meets a disk without a byte left."""
    env = {
        "POBOX_SHARD_DISK_RESERVE_BYTES": str(reserve),
        "POBOX_SHARD_MAILBOXES_OPEN_MAX": "20",
        "POBOX_SHARD_WAL_PAGES_MAX": "16",
        "POBOX_SHARD_BARRIER_S": "0.3",
    }

    async def loaded(node: Node) -> tuple[Load, Ledger]:
        load, ledger = loading.make(node.url, sees_at_once=False)
        await load.set_up()
        async with loading.under(load):
            for _ in range(5):
                await asyncio.sleep(0.7)
                await asyncio.to_thread(_fill, disk / "ballast")
                await asyncio.sleep(1.5)
                (disk / "ballast").unlink()
        await wait_drained(disk, 2, loading.PATIENCE_S)
        await load.ask_receipts(200)
        return load, ledger

    with Node(disk, env=env) as node:
        load, ledger = asyncio.run(loaded(node))
        pids = node.pids
    assert load.faults.words == []
    assert loading.judge(ledger, disk).words == []
    assert load.counts["refused"] > 0
    assert "child ended" not in node.output(), pids


@pytest.mark.parametrize("reserve", RESERVES)
def test_a_node_stops_and_starts_on_a_full_disk(disk: Path, reserve: int) -> None:
    with Node(disk, env={"POBOX_SHARD_DISK_RESERVE_BYTES": str(reserve)}) as node:
        answer = httpx.post(f"{node.url}/api/v3/messages", json=_message(0), trust_env=False)
        assert answer.status_code == 202
        _fill(disk / "ballast")
        assert node.stop() == 0
        assert "Traceback" not in node.output()
        (disk / "ballast").unlink()
        node.start()
        page = httpx.get(f"{node.url}/api/v3/users/user0/messages", trust_env=False)
        assert [message["id"] for message in page.json()["messages"]] == ["m0"]
