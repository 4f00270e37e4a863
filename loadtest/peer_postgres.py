"""The peer: what one would pick instead. Falcon, asyncpg, and one durable inbox table in PostgreSQL.

Made as strong as is fair: the same body decoded by the same struct, statements prepared once a
connection, no query but the insert (asyncpg's pool asks the server to reset at each release; this
pool doesn't), no access log, uvloop, several processes on one port. The 202 comes after the commit,
one transaction a request. The table is what an inbox needs: a primary key that makes a second
delivery harmless, and an index to read a user's newest.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import click
import falcon
import falcon.asgi
import msgspec
import uvicorn

from node import ids
from node.model import Accepted, MemberChange, NewMessage

SCHEMA = """
CREATE TABLE IF NOT EXISTS inbox (
    user_id      text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    channel_id   text NOT NULL,
    title        text NOT NULL,
    content      text NOT NULL,
    message_type text NOT NULL DEFAULT 'text',
    priority     smallint NOT NULL DEFAULT 5,
    sender       text,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz,
    metadata     jsonb,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX IF NOT EXISTS inbox_newest ON inbox (user_id, created_at);
CREATE TABLE IF NOT EXISTS members (
    channel_id text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    PRIMARY KEY (channel_id, user_id)
);
"""
_COLUMNS = "id, channel_id, title, content, message_type, priority, sender, created_at, metadata"
_VALUES = "$2, $3, $4, $5, $6, $7, $8, $9, $10"
TO_ONE = f"INSERT INTO inbox (user_id, {_COLUMNS}) VALUES ($1, {_VALUES}) ON CONFLICT DO NOTHING"
TO_MANY = (
    f"INSERT INTO inbox (user_id, {_COLUMNS}) SELECT user_id, {_VALUES} FROM unnest($1::text[]) AS user_id "
    "ON CONFLICT DO NOTHING"
)
TO_CHANNEL = (
    f"INSERT INTO inbox (user_id, {_COLUMNS}) SELECT user_id, {_VALUES} FROM members WHERE channel_id = $1 "
    "ON CONFLICT DO NOTHING"
)
JOIN = "INSERT INTO members (channel_id, user_id) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING"
_STATEMENTS = (TO_ONE, TO_MANY, TO_CHANNEL, JOIN)

_decode = msgspec.json.Decoder(NewMessage).decode
_decode_members = msgspec.json.Decoder(MemberChange).decode
_encode = msgspec.json.Encoder().encode


class Pool:
    """Connections, each with its prepared statements. Last in, first out: the caches stay warm."""

    def __init__(self, sockets: str, size: int) -> None:
        self._sockets = sockets
        self._size = size
        self._free: asyncio.LifoQueue[dict[str, Any]] = asyncio.LifoQueue()

    async def open(self) -> None:
        for _ in range(self._size):
            connection = await asyncpg.connect(host=self._sockets, user="postgres", database="postgres")
            self._free.put_nowait({sql: await connection.prepare(sql) for sql in _STATEMENTS})

    async def run(self, sql: str, *values: object) -> int:
        """Run one of the statements in its own transaction; returns the number of rows, committed."""
        statements = await self._free.get()
        try:
            await statements[sql].fetch(*values)
            return int(statements[sql].get_statusmsg().split()[-1])
        finally:
            self._free.put_nowait(statements)


class Startup:
    """Falcon calls this when the server starts."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._pool.open()


class Messages:
    """``POST /api/v3/messages`` as the node takes it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        message = _decode(await req.stream.read())
        users = message.users
        id = message.id or ids.new_id()
        to: list[str] | str | None
        if users is None:
            sql, to = TO_CHANNEL, message.channel_id
        else:
            ids.check_names(users, "users")
            sql, to = (TO_ONE, users[0]) if len(users) == 1 else (TO_MANY, users)
        targets = await self._pool.run(
            sql,
            to,
            id,
            message.channel_id or "direct",
            message.title,
            message.content,
            message.message_type,
            message.priority,
            message.sender,
            message.created_at or datetime.now(UTC),
            None if message.metadata is None else _encode(message.metadata).decode(),
        )
        resp.status = falcon.HTTP_202
        resp.content_type = falcon.MEDIA_JSON
        resp.data = _encode(Accepted(id=id, targets=targets, receipt=f"/api/v3/messages/{id}/receipt"))


class Members:
    """``POST /api/v3/channels/{channel}/members``: many at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, channel: str) -> None:
        change = _decode_members(await req.stream.read())
        resp.media = {"added": await self._pool.run(JOIN, channel, change.add)}


def app(pool: Pool) -> falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]:
    made = falcon.asgi.App(middleware=[Startup(pool)])
    made.add_route("/api/v3/messages", Messages(pool))
    made.add_route("/api/v3/channels/{channel}/members", Members(pool))
    return made


@click.command()
@click.option("--sockets", required=True, help="Directory of PostgreSQL's socket.")
@click.option("--port", type=int, required=True)
@click.option("--pool", "pool_size", type=int, default=16, show_default=True)
def main(sockets: str, port: int, pool_size: int) -> None:
    """Serve on a loopback port that several processes may share."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(
        app(Pool(sockets, pool_size)),
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
