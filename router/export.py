"""All there is of a person, as one zip: made while it is sent, so nothing of it is held but a portion.

The databases are copies that never change; ``manifest.json`` comes last, and names every file, its size and
SHA-256. The JSON is read after the copies are made: what was delivered meanwhile may be in it and not in them.
Files are read in turn with the downloads (:mod:`router.snapshot`), so that deliveries go first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import zipfile
from collections.abc import AsyncIterator, Callable
from io import FileIO, RawIOBase
from typing import Any

import falcon.asgi
import msgspec

from node import ops
from node.clock import iso, now_us
from node.errors import Overloaded, Unavailable
from node.export import MANIFEST, Exported, Manifest
from node.ids import check_name
from node.keystream import Keystream
from node.model import Messages, PushDevices, ReadStatus, UserChannels
from router import query
from router.body import Request
from router.links import Links, about
from router.protocol import CONNECTION
from router.snapshot import PORTION, Span, open_snapshot, others_first
from router.sync import SNAPSHOT_TIMEOUT_S

Read = Callable[[int], bytes]
"""the next bytes of a file, so many at most; nothing at its end"""
MEDIA_TYPE = "application/zip"
AT_ONCE = 16
"""exports under way in one router: each holds files of its own that take room, also when they have lost their names"""
_RETRY_S = 5
_encode = msgspec.json.Encoder().encode


class Exports:
    """``/api/v3/users/{userId}/export``."""

    def __init__(self, links: Links, turn: asyncio.Lock) -> None:
        self._links = links
        self._turn = turn
        self._under_way = 0

    async def get(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """The zip, of unknown length."""
        person = _Person(self._links, check_name(user_id, "userId"))
        query.parameters(req)
        if self._under_way >= AT_ONCE:
            raise Overloaded("as many exports as may be are under way", retry_after=_RETRY_S)
        with contextlib.ExitStack() as opened:
            self._under_way += 1
            opened.callback(self._ended)
            box = await open_snapshot(self._links, user_id, encoding="identity", version=None, device=None)
            opened.callback(box.close)
            files: list[tuple[str, Read]] = [("messages.db", Span(box, 0, box.size).take)]
            for one in await person.files():
                try:
                    file = opened.enter_context(FileIO(self._links.data / one.file))
                    files.append((one.name, _reader(file, one.hidden_by)))
                except FileNotFoundError as error:
                    raise Unavailable() from error
            resp.content_type = MEDIA_TYPE
            resp.set_header("Content-Disposition", f'attachment; filename="{user_id}.zip"')
            resp.set_header("Cache-Control", "no-store")
            if req.method != "HEAD":
                resp.stream = Zip(req, person, box.state.version, files, opened.pop_all(), self._turn)

    def _ended(self) -> None:
        self._under_way -= 1


def _reader(file: FileIO, hidden_by: bytes) -> Read:
    """The bytes of ``file``, through its keystream."""
    keystream, at = Keystream(hidden_by), 0

    def read(most: int) -> bytes:
        nonlocal at
        content = file.read(most)
        at += len(content)
        return keystream.apply(content, at - len(content))

    return read


class _Person:
    """What the shard of a person says about them, a portion of JSON at a time."""

    def __init__(self, links: Links, user: str) -> None:
        self._links, self.user = links, user

    async def files(self) -> list[ops.ExportFile]:
        """Those that devices don't get; each is to be opened at once."""
        request = ops.Export(*about(self.user))
        return await self._links.ask_about(request, list[ops.ExportFile], timeout_s=SNAPSHOT_TIMEOUT_S)

    async def messages(self) -> AsyncIterator[bytes]:
        """One message a line, newest first; those of the archive too."""
        cursor: str | None = None
        while True:
            page = await self._links.ask_about(ops.Page(*about(self.user), None, query.LIMIT_MAX, cursor), Messages)
            yield b"".join(_encode(message) + b"\n" for message in page.messages)
            cursor = page.cursor
            if cursor is None:
                return

    async def statuses(self) -> AsyncIterator[bytes]:
        """One portion a line."""
        since: str | None = None
        while True:
            request = ops.AskStatuses(*about(self.user), since, query.STATUSES_MAX)
            part = await self._links.ask_about(request, ReadStatus)
            yield _encode(part) + b"\n"
            since = part.since
            if not part.more:
                return

    async def channels(self) -> AsyncIterator[bytes]:
        yield _encode(await self._links.ask_about(ops.AskUserChannels(*about(self.user)), UserChannels)) + b"\n"

    async def push(self) -> AsyncIterator[bytes]:
        yield _encode(await self._links.ask_about(ops.ListPush(*about(self.user)), PushDevices)) + b"\n"


class _Out(RawIOBase):
    """What the zip writes; taken from here as it comes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._parts.append(bytes(content))
        return len(content)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


class Zip(AsyncIterator[bytes]):
    """The body of an answer; ``opened`` is closed at its end, whatever that is."""

    def __init__(
        self,
        req: Request,
        person: _Person,
        version: str,
        files: list[tuple[str, Read]],
        opened: contextlib.ExitStack,
        turn: asyncio.Lock,
    ) -> None:
        self._turn = turn
        self._connection = req.scope[CONNECTION]
        self._person, self._version, self._files, self._opened = person, version, files, opened
        self._parts = self._all()

    async def __anext__(self) -> bytes:
        return await anext(self._parts)

    async def close(self) -> None:
        """Falcon calls it."""
        self._opened.close()

    async def _all(self) -> AsyncIterator[bytes]:
        out = _Out()
        person = self._person
        manifest = Manifest(person.user, iso(now_us()), self._version, [])
        parts: list[tuple[str, AsyncIterator[bytes]]] = [
            (name, _portions(read, self._turn)) for name, read in self._files
        ]
        parts += [
            ("messages.ndjson", person.messages()),
            ("read_status.ndjson", person.statuses()),
            ("channels.json", person.channels()),
            ("push.json", person.push()),
        ]
        with zipfile.ZipFile(out, "w") as made:
            for name, portions in parts:
                digest, size = hashlib.sha256(), 0
                with made.open(name, "w", force_zip64=True) as entry:
                    async for portion in portions:
                        digest.update(portion)
                        size += len(portion)
                        entry.write(portion)
                        await self._connection.writable()
                        if self._connection.gone:
                            return
                        if content := out.take():
                            yield content
                manifest.files.append(Exported(name, size, digest.hexdigest()))
            made.writestr(MANIFEST, _encode(manifest))
        yield out.take()


async def _portions(read: Read, turn: asyncio.Lock) -> AsyncIterator[bytes]:
    while True:
        async with turn:
            await others_first()
            portion = read(PORTION)
        if not portion:
            return
        yield portion
