"""Every route, once. What Falcon serves, whom it serves, and what ``/openapi.json`` says are all made from this table.

A route that doesn't say who may use it is an error when this module is imported.
"""

from __future__ import annotations

import msgspec

from node.errors import (
    BadField,
    CallerError,
    Conflict,
    DiskFull,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PoboxError,
    TooLarge,
    TooSlow,
    Unavailable,
    WrongType,
)
from node.model import (
    Accepted,
    Alerts,
    BatchAccepted,
    Channel,
    Channels,
    ChannelSpec,
    Counts,
    Health,
    MemberChange,
    MemberChanged,
    Members,
    Message,
    Messages,
    NewMessage,
    PushDevices,
    PushKey,
    PushSubscription,
    ReadStatus,
    Receipt,
    StatusChanges,
    StatusMerged,
    SyncCheck,
    UserChannels,
    Users,
)
from router.access import ADMIN, ANYBODY, CHANGE_BOX, CHANNELS, DELIVER, FIGURES, READ_BOX, USER, Who
from router.problems import (
    CrossSite,
    Forbidden,
    HeadersTooLarge,
    KeyLimit,
    Misdirected,
    RangeNotSatisfiable,
    TooMany,
    Unauthorized,
)
from router.query import LIMIT_DEFAULT, LIMIT_MAX, STATUSES_DEFAULT, STATUSES_MAX

_Problems = tuple[type[PoboxError], ...]
_ALWAYS: _Problems = (
    CallerError,
    CrossSite,
    MethodNotAllowed,
    TooSlow,
    Misdirected,
    HeadersTooLarge,
    PoboxError,
    Overloaded,
)
_SHOWN: _Problems = (Unauthorized, Forbidden, KeyLimit)
_READ: _Problems = (BadField, Unavailable)
_WRITE: _Problems = (BadField, Unavailable, DiskFull)
_BODY: _Problems = (TooLarge, WrongType)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A method of a path: ``action`` of the resource ``noun`` answers it."""

    method: str
    path: str
    noun: str
    action: str
    who: Who
    summary: str
    statuses: tuple[int, ...] = (200,)
    request: type[msgspec.Struct] | None = None
    media_type: str = "application/json"
    body_required: bool = True
    response: type[msgspec.Struct] | None = None
    response_type: str = "application/json"
    """of a body that is no JSON: then ``request`` and ``response`` are None"""
    query: tuple[str, ...] = ()
    page: tuple[int, int] = (LIMIT_DEFAULT, LIMIT_MAX)
    """what ``limit`` is if left out, and at most"""
    headers: tuple[str, ...] = ()
    faults: _Problems = ()

    def __post_init__(self) -> None:
        if self.who.person and USER not in self.path:
            raise ValueError(f"{self.path} names nobody whose it could be")

    @property
    def problems(self) -> _Problems:
        """Every problem this operation can answer."""
        return _ALWAYS + (() if self.who.anybody else _SHOWN) + self.faults


_V3 = "/api/v3"
_PAGE = ("limit", "cursor")

ROUTES: tuple[Operation, ...] = (
    Operation(
        method="POST",
        path=f"{_V3}/messages",
        noun="messages",
        action="post",
        who=DELIVER,
        summary="Deliver a message to users, or to all members of a channel",
        statuses=(202,),
        request=NewMessage,
        response=Accepted,
        headers=("Idempotency-Key",),
        faults=(*_WRITE, *_BODY, NotFound, Conflict, TooMany),
    ),
    Operation(
        method="POST",
        path=f"{_V3}/messages/batch",
        noun="batch",
        action="post",
        who=DELIVER,
        summary="Deliver many messages, one JSON object a line",
        statuses=(202,),
        request=NewMessage,
        media_type="application/x-ndjson",
        response=BatchAccepted,
        faults=(*_WRITE, *_BODY),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/messages/{{id}}/receipt",
        noun="receipts",
        action="get",
        who=DELIVER,
        summary="What became of a message so far",
        response=Receipt,
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/users",
        noun="users",
        action="page",
        who=ADMIN,
        summary="A page of the users who have a box, by id",
        response=Users,
        query=("prefix", *_PAGE),
        faults=_READ,
    ),
    Operation(
        method="GET",
        path=f"{_V3}/users/{{userId}}/messages",
        noun="boxes",
        action="messages",
        who=READ_BOX,
        summary="A page of a person's messages, newest first",
        response=Messages,
        query=("channelId", *_PAGE),
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/users/{{userId}}/messages/{{id}}",
        noun="boxes",
        action="message",
        who=READ_BOX,
        summary="One message of a person",
        response=Message,
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="DELETE",
        path=f"{_V3}/users/{{userId}}/messages/{{id}}",
        noun="boxes",
        action="remove",
        who=CHANGE_BOX,
        summary="Delete one message of a person for good",
        statuses=(204,),
        faults=(*_WRITE, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/users/{{userId}}/channels",
        noun="boxes",
        action="channels",
        who=READ_BOX,
        summary="The channels a person is in",
        response=UserChannels,
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/users/{{userId}}/counts",
        noun="statuses",
        action="counts",
        who=READ_BOX,
        summary="How many messages a person has not read, in all and by channel",
        response=Counts,
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/users/{{userId}}/events",
        noun="events",
        action="get",
        who=READ_BOX,
        summary="A stream of server-sent events: something came for this person, or was changed; sync now",
        response_type="text/event-stream",
        query=("device",),
        headers=("Last-Event-ID",),
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/push/key",
        noun="push",
        action="key",
        who=ANYBODY,
        summary="The key for which a device subscribes at its push service",
        response=PushKey,
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/users/{{userId}}/push",
        noun="push",
        action="list",
        who=READ_BOX,
        summary="The devices of a person that are told of new messages",
        response=PushDevices,
        faults=_READ,
    ),
    Operation(
        method="PUT",
        path=f"{_V3}/users/{{userId}}/devices/{{device}}/push",
        noun="push",
        action="put",
        who=CHANGE_BOX,
        summary="Tell a device of new messages (201), from now on so (204)",
        statuses=(201, 204),
        request=PushSubscription,
        faults=(*_WRITE, *_BODY, NotFound),
    ),
    Operation(
        method="DELETE",
        path=f"{_V3}/users/{{userId}}/devices/{{device}}/push",
        noun="push",
        action="drop",
        who=CHANGE_BOX,
        summary="Tell a device nothing more",
        statuses=(204,),
        faults=(*_WRITE, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/sync/{{userId}}/check",
        noun="checks",
        action="get",
        who=READ_BOX,
        summary="Which version of a person's box there is, and whether a device needs it",
        response=SyncCheck,
        query=("localVersion", "device"),
        faults=(*_WRITE, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/sync/{{userId}}/download",
        noun="downloads",
        action="get",
        who=READ_BOX,
        summary="A person's box as a SQLite file, or a part of it",
        statuses=(200, 206, 304),
        response_type="application/vnd.sqlite3",
        query=("device",),
        headers=("Accept-Encoding", "If-None-Match", "If-Range", "Range"),
        faults=(*_WRITE, NotFound, RangeNotSatisfiable),
    ),
    Operation(
        method="POST",
        path=f"{_V3}/sync/{{userId}}/delta",
        noun="deltas",
        action="post",
        who=READ_BOX,
        summary="The pages by which a person's box differs from a device's file; 303 when a download is cheaper",
        statuses=(200, 303),
        media_type="application/octet-stream",
        response_type="application/vnd.pobox.delta",
        query=("device",),
        faults=(*_WRITE, *_BODY, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/sync/{{userId}}/read-status",
        noun="statuses",
        action="get",
        who=READ_BOX,
        summary="What a person's devices read, starred and archived after some moment",
        response=ReadStatus,
        query=("since", "limit"),
        page=(STATUSES_DEFAULT, STATUSES_MAX),
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="POST",
        path=f"{_V3}/sync/{{userId}}/read-status",
        noun="statuses",
        action="post",
        who=CHANGE_BOX,
        summary="Merge what a device read, starred and archived, and tell it what it doesn't know",
        request=StatusChanges,
        response=StatusMerged,
        query=("limit",),
        page=(STATUSES_DEFAULT, STATUSES_MAX),
        faults=(*_WRITE, *_BODY, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/channels",
        noun="channels",
        action="page",
        who=CHANNELS,
        summary="A page of the channels, by id",
        response=Channels,
        query=("prefix", *_PAGE),
        faults=_READ,
    ),
    Operation(
        method="PUT",
        path=f"{_V3}/channels/{{channelId}}",
        noun="channels",
        action="put",
        who=CHANNELS,
        summary="Make a channel (201), or change it (200)",
        statuses=(200, 201),
        request=ChannelSpec,
        body_required=False,
        response=Channel,
        faults=(*_WRITE, *_BODY),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/channels/{{channelId}}",
        noun="channels",
        action="get",
        who=CHANNELS,
        summary="One channel",
        response=Channel,
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="DELETE",
        path=f"{_V3}/channels/{{channelId}}",
        noun="channels",
        action="drop",
        who=CHANNELS,
        summary="Forget a channel; its members leave it",
        statuses=(204,),
        faults=(*_WRITE, NotFound),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/channels/{{channelId}}/members",
        noun="members",
        action="get",
        who=CHANNELS,
        summary="A page of a channel's members, by id",
        response=Members,
        query=("prefix", *_PAGE),
        faults=(*_READ, NotFound),
    ),
    Operation(
        method="POST",
        path=f"{_V3}/channels/{{channelId}}/members",
        noun="members",
        action="post",
        who=CHANNELS,
        summary="Let many people join and leave a channel",
        request=MemberChange,
        response=MemberChanged,
        faults=(*_WRITE, *_BODY, NotFound),
    ),
    Operation(
        method="PUT",
        path=f"{_V3}/channels/{{channelId}}/members/{{userId}}",
        noun="members",
        action="put",
        who=CHANNELS,
        summary="Let a person join a channel",
        statuses=(204,),
        faults=(*_WRITE, NotFound),
    ),
    Operation(
        method="DELETE",
        path=f"{_V3}/channels/{{channelId}}/members/{{userId}}",
        noun="members",
        action="drop",
        who=CHANNELS,
        summary="Let a person leave a channel",
        statuses=(204,),
        faults=(*_WRITE, NotFound),
    ),
    Operation(
        method="GET",
        path="/healthz",
        noun="health",
        action="alive",
        who=ANYBODY,
        summary="The process is up",
        response=Health,
    ),
    Operation(
        method="GET",
        path="/readyz",
        noun="health",
        action="ready",
        who=ANYBODY,
        summary="Every shard answers",
        response=Health,
        faults=(Unavailable,),
    ),
    Operation(
        method="GET",
        path=f"{_V3}/alerts",
        noun="alerts",
        action="get",
        who=FIGURES,
        summary="What is wrong with the node just now",
        response=Alerts,
    ),
    Operation(
        method="GET",
        path="/metrics",
        noun="metrics",
        action="get",
        who=FIGURES,
        summary="Figures of every process of the node, or of one, for Prometheus",
        response_type="text/plain",
        query=("shard", "process"),
        faults=(BadField,),
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        noun="openapi",
        action="get",
        who=ANYBODY,
        summary="This document",
    ),
)
