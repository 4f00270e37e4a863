"""Outgoing: every byte, in order, in few writes; nothing held beyond the turn, and never much."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from router.outgoing import Outgoing

MOST = 64 * 1024

step = st.one_of(
    st.tuples(st.just("write"), st.one_of(st.integers(0, 300), st.integers(MOST - 300, MOST + 300))),
    st.tuples(st.just("turn"), st.just(0)),
)


class Transport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.writes.append(data)

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 7


def _outgoing(transport: Transport) -> Outgoing:
    return Outgoing(cast(asyncio.Transport, transport), asyncio.get_running_loop())


@given(st.lists(step, max_size=40))
def test_what_is_written_leaves_in_order_and_no_later_than_the_turn_ends(steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        transport = Transport()
        outgoing, written, number = _outgoing(transport), b"", 0
        for kind, size in steps:
            if kind == "turn":
                await asyncio.sleep(0)
                assert b"".join(transport.writes) == written
                continue
            number += 1
            data = number.to_bytes(4, "big") * (size // 4 + 1)
            outgoing.write(data)
            written += data
            held = len(written) - len(b"".join(transport.writes))
            assert held < MOST
            assert outgoing.get_write_buffer_size() == held + 7
        outgoing.close()
        assert b"".join(transport.writes) == written
        assert transport.closing

    asyncio.run(play())


def test_head_and_body_are_one_write() -> None:
    async def play() -> None:
        transport = Transport()
        outgoing = _outgoing(transport)
        for number in range(2):
            outgoing.write(b"head")
            outgoing.write(b"body")
            assert len(transport.writes) == number
            await asyncio.sleep(0)
            assert transport.writes[number:] == [b"headbody"]

    asyncio.run(play())


def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    async def play(how: str) -> None:
        transport = Transport()
        outgoing: Any = _outgoing(transport)
        outgoing.write(b"head")
        (outgoing.abort if how == "aborted" else transport.close)()
        await asyncio.sleep(0)
        assert transport.writes == []
        assert outgoing.is_closing()

    asyncio.run(play("aborted"))
    asyncio.run(play("by the other side"))
