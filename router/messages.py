"""Messages come in, one a request, and what became of them is told."""

from __future__ import annotations

import falcon.asgi
import msgspec

from node import clock, ops
from node.errors import NotFound
from node.ids import check_name
from node.model import NewMessage, Priority, Receipt
from router import query
from router.body import Bodies, Request, check_type, decoder
from router.delivery import KEY, Deliverer
from router.links import Links

encode = msgspec.json.Encoder().encode
_decode = decoder(NewMessage)
_KEY = KEY.lower().encode()


class _Urgency(msgspec.Struct):
    """What of a :class:`NewMessage` decides whether there is room for it."""

    priority: Priority = 5


_urgency = msgspec.json.Decoder(_Urgency).decode


class Messages:
    """``/api/v3/messages``: the hot path. Under overload most are refused by ``links``, as early as can be."""

    def __init__(self, links: Links, delivery: Deliverer, bodies: Bodies, body_bytes_max: int) -> None:
        self._links = links
        self._delivery = delivery
        self._bodies = bodies
        self._bytes_max = body_bytes_max

    async def post(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Deliver one message; 202 when it is on disk for every target."""
        if req.scope["query_string"]:
            query.parameters(req)
        check_type(req, "application/json")
        body = await self._bodies.read(req, self._bytes_max)
        if self._links.are_refusing:
            self._check_room(body)
        message = _decode(body)
        key = req.header(_KEY) if message.id is None else None
        taken = await self._delivery.deliver(message, None if key is None else key.decode("latin-1"))
        req.concerns = taken.id
        resp.status = 202
        resp.data = encode(taken)

    def _check_room(self, body: bytes) -> None:
        """Refuse what no shard has room for, before the rest of it is looked at: that takes longer than the refusal."""
        try:
            priority = _urgency(body).priority
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return  # what is wrong with it is said by who decodes all of it
        self._links.check_room_anywhere(priority)


class Receipts:
    """``/api/v3/messages/{id}/receipt``: the sum of what every shard knows of an id."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def get(self, req: Request, resp: falcon.asgi.Response, id: str) -> None:
        """What became of a message so far."""
        query.parameters(req)
        request = ops.AskReceipt(0, check_name(id, "id"))
        parts = await self._links.ask_each([(s, request) for s in self._links.shards], ops.ReceiptPart)
        known = [part.accepted_us for part in parts if part.accepted_us]
        if not known:
            raise NotFound("no receipt of this id; receipts are kept for a limited time", field="id")
        targets = sum(part.targets for part in parts)
        failed = sum(part.failed for part in parts)
        # After a change of shards a letter that was sent again may wait twice for one target.
        pending = min(sum(part.pending for part in parts), targets - failed)
        resp.data = encode(
            Receipt(
                accepted=clock.iso(min(known)),
                targets=targets,
                stored=targets - pending - failed,
                pending=pending,
                failed=failed,
            )
        )
