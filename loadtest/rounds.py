"""Turns: one subject is loaded while all others stand still, and every message is accounted for."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import psutil  # type: ignore[import-untyped]

from loadtest import load
from loadtest.errors import BenchError
from loadtest.subjects import Subject

_DRAIN_LIMIT_S = 600.0


@dataclass
class Run:
    """One turn. ``stored_rate`` counts to the moment when everything was where it belongs."""

    load: load.Load
    targets: int
    settled_s: float
    """time.monotonic() when nothing was waiting any more"""
    cpu_us: dict[str, float]
    """CPU microseconds a request, by role, load generator included"""
    others_cores: float
    """how many cores were busy with anything else meanwhile: the kernel, other users, the hypervisor"""

    @property
    def stored_rate(self) -> float:
        """User-messages a second."""
        return self.load.accepted * self.targets / (self.settled_s - self.load.first_s)

    @property
    def drain_s(self) -> float:
        return self.settled_s - self.load.last_s


@dataclass
class Account:
    """A subject, and how many user-messages it has accepted so far."""

    subject: Subject
    accepted: int = 0
    runs: list[Run] = field(default_factory=list)

    def warm_up(self, users: int, *, limit_s: float = _DRAIN_LIMIT_S) -> float:
        """One message to each of ``users`` users; seconds until all have it."""
        began = time.monotonic()
        greet(self.subject.url, users)
        self.accepted += users
        return self.subject.settle(self.accepted, limit_s=limit_s) - began

    def turn(
        self,
        others: Sequence[Account],
        *,
        seconds: float,
        users: int,
        targets: int,
        connections: int,
        seed: int,
        keep: bool = True,
    ) -> Run:
        """Load this one alone, and wait until all is stored. ``keep`` is False for a warm-up."""
        with alone(others):
            before, busy_s, began = self.subject.cpu_s(), _busy_s(), time.monotonic()
            loaded = load.run(
                self.subject.url,
                seconds=seconds,
                users=users,
                targets=targets,
                connections=connections,
                seed=seed,
            )
            self.accepted += loaded.accepted * targets
            settled_s = self.subject.settle(self.accepted, limit_s=_DRAIN_LIMIT_S)
            after, busy_s, lasted_s = self.subject.cpu_s(), _busy_s() - busy_s, time.monotonic() - began
        used = {role: after[role] - before.get(role, 0.0) for role in after} | {"wrk": loaded.cpu_s}
        run = Run(
            load=loaded,
            targets=targets,
            settled_s=settled_s if self.subject.delivers_later else loaded.last_s,
            cpu_us={role: seconds * 1e6 / loaded.accepted for role, seconds in used.items()},
            others_cores=max(0.0, busy_s - sum(used.values())) / lasted_s,
        )
        if keep:
            self.runs.append(run)
        return run


def _busy_s() -> float:
    """CPU seconds of this machine that were not idle, since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


@contextlib.contextmanager
def alone(others: Sequence[Account]) -> Iterator[None]:
    """Nothing of ``others`` runs inside, and nothing they wrote is left for the disk to do."""
    with contextlib.ExitStack() as stack:
        for other in others:
            for child in other.subject.children:
                stack.enter_context(child.paused())
        os.sync()
        yield


def greet(url: str, users: int) -> None:
    """One message to each of ``users`` users."""
    for names in load.portions(load.users(users)):
        post(url, {"users": names, "title": "hello", "content": "the first letter"}, timeout_s=120)


def fill(url: str, users: int, letters: int, *, content: str) -> None:
    """``letters`` to each of ``users`` users, as fast as they are taken."""
    everybody = load.users(users)
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        for number in range(letters):
            for names in load.portions(everybody):
                letter = {"users": names, "title": f"before {number}", "content": content, "priority": 10}
                while (answer := client.post("/api/v3/messages", json=letter)).status_code == 503:
                    time.sleep(float(answer.headers["Retry-After"]))
                _check_taken(answer)


def post(url: str, message: dict[str, object], *, timeout_s: float = 60.0) -> float:
    """POST one message; seconds until the 202. Raises :class:`BenchError` on another answer."""
    with httpx.Client(base_url=url, timeout=timeout_s, trust_env=False) as client:
        client.get("/healthz")  # the connection is made, as that of a service would be
        began = time.monotonic()
        answer = client.post("/api/v3/messages", json=message)
        took = time.monotonic() - began
    _check_taken(answer)
    return took


def _check_taken(answer: httpx.Response) -> None:
    if answer.status_code != 202:
        raise BenchError(f"{answer.status_code} instead of 202: {answer.text[:500]}")
