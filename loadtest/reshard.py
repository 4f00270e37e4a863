"""``python -m loadtest.reshard``: what callers notice while people change hands.

A node of two shards, everybody in one channel; a few clients send all the time, each waiting for its answer: to one
person, every hundredth message to the channel. Meanwhile ``pobox reshard`` goes from two shards to three. Told is what
that says itself, how long callers waited meanwhile, and how long before it began.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import time
from pathlib import Path

import httpx

from loadtest import load
from loadtest.children import python
from loadtest.errors import BenchError
from loadtest.subjects import PoboxNode, directory, pobox

_CHANNEL = "everybody"
_LIMIT_S = 600.0
_BEFORE_S = 3.0
_TO_ALL = 100
"""one message in so many goes to the channel"""


class Clients:
    """``count`` of them, who send until they are stopped."""

    def __init__(self, url: str, users: int, count: int) -> None:
        self._url = url
        self._users = users
        self._count = count
        self._going = True
        self.answers: list[tuple[float, int]] = []
        """seconds waited, and status"""

    async def run(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=_LIMIT_S, trust_env=False) as http:
            await asyncio.gather(*(self._send(http, number) for number in range(self._count)))

    async def _send(self, http: httpx.AsyncClient, number: int) -> None:
        content = "what a message says. " * 28
        while self._going:
            to = {"channelId": _CHANNEL} if number % _TO_ALL == 0 else {"users": [load.user(number % self._users)]}
            began = time.monotonic()
            answer = await http.post("/api/v3/messages", json={**to, "title": "a message", "content": content})
            self.answers.append((time.monotonic() - began, answer.status_code))
            number += self._count

    def take(self) -> str:
        """What was answered since the last time, in words."""
        answers, self.answers = sorted(self.answers), []
        refused = sum(status != 202 for _waited, status in answers)
        waits = ", ".join(
            f"{share:.0%} {answers[int(share * (len(answers) - 1))][0]:.3f} s" for share in (0.5, 0.99, 1)
        )
        return f"{len(answers)} answers, {refused} of them refusals; waited: {waits}"

    def stop(self) -> None:
        self._going = False


def fill(node: PoboxNode, users: int) -> None:
    """Everybody has a box and is in the channel."""
    with httpx.Client(base_url=node.url, timeout=_LIMIT_S, trust_env=False) as http:
        http.put(f"/api/v3/channels/{_CHANNEL}", json={"name": "Everybody"}).raise_for_status()
        for names in load.portions(load.users(users)):
            http.post(f"/api/v3/channels/{_CHANNEL}/members", json={"add": names}).raise_for_status()
    node.rest(limit_s=_LIMIT_S)


async def moved(node: PoboxNode, clients: Clients) -> str:
    """The last line of ``pobox reshard``. Raises :class:`BenchError`."""
    life = asyncio.create_task(clients.run())
    try:
        await asyncio.sleep(_BEFORE_S)
        print(f"before: {clients.take()}", flush=True)
        command = [*python("node", "reshard"), "--shards", "3", "--data", str(node.data)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(done.stderr or done.stdout)
        print(f"meanwhile: {clients.take()}", flush=True)
        return [line for line in done.stdout.splitlines() if "pause" in line][-1]
    finally:
        clients.stop()
        await life


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.reshard", description=__doc__)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    for _ in range(options.rounds):
        with directory(options.data, "reshard") as base, pobox(base, shards=2, routers=1) as node:
            fill(node, options.users)
            print(asyncio.run(moved(node, Clients(node.url, options.users, options.clients))), flush=True)


if __name__ == "__main__":
    main()
