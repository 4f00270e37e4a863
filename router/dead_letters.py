"""Dead letters: messages that could not be stored for one person, listed over all shards, sent on their way again, or
deleted. One shard knows all of a person's.

The id names person and message (``ann~order-17``): a message that was given up for many is as many dead letters.
"""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import get_args

import falcon.asgi

from node import clock, ops
from node.errors import BadField
from node.ids import check_name, is_name
from node.model import DeadLetter, DeadLetters, DeadReason
from router import query
from router.body import Request
from router.delivery import accepted
from router.links import Links, about
from router.messages import encode

_FIELD = "deadLetterId"
_REASONS = get_args(DeadReason)
_US_MAX = 2**62


class DeadLetterList:
    """``/api/v3/dead-letters`` and each of them."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def page(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Those of everybody or of one person, the newest first."""
        given = query.parameters(req, "userId", "reason", "limit", "cursor")
        limit, before = query.limit(given), _before(query.cursor(given))
        user, reason = given.get("userId"), given.get("reason")
        if reason is not None and reason not in _REASONS:
            raise BadField(f"reason must be one of {', '.join(_REASONS)}", field="reason")
        links = self._links
        shards = links.shards if user is None else [links.table.shard_of(check_name(user, "userId"))]
        request = ops.ListDeadLetters(0, user, reason, before, limit + 1)
        parts = await links.ask_each([(shard, request) for shard in shards], list[ops.DeadLetter])
        found = list(islice(merge(*parts, key=_place, reverse=True), limit + 1))
        page = found[:limit]
        cursor = "~".join(map(str, _place(page[-1]))) if len(found) > limit else None
        resp.data = encode(DeadLetters(dead_letters=[_outward(letter) for letter in page], cursor=cursor))

    async def requeue(self, req: Request, resp: falcon.asgi.Response, dead_letter_id: str) -> None:
        """Deliver it after all; 202 when it is on disk, also for who asks again."""
        user, message_id = _named(dead_letter_id)
        query.parameters(req)
        await self._links.ask_about(ops.RequeueDeadLetter(*about(user), message_id), type(None))
        resp.status = 202
        resp.data = encode(accepted(message_id, 1))

    async def drop(self, req: Request, resp: falcon.asgi.Response, dead_letter_id: str) -> None:
        """Forget it for good; its target stays failed."""
        user, message_id = _named(dead_letter_id)
        query.parameters(req)
        await self._links.ask_about(ops.DropDeadLetter(*about(user), message_id), type(None))
        resp.status = 204


def _named(dead_letter_id: str) -> tuple[str, str]:
    """User and message id."""
    user, _, message_id = dead_letter_id.partition("~")
    if not (is_name(user) and is_name(message_id)):
        raise BadField(f"{_FIELD} must be an id from the list of dead letters", field=_FIELD)
    return user, message_id


def _place(letter: ops.DeadLetter) -> tuple[int, str, str]:
    """Where it is in the order of all."""
    return letter.died_us, letter.user, letter.message_id


def _before(cursor: str | None) -> tuple[int, str, str] | None:
    if cursor is None:
        return None
    died_us, _, name = cursor.partition("~")
    user, _, message_id = name.partition("~")
    if not (died_us.isascii() and died_us.isdecimal()) or len(died_us) > 19 or int(died_us) > _US_MAX:
        raise BadField("cursor must come from an earlier answer", field="cursor")
    return int(died_us), check_name(user, "cursor"), check_name(message_id, "cursor")


def _outward(letter: ops.DeadLetter) -> DeadLetter:
    """As callers see it. Pure."""
    return DeadLetter(
        id=f"{letter.user}~{letter.message_id}",
        user_id=letter.user,
        message_id=letter.message_id,
        channel_id=letter.channel_id,
        title=letter.title,
        priority=letter.priority,
        reason=letter.reason,
        tries=letter.tries,
        accepted_at=clock.iso(letter.accepted_us),
        first_failed_at=clock.iso(letter.first_us),
        died_at=clock.iso(letter.died_us),
    )
