"""What could not be stored is never out of sight: nobody overtakes it, nobody is told that it isn't there, and it
leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import apsw
import msgspec
import pytest

from node.clock import now_us
from node.config import Retry
from node.errors import Unavailable
from shard.backlog import Letter
from shard.mailbox import Mailbox

from .asking import change, said
from .elsewhere import held_elsewhere
from .playing import played
from .running import Running, box_path, delivery, laid_out, letter, until


def _fails_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next commit to a box meets a full disk; nobody else is told of that."""
    commit, left = Mailbox.commit, [1]

    def failing(box: Mailbox) -> None:
        if left:
            left.pop()
            raise apsw.FullError("as if")
        commit(box)

    monkeypatch.setattr(running.shard.postmen, "_no_room", lambda: None)
    monkeypatch.setattr(Mailbox, "commit", failing)


class _Holder:
    """Somebody who reads the box of ``user`` for as long as the test wants."""

    def __init__(self, running: Running, user: str) -> None:
        self.done = asyncio.Event()
        self._boxes, self._user = running.shard.mailboxes, user
        self._task = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        async with self._boxes.hold(self._user, create=False):
            await self.done.wait()


async def _in_line(running: Running, user: str, length: int) -> None:
    lines = running.shard.mailboxes._lines
    await until(lambda: user in lines and lines[user].length == length, f"{length} in line", running.life)


@played
async def test_a_leave_that_was_put_off_is_not_written_after_the_join_that_followed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.put_channel("news")
            await running.change("news", add=["ada"])
            await running.settled()
            first = _Holder(running, "ada")
            await _in_line(running, "ada", 1)
            _fails_once(running, monkeypatch)
            await running.change("news", remove=["ada"])
            await _in_line(running, "ada", 2)
            second = _Holder(running, "ada")
            await _in_line(running, "ada", 3)
            await running.change("news", add=["ada"])
            await _in_line(running, "ada", 4)
            first.done.set()  # the leave fails; it is due again long before the second holder is done
            await asyncio.sleep(0.3)
            second.done.set()
            await running.settled()
            assert await running.channels_of("ada") == ["news"]


@played
async def test_a_device_is_not_told_that_a_message_is_missing_which_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            await running.settled()
            read = running.shard.mailboxes.read

            async def slowly(function: Callable[[], Any]) -> Any:
                await asyncio.sleep(0.2)
                return await read(function)

            monkeypatch.setattr(running.shard.mailboxes, "read", slowly)
            holder = _Holder(running, "ada")
            await _in_line(running, "ada", 1)
            _fails_once(running, monkeypatch)
            await running.deliver(delivery(letter("a"), ["ada"]))
            await _in_line(running, "ada", 2)
            asked = asyncio.create_task(change(running, "ada", said("a", "read")))
            await _in_line(running, "ada", 3)
            holder.done.set()
            with pytest.raises(Unavailable):
                await asked
            await running.settled()
            assert (await change(running, "ada", said("a", "read"))).accepted == 1


@played
async def test_however_often_a_busy_box_is_read_there_is_one_next_try() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            await running.settled()
            await running.let_go()
        async with Running(data, retry=Retry(base_s=3_600, cap_s=3_600)) as running:
            put_off = running.shard.put_off
            with held_elsewhere(box_path(data, "ada"), "write"):
                await running.deliver(delivery(letter("a"), ["ada"]))
                await until(lambda: put_off.has("ada"), "the first attempt", running.life)
                for _ in range(50):
                    with pytest.raises(Unavailable):
                        await running.channels_of("ada")
                assert list(put_off._users) == ["ada"]
                assert put_off._users["ada"].attempts <= 4, "a reader's tries are not the postman's"
                # One that is under way meets the program when it is gone, and still fails.
                await until(lambda: put_off._users["ada"].attempts == 4, "the end of the quick tries", running.life)
            assert sorted(await running.ids("ada")) == ["a", "first"]
            assert not put_off._users


@played
async def test_what_its_sender_wants_no_more_leaves_nothing_behind() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            await running.settled()
            await running.let_go()
        async with Running(data) as running:
            put_off = running.shard.put_off
            with held_elsewhere(box_path(data, "ada"), "write"):
                await running.deliver(delivery(letter("a", timeout_s=0.001), ["ada"]))
                await until(lambda: not running.shard.backlog.waiting, "giving up", running.life)
            assert not put_off._users
            assert not put_off.has("ada")


@played
async def test_a_try_for_many_letters_looks_at_those_only_that_may_die_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("first"), ["ada"]))
            await running.settled()
            looked: list[str] = []
            put_off = running.shard.put_off
            dies = put_off._dies

            def watched(one: Letter, *others: Any) -> bool:
                looked.append(one.id)
                return dies(one, *others)

            monkeypatch.setattr(put_off, "_dies", watched)
            running.shard.mailboxes.discard("ada")
            with held_elsewhere(box_path(data, "ada"), "write"):
                for number in range(20):
                    await running.deliver(delivery(letter(f"m{number}"), ["ada"]))
                timed = msgspec.structs.replace(letter("timed", timeout_s=3_600), accepted_us=now_us())
                await running.deliver(delivery(timed, ["ada"]))
                await until(lambda: "timed" in looked, "a try", running.life)
                assert set(looked) == {"timed"}
            assert len(await running.ids("ada")) == 22
