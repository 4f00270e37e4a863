from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.wire import FRAME_MAX, Framed, Splitter, WireError, frame

payloads = st.lists(st.binary(max_size=40), max_size=12)


def _split(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


@given(payloads, st.lists(st.integers(0, 600)))
def test_any_split_of_the_byte_stream_yields_the_same_frames(sent: list[bytes], cuts: list[int]) -> None:
    splitter = Splitter()
    got = [payload for part in _split(b"".join(map(frame, sent)), cuts) for payload in splitter.feed(part)]
    assert got == sent


@given(payloads.filter(bool), st.integers(1, 1000))
def test_a_truncated_stream_yields_the_whole_frames_and_nothing_else(sent: list[bytes], cut: int) -> None:
    stream = b"".join(map(frame, sent))
    kept = stream[: max(0, len(stream) - cut)]
    got = Splitter().feed(kept)
    assert got == sent[: len(got)]
    assert sum(len(payload) + 4 for payload in got) <= len(kept)
    assert len(got) < len(sent)


@given(st.integers(FRAME_MAX + 1, 2**32 - 1), payloads, st.lists(st.integers(0, 600)))
def test_a_frame_beyond_the_bound_is_refused_at_its_length(length: int, before: list[bytes], cuts: list[int]) -> None:
    """The four bytes of length are enough: none of the frame's own bytes has to be kept."""
    splitter = Splitter()
    parts = _split(b"".join(map(frame, before)) + length.to_bytes(4, "big"), cuts)
    with pytest.raises(WireError, match=str(length)):
        list(map(splitter.feed, parts))


def test_a_frame_of_exactly_the_bound_passes() -> None:
    assert Splitter(8).feed(frame(b"12345678")) == [b"12345678"]
    with pytest.raises(WireError):
        Splitter(8).feed(frame(b"123456789"))


class _Echo(Framed):
    def frame_received(self, payload: bytes) -> None:
        self.send(payload)

    def closed(self) -> None:
        pass


def test_a_peer_that_breaks_the_protocol_is_cut_off(tmp_path: Path) -> None:
    async def talk() -> bytes:
        server = await asyncio.get_running_loop().create_unix_server(_Echo, str(tmp_path / "s"))
        async with server:
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            writer.write(frame(b"hello") + b"\xff\xff\xff\xff and more")
            try:
                return await asyncio.wait_for(reader.read(), 30)
            finally:
                writer.close()

    assert asyncio.run(talk()) in (frame(b"hello"), b"")
