"""Who has a box: right after births, at a start, beside what is no box; and bounded in time."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import pytest

from node import ops, paths
from node.errors import Unavailable
from node.model import UserBox
from node.placement import Placement
from node.slots import SLOTS, slot_of
from shard import roster as module
from shard.residents import Residents
from shard.roster import Roster

from .elsewhere import held_elsewhere
from .running import Running, box_path, delivery, laid_out, letter, users_of

Play = Callable[[Path], Coroutine[Any, Any, None]]


def play(scene: Play) -> None:
    with laid_out() as data:
        asyncio.run(scene(data))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason for an answer that says less."""
    monkeypatch.setattr(module, "_READING_S", 60.0)
    monkeypatch.setattr(module, "_LOOKING_S", 60.0)


async def names(running: Running, prefix: str = "", after: str = "", limit: int = 1_000) -> list[str]:
    return await running.while_alive(running.shard.roster.page(ops.ListUsers(0, prefix, after, limit)))


async def boxes(running: Running, *users: str) -> list[UserBox]:
    question = ops.AskBoxes(0, running.layout.version, list(users), [slot_of(user) for user in users])
    return await running.while_alive(running.shard.boxes(question))


async def send(running: Running, message_id: str, *users: str) -> None:
    await running.deliver(delivery(letter(message_id), list(users)))
    await running.settled()


def test_births_before_and_after_the_first_question_are_known_and_a_start_knows_all() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await send(running, "a", "bob", "ada")
            assert await names(running) == ["ada", "bob"]
            await send(running, "b", "adam", "ada")
            assert await names(running, "ad") == ["ada", "adam"]
            assert await names(running, "ad", after="ada") == ["adam"]
            assert await names(running, limit=1) == ["ada"]
        async with Running(data) as running:
            assert await names(running) == ["ada", "adam", "bob"]

    play(scene)


def test_a_member_of_a_channel_has_a_box_too() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            assert await names(running) == []
            await running.put_channel("ops")
            await running.change("ops", add=["cyd"])
            await running.settled()
            assert await names(running) == ["cyd"]

    play(scene)


def test_a_shard_lists_its_own_alone() -> None:
    with laid_out(2) as data:
        mine, other = users_of(0, 2, 3), users_of(1, 2, 3)
        for user in (*mine, *other):
            box_path(data, user).parent.mkdir(parents=True)

        async def scene() -> None:
            async with Running(data, Placement(version=1, shards=2), 0) as running:
                assert await names(running) == sorted(mine)

        asyncio.run(scene())


def test_size_messages_and_the_last_delivery_are_told() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await send(running, "a", "ada", "bob")
            await running.deliver(delivery(letter("b", at=60), ["ada"]))
            await running.settled()
            ada, bob = await boxes(running, "ada", "nobody", "bob")
            assert (ada.id, ada.messages, ada.last_delivery) == ("ada", 2, letter("b", at=60).updated_at)
            assert (bob.messages, bob.size > 4096) == (1, True)

    play(scene)


def test_a_box_that_another_program_has_open_keeps_its_secrets() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await send(running, "a", "ada")
        with held_elsewhere(box_path(data, "ada"), "write"):
            async with Running(data) as running:
                (ada,) = await boxes(running, "ada")
                assert (ada.messages, ada.last_delivery, ada.size > 0) == (None, None, True)

    play(scene)


def test_boxes_that_take_too_long_are_told_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOKING_S", -1.0)

    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await send(running, "a", "ada")
            (ada,) = await boxes(running, "ada")
            assert (ada.messages, ada.size > 0) == (None, True)

    play(scene)


def test_while_the_directories_are_read_births_are_noted_and_the_answer_is_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = threading.Event()
    listdir = module.os.listdir
    monkeypatch.setattr(module, "_READING_S", 0.01)
    monkeypatch.setattr(module.os, "listdir", lambda path: (read.wait(60), listdir(path))[1])

    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await send(running, "a", "ada")
            with pytest.raises(Unavailable):
                await names(running)
            await send(running, "b", "bob")
            read.set()
            monkeypatch.setattr(module, "_READING_S", 60.0)
            assert await names(running) == ["ada", "bob"]

    play(scene)


def test_what_is_no_name_and_a_box_that_went_away_are_left_out() -> None:
    async def scene(data: Path) -> None:
        async with Running(data) as running:
            await send(running, "a", "ada", "bob")
            (box_path(data, "ada").parent.parent / ".lost+found").mkdir()
            assert await names(running) == ["ada", "bob"]
        shutil.rmtree(box_path(data, "bob").parent)
        async with Running(data) as running:
            assert [box.id for box in await boxes(running, "ada", "bob")] == ["ada"]

    play(scene)


@pytest.mark.slow
def test_twenty_thousand_users_are_listed() -> None:
    """In moments: the figure is printed."""
    with laid_out() as data:
        for slot in range(SLOTS):
            (paths.boxes_dir(data) / str(slot)).mkdir(exist_ok=True)
        for number in range(20_000):
            (paths.user_dir(data, f"user{number}")).mkdir()

        async def scene() -> None:
            everybody = Residents(0, Placement(version=1, shards=1), apsw.Connection(":memory:"))
            roster = Roster(data, everybody, None)  # type: ignore[arg-type]
            began = time.monotonic()
            first = await roster.page(ops.ListUsers(0, "", "", 50))
            made = time.monotonic()
            page = await roster.page(ops.ListUsers(0, "user17", "user177", 500))
            print(f"20,000 users: first page {made - began:.2f} s, then {1000 * (time.monotonic() - made):.1f} ms")
            assert (first[0], len(first), page[0], len(page)) == ("user0", 50, "user1770", 332)
            roster.close()

        asyncio.run(scene())
