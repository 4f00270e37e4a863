"""Who gets which letter. Pure: sender and counter compute the same from a letter's number alone."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from loadtest import load
from loadtest.scenarios.plan import Plan
from node.ingest import prepared

_STEP = 7_919
"""a prime: letters that follow each other go to different users, and all users get as many"""


class Addressing(Protocol):
    def targets(self, number: int) -> Sequence[str]:
        """The users that letter ``number`` is for."""

    def is_for(self, number: int, user: str) -> bool:
        """Whether ``user`` is one of them."""


class Ring:
    """``fan`` users of a ring of ``users``."""

    def __init__(self, users: int, fan: int) -> None:
        self._users = users
        self._fan = min(fan, users)
        self._names = [load.user(number) for number in range(users)]
        self._places = {name: number for number, name in enumerate(self._names)}

    def targets(self, number: int) -> Sequence[str]:
        first = number * _STEP % self._users
        names = self._names[first : first + self._fan]
        return names + self._names[: self._fan - len(names)]

    def is_for(self, number: int, user: str) -> bool:
        place = self._places.get(user)
        return place is not None and (place - number * _STEP) % self._users < self._fan


class Recorded:
    """Letters of a file, each to the members of its channel; after the last comes the first again."""

    def __init__(self, letters: Sequence[dict[str, Any]], members: dict[str, list[str]]) -> None:
        self._channels = [letter["channelId"] for letter in letters]
        self._members = members
        self._sets = {channel: frozenset(users) for channel, users in members.items()}

    def targets(self, number: int) -> Sequence[str]:
        return self._members[self._channels[number % len(self._channels)]]

    def is_for(self, number: int, user: str) -> bool:
        return user in self._sets[self._channels[number % len(self._channels)]]


def members_path(recorded: str) -> Path:
    """Beside a recording that was prepared: who is in which channel."""
    return Path(recorded).with_name("members.json")


def prepare(record: Path, members: Path, place: Path, *, messages_max: int, members_max: int) -> Path:
    """A recording as the scenarios take it, in ``place``: the first ``messages_max`` letters in the API's spelling,
    and the first ``members_max`` members of each channel; the file of letters."""
    opened = gzip.open if record.suffix == ".gz" else open
    inside = msgspec.json.decode(members.read_bytes(), type=dict[str, list[str]])
    out = place / "recorded.ndjson"
    with opened(record, "rb") as lines, out.open("wb") as letters:
        for _number, line in zip(range(messages_max), lines, strict=False):
            letters.write(prepared(line.strip()) + b"\n")
    members_path(str(out)).write_bytes(msgspec.json.encode({c: names[:members_max] for c, names in inside.items()}))
    return out


def letters_of(recorded: str) -> list[dict[str, Any]]:
    """The letters of a prepared recording."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    return [decode(line) for line in Path(recorded).read_bytes().splitlines()]


def times_of(letters: Sequence[dict[str, Any]]) -> list[float]:
    """When each was written, in seconds; a clock that went back stands still."""
    times: list[float] = []
    for letter in letters:
        at = datetime.fromisoformat(letter["createdAt"]).timestamp()
        times.append(max(at, times[-1]) if times else at)
    return times


def of(plan: Plan) -> Addressing:
    """The addressing of a plan."""
    if plan.recorded is not None:
        inside = msgspec.json.decode(members_path(plan.recorded).read_bytes(), type=dict[str, list[str]])
        return Recorded(letters_of(plan.recorded), inside)
    return Ring(plan.users, plan.users if plan.channel else plan.fan)
