"""``python -m shard``: a real process, asked over its socket, stopped, killed, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from node import ops, paths
from node.config import Config, Node, environment
from node.config import Shard as Settings
from node.errors import Refused, Unavailable
from node.link import Link
from node.model import MemberChanged, Message, Messages, UserChannels
from node.slots import slot_of
from node.wire import FRAME_MAX, frame
from shard import __main__ as program

from .running import START_US, delivery, laid_out, letter, stored

PATIENCE_S = 60.0


def play(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.fixture
def data() -> Iterator[Path]:
    with laid_out() as data:
        yield data


@contextlib.contextmanager
def process(
    data: Path, *, index: int = 0, how: tuple[str, ...] = ("-m", "shard"), **settings: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Shard ``index`` on ``data``; killed at the end if it still runs."""
    known: dict[str, Any] = {"barrier_s": 3600, "disk_reserve_bytes": 0, **settings}
    config = Config(node=Node(data=str(data), shards=1), shard=Settings(**known))
    command = [sys.executable, *how, "--index", str(index)]
    environ = {**os.environ, **environment(config), "POBOX_CONFIG": os.devnull}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


@contextlib.asynccontextmanager
async def linked(data: Path) -> AsyncIterator[Link]:
    """A link to shard 0, as soon as it answers."""
    link = Link(paths.socket_path(data, 0), timeout_s=PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await link.connect()
                await link.ask(ops.Ping(0), ops.State)
                break
            except (OSError, Unavailable):
                await asyncio.sleep(0.02)
    try:
        yield link
    finally:
        await link.close()


async def send(link: Link, message_id: str, users: list[str], **more: Any) -> int:
    return (await link.ask(delivery(letter(message_id), users, **more), ops.Taken)).targets


async def ids(link: Link, user: str) -> list[str]:
    page = await link.ask(ops.Page(0, 1, slot_of(user), user, None, 10_000, None), Messages)
    return sorted(message.id for message in page.messages)


def ended(running: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    running.send_signal(number)
    return running.wait(PATIENCE_S)


def rows(data: Path) -> int:
    db = apsw.Connection(str(paths.shard_db(data, 1, 0)))
    try:
        return int(next(iter(db.execute("SELECT count(*) FROM letters")))[0])
    finally:
        db.close()


_PATIENT = """
from shard import __main__ as program
from shard import core

core._DRAIN_S = 60.0
program.main()
"""
"""a shard whose stop waits for a busy machine"""


def test_an_orderly_stop_delivers_everything_and_leaves_an_empty_journal(data: Path) -> None:
    async def go() -> None:
        async with linked(data) as link:
            await asyncio.gather(*(send(link, f"m{n:03}", ["ada", f"u{n}"]) for n in range(200)))

    with process(data, how=("-c", _PATIENT)) as running:
        play(go())
        assert ended(running) == 0
    assert rows(data) == 0
    boxes = stored(data)
    assert boxes.pop("ada") == [f"m{n:03}" for n in range(200)]
    assert boxes == {f"u{n}": [f"m{n:03}"] for n in range(200)}


@pytest.mark.slow
def test_what_was_answered_before_a_kill_is_delivered_once_by_the_next_start(data: Path) -> None:
    async def load() -> list[str]:
        answered: list[str] = []

        async def one(link: Link, number: int) -> None:
            with contextlib.suppress(Unavailable):
                await send(link, f"m{number:04}", ["ada", f"u{number % 50}"])
                answered.append(f"m{number:04}")

        async with linked(data) as link:
            sending = [asyncio.create_task(one(link, number)) for number in range(2_000)]
            while len(answered) < 300:
                await asyncio.sleep(0.001)
            running.kill()
            await asyncio.gather(*sending)
        return answered

    async def look(answered: list[str]) -> None:
        async with linked(data) as link:
            assert set(answered) <= set(await ids(link, "ada"))
            # And whoever had no answer asks again.
            for number in range(0, 2_000, 100):
                assert await send(link, f"m{number:04}", ["ada", f"u{number % 50}"]) == 2

    for _ in range(2):
        with process(data) as running:
            answered = asyncio.run(load())
        with process(data) as running:
            play(look(answered))
            assert ended(running) == 0
    boxes = stored(data)
    assert len(boxes["ada"]) == len(set(boxes["ada"]))
    assert set(answered) <= set(boxes["ada"])
    for message_id in boxes["ada"]:
        assert message_id in boxes[f"u{int(message_id[1:]) % 50}"]


def test_every_question_is_answered_over_the_socket(data: Path) -> None:
    async def go() -> None:
        async with linked(data) as link:
            assert await link.ask(ops.PutChannel(0, "news", "News", None, "ada", START_US), bool)
            change = ops.ChangeMembers(0, 1, "news", ["ada", "bo"], [], [slot_of("ada"), slot_of("bo")], START_US)
            assert await link.ask(change, MemberChanged) == MemberChanged(added=2, removed=0, members=2)
            assert await send(link, "m", [], channel="news") == 2
            assert await ids(link, "ada") == ["m"]
            one = await link.ask(ops.ReadOne(0, 1, slot_of("bo"), "bo", "m"), Message)
            assert (one.id, one.content) == ("m", "content")
            channels = await link.ask(ops.AskUserChannels(0, 1, slot_of("bo"), "bo"), UserChannels)
            assert [channel.id for channel in channels.channels] == ["news"]
            await link.ask(ops.Remove(0, 1, slot_of("bo"), "bo", "m"), type(None))
            assert await ids(link, "bo") == []
            part = await link.ask(ops.AskReceipt(0, "m"), ops.ReceiptPart)
            assert (part.targets, part.pending, part.failed) == (2, 0, 0)
            assert await link.ask(ops.ListMembers(0, "news", "", 10), list[str]) == ["ada", "bo"]
            assert await link.ask(ops.DropChannel(0, "news"), bool)
            state = await link.ask(ops.Ping(0), ops.State)
            assert (state.shard, state.table, state.shards) == (0, 1, 1)

    with process(data):
        play(go())


@pytest.mark.parametrize(
    ("question", "status", "field"),
    [
        (ops.Page(0, 1, slot_of("nobody"), "nobody", None, 10, None), 404, "userId"),
        (ops.Page(0, 9, slot_of("ada"), "ada", None, 10, None), 503, None),
        (ops.Page(0, 1, slot_of("ada"), "ada", None, 10, "nonsense"), 422, "cursor"),
        (ops.ReadOne(0, 1, slot_of("ada"), "ada", "unknown"), 404, "id"),
        (ops.Remove(0, 1, slot_of("ada"), "ada", "unknown"), 404, "id"),
        (ops.GetChannel(0, "unknown"), 404, "channelId"),
        (ops.ChangeMembers(0, 1, "unknown", ["ada"], [], [slot_of("ada")], START_US), 404, "channelId"),
    ],
)
def test_what_is_refused_is_refused_as_a_problem(
    shared: Path, question: ops.AnyRequest, status: int, field: str | None
) -> None:
    async def go() -> None:
        async with linked(shared) as link:
            await send(link, "m", ["ada"])
            with pytest.raises(Refused) as refused:
                await link.ask(question, msgspec.Raw)
            problem = refused.value.problem()
            assert (problem.status, problem.field) == (status, field)
            assert (problem.retry_after is not None) == (status == 503)
            assert str(shared) not in problem.detail

    play(go())


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """A shard that runs for tests that leave it as it is."""
    with laid_out() as data, process(data):
        yield data


@pytest.mark.parametrize(
    "garbage",
    [
        frame(b"\xff\xff\xff"),
        frame(b""),
        frame(msgspec.msgpack.encode([99, 1])),
        frame(msgspec.msgpack.encode([1, 2, "not a delivery"])),
        (FRAME_MAX + 1).to_bytes(4, "big") + b"x",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_frame_of_garbage_closes_its_own_connection_only(shared: Path, garbage: bytes) -> None:
    async def go() -> None:
        async with linked(shared) as link:
            reader, writer = await asyncio.open_unix_connection(paths.socket_path(shared, 0))
            writer.write(garbage)
            async with asyncio.timeout(PATIENCE_S):
                assert await reader.read() == b""
            writer.close()
            assert await send(link, "after-garbage", ["ada"]) == 1
            assert link.up

    play(go())


def test_a_letter_that_cannot_be_read_is_refused_and_hurts_nobody_else(shared: Path) -> None:
    """The envelope is a delivery, what is in it is none. Only a router of another version would do that."""

    async def go() -> None:
        async with linked(shared) as link:
            pid = await link.ask(ops.Ping(0), ops.State)
            assert pid.shards == 1
            request = delivery(letter("poison"), ["ada"])
            request.letter = msgspec.Raw(msgspec.msgpack.encode(["only an id"]))
            with contextlib.suppress(Refused, Unavailable):
                await link.ask(request, ops.Taken)
        async with linked(shared) as link:
            assert await send(link, "after-poison", ["ada"]) == 1
            assert "poison" not in await ids(link, "ada")

    play(go())


def test_a_callers_half_frame_or_sudden_end_hurts_nobody(shared: Path) -> None:
    async def go() -> None:
        async with linked(shared) as link:
            for count in (1, 3, 5, 40):
                _reader, writer = await asyncio.open_unix_connection(paths.socket_path(shared, 0))
                writer.write(frame(ops.encode(delivery(letter("half"), ["ada"])))[:count])
                await writer.drain()
                writer.close()
            assert await send(link, "after-half", ["ada"]) == 1
            assert "half" not in await ids(link, "ada")

    play(go())


@pytest.mark.slow
def test_the_socket_of_a_killed_predecessor_is_replaced_and_is_its_owners_only(data: Path) -> None:
    async def go() -> None:
        async with linked(data) as link:
            await send(link, "m", ["ada"])

    socket = paths.socket_path(data, 0)
    with process(data) as running:
        play(go())
        ended(running, signal.SIGKILL)
        assert socket.exists()
    with process(data):
        play(go())
        assert socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_second_process_waits_until_the_first_has_ended(data: Path) -> None:
    async def go(name: str) -> None:
        async with linked(data) as link:
            await send(link, name, ["ada"])

    with process(data) as first:
        play(go("first"))
        with process(data) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(0.7)
            play(go("first"))
            assert first.poll() is None
            ended(first, signal.SIGKILL)
            play(go("second"))
            assert ended(second) == 0
    assert stored(data) == {"ada": ["first", "second"]}


def test_whoever_waits_too_long_for_the_lock_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_LOCK_WAIT_S", 0.2)
    path = paths.shard_lock(data, 0)
    held = program.lock(path)
    with pytest.raises(SystemExit, match="held by another process"):
        program.lock(path)
    os.close(held)
    os.close(program.lock(path))


_DOOMED = """
import asyncio
import sys
import threading
from node.errors import Unsure
from shard import __main__ as program
from shard.house import House
from shard.rounds import Rounds

async def hang(rounds):
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(threading.Event().wait)

async def fail(house):
    await asyncio.sleep(0.1)
    raise Unsure("as if")

Rounds.run, House.run = hang, fail
sys.argv = ["shard", "--index", "0"]
program.main()
"""


def test_a_shard_of_which_a_part_failed_ends_at_once_whatever_threads_still_wait_for(data: Path) -> None:
    with process(data, how=("-c", _DOOMED)) as running:
        assert running.wait(PATIENCE_S) == program.EXIT_UNSURE
        assert running.stderr is not None
        assert b"Unsure: as if" in running.stderr.read()


def test_an_index_that_the_directory_is_not_laid_out_for_is_refused(data: Path) -> None:
    with process(data, index=1) as running:
        assert running.wait(PATIENCE_S) == 1
        assert running.stderr is not None
        assert b"not laid out" in running.stderr.read()


@pytest.mark.slow
def test_a_shard_with_much_on_its_hands_stops_in_time_and_loses_nothing(data: Path) -> None:
    """A letter to so many that not all can be stored before the bound: the rest is in the journal."""
    users = [f"u{number}" for number in range(3_000)]

    async def go() -> None:
        async with linked(data) as link:
            for number in range(3):
                await send(link, f"m{number}", users)

    async def look() -> None:
        async with linked(data) as link:
            for user in users[::100]:
                assert await ids(link, user) == ["m0", "m1", "m2"]
            async with asyncio.timeout(PATIENCE_S):  # a stop of a busy machine may be too short again
                while (await link.ask(ops.Ping(0), ops.State)).waiting:
                    await asyncio.sleep(0.02)

    with process(data) as running:
        play(go())
        assert ended(running) == 0
    with process(data) as running:
        play(look())
        assert ended(running) == 0
    assert stored(data) == {key: ["m0", "m1", "m2"] for key in sorted(users)}
