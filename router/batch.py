"""Many messages in one request, one JSON object a line; each line stands for itself.

Bounded: the bytes of the body, its lines, and how many of them are in flight. Lines are begun in
their order; those with ids made here reach each shard in that order too. The loop gets its turn
between the lines, since every line that is accepted waits for a disk, and one that is refused
steps aside by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import falcon.asgi

from node.errors import Overloaded, PoboxError, TooLarge
from node.model import BatchAccepted, LineError, NewMessage
from router import query
from router.access import Share
from router.body import Bodies, Request, check_type, decoder
from router.delivery import Deliverer
from router.messages import encode

MEDIA_TYPE = "application/x-ndjson"
LINES_MAX = 100_000
IN_FLIGHT_MAX = 128
_TRIES_MAX = 50
_TRY_AGAIN_S = 0.02
_EMPTY_PORTION = 512
_OURS = 500
_decode = decoder(NewMessage)


class Batch:
    """``/api/v3/messages/batch``."""

    def __init__(self, delivery: Deliverer, bodies: Bodies, *, line_bytes_max: int, batch_bytes_max: int) -> None:
        self._delivery = delivery
        self._bodies = bodies
        self._line_bytes_max = line_bytes_max
        self._batch_bytes_max = batch_bytes_max

    async def post(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Deliver every line; 202 with the lines that weren't. If none was, and for no fault of
        the caller, the answer is that problem."""
        query.parameters(req)
        check_type(req, MEDIA_TYPE)
        body = await self._bodies.read(req, self._batch_bytes_max)
        if body.count(b"\n") + (not body.endswith(b"\n")) > LINES_MAX:
            raise TooLarge(f"a batch may have {LINES_MAX} lines")
        run = _Run(self._delivery, body, self._line_bytes_max, req.caller.share)
        # TaskGroup: when one of them fails in earnest the others don't go on behind its back.
        async with asyncio.TaskGroup() as group:
            for _ in range(min(IN_FLIGHT_MAX, body.count(b"\n") + 1)):
                group.create_task(run.work())
        if run.trouble is not None and not run.accepted and all(e.status >= _OURS for e in run.rejected):
            raise run.trouble
        if req.caller.share is not None:
            req.caller.share.tell(resp)
        run.rejected.sort(key=lambda error: error.line)
        resp.status = 202
        resp.data = encode(BatchAccepted(accepted=run.accepted, rejected=run.rejected))


class _Run:
    """One batch under way; several workers take its lines in turn."""

    def __init__(self, delivery: Deliverer, body: bytes, line_bytes_max: int, share: Share | None) -> None:
        self.accepted = 0
        self.rejected: list[LineError] = []
        self.trouble: PoboxError | None = None
        self._delivery = delivery
        self._line_bytes_max = line_bytes_max
        self._share = share
        self._lines = enumerate(_lines(body), 1)
        self._empty = 0

    async def work(self) -> None:
        """Take lines until there are none."""
        for number, line in self._lines:
            if not line or line.isspace():
                self._empty += 1
                if self._empty % _EMPTY_PORTION == 0:
                    await asyncio.sleep(0)
                continue
            try:
                await self._deliver(line)
                self.accepted += 1
            except PoboxError as error:
                self._reject(number, error)
                await asyncio.sleep(0)

    async def _deliver(self, line: bytes) -> None:
        """As one request would, but a link that is full is waited for: this batch may have filled it."""
        if len(line) > self._line_bytes_max:
            raise TooLarge(f"a line may have {self._line_bytes_max} bytes")
        if self._share is not None:
            self._share.take()
        message = _decode(line)
        for _ in range(_TRIES_MAX):
            try:
                await self._delivery.deliver(message)
                return
            except Overloaded:
                await asyncio.sleep(_TRY_AGAIN_S)
        await self._delivery.deliver(message)

    def _reject(self, line: int, error: PoboxError) -> None:
        if error.status >= _OURS:
            self.trouble = error
        self.rejected.append(
            LineError(
                line=line,
                error=error.detail,
                field=error.field,
                status=error.status,
                users=error.users,
                retry_after=error.retry_after,
            )
        )


def _lines(body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        end = body.find(b"\n", at)
        if end < 0:
            end = len(body)
        yield body[at:end]
        at = end + 1
