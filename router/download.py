"""A box as a file: whole, or the rest of one that was cut off, packed if the device asks for that.

A strong ETag names the version and the encoding, so that a part can only be put to the part it belongs to. Who
goes on with an older version (``If-Range``) gets the rest of that one as long as it is kept; the next check
will tell that there is a newer one.
"""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

import falcon
import falcon.asgi

from node.ids import check_name
from router import query
from router.body import Request
from router.links import Links
from router.problems import RangeNotSatisfiable
from router.snapshot import Body, Snapshot, Span, describe, open_snapshot
from router.sync import Versions, device

MEDIA_TYPE = "application/vnd.sqlite3"
IDENTITY = "identity"
_PACKED = ("zstd", "gzip")  # the first is the better one
_ETAG = re.compile(r'"([0-9A-Za-z:.-]{1,64}?)(?:;(zstd|gzip))?"')
_TAGS = re.compile(r'(?:W/)?("[^"]*")')
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_Q = re.compile(r"\s*q=(\d(?:\.\d{0,3})?)\s*", re.IGNORECASE)


class Wanted(NamedTuple):
    """A representation that the caller has a part of."""

    version: str
    encoding: str


class Downloads:
    """``/api/v3/sync/{userId}/download``."""

    def __init__(self, links: Links, versions: Versions, turn: asyncio.Lock) -> None:
        self._links = links
        self._turn = turn
        self._versions = versions

    async def get(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """The newest version, or the rest of the one that ``If-Range`` names."""
        check_name(user_id, "userId")
        name = device(query.parameters(req, "device"))
        encoding = negotiated(req.get_header("Accept-Encoding"))
        resp.set_header("Vary", "Accept-Encoding")
        if await self._is_known(req, resp, user_id, encoding, name):
            return
        tag = req.get_header("If-Range") if req.get_header("Range") is not None else None
        part = parse_etag(tag) if tag is not None else None
        if part is not None and part.encoding != encoding:
            part = None
        snapshot = await open_snapshot(
            self._links, user_id, encoding=encoding, version=part.version if part else None, device=name
        )
        try:
            self._answer(req, resp, snapshot, encoding)
        except BaseException:
            snapshot.close()
            raise

    async def _is_known(
        self, req: Request, resp: falcon.asgi.Response, user: str, encoding: str, name: str | None
    ) -> bool:
        """Answer 304 if the caller has the newest version; no file is made for that."""
        tags = req.get_header("If-None-Match")
        if tags is None:
            return False
        part = parse_etag(tags.strip())  # whoever names one version says that it has it
        state = await self._versions.newest(user, name if part else None, part.version if part else None)
        etag = etag_of(state.version, encoding)
        if tags.strip() != "*" and etag not in _TAGS.findall(tags):
            return False
        describe(resp, state)
        resp.set_header("ETag", etag)
        resp.status = 304
        return True

    def _answer(self, req: Request, resp: falcon.asgi.Response, snapshot: Snapshot, encoding: str) -> None:
        etag = etag_of(snapshot.state.version, encoding)
        describe(resp, snapshot.state)
        resp.set_header("ETag", etag)
        resp.set_header("Accept-Ranges", "bytes")
        resp.set_header("Cache-Control", "no-transform")
        if encoding != IDENTITY:
            resp.set_header("Content-Encoding", encoding)
        resp.content_type = MEDIA_TYPE
        span = (0, snapshot.size)
        asked = req.get_header("Range")
        if asked is not None and req.get_header("If-Range") in (None, etag):
            try:
                part = parse_range(asked, snapshot.size)
            except RangeNotSatisfiable:
                resp.set_header("Content-Range", f"bytes */{snapshot.size}")
                resp.delete_header("Content-Encoding")
                raise
            if part is not None:
                span = part
                resp.status = 206
                resp.set_header("Content-Range", f"bytes {span[0]}-{span[0] + span[1] - 1}/{snapshot.size}")
        resp.content_length = span[1]
        if req.method == "HEAD":
            snapshot.close()
        else:
            resp.stream = Body(req, snapshot, Span(snapshot, *span), self._turn)


def etag_of(version: str, encoding: str) -> str:
    """The strong tag of one version in one encoding. Pure."""
    return f'"{version}"' if encoding == IDENTITY else f'"{version};{encoding}"'


def parse_etag(tag: str) -> Wanted | None:
    """What :func:`etag_of` made ``tag`` of; None if it didn't. Pure."""
    found = _ETAG.fullmatch(tag)
    return None if found is None else Wanted(found[1], found[2] or IDENTITY)


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Where the range begins, and its length; None for what may be ignored (several ranges, another unit).
    Raises :class:`RangeNotSatisfiable`. Pure."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size)
        first, last = size - length, size - 1
    else:
        first = int(found[1])
        last = min(int(found[2]), size - 1) if found[2] else size - 1
        if found[2] and int(found[2]) < first:
            return None
    if first >= size or last < first:
        raise RangeNotSatisfiable(f"the file has {size} bytes", field="Range")
    return first, last - first + 1


def negotiated(accepted: str | None) -> str:
    """The encoding to answer in: zstd or gzip if it is named and nothing else is liked better. Pure."""
    if accepted is None:
        return IDENTITY
    likes: dict[str, float] = {}
    for item in accepted.lower().split(","):
        coding, _, parameters = item.partition(";")
        q = _Q.fullmatch(parameters) if parameters else None
        likes[coding.strip()] = float(q[1]) if q else 1.0
    best = max(_PACKED, key=lambda coding: likes.get(coding, 0.0))
    liked = likes.get(best, 0.0)
    return best if liked > 0 and liked >= likes.get(IDENTITY, 0.0) else IDENTITY
