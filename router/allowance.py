"""Deliveries within what each person may be sent: one who is flooded takes nothing from the rest."""

from __future__ import annotations

import asyncio

from node.model import Accepted, NewMessage
from router import letters
from router.delivery import Deliverer
from router.fairness import Limiter, take_all
from router.problems import TooMany


class Allowance:
    """``delivery``, with a limit a target user; a message to a channel is not counted."""

    def __init__(self, delivery: Deliverer, users: Limiter) -> None:
        self._delivery = delivery
        self._users = users

    async def deliver(self, message: NewMessage, key: str | None = None) -> Accepted:
        """As ``delivery`` does it; :class:`TooMany`, for the whole message, if one of its users has got enough."""
        users = letters.targets(message)
        if users is not None:
            now = asyncio.get_running_loop().time()
            refused = take_all([(self._users, user, 1) for user in users], now)
            if refused is not None:
                limiter, verdict = refused
                raise TooMany(limiter.policy(), limiter.state(verdict), verdict.retry_after_s or 1)
        return await self._delivery.deliver(message, key)
