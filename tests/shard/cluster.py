"""All shards of a node in one process, and what a router does with a delivery: claim, split, add up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any

from loadtest.holding import held
from node import ops, placement
from node.config import Push
from node.placement import Placement
from node.slots import slot_of, table_for
from shard.layout import Move, lay_out
from tests import encrypted

from .running import Running, delivery


def hold_back(cluster: Cluster) -> None:
    """Nothing is delivered: all that is accepted stays in the journals."""
    for running in cluster.running:
        held(running.shard.postmen)


class Cluster:
    """The node on ``data``, laid out for ``shards``; entered, it runs; left, it is killed."""

    def __init__(self, data: Path, shards: int, push: Push | None = None, **settings: Any) -> None:
        self.data = data
        self._settings = settings
        self.shards = shards
        self._push = push
        self.running: list[Running] = []

    async def __aenter__(self) -> Cluster:
        lay_out(self.data, self.shards, encrypted.keyring(self.data))
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def _start(self) -> None:
        layout = placement.load(self.data)
        assert layout == Placement(layout.version if layout else 0, self.shards)
        self._table = table_for(self.shards)
        self.version = layout.version
        for index in range(self.shards):
            running = Running(self.data, layout, index, push=self._push, **self._settings)
            self.running.append(await running.__aenter__())

    async def kill(self) -> None:
        while self.running:
            await self.running.pop().kill()

    async def change(self, shards: int) -> Move | None:
        """Kill all and start again with another number of shards."""
        await self.kill()
        self.shards = shards
        move = lay_out(self.data, shards, encrypted.keyring(self.data))
        await self._start()
        return move

    def at_home(self, name: str) -> Running:
        return self.running[self._table[slot_of(name)]]

    async def deliver(
        self,
        body: ops.Letter,
        users: list[str] | None = None,
        *,
        channel: str | None = None,
        digest: bytes = b"digest",
        fresh: bool = False,
        only_home: bool = False,
    ) -> int:
        """As the router does it; ``only_home``: it is killed when the home has answered."""
        parts: dict[int, list[str]] = {}
        for user in users or []:
            parts.setdefault(self._table[slot_of(user)], []).append(user)
        if channel is not None:
            parts = {index: [] for index in range(self.shards)}
        home = self._table[slot_of(channel if fresh and channel else body.id)]

        def part(index: int, claim: bool) -> ops.Deliver:
            named = parts.get(index, [])
            return delivery(body, named, channel=channel, digest=digest, fresh=fresh, claim=claim, table=self.version)

        targets = 0
        if not fresh or channel:
            targets = await self.running[home].deliver(part(home, not fresh))
            parts.pop(home, None)
            if only_home:
                return targets
        rest = [self.running[index].deliver(part(index, False)) for index in sorted(parts)]
        return targets + sum(await asyncio.gather(*rest))

    async def receipt(self, message_id: str) -> ops.ReceiptPart:
        parts = [await running.receipt(message_id) for running in self.running]
        return ops.ReceiptPart(
            min((part.accepted_us for part in parts if part.accepted_us), default=0),
            sum(part.targets for part in parts),
            sum(part.pending for part in parts),
            sum(part.failed for part in parts),
        )

    async def put_channel(self, name: str) -> None:
        for running in self.running:
            await running.put_channel(name)

    async def drop_channel(self, name: str) -> None:
        for running in self.running:
            await running.while_alive(running.shard.channels.drop(ops.DropChannel(0, name)))

    async def join(self, channel: str, users: list[str]) -> None:
        for user in users:
            await self.at_home(user).change(channel, add=[user])

    async def leave(self, channel: str, users: list[str]) -> None:
        for user in users:
            await self.at_home(user).change(channel, remove=[user])

    async def members(self, channel: str) -> int:
        parts = [await r.shard.channels.get(ops.GetChannel(0, channel)) for r in self.running]
        return sum(part.members for part in parts)

    async def settled(self) -> None:
        for running in self.running:
            await running.settled()

    async def let_go(self) -> None:
        for running in self.running:
            await running.let_go()

    @property
    def rows(self) -> int:
        return sum(running.shard.journal.rows for running in self.running)
