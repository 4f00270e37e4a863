"""Many messages from a file: portions of NDJSON, several in flight, each sent until it is taken.

A line is a message as the API takes it, or one of recorded traffic (``channel_id``, ``created_at``).
A line without an id gets one here, before its first sending; that is what makes sending again safe.
"""

from __future__ import annotations

import gzip
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, cast

import msgspec

from node.apiclient import AGAIN, Api, ApiError, segment
from node.ids import new_id
from node.model import USERS_MAX, BatchAccepted, Channel, ChannelSpec, MemberChange, MemberChanged

PORTION_LINES = 500
PORTION_BYTES = 4 * 1_048_576
IN_FLIGHT = 4
REFUSALS_KEPT = 20
_AGAIN_S = 1.0
_LONGER_MAX = 8
_REQUEST_TOO = 2
"""times what is named for a line: of a key's rate the request takes as much as the line"""
_FRUITLESS_MAX = 10
_CAMEL = {"channel_id": "channelId", "created_at": "createdAt"}
_line = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass
class Refusal:
    line: int
    """in the file, from 1"""
    error: str


@dataclass
class Figures:
    """What became of the lines of a file."""

    messages: int = 0
    accepted: int = 0
    rejected: int = 0
    seconds: float = 0.0
    refusals: list[Refusal] = field(default_factory=list)
    """the first ``REFUSALS_KEPT``"""

    def closing_line(self) -> str:
        return (
            f"{self.messages} messages: {self.accepted} accepted, {self.rejected} rejected "
            f"in {self.seconds:.1f} s ({self.accepted / max(self.seconds, 1e-9):.0f} per second)"
        )


@dataclass
class Portion:
    """Some lines as one body; ``numbers`` are theirs in the file."""

    numbers: list[int]
    lines: list[bytes]


class Source:
    """A file of lines. ``position`` of ``size`` bytes are read (of the file as it lies there); for
    a pipe nobody knows the size."""

    def __init__(self, raw: BinaryIO, *, zipped: bool) -> None:
        stat = os.fstat(raw.fileno())
        self.size = stat.st_size if S_ISREG(stat.st_mode) else None
        self._raw = raw
        self._lines = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw

    @property
    def position(self) -> int:
        return 0 if self.size is None else self._raw.tell()

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._lines
        except (OSError, EOFError, zlib.error) as error:
            raise ApiError(f"{self._raw.name}: {error}") from error


@contextmanager
def opened(name: str) -> Iterator[Source]:
    """The lines of the file ``name``, plain or gzip (``.gz``); ``-`` is standard input."""
    if name == "-":
        yield Source(sys.stdin.buffer, zipped=False)
        return
    with Path(name).open("rb") as raw:
        yield Source(raw, zipped=name.endswith(".gz"))


def prepared(line: bytes) -> bytes:
    """``line`` in the API's spelling and with an id; what isn't a JSON object stays as it is, so
    that the node refuses it by its number. Values keep their bytes."""
    try:
        message = {_CAMEL.get(key, key): value for key, value in _line.decode(line).items()}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return line
    if bytes(message.get("id", b"null")) == b"null":
        message["id"] = msgspec.Raw(msgspec.json.encode(new_id()))
    return msgspec.json.encode(message)


def portions(lines: Iterable[bytes]) -> Iterator[Portion]:
    """Lines gathered for one request each; blank ones are passed over."""
    portion, size = Portion([], []), 0
    for number, raw in enumerate(lines, 1):
        if not (line := raw.strip()):
            continue
        line = prepared(line)
        if portion.lines and (len(portion.lines) >= PORTION_LINES or size + len(line) > PORTION_BYTES):
            yield portion
            portion, size = Portion([], []), 0
        portion.numbers.append(number)
        portion.lines.append(line)
        size += len(line) + 1
    if portion.lines:
        yield portion


def send(
    api: Api,
    lines: Iterable[bytes],
    *,
    progress: Callable[[Figures], None] = lambda _figures: None,
) -> Figures:
    """Deliver ``lines``; raises :class:`ApiError` when the node stays away longer than ``api`` has
    patience, or takes nothing for long. ``progress`` is told after each portion."""
    figures = Figures()
    turn = threading.Lock()
    began = time.monotonic()
    flying: set[Future[list[Refusal]]] = set()
    sizes: dict[Future[list[Refusal]], int] = {}

    def land(at_most: int) -> None:
        nonlocal flying
        while len(flying) > at_most:
            done, flying = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                refusals = future.result()
                figures.messages += (size := sizes.pop(future))
                figures.rejected += len(refusals)
                figures.accepted += size - len(refusals)
                figures.refusals += refusals[: REFUSALS_KEPT - len(figures.refusals)]
            progress(figures)

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        try:
            for portion in portions(lines):
                land(IN_FLIGHT - 1)
                future = pool.submit(send_portion, api, portion, turn)
                flying.add(future)
                sizes[future] = len(portion.lines)
            land(0)
        except BaseException:
            api.give_up()  # the others may have been told to wait for long
            raise
    figures.seconds = time.monotonic() - began
    figures.refusals.sort(key=lambda refusal: refusal.line)
    return figures


def send_portion(api: Api, portion: Portion, turn: threading.Lock) -> list[Refusal]:
    """Send one portion until each line is taken or refused for good; the refusals. ``turn`` is for what has to be sent
    again: a portion at a time, since a request for nothing takes of a key's rate too."""
    refusals: list[Refusal] = []
    left, named_s = _send_once(api, portion, refusals)
    if not left.lines:
        return refusals
    with turn:
        longer, fruitless = 1, 0
        while left.lines:
            if fruitless == _FRUITLESS_MAX:
                raise ApiError(f"{len(left.lines)} messages were not taken, none of them in {fruitless} attempts")
            api.pause(max(named_s * min(longer, _REQUEST_TOO), _AGAIN_S * longer))
            before = len(left.lines)
            left, named_s = _send_once(api, left, refusals)
            if len(left.lines) < before:
                fruitless = 0
            else:
                fruitless, longer = fruitless + 1, min(_LONGER_MAX, longer * 2)
    return refusals


def _send_once(api: Api, portion: Portion, refusals: list[Refusal]) -> tuple[Portion, float]:
    """What is to be sent again, and the seconds after which the first of it may be taken; ``refusals`` gets the rest of
    what was not."""
    answer = api.ask(
        "POST",
        "/api/v3/messages/batch",
        BatchAccepted,
        content=b"\n".join(portion.lines) + b"\n",
        content_type="application/x-ndjson",
    )
    again = Portion([], [])
    named_s: list[float] = []
    for rejected in answer.rejected:
        index = rejected.line - 1
        if rejected.status in AGAIN:
            again.numbers.append(portion.numbers[index])
            again.lines.append(portion.lines[index])
            named_s.append(_AGAIN_S if rejected.retry_after is None else rejected.retry_after)
        else:
            refusals.append(Refusal(portion.numbers[index], rejected.error))
    return again, min(named_s, default=0.0)


def create_channels(api: Api, members: Mapping[str, Sequence[str]]) -> None:
    """Make each channel of ``members`` and let its users join."""
    for channel, users in members.items():
        path = f"/api/v3/channels/{segment(channel)}"
        api.send("PUT", path, ChannelSpec(), Channel)
        for at in range(0, len(users), USERS_MAX):
            change = MemberChange(add=list(users[at : at + USERS_MAX]))
            api.send("POST", f"{path}/members", change, MemberChanged)


def members_of(path: Path, first: int | None) -> dict[str, list[str]]:
    """``{channel: [userId, …]}`` from a JSON file, the ``first`` so many of each channel."""
    try:
        members = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    except msgspec.DecodeError as error:
        raise ApiError(f"{path}: {error}") from error
    return {channel: users[:first] for channel, users in members.items()}
