"""What a person has read, starred and archived, device by device, and how much is unread.

A device sends its changes and what it knew last, and gets what it doesn't know; the shard decides who is
right. Here every change is checked before any is made, and the device's clock is compared with ours.
"""

from __future__ import annotations

from datetime import datetime

import falcon.asgi
import msgspec

from node import ops
from node.clock import iso, now_us, us_of
from node.errors import BadField, TooLarge
from node.ids import check_name
from node.model import CHANGES_MAX, Counts, ReadStatus, StatusChanges, StatusMerged, Timestamp
from router import query
from router.body import Bodies, Request, check_type, decoder
from router.links import Links, about
from router.messages import encode

BODY_BYTES_MAX = 4 * 1_048_576
"""that many changes with names of ordinary length"""
_decode = decoder(StatusChanges)


class Statuses:
    """``/api/v3/sync/{userId}/read-status`` and ``/api/v3/users/{userId}/counts``."""

    def __init__(self, links: Links, bodies: Bodies) -> None:
        self._links = links
        self._bodies = bodies

    async def get(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """What changed after ``since``."""
        check_name(user_id, "userId")
        given = query.parameters(req, "since", "limit")
        limit = query.limit(given, query.STATUSES_DEFAULT, query.STATUSES_MAX)
        request = ops.AskStatuses(*about(user_id), _since(given.get("since")), limit)
        resp.data = encode(await self._links.ask_about(request, ReadStatus))

    async def post(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """Merge changes; 200 when they are on disk, with what the device doesn't know."""
        check_name(user_id, "userId")
        limit = query.limit(query.parameters(req, "limit"), query.STATUSES_DEFAULT, query.STATUSES_MAX)
        check_type(req, "application/json")
        try:
            body = await self._bodies.read(req, BODY_BYTES_MAX)
        except TooLarge as error:
            raise TooLarge(f"{error.detail}; send changes in parts of up to {CHANGES_MAX}", field="changes") from None
        changes = _decode(body)
        request = ops.ChangeStatuses(
            *about(user_id),
            _since(changes.since),
            limit,
            0 if changes.clock is None else now_us() - us_of(changes.clock),
            [ops.StatusRow(c.message_id, c.status, us_of(c.at), c.device) for c in changes.changes],
            [ops.PositionRow(p.channel_id, p.message_id, us_of(p.at), p.position) for p in changes.positions],
        )
        resp.data = encode(await self._links.ask_about(request, StatusMerged))

    async def counts(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """How much is unread, in all and by channel."""
        check_name(user_id, "userId")
        query.parameters(req)
        resp.data = encode(await self._links.ask_about(ops.AskCounts(*about(user_id)), Counts))


def _since(text: str | None) -> str | None:
    """``since`` as a shard writes it; raises :class:`BadField` for what is no time."""
    if text is None:
        return None
    try:
        moment: datetime = msgspec.convert(text, Timestamp)
        return iso(max(0, us_of(moment)))
    except (msgspec.ValidationError, OverflowError):
        raise BadField("since must be the since of an earlier answer", field="since") from None
