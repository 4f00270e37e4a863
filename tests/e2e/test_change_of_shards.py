"""2 → 3 → 5 → 2 shards, with mail waiting in the journals at each change."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from loadtest import kill_boxes
from loadtest.kill_ledger import Ledger
from loadtest.kill_load import Load
from loadtest.kill_node import wait_drained
from node.slots import SLOTS
from tests.e2e import loading
from tests.support import Node

pytestmark = pytest.mark.slow

CHANGES = (3, 5, 2)
_MOVED = re.compile(r"laid out for (\d+) shards: (\d+) of 4096 slots changed hands, (\d+) letters")
_NEVER_LET_GO = {"POBOX_SHARD_BARRIER_S": "3600"}


def _moved(node: Node) -> tuple[int, int]:
    """Slots and letters that the last change of layout moved."""
    said = _MOVED.search(node.output())
    assert said is not None, node.output()
    return int(said[2]), int(said[3])


def _ideal(old: int, new: int) -> float:
    """The least slots that must change hands."""
    return SLOTS * abs(new - old) / max(old, new)


async def acknowledged(ledger: Ledger, more: int) -> None:
    """Until so many more messages are."""
    before = ledger.acknowledged
    async with asyncio.timeout(loading.PATIENCE_S):
        while ledger.acknowledged < before + more:
            await asyncio.sleep(0.02)


@pytest.mark.long
def test_changes_of_the_number_of_shards_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    """All processes are killed at each change; senders keep sending what wasn't answered."""

    async def changed_under_load(node: Node) -> tuple[Load, Ledger]:
        load, ledger = loading.make(node.url)
        await load.set_up()
        async with loading.under(load):
            old = 2
            for new in CHANGES:
                await acknowledged(ledger, 50)
                node.kill_all()
                assert kill_boxes.doctor(node.data) is None
                await asyncio.to_thread(node.start, new)
                slots, letters = _moved(node)
                assert letters > 0
                assert slots == pytest.approx(_ideal(old, new), rel=0.1)
                old = new
            await asyncio.sleep(0.5)
        await wait_drained(node.data, old, loading.PATIENCE_S)
        await load.ask_receipts(300)
        return load, ledger

    with Node(tmp_path / "data", env=_NEVER_LET_GO) as node:
        load, ledger = asyncio.run(changed_under_load(node))
    assert load.faults.words == []
    assert loading.judge(ledger, node.data).words == []
    assert ledger.acknowledged > 0


@pytest.mark.long
def test_a_channels_letter_on_its_way_reaches_everybody_through_every_change(tmp_path: Path) -> None:
    """So many members that the letter is killed on its way, again and again."""
    members = [f"member{number}" for number in range(2_000)]
    with Node(tmp_path / "data", env=_NEVER_LET_GO) as node:
        sent = []
        with httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http:
            http.put("/api/v3/channels/all").raise_for_status()
            http.post("/api/v3/channels/all/members", json={"add": members}).raise_for_status()
            for number, shards in enumerate(CHANGES):
                letter = {"id": f"letter{number}", "channelId": "all", "title": "to all", "content": "on its way"}
                for _twice in range(2):
                    answer = http.post("/api/v3/messages", json=letter)
                    assert (answer.status_code, answer.json()["targets"]) == (202, len(members))
                sent.append(letter["id"])
                node.kill_all()
                node.start(shards)
            # Sent again after the changes, as by somebody who missed the answer.
            for id in sent:
                answer = http.post("/api/v3/messages", json=letter | {"id": id})
                assert (answer.status_code, answer.json()["targets"]) == (202, len(members))
        asyncio.run(wait_drained(node.data, CHANGES[-1], 300))
        for id in sent:
            receipt = httpx.get(f"{node.url}/api/v3/messages/{id}/receipt", trust_env=False, timeout=30).json()
            assert (receipt["targets"], receipt["stored"], receipt["pending"]) == (len(members), len(members), 0)
    boxes = {box.user: (sorted(box.messages), box.channels) for box in kill_boxes.elsewhere(node.data)}
    assert boxes == dict.fromkeys(members, (sent, ["all"]))
    assert kill_boxes.doctor(node.data) is None


def test_a_message_sent_again_after_a_change_isnt_for_those_who_joined_since(tmp_path: Path) -> None:
    letter = {"id": "once", "channelId": "news", "title": "old", "content": "news"}
    early, late = [f"early{n}" for n in range(20)], [f"late{n}" for n in range(20)]
    with Node(tmp_path / "data") as node:
        with httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http:
            http.put("/api/v3/channels/news").raise_for_status()
            http.post("/api/v3/channels/news/members", json={"add": early}).raise_for_status()
            assert http.post("/api/v3/messages", json=letter).json()["targets"] == len(early)
            http.post("/api/v3/channels/news/members", json={"add": late}).raise_for_status()
            node.restart(3)
            assert http.post("/api/v3/messages", json=letter).status_code == 202
        asyncio.run(wait_drained(node.data, 3, 60))
    stored = {box.user for box in kill_boxes.elsewhere(node.data) if box.messages}
    assert stored == set(early)
