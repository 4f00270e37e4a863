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

from loadtest import kill_boxes
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
                if error.errno != errno.ENOSPC:
                    raise


def _message(number: int) -> dict[str, object]:
    users = [f"user{(number + step) % 25}" for step in range(8)]
    return {"id": f"m{number}", "users": users, "title": f"{number}", "content": f"{number} " * 5_000}


@pytest.mark.parametrize("reserve", RESERVES)
@pytest.mark.long
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
    for box in kill_boxes.elsewhere(disk):
        assert box.error is None
        found[box.user] = set(box.messages)
    assert found == boxes
    assert kill_boxes.doctor(disk) is None


@pytest.mark.parametrize("reserve", RESERVES)
@pytest.mark.long
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
            for _ in range(3):
                await asyncio.sleep(0.7)
                await asyncio.to_thread(_fill, disk / "ballast")
                await asyncio.sleep(1.5)
                async with asyncio.timeout(loading.PATIENCE_S):
                    while not load.counts["refused"]:
                        await asyncio.sleep(0.02)
                (disk / "ballast").unlink()
        await wait_drained(disk, 2, loading.PATIENCE_S)
        await load.ask_receipts(200)
        return load, ledger

    with Node(disk, env=env) as node:
        load, ledger = asyncio.run(loaded(node))
    assert load.faults.words == []
    assert loading.judge(ledger, disk).words == []
    assert load.counts["refused"] > 0
    assert "child ended" not in node.output()


def test_a_node_stops_in_order_on_a_full_disk(disk: Path) -> None:
    with Node(disk) as node:
        assert (
            httpx.post(f"{node.url}/api/v3/messages", json=_message(0), trust_env=False, timeout=30).status_code == 202
        )
        _fill(disk / "ballast")
        assert node.stop() == 0
        assert "Traceback" not in node.output()
        (disk / "ballast").unlink()
        node.start()
        page = httpx.get(f"{node.url}/api/v3/users/user0/messages", trust_env=False, timeout=30)
        assert [message["id"] for message in page.json()["messages"]] == ["m0"]


def test_a_shard_that_is_killed_on_a_full_disk_comes_back_and_is_read(disk: Path) -> None:
    with Node(disk) as node:
        assert (
            httpx.post(f"{node.url}/api/v3/messages", json=_message(0), trust_env=False, timeout=30).status_code == 202
        )
        asyncio.run(wait_drained(disk, 2, loading.PATIENCE_S))
        _fill(disk / "ballast")
        for name in ("shard-0", "shard-1"):
            node.kill(name)

        def ids() -> list[list[str]]:
            pages = [
                httpx.get(f"{node.url}/api/v3/users/user{user}/messages", trust_env=False, timeout=30)
                for user in range(8)
            ]
            return [[m["id"] for m in page.json()["messages"]] for page in pages if page.status_code == 200]

        eventually(lambda: ids() == [["m0"]] * 8, "reads on a full disk, after a kill")
        assert (
            httpx.post(f"{node.url}/api/v3/messages", json=_message(1), trust_env=False, timeout=30).status_code == 507
        )
