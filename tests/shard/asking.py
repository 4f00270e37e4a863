"""What a router asks a shard about a person's read status."""

from __future__ import annotations

from node import ops
from node.model import Counts, ReadStatus, StatusMerged
from node.slots import slot_of

from .running import START_US, Running


def said(message: str, status: str, second: int = 0, device: str | None = "phone") -> ops.StatusRow:
    return ops.StatusRow(message, status, START_US + second * 1_000_000, device)


async def change(
    running: Running,
    user: str,
    *changes: ops.StatusRow,
    positions: list[ops.PositionRow] | None = None,
    since: str | None = None,
    limit: int = 1_000,
) -> StatusMerged:
    question = ops.ChangeStatuses(
        0, running.layout.version, slot_of(user), user, since, limit, 0, list(changes), positions or []
    )
    return await running.while_alive(running.shard.statuses.change(question))


async def statuses(running: Running, user: str, since: str | None = None, limit: int = 10_000) -> ReadStatus:
    question = ops.AskStatuses(0, running.layout.version, slot_of(user), user, since, limit)
    return await running.while_alive(running.shard.statuses.ask(question))


async def counts(running: Running, user: str) -> Counts:
    question = ops.AskCounts(0, running.layout.version, slot_of(user), user)
    return await running.while_alive(running.shard.statuses.counts(question))


async def recount(running: Running, user: str) -> Counts:
    """The same, from all messages and all statuses."""
    read = {status.message_id for status in (await statuses(running, user)).statuses if status.read_at}
    unread: dict[str, int] = {}
    for message in await running.page(user):
        if message.id not in read:
            unread[message.channel_id] = unread.get(message.channel_id, 0) + 1
    return Counts(unread=sum(unread.values()), channels=dict(sorted(unread.items())))
