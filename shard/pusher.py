"""Sends what an outbox holds, a few at a time, and decides what an answer means.

Taken (2xx): done. Gone (404, 410): there is no such device any more. Too much, or their fault (429, 5xx, nobody there,
no answer in time): again, after a pause that grows and is at least what ``Retry-After`` says, but not for ever. All
else is refused: sending the same again would not help. Whatever happens here, a delivery doesn't notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from enum import Enum
from time import monotonic
from typing import Generic, TypeVar

import structlog

from node.errors import Unsure
from node.metrics import LONG_S, Histogram
from shard.notice import Notice
from shard.outbox import Job, Outbox
from shard.outward import Answer, Forbidden, Unreachable
from shard.retry import Policy, pause_s

log = structlog.get_logger()
Key = TypeVar("Key", bound=Hashable)

TRIES_MAX = 9
RETRY_AFTER_MAX_S = 3_600.0
"""who wants more patience gets the next message"""
_PAUSES = Policy(base_s=0.5, cap_s=120.0)
_WORDS_S = 60.0
"""between two log lines"""


class Verdict(Enum):
    SENT = "sent"
    GONE = "gone"
    REFUSED = "refused"
    GIVEN_UP = "given_up"
    AGAIN = "again"


def judge(status: int, retry_after_s: float | None, attempt: int) -> Verdict:
    """What to do after ``attempt`` tries, the last of them answered ``status`` (0: not answered). Pure."""
    if 200 <= status < 300:
        return Verdict.SENT
    if status in (404, 410):
        return Verdict.GONE
    if status not in (0, 408, 425, 429) and status < 500:
        return Verdict.REFUSED
    if attempt >= TRIES_MAX or (retry_after_s or 0.0) > RETRY_AFTER_MAX_S:
        return Verdict.GIVEN_UP
    return Verdict.AGAIN


class Pusher(Generic[Key]):
    """``send`` sends one notice; its answer is None if there is nobody to send it to any more. At most ``most`` devices
    wait, ``concurrency`` requests are under way."""

    def __init__(
        self,
        name: str,
        *,
        send: Callable[[Key, Notice], Awaitable[Answer | None]],
        most: int,
        concurrency: int,
        rest_s: float,
    ) -> None:
        self._name = name
        self._send = send
        self._concurrency = concurrency
        self._rest_s = rest_s
        self._news = asyncio.Event()
        self._told_at = float("-inf")
        self.outbox: Outbox[Key] = Outbox(most)
        self.results: Counter[str] = Counter({verdict.value: 0 for verdict in Verdict})
        """notices by what became of them; ``again`` counts tries that failed"""
        self.sent_s = Histogram(LONG_S)
        """from the storing of a notice's oldest message to the push service's taking it"""

    def put(self, key: Key, notice: Notice) -> None:
        """There is news for ``key``; takes a few microseconds."""
        self.outbox.put(key, notice)
        self._news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        room = asyncio.Semaphore(self._concurrency)
        async with asyncio.TaskGroup() as group:
            while True:
                await room.acquire()
                task = group.create_task(self._try(await self._next()), name=self._name)
                task.add_done_callback(lambda _task: room.release())

    async def drain(self, patience_s: float) -> None:
        """Wait until nothing is waiting to be sent, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not self.outbox.idle:
                    await asyncio.sleep(0.02)

    async def _next(self) -> Job[Key]:
        while (job := self.outbox.take(monotonic())) is None:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.outbox.due_in_s(monotonic())):
                    await self._news.wait()
        return job

    async def _try(self, job: Job[Key]) -> None:
        status, retry_after_s, reason = 0, None, ""
        try:
            answer = await self._send(job.key, job.notice)
            if answer is None:
                self.outbox.forget(job.key)
                return
            status, retry_after_s = answer
        except Unreachable as error:
            reason = str(error)
        except Forbidden:
            status, reason = 403, "not a public address"
        except Unsure:  # of what was written down
            raise
        except Exception:  # whatever a stranger's address brings about: the shard goes on
            log.exception("a push failed", to=self._name)
            status = 400
        verdict = judge(status, retry_after_s, job.attempt)
        self.results[verdict.value] += 1
        now = monotonic()
        if verdict is Verdict.AGAIN:
            pause = max(pause_s(_PAUSES, job.attempt, random.random()), retry_after_s or 0.0)
            self.outbox.again(job, now, pause)
            self._news.set()  # whoever sleeps may have to wake sooner
        elif verdict is Verdict.GONE:
            self.outbox.forget(job.key)
        else:
            if verdict is Verdict.SENT:
                self.sent_s.observe(now - job.notice.since)
            self.outbox.done(job, now, self._rest_s)
            self._news.set()
        if verdict in (Verdict.REFUSED, Verdict.GIVEN_UP) and now - self._told_at >= _WORDS_S:
            self._told_at = now
            log.warning("a push failed", to=self._name, result=verdict.value, status=status, error=reason)
