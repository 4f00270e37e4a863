"""A shard as the router sees it: a Unix socket that speaks ``node.ops``, everything in memory.

It lets a test see each frame, and refuse, be silent, cut the connection or go away.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from node import errors, model, ops, zstd
from node.paths import socket_path
from node.slots import table_for
from node.wire import Framed

TABLE = 3
SINCE = "2026-11-24T08:00:00.000000Z"


class Peer:
    """Shard ``index`` of ``shards``, on a loop of its own in a thread."""

    def __init__(self, data: Path, index: int, shards: int) -> None:
        self.index = index
        self.path = socket_path(data, index)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.shards = shards
        self.frames: list[Any] = []
        self.refusal: errors.PoboxError | None = None
        self.silent = False
        self.no_room_for: str | None = None
        """no letter is taken whose id begins with this"""
        self.cutting = False
        self.claims: dict[str, bytes] = {}
        self.letters: dict[str, tuple[ops.Letter, list[str]]] = {}
        self.channels: dict[str, model.Channel] = {}
        self.members: dict[str, set[str]] = {}
        self.mutes: dict[tuple[str, str], int] = {}
        """user and channel → until when, 0 for good"""
        self.devices: dict[str, list[str]] = {}
        """by user"""
        self.boxes: dict[str, Path] = {}
        """the file that each user's box is for devices; its name is its version"""
        self.full: set[str] = set()
        self.alerts: list[ops.Alert] = []
        self.pushes: dict[tuple[str, str], ops.PutPush] = {}
        self._data = data
        self._wires: set[_End] = set()
        self._server: asyncio.AbstractServer | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Listen."""
        self._run(self._listen())

    def stop(self) -> None:
        """Close the socket and every connection, as a shard that died."""
        self._run(self._close())

    def end(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def deliveries(self) -> list[ops.Deliver]:
        """What it was asked to journal, in order."""
        return [frame for frame in self.frames if isinstance(frame, ops.Deliver)]

    def writes(self) -> list[Any]:
        """Every frame that would change something."""
        changing = (
            ops.Deliver, ops.Remove, ops.PutChannel, ops.DropChannel, ops.ChangeMembers, ops.ChangeStatuses,
            ops.PutPush, ops.DropPush,
            ops.SetMute, ops.ForgetDevice, ops.DeleteUser, ops.SetQuota,
        )  # fmt: skip
        return [frame for frame in self.frames if isinstance(frame, changing)]

    def answer(self, request: Any) -> Any:
        """The body for ``request``; raises what the shard refuses with."""
        if self.refusal is not None:
            raise self.refusal
        return _ANSWERS[type(request)](self, request)

    def _deliver(self, request: ops.Deliver) -> ops.Taken:
        if self.no_room_for is not None and request.id.startswith(self.no_room_for):
            raise errors.DiskFull()
        table = table_for(self.shards)
        assert request.table == TABLE
        assert len(request.users) == len(request.slots)
        assert all(table[slot] == self.index for slot in request.slots)
        if request.claim and self.claims.setdefault(request.id, request.digest) != request.digest:
            raise errors.Conflict("another body", field="id")
        users = request.users
        if request.channel is not None:
            if request.channel not in self.channels:
                raise errors.NotFound("no such channel", field="channelId")
            users = sorted(self.members[request.channel])
        letter = msgspec.msgpack.decode(request.letter, type=ops.Letter)
        self.letters.setdefault(request.id, (letter, users))
        return ops.Taken(len(users))

    def _receipt(self, request: ops.AskReceipt) -> ops.ReceiptPart:
        if request.id not in self.letters:
            return ops.ReceiptPart(0, 0, 0, 0)
        letter, users = self.letters[request.id]
        return ops.ReceiptPart(letter.accepted_us, len(users), 1, 0)

    def _box(self, user: str) -> list[model.Message]:
        return [
            model.Message(
                id=letter.id,
                channel_id=letter.channel_id,
                title=letter.title,
                content=letter.content,
                message_type=letter.message_type,
                priority=letter.priority,
                sender=letter.sender,
                created_at=letter.created_at,
                updated_at=letter.updated_at,
                metadata=None if letter.metadata is None else msgspec.json.decode(letter.metadata),
            )
            for letter, users in reversed(self.letters.values())
            if user in users
        ]

    def _page(self, request: ops.Page) -> model.Messages:
        messages = [m for m in self._box(request.user) if request.channel in (None, m.channel_id)]
        return model.Messages(messages=messages[: request.limit], cursor=None)

    def _one(self, request: ops.ReadOne | ops.Remove) -> model.Message:
        for message in self._box(request.user):
            if message.id == request.id:
                return message
        raise errors.NotFound("no such message", field="id")

    def _remove(self, request: ops.Remove) -> None:
        self._one(request)
        self.letters[request.id][1].remove(request.user)

    def _put(self, request: ops.PutChannel) -> bool:
        new = request.id not in self.channels
        self.members.setdefault(request.id, set())
        channel = self.channels.setdefault(
            request.id,
            model.Channel(
                id=request.id,
                name=request.id,
                description=None,
                created_by=request.created_by,
                created_at="2026-11-24T08:00:00.000000Z",
                members=0,
            ),
        )
        channel.name = request.name or channel.name
        channel.description = request.description or channel.description
        channel.open = channel.open if request.open is None else request.open
        return new

    def _get(self, request: ops.GetChannel) -> model.Channel:
        if request.id not in self.channels:
            raise errors.NotFound("no such channel", field="channelId")
        self.channels[request.id].members = len(self.members[request.id])
        return self.channels[request.id]

    def _drop(self, request: ops.DropChannel) -> bool:
        self.members.pop(request.id, None)
        return self.channels.pop(request.id, None) is not None

    def _list(self, request: ops.ListChannels) -> list[model.Channel]:
        ids = sorted(
            id
            for id, channel in self.channels.items()
            if id > request.after and id.startswith(request.prefix) and request.open in (None, channel.open)
        )
        return [self._get(ops.GetChannel(0, id)) for id in ids[: request.limit]]

    def _change(self, request: ops.ChangeMembers) -> model.MemberChanged:
        table = table_for(self.shards)
        assert len(request.slots) == len(request.add) + len(request.remove)
        assert all(table[slot] == self.index for slot in request.slots)
        self._get(ops.GetChannel(0, request.channel))
        members = self.members[request.channel]
        if request.themselves and not self.channels[request.channel].open and set(request.add) - members:
            raise errors.NotOpen("not open", field="channelId")
        added, removed = set(request.add) - members, members & set(request.remove)
        members |= added
        members -= removed
        return model.MemberChanged(added=len(added), removed=len(removed), members=len(members))

    def _list_members(self, request: ops.ListMembers) -> list[str]:
        self._get(ops.GetChannel(0, request.channel))
        members = (m for m in self.members[request.channel] if m.startswith(request.prefix))
        return sorted(m for m in members if m > request.after)[: request.limit]

    def _list_users(self, request: ops.ListUsers) -> list[str]:
        users = {user for _letter, users in self.letters.values() for user in users}
        return sorted(u for u in users if u.startswith(request.prefix) and u > request.after)[: request.limit]

    def _boxes(self, request: ops.AskBoxes) -> list[model.UserBox]:
        table = table_for(self.shards)
        assert all(table[slot] == self.index for slot in request.slots)
        return [model.UserBox(id=u, size=4096, messages=len(self._box(u)), last_delivery=None) for u in request.users]

    def _user_channels(self, request: ops.AskUserChannels) -> model.UserChannels:
        return model.UserChannels(
            channels=[
                model.UserChannel(id=id, name=self.channels[id].name, joined_at="", is_muted=False)
                for id, members in sorted(self.members.items())
                if request.user in members
            ]
        )

    def _mute(self, request: ops.SetMute) -> None:
        if request.user not in self.members.get(request.channel, ()):
            raise errors.NotFound("not in it", field="channelId")
        self.mutes.pop((request.user, request.channel), None)
        if request.until_us is not None:
            self.mutes[request.user, request.channel] = request.until_us

    def _devices(self, request: ops.AskDevices) -> model.Devices:
        names = self.devices.get(request.user, [])
        return model.Devices(
            devices=[model.Device(name=name, last_sync=SINCE, version=None, newest=False, push=False) for name in names]
        )

    def _delete_user(self, request: ops.DeleteUser) -> None:
        if not self._box(request.user):
            raise errors.NotFound("no such user", field="userId")
        for letter, users in self.letters.values():
            self.letters[letter.id] = letter, [user for user in users if user != request.user]

    def _forget(self, request: ops.ForgetDevice) -> None:
        if request.device not in self.devices.get(request.user, []):
            raise errors.NotFound("no such device", field="device")
        self.devices[request.user].remove(request.device)

    def _holders(self, request: ops.AskHolders) -> model.Holders:
        self._one(ops.ReadOne(0, request.table, request.slot, request.user, request.id))
        names = self.devices.get(request.user, [])
        return model.Holders(devices=[model.Holder(name=name, last_sync=SINCE, has=None) for name in names])

    def _merge(self, request: ops.ChangeStatuses) -> model.StatusMerged:
        accepted = len(request.changes) + len(request.positions)
        return model.StatusMerged(
            since=SINCE, full=False, more=False, statuses=[], positions=[], accepted=accepted, conflicts=[]
        )

    def _statuses(self, request: ops.AskStatuses) -> model.ReadStatus:
        if not self._box(request.user):
            raise errors.NotFound("no such user", field="userId")
        return model.ReadStatus(since=SINCE, full=request.since is None, more=False, statuses=[], positions=[])

    def _counts(self, request: ops.AskCounts) -> model.Counts:
        unread: dict[str, int] = {}
        for message in self._box(request.user):
            unread[message.channel_id] = unread.get(message.channel_id, 0) + 1
        return model.Counts(unread=sum(unread.values()), channels=unread)

    def _sync(self, request: ops.AskSync) -> ops.SyncState:
        if request.user not in self.boxes:
            raise errors.NotFound("no such user", field="userId")
        return _state(self.boxes[request.user])

    def _snapshot(self, request: ops.AskSnapshot) -> ops.Snapshot:
        self._sync(ops.AskSync(0, request.table, request.slot, request.user, request.device))
        newest = self.boxes[request.user]
        plain = newest.with_name(request.version or newest.name)
        if not plain.exists():
            plain = newest
        path = plain
        if request.encoding != "identity":
            path = plain.with_name(f"{plain.name}.{request.encoding}")
            pack = zstd.compress if request.encoding == "zstd" else gzip.compress
            path.write_bytes(pack(plain.read_bytes()))
        return ops.Snapshot(_state(plain), str(path.relative_to(self._data)), path.stat().st_size)

    def _put_push(self, request: ops.PutPush) -> bool:
        assert request.table == TABLE
        is_new = (request.user, request.device) not in self.pushes
        self.pushes[request.user, request.device] = request
        return is_new

    def _drop_push(self, request: ops.DropPush) -> None:
        if self.pushes.pop((request.user, request.device), None) is None:
            raise errors.NotFound("this device has no subscription", field="device")

    def _list_push(self, request: ops.ListPush) -> model.PushDevices:
        return model.PushDevices(
            devices=[
                model.PushDevice(device=device, host="push.example", priority_min=one.priority_min, created_at="")
                for (user, device), one in self.pushes.items()
                if user == request.user
            ]
        )

    def _no_dead_letter(self, _request: ops.RequeueDeadLetter | ops.DropDeadLetter) -> None:
        raise errors.NotFound("no such dead letter", field="deadLetterId")

    def _metrics(self, _request: ops.AskMetrics) -> ops.Metrics:
        waiting = ops.Family("pobox_waiting", "gauge", "Waiting", [ops.Sample("pobox_waiting", {}, 7.0)])
        return ops.Metrics([waiting], self.alerts)

    def _ping(self, _request: ops.Ping) -> ops.State:
        return ops.State(self.index, TABLE, self.shards, 0, 0, 0, 0, 0)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self) -> None:
        self._server = await self._loop.create_unix_server(lambda: _End(self), str(self.path))

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self.path.unlink()
        for wire in list(self._wires):
            wire.close()


def _state(path: Path) -> ops.SyncState:
    content = path.read_bytes()
    return ops.SyncState(path.name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")


_ANSWERS: dict[type, Callable[[Peer, Any], Any]] = {
    ops.Deliver: Peer._deliver,
    ops.AskReceipt: Peer._receipt,
    ops.Page: Peer._page,
    ops.ReadOne: Peer._one,
    ops.Remove: Peer._remove,
    ops.PutChannel: Peer._put,
    ops.GetChannel: Peer._get,
    ops.DropChannel: Peer._drop,
    ops.ListChannels: Peer._list,
    ops.ChangeMembers: Peer._change,
    ops.ListMembers: Peer._list_members,
    ops.ListUsers: Peer._list_users,
    ops.AskBoxes: Peer._boxes,
    ops.AskUserChannels: Peer._user_channels,
    ops.ChangeStatuses: Peer._merge,
    ops.AskStatuses: Peer._statuses,
    ops.AskCounts: Peer._counts,
    ops.AskSync: Peer._sync,
    ops.AskSnapshot: Peer._snapshot,
    ops.SetMute: Peer._mute,
    ops.AskDevices: Peer._devices,
    ops.ForgetDevice: Peer._forget,
    ops.DeleteUser: Peer._delete_user,
    ops.Export: lambda _peer, _request: [],
    ops.AskHolders: Peer._holders,
    ops.Ping: Peer._ping,
    ops.AskMetrics: Peer._metrics,
    ops.AskPushKey: lambda _peer, _request: "the key",
    ops.PutPush: Peer._put_push,
    ops.DropPush: Peer._drop_push,
    ops.ListPush: Peer._list_push,
    ops.ListDeadLetters: lambda _peer, _request: [],
    ops.RequeueDeadLetter: Peer._no_dead_letter,
    ops.DropDeadLetter: Peer._no_dead_letter,
    ops.AskFull: lambda peer, request: [user for user in request.users if user in peer.full],
    ops.AskUsage: lambda _peer, request: model.Usage(
        id=request.user, messages=1, bytes=2, quota_messages=None, quota_bytes=3, own_quota=True, full=False
    ),
    ops.SetQuota: lambda _peer, _request: None,
}


class _End(Framed):
    """The peer's end of one connection."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._peer = peer
        peer._wires.add(self)

    def closed(self) -> None:
        self._peer._wires.discard(self)

    def frame_received(self, payload: bytes) -> None:
        request: Any = ops.decode_request(payload)
        if not isinstance(request, ops.Ping):  # a link that is quiet asks by itself
            self._peer.frames.append(request)
        if self._peer.cutting:
            self.close()
            return
        if self._peer.silent:
            return
        answer: ops.Done | ops.Failed
        try:
            body = self._peer.answer(request)
            answer = ops.Done(request.rid, msgspec.Raw(ops.encode(body)))
        except errors.PoboxError as error:
            answer = ops.Failed(request.rid, error.problem(), error.shut)
        self.send(ops.encode(answer))
