"""Recorded traffic, whole: every message of every channel, from the command line into the boxes.

Where there is no recording beside the repository, the generator's traffic stands in for it.
"""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from loadtest import kill_boxes
from loadtest.kill_node import wait_drained
from loadtest.traffic import Message, Traffic, write
from tests.support import Node

RECORDED = Path(__file__).parents[3] / "shared" / "data"
MEMBERS_FIRST = 50

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def traffic(tmp_path: Path) -> tuple[Path, Path]:
    """A file of messages and one of members."""
    directory, name = RECORDED, "commits.ndjson.gz"
    if not (directory / name).exists():
        directory, name = tmp_path / "traffic", "traffic.ndjson.gz"
        write(directory, Traffic(users=400, channels=8, seed=1), 3_000)
    return directory / name, directory / "members.json"


def _expected(messages: Path, members: Path) -> dict[str, dict[str, str]]:
    """user → id → digest."""
    by_channel: dict[str, dict[str, str]] = defaultdict(dict)
    with gzip.open(messages) as lines:
        for line in lines:
            m = msgspec.json.decode(line, type=Message)
            said = kill_boxes.digest(m.channel_id, m.title, m.content, "text", 5, m.sender, None)
            by_channel[m.channel_id][m.id] = said
    expected: dict[str, dict[str, str]] = defaultdict(dict)
    for channel, users in msgspec.json.decode(members.read_bytes(), type=dict[str, list[str]]).items():
        for user in users[:MEMBERS_FIRST]:
            expected[user] |= by_channel[channel]
    return expected


@pytest.mark.long
def test_every_recorded_message_is_in_the_box_of_every_member_once(node: Node, traffic: tuple[Path, Path]) -> None:
    messages, members = traffic
    arguments = ["--ndjson", messages, "--members", members, "--first-members", MEMBERS_FIRST, "--server", node.url]
    command = [sys.executable, "-m", "node", "deliver", *map(str, arguments)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    expected = _expected(messages, members)
    asyncio.run(wait_drained(node.data, 2, 600))
    assert node.stop() == 0
    boxes = {box.user: (box.error, box.messages) for box in kill_boxes.elsewhere(node.data)}
    different = {user for user in expected | boxes if boxes.get(user) != (None, expected.get(user))}
    assert different == set()
    assert kill_boxes.doctor(node.data) is None
