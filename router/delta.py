"""What changed in a box since a device last had it: only the pages that differ (:mod:`node.pages`).

The device sends the hashes of its pages, whatever version they are of. Hashing the pages of the file here takes
a thread some milliseconds; the hashes of the files asked for last are kept. When more than half of
the pages differ, or the file isn't made of whole pages, the answer is where to download it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import falcon.asgi

from node import pages
from node.errors import BadField
from node.ids import check_name
from router import query
from router.body import Bodies, Request, check_type
from router.links import Links
from router.snapshot import PORTION, Body, Snapshot, describe, open_snapshot
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
        resp.stream = Body(req, snapshot, _records(snapshot, numbers), self._turn)

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
    return b"".join([pages.hashes(portion) for portion in snapshot.portions(0, snapshot.size)])


def _records(snapshot: Snapshot, numbers: list[int]) -> Iterator[bytes]:
    """The delta, in portions."""
    for at in range(0, len(numbers), PORTION // pages.PAGE):
        some = numbers[at : at + PORTION // pages.PAGE]
        yield b"".join([pages.record(number, snapshot.read(number * pages.PAGE, pages.PAGE)) for number in some])
