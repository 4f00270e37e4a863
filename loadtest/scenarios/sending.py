"""Requests as a service and a device would make them, and what became of each. No clock, no statistics."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from geventhttpclient import HTTPClient

from loadtest.scenarios import addressing, ledger
from loadtest.scenarios.names import Outcome, lane_of
from loadtest.scenarios.plan import TIMEOUT_S, Plan
from node.model import BatchAccepted, SyncCheck

_REFUSED = frozenset({429, 503, 507})
_JSON = {"Content-Type": "application/json"}
_LINES = {"Content-Type": "application/x-ndjson"}
_encode = msgspec.json.Encoder().encode
_batch = msgspec.json.Decoder(BatchAccepted).decode
_check = msgspec.json.Decoder(SyncCheck).decode


class Letter(NamedTuple):
    number: int
    lane: str
    outcome: Outcome


class Done(NamedTuple):
    """One request, answered or not."""

    letters: Sequence[Letter]
    bytes: int
    error: str | None
    """why it counts as a failure: status and code, or the kind of error"""
    retry_after_s: float = 0.0
    outdated: str | None = None
    """whose device was told that it has to sync"""


class _Response(NamedTuple):
    header: Callable[[str], object]
    content: bytes


class Requests:
    """Of one process. ``rng`` chooses who reads, and priorities; ``device`` is what each user's device calls itself."""

    def __init__(self, plan: Plan, rng: random.Random, *, connections: int, device: str) -> None:
        self._plan = plan
        self._random = rng
        self._device = device
        self._versions: dict[str, str] = {}
        """what the device of each user has"""
        where = urlsplit(plan.url)
        assert where.hostname is not None
        self._client = HTTPClient(
            where.hostname,
            where.port,
            concurrency=connections,
            connection_timeout=TIMEOUT_S,
            network_timeout=TIMEOUT_S,
            ssl=where.scheme == "https",
        )
        self._ring = addressing.Ring(plan.users, plan.fan)
        self._recorded = addressing.letters_of(plan.recorded) if plan.recorded is not None else []
        self._content = ("what was said in the meeting, " * (plan.body_bytes // 30 + 1))[: plan.body_bytes]
        self._priorities = list(plan.priorities)
        self._weights = list(plan.priorities.values())

    def deliver(self, numbers: Sequence[int]) -> Done:
        """Send these letters, in one request."""
        if len(numbers) == 1:
            priority, body = self._letter(numbers[0])
            done = self._send("POST", "/api/v3/messages", body, _JSON)
            outcome = _outcome(done)
            return done._replace(letters=[Letter(numbers[0], lane_of(priority), outcome)])
        letters = [self._letter(number) for number in numbers]
        response: list[_Response] = []
        body = b"\n".join(line for _priority, line in letters)
        done = self._send("POST", "/api/v3/messages/batch", body, _LINES, response)
        outcome = _outcome(done)
        outcomes = [outcome] * len(numbers)
        if outcome is Outcome.ACCEPTED:
            for error in _batch(response[0].content).rejected:
                outcomes[error.line - 1] = Outcome.REFUSED if error.status in _REFUSED else Outcome.FAILED
        kinds = zip(numbers, letters, outcomes, strict=True)
        return done._replace(letters=[Letter(n, lane_of(priority), result) for n, (priority, _line), result in kinds])

    def page(self) -> Done:
        """The newest messages of somebody."""
        return self._send("GET", f"/api/v3/users/{self._somebody()}/messages?limit=20", b"", {})

    def check(self) -> Done:
        """Whether the device of somebody has to sync."""
        user = self._somebody()
        path = f"/api/v3/sync/{user}/check?device={self._device}&localVersion={self._versions.get(user, '')}"
        response: list[_Response] = []
        done = self._send("GET", path, b"", {}, response)
        outdated = done.error is None and _check(response[0].content).need_sync
        return done._replace(outdated=user if outdated else None)

    def sync(self, user: str) -> Done:
        """Download the whole box of ``user``: what was checked, or newer. It has to be what it says that it is."""
        response: list[_Response] = []
        done = self._send("GET", f"/api/v3/sync/{user}/download?device={self._device}", b"", {}, response)
        if done.error is not None:
            return done
        [(header, content)] = response
        if header("pobox-checksum") != f"sha256:{hashlib.sha256(content).hexdigest()}":
            return done._replace(error="not the file that was announced")
        self._versions[user] = str(header("pobox-version"))
        return done

    def close(self) -> None:
        self._client.close()

    def _somebody(self) -> str:
        return self._ring.targets(self._random.randrange(self._plan.users))[0]

    def _letter(self, number: int) -> tuple[int, bytes]:
        """Its priority and its JSON."""
        key = ledger.key(self._plan.run, number)
        if self._recorded:
            letter = self._recorded[number % len(self._recorded)] | {"id": key}
            return int(letter.get("priority", 5)), _encode(letter)
        [priority] = self._random.choices(self._priorities, self._weights)
        letter = {"title": key, "content": self._content, "priority": priority}
        if self._plan.channel is not None:
            letter["channelId"] = self._plan.channel
        else:
            letter["users"] = self._ring.targets(number)
        return priority, _encode(letter)

    def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str], response: list[_Response] | None = None
    ) -> Done:
        try:
            answer = self._client.request(method, path, body=body, headers=headers)
            content = answer.read()
        except Exception as error:  # whatever it is, there was no answer
            return Done((), 0, type(error).__name__)
        status = answer.status_code
        if status in (200, 202):
            if response is not None:
                response.append(_Response(answer.get, bytes(content)))
            return Done((), len(content), None)
        retry_after_s = float(str(answer.get("retry-after") or 0))
        return Done((), len(content), str(status), retry_after_s)


def _outcome(done: Done) -> Outcome:
    if done.error is None:
        return Outcome.ACCEPTED
    return Outcome.REFUSED if done.error.isdecimal() and int(done.error) in _REFUSED else Outcome.FAILED
