"""The shard's socket: frames in, answers out.

A delivery goes straight to the office, without a task of its own; every other question gets one, so
that a slow one holds up no delivery. What is refused is answered as a problem; what nobody foresaw is
logged once and answered as an internal error, without its inside.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import apsw
import msgspec
import structlog

from node import ops
from node.errors import DiskFull, Overloaded, PoboxError, Unavailable, Unsure
from node.paths import socket_address
from node.peers import is_ours
from node.wire import FRAME_MAX, Framed
from shard.core import Shard

log = structlog.get_logger()

_QUESTIONS_MAX = 4_096
_STRANGER_S = 60.0


class _Connection(Framed):
    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.connections.add(self)
        if not is_ours(transport):
            self._listener.tell_of_stranger()
            self.abort()

    def frame_received(self, payload: bytes) -> None:
        try:
            request = ops.decode_request(payload)
        except msgspec.MsgspecError as error:
            log.error("a frame that is no request", error=str(error))
            self.close()
            return
        if isinstance(request, ops.Deliver):
            self._listener.shard.office.take(request, self.send)
        else:
            self._listener.ask(request, self.send)

    def closed(self) -> None:
        self._listener.connections.discard(self)


class Listener:
    """Answers for ``shard``, which is told (``failed``) of an error after which the process must end."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.connections: set[_Connection] = set()
        self._tasks = shard.under_way
        self._server: asyncio.AbstractServer | None = None
        self._stranger_told = -math.inf
        self._handlers: dict[type, Callable[[Any], Awaitable[Any]]] = {
            ops.AskReceipt: shard.receipt,
            ops.Page: shard.desk.page,
            ops.ReadOne: shard.desk.read_one,
            ops.Remove: shard.desk.remove,
            ops.PutChannel: shard.channels.put,
            ops.GetChannel: shard.channels.get,
            ops.DropChannel: shard.channels.drop,
            ops.ListChannels: shard.channels.page,
            ops.ChangeMembers: shard.channels.change_members,
            ops.ListMembers: shard.channels.members,
            ops.ListUsers: shard.roster.page,
            ops.AskBoxes: shard.boxes,
            ops.AskUserChannels: shard.desk.channels,
            ops.AskSync: shard.devices.check,
            ops.AskSnapshot: shard.devices.snapshot,
            ops.AskStatuses: shard.statuses.ask,
            ops.ChangeStatuses: shard.statuses.change,
            ops.AskCounts: shard.statuses.counts,
            ops.AskPushKey: shard.push.key,
            ops.PutPush: shard.push.put,
            ops.DropPush: shard.push.drop,
            ops.ListPush: shard.push.list,
            ops.SetMute: shard.channels.mute,
            ops.AskDevices: shard.devices.roll.devices,
            ops.ForgetDevice: shard.devices.roll.forget,
            ops.AskHolders: shard.devices.roll.holders,
            ops.ListDeadLetters: shard.morgue.page,
            ops.RequeueDeadLetter: shard.morgue.requeue,
            ops.DropDeadLetter: shard.morgue.drop,
            ops.Ping: shard.ping,
            ops.AskMetrics: shard.metrics.ask,
            ops.BackUp: shard.backups.begin,
            ops.AskBackup: shard.backups.ask,
            ops.Export: shard.exports.files,
            ops.DeleteUser: shard.erasures.delete,
            ops.Restore: shard.restores.restore,
            ops.AskFull: shard.full,
            ops.AskUsage: shard.desk.usage,
            ops.SetQuota: shard.quotas.set,
            ops.HandOver: shard.handovers.hand_over,
            ops.TakeOver: shard.handovers.take_over,
        }

    async def start(self, path: Path) -> None:
        """Listen on ``path``, for this user only; a socket left by a killed predecessor is replaced."""
        path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), socket_address(path))
        path.chmod(0o600)

    def tell_of_stranger(self) -> None:
        """Once a minute: who is cut off may come again at once."""
        if (now := monotonic()) - self._stranger_told >= _STRANGER_S:
            self._stranger_told = now
            log.error("a connection of another user")

    def ask(self, request: ops.AnyRequest, answer: Callable[[bytes], None]) -> None:
        self.shard.metrics.questions[type(request).__name__] += 1
        if len(self._tasks) >= _QUESTIONS_MAX and not isinstance(request, ops.AskMetrics):
            answer(ops.failed(request.rid, Overloaded()))
            return
        task = asyncio.create_task(self._answer(request, answer))
        self._tasks[task] = request
        task.add_done_callback(self._tasks.pop)

    async def _answer(self, request: ops.AnyRequest, answer: Callable[[bytes], None]) -> None:
        try:
            if isinstance(request, ops.AboutUser):
                self.shard.residents.check_user(request)
            body = await self._handlers[type(request)](request)
            frame = ops.encode(ops.Done(request.rid, msgspec.Raw(ops.encode(body))))
        except PoboxError as error:
            frame = ops.failed(request.rid, error)
        except (apsw.FullError, DiskFull):
            frame = ops.failed(request.rid, DiskFull())
        except Unsure as error:
            self.shard.failed(error)
            return
        except Exception:
            log.exception("a question failed", question=type(request).__name__)
            frame = ops.failed(request.rid, PoboxError())
        if len(frame) > FRAME_MAX:
            frame = ops.failed(request.rid, Unavailable("the answer is too large"))
        answer(frame)

    async def stop(self) -> None:
        """Take nothing new; what is being answered is answered."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)

    def close(self) -> None:
        for connection in list(self.connections):
            connection.close()
