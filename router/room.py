"""Deliveries to those whose boxes have room: if one of them is full, nobody gets the message, and the answer names all
who are.

Who may be full is seen in a file that each shard keeps (:mod:`node.changes`), at no cost worth mentioning; who is, is
asked of the shards, for those alone. What has been accepted is accepted: who sends it again, under its id, is not
refused for what it filled itself. Members of a channel are not asked about: see :mod:`shard.quotas`.
"""

from __future__ import annotations

from node import ops
from node.errors import MailboxFull
from node.model import Accepted, NewMessage
from router import letters
from router.delivery import Deliverer, given_id, split
from router.links import Links


class Room:
    """``delivery``, over ``links``, to boxes that are not full."""

    def __init__(self, delivery: Deliverer, links: Links) -> None:
        self._delivery = delivery
        self._links = links

    async def deliver(self, message: NewMessage, key: str | None = None) -> Accepted:
        """As ``delivery`` does it; :class:`MailboxFull`, for the whole message, if one of its users has no room."""
        if message.users is not None and any(watch.is_any_full() for watch in self._links.watches):
            users = letters.targets(message)
            assert users is not None
            full = await self._links.steady(lambda: self._full_of(users))
            if full and not await self._is_known(given_id(message, key)):
                raise MailboxFull(full)
        return await self._delivery.deliver(message, key)

    async def _full_of(self, users: list[str]) -> list[str]:
        """In the order of ``users``."""
        links = self._links
        suspects = [user for user in users if links.watches[links.table.shard_of(user)].may_be_full(user)]
        asked: list[tuple[int, ops.AnyRequest]] = [
            (shard, ops.AskFull(0, links.version, names, slots))
            for shard, (names, slots) in split(links.table, suspects).items()
        ]
        full = {name for part in await links.ask_each(asked, list[str]) for name in part}
        return [user for user in users if user in full]

    async def _is_known(self, id: str | None) -> bool:
        """Whether a message was accepted under it, if only by its home."""
        if id is None:
            return False
        part = await self._links.ask(self._links.home(id), ops.AskReceipt(0, id), ops.ReceiptPart)
        return part.accepted_us > 0
