"""Messages on their way in, and what became of them."""

from __future__ import annotations

from node.errors import Conflict, MailboxFull, NotFound
from node.model import Accepted, BatchAccepted, NewMessage, Receipt
from router.access import DELIVER
from router.operation import BODY, READ, V3, WRITE, Operation
from router.problems import TooMany
from router.record import Record

ROUTES: tuple[Operation, ...] = (
    Operation(
        method="POST",
        path=f"{V3}/messages",
        noun="messages",
        action="post",
        who=DELIVER,
        record=Record.DELIVERY,
        summary="Deliver a message to users, or to all members of a channel",
        statuses=(202,),
        request=NewMessage,
        response=Accepted,
        headers=("Idempotency-Key",),
        faults=(*WRITE, *BODY, NotFound, Conflict, MailboxFull, TooMany),
    ),
    Operation(
        method="POST",
        path=f"{V3}/messages/batch",
        noun="batch",
        action="post",
        who=DELIVER,
        record=Record.DELIVERY,
        summary="Deliver many messages, one JSON object a line",
        statuses=(202,),
        request=NewMessage,
        media_type="application/x-ndjson",
        response=BatchAccepted,
        faults=(*WRITE, *BODY),
    ),
    Operation(
        method="GET",
        path=f"{V3}/messages/{{id}}/receipt",
        noun="receipts",
        action="get",
        who=DELIVER,
        record=Record.DELIVERY,
        summary="What became of a message so far",
        response=Receipt,
        faults=(*READ, NotFound),
    ),
)
