from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import uvloop

from node import link, ops
from node.breaker import SILENCE_S, State
from node.errors import Overloaded, Problem, Refused, Unavailable
from node.link import Link
from node.wire import Framed, frame

PATIENCE_S = 30.0


class Shard:
    """The answering end, played by the test: it holds requests until told what to answer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[int] = []
        self.hangs = False
        """it doesn't answer pings either"""
        self.holds_up_s = 0.0
        """it answers at once, and everybody is held up before they can hear it"""
        self.connections: list[Framed] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> Shard:
        shard = self

        class Connection(Framed):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                shard.connections.append(self)

            def frame_received(self, payload: bytes) -> None:
                request = ops.decode_request(payload)
                if not isinstance(request, ops.Ping):
                    shard.asked.append(request.rid)
                    if shard.holds_up_s:
                        time.sleep(shard.holds_up_s)  # the loop, which is the asker's too
                        shard.answer(request.rid, "at once")
                elif not shard.hangs:
                    self.send(ops.encode(ops.Done(request.rid, msgspec.Raw(msgspec.msgpack.encode("here")))))

            def closed(self) -> None:
                shard.connections.remove(self)

        self.path.unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(Connection, str(self.path))
        return self

    async def until_asked(self, count: int) -> None:
        while len(self.asked) < count:
            await asyncio.sleep(0.001)

    def answer(self, rid: int, body: object) -> None:
        self.connections[0].send(ops.encode(ops.Done(rid, msgspec.Raw(msgspec.msgpack.encode(body)))))

    def refuse(self, rid: int, problem: Problem) -> None:
        self.connections[0].send(ops.encode(ops.Failed(rid, problem)))

    def cut(self, rest: bytes = b"") -> None:
        """Send ``rest`` and be gone."""
        connection = self.connections[0]
        assert connection.transport is not None
        connection.transport.write(rest)
        connection.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.close()


def play(
    tmp_path: Path,
    part: Callable[[Shard, Link], Awaitable[None]],
    timeout_s: float = PATIENCE_S,
    silence_s: float = SILENCE_S,
) -> None:
    async def run() -> None:
        shard = await Shard(tmp_path / "shard.sock").start()
        asker = Link(shard.path, timeout_s=timeout_s, silence_s=silence_s)
        asker.start()
        try:
            await until_up(asker)
            # who connects is done before the other end knows of it
            while not shard.connections:
                await asyncio.sleep(0.001)
            await part(shard, asker)
        finally:
            await asker.close()
            await shard.stop()

    uvloop.run(asyncio.wait_for(run(), PATIENCE_S))


async def until_up(asker: Link) -> None:
    while not asker.up:
        await asyncio.sleep(0.001)


def ask(asker: Link) -> asyncio.Task[str]:
    return asyncio.create_task(asker.ask(ops.GetChannel(0, "news"), str))


def test_answers_may_come_in_any_order(tmp_path: Path) -> None:
    async def part(shard: Shard, asker: Link) -> None:
        tasks = [ask(asker) for _ in range(50)]
        await shard.until_asked(50)
        for rid in reversed(shard.asked):
            shard.answer(rid, f"to {rid}")
        assert await asyncio.gather(*tasks) == [f"to {rid}" for rid in shard.asked]

    play(tmp_path, part)


def test_a_cut_in_the_middle_of_an_answer_fails_all_that_wait(tmp_path: Path) -> None:
    async def part(shard: Shard, asker: Link) -> None:
        tasks = [ask(asker) for _ in range(5)]
        await shard.until_asked(5)
        shard.answer(shard.asked[2], "in time")
        assert await tasks[2] == "in time"
        whole = frame(ops.encode(ops.Done(shard.asked[0], msgspec.Raw(msgspec.msgpack.encode("late")))))
        shard.cut(whole[:-2])
        results = await asyncio.gather(*tasks[:2], *tasks[3:], return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 4

    play(tmp_path, part)


def test_a_link_that_was_cut_connects_again_by_itself(tmp_path: Path) -> None:
    async def part(shard: Shard, asker: Link) -> None:
        shard.cut()
        while asker.up:
            await asyncio.sleep(0.001)
        await until_up(asker)
        task = ask(asker)
        await shard.until_asked(1)
        shard.answer(shard.asked[0], "again")
        assert await task == "again"

    play(tmp_path, part)


def test_a_shard_that_is_down_is_unavailable_at_once_and_found_when_it_is_back(tmp_path: Path) -> None:
    async def part(shard: Shard, asker: Link) -> None:
        await shard.stop()
        while asker.up:
            await asyncio.sleep(0.001)
        with pytest.raises(Unavailable):
            await ask(asker)
        await shard.start()
        await until_up(asker)

    play(tmp_path, part)


def test_an_answer_that_does_not_come_is_given_up_and_a_late_one_ignored(tmp_path: Path) -> None:
    async def part(shard: Shard, asker: Link) -> None:
        late = ask(asker)
        with pytest.raises(Unavailable):
            await late
        await shard.until_asked(1)
        shard.answer(shard.asked[0], "too late")
        shard.answer(12_345, "to nobody")
        next_one = asyncio.create_task(asker.ask(ops.GetChannel(0, "news"), str, timeout_s=PATIENCE_S))
        await shard.until_asked(2)
        shard.answer(shard.asked[1], "in time")
        assert await next_one == "in time"

    play(tmp_path, part, timeout_s=0.05)


def test_a_refusal_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async def part(shard: Shard, asker: Link) -> None:
        task = ask(asker)
        await shard.until_asked(1)
        problem = Problem(title="No", status=409, code="conflict", detail="not twice", field="id", retry_after=3)
        shard.refuse(shard.asked[0], problem)
        with pytest.raises(Refused) as refused:
            await task
        assert refused.value.problem() == problem

    play(tmp_path, part)


def test_more_than_the_bound_in_flight_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "IN_FLIGHT_MAX", 3)

    async def part(shard: Shard, asker: Link) -> None:
        tasks = [ask(asker) for _ in range(3)]
        await shard.until_asked(3)
        with pytest.raises(Overloaded):
            await ask(asker)
        shard.answer(shard.asked[0], "room")
        assert await tasks[0] == "room"
        tasks.append(ask(asker))
        await shard.until_asked(4)
        shard.cut()
        await asyncio.gather(*tasks[1:], return_exceptions=True)

    play(tmp_path, part)


def test_an_asker_that_went_away_leaves_nothing_behind(tmp_path: Path) -> None:
    async def part(shard: Shard, asker: Link) -> None:
        task = ask(asker)
        await shard.until_asked(1)
        task.cancel()
        await asyncio.wait({task})
        assert asker._wire is not None
        while asker._wire.waiting:
            await asyncio.sleep(0.001)
        shard.answer(shard.asked[0], "to nobody")
        other = ask(asker)
        await shard.until_asked(2)
        shard.answer(shard.asked[1], "still here")
        assert await other == "still here"

    play(tmp_path, part)


@pytest.mark.slow
def test_a_shard_that_hangs_is_noticed_given_up_and_asked_again_when_it_is_back(tmp_path: Path) -> None:
    async def part(shard: Shard, asker: Link) -> None:
        shard.hangs = True
        with pytest.raises(Unavailable):
            await ask(asker)  # long before its own time is up
        assert asker.up
        assert asker.breaker.state is not State.CLOSED
        for _ in range(20):
            with pytest.raises(Unavailable):
                await ask(asker)
        assert len(shard.asked) == 1, "nobody but the probe is let through"
        shard.hangs = False
        while asker.breaker.state is not State.CLOSED:
            await asyncio.sleep(0.01)
        task = ask(asker)
        await shard.until_asked(2)
        shard.answer(shard.asked[1], "back")
        assert await task == "back"

    play(tmp_path, part)


@pytest.mark.slow
def test_a_shard_that_takes_long_but_answers_pings_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_QUIET_S", 0.05)
    monkeypatch.setattr(link, "_SWEEP_S", 0.02)

    async def part(shard: Shard, asker: Link) -> None:
        task = ask(asker)
        await shard.until_asked(1)
        await asyncio.sleep(3.0)
        assert asker.breaker.state is State.CLOSED
        shard.answer(shard.asked[0], "at last")
        assert await task == "at last"

    play(tmp_path, part, silence_s=2.0)


@pytest.mark.slow
def test_who_was_held_up_himself_takes_nobody_for_silent(tmp_path: Path) -> None:
    async def part(shard: Shard, asker: Link) -> None:
        while asker._wire is None or asker._wire.heard:
            await asyncio.sleep(0.01)
        shard.holds_up_s = 2.0
        assert await ask(asker) == "at once"
        assert asker.breaker.opened == 0

    play(tmp_path, part)
