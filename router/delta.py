"""What changed in a box since a device last had it: only the pages that differ (:mod:`node.pages`).

The device sends the hashes of its pages, whatever version they are of. Hashing the pages of the file here takes
a thread some milliseconds; the hashes of the files asked for last are kept. When more than half of
the pages differ, or the file isn't made of whole pages, the answer is where to download it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import falcon.asgi

from node import pages
from node.errors import BadField
from node.ids import check_name
from router import query
from router.body import Bodies, Request, check_type
from router.links import Links
from router.snapshot import PORTION, Body, Snapshot, Span, describe, open_snapshot
from router.sync import device

REQUEST_TYPE = "application/octet-stream"
MEDIA_TYPE = "application/vnd.pobox.delta"
_KEPT_BYTES_MAX = 32 * 1024 * 1024
_DIFFERING_MAX = 0.5


class Deltas:
    """``/api/v3/sync/{userId}/delta``."""

    def __init__(self, links: Links, bodies: Bodies, bytes_max: int, turn: asyncio.Lock) -> None:
        self._links = links
        self._turn = turn
        self._bodies = bodies
        self._bytes_max = bytes_max
        self._thread = ThreadPoolExecutor(1, "hasher")
        self._hashing: dict[tuple[str, str], asyncio.Future[bytes]] = {}
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._kept_bytes = 0

    async def post(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """The pages that make the newest version of the device's file; 303 if a download is cheaper."""
        check_name(user_id, "userId")
        name = device(query.parameters(req, "device"))
        check_type(req, REQUEST_TYPE)
        old = await self._bodies.read(req, self._bytes_max)
        if len(old) % pages.HASH:
            raise BadField(f"the body must be hashes of {pages.HASH} bytes each", field="body")
        snapshot = await open_snapshot(self._links, user_id, encoding="identity", version=None, device=name)
        try:
            await self._answer(req, resp, user_id, snapshot, old)
        except BaseException:
            snapshot.close()
            raise

    async def _answer(
        self, req: Request, resp: falcon.asgi.Response, user: str, snapshot: Snapshot, old: bytes
    ) -> None:
        describe(resp, snapshot.state)
        count, rest = divmod(snapshot.size, pages.PAGE)
        numbers: list[int] = []
        cheap = not rest
        if cheap:
            new = await self._hashes(user, snapshot)
            numbers = await asyncio.get_running_loop().run_in_executor(self._thread, pages.differing, new, old)
            cheap = len(numbers) <= count * _DIFFERING_MAX
        if not cheap:
            snapshot.close()
            resp.status = 303
            resp.set_header("Location", f"/api/v3/sync/{user}/download")
            return
        resp.content_type = MEDIA_TYPE
        resp.content_length = len(numbers) * pages.RECORD
        resp.stream = Body(req, snapshot, _Records(snapshot, numbers), self._turn)

    async def _hashes(self, user: str, snapshot: Snapshot) -> bytes:
        key = (user, snapshot.state.checksum)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        future = self._hashing.get(key)
        if future is None:
            future = asyncio.get_running_loop().run_in_executor(self._thread, _hash, snapshot)
            self._hashing[key] = future
            future.add_done_callback(lambda _future: self._hashing.pop(key))
        made = await asyncio.shield(future)
        if key not in self._kept:
            self._kept[key] = made
            self._kept_bytes += len(made)
            while self._kept_bytes > _KEPT_BYTES_MAX:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return made


def _hash(snapshot: Snapshot) -> bytes:
    """The hashes of all pages, a portion at a time: as a mapping it would all be counted as our memory."""
    span, hashes = Span(snapshot, 0, snapshot.size), list[bytes]()
    while portion := span.take(PORTION):
        hashes.append(pages.hashes(portion))
    return b"".join(hashes)


class _Records:
    """The delta: the pages ``numbers`` of ``snapshot``."""

    def __init__(self, snapshot: Snapshot, numbers: list[int]) -> None:
        self._snapshot, self._numbers, self._at = snapshot, numbers, 0

    def take(self, most: int) -> bytes:
        some = self._numbers[self._at : self._at + most // pages.PAGE]
        self._at += len(some)
        return b"".join([pages.record(number, self._snapshot.read(number * pages.PAGE, pages.PAGE)) for number in some])
