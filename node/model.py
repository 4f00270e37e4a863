"""The HTTP bodies, as structs: validation, documentation and OpenAPI all come from here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from node.ids import PATTERN

Name = Annotated[str, Meta(pattern=PATTERN, description="letters, digits and . _ @ : -; 1 to 128")]
Priority = Annotated[int, Meta(ge=1, le=10)]
Text = Annotated[str, Meta(min_length=1)]
Timestamp = Annotated[datetime, Meta(tz=True)]
Listed = Annotated[str, Meta(extra_json_schema={"pattern": PATTERN})]
"""a name among many: :func:`node.ids.check_names` checks them in one pass"""
PlainName = Annotated[str, Meta(max_length=128)]

USERS_MAX = 10_000
CHANGES_MAX = 2_000


class In(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """A request body: an unknown field is an error, not a silent loss."""


class Out(msgspec.Struct, rename="camel", kw_only=True):
    """A response body."""


class NewMessage(In):
    """What a service posts."""

    title: Text
    content: str
    id: Name | None = None
    users: Annotated[list[Listed], Meta(max_length=USERS_MAX, extra_json_schema={"minItems": 1})] | None = None
    channel_id: Name | None = None
    message_type: Annotated[str, Meta(min_length=1, max_length=64)] = "text"
    priority: Priority = 5
    sender: Annotated[str, Meta(max_length=256)] | None = None
    created_at: Timestamp | None = None
    metadata: dict[str, Any] | None = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=31_536_000)] | None = None


class Accepted(Out):
    """On disk in the journal: it will be in every target's box exactly once."""

    id: str
    targets: int
    receipt: str


class LineError(Out):
    """``users``: who has no room (409), the line could go to the others. ``retryAfter``: the seconds after which it may
    be sent again (429, 503, 507)."""

    line: int
    error: str
    field: str | None = None
    status: int = 422
    users: list[str] | None = None
    retry_after: int | None = None


class BatchAccepted(Out):
    accepted: int
    rejected: list[LineError]


class Receipt(Out):
    """``accepted`` is the time of the 202; stored + pending + failed = targets."""

    accepted: str
    targets: int
    stored: int
    pending: int
    failed: int


class Message(Out):
    id: str
    channel_id: str
    title: str
    content: str
    message_type: str
    priority: int
    sender: str | None
    created_at: str
    updated_at: str | None
    metadata: dict[str, Any] | None


class Messages(Out):
    """Newest first; ``cursor`` asks for what follows, None when there is nothing."""

    messages: list[Message]
    cursor: str | None


class ChannelSpec(In):
    name: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    description: Annotated[str, Meta(max_length=4096)] | None = None
    created_by: Annotated[str, Meta(max_length=256)] | None = None
    open: bool | None = None


class Channel(Out):
    """``open``: everybody may join; the others take somebody who may change members."""

    id: str
    name: str
    description: str | None
    created_by: str | None
    created_at: str
    members: int
    open: bool = False


class Channels(Out):
    channels: list[Channel]
    cursor: str | None


class MemberChange(In):
    add: Annotated[list[Listed], Meta(max_length=USERS_MAX)] = []
    remove: Annotated[list[Listed], Meta(max_length=USERS_MAX)] = []


class MemberChanged(Out):
    added: int
    removed: int
    members: int


class Members(Out):
    members: list[str]
    cursor: str | None


class UserBox(Out):
    """``size`` is that of the box on the node, in bytes; what is None could not be looked up in time."""

    id: str
    size: int
    messages: int | None = None
    last_delivery: str | None = None


class Users(Out):
    users: list[UserBox]
    cursor: str | None


class Quota(In):
    """How much a person may have in the box: messages, and bytes of their titles, texts and metadata. 0: as much as
    comes; left out: as the node's settings say."""

    messages: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    bytes: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class Usage(Out):
    """What a box holds, without its archive: ``bytes`` are of titles, texts and metadata. The quotas are None where
    there is none; ``ownQuota``: they are not those of the node's settings. ``full``: nothing new is taken."""

    id: str
    messages: int
    bytes: int
    quota_messages: int | None
    quota_bytes: int | None
    own_quota: bool
    full: bool


class UserChannel(Out):
    """``isMuted`` at this moment; ``mutedUntil`` is None for a mute without end, and without a mute."""

    id: str
    name: str
    joined_at: str
    is_muted: bool
    muted_until: str | None = None


class UserChannels(Out):
    channels: list[UserChannel]


class Mute(In):
    """Left out: for good."""

    until: Timestamp | None = None


class SyncCheck(Out):
    """What the server has, and whether a device with ``localVersion`` needs it. ``serverVersion`` is an ISO
    time with microseconds; it grows strictly with each version of one box."""

    server_version: str
    server_size: int
    server_checksum: str
    local_version: str | None
    need_sync: bool


class Device(Out):
    """``lastSync``: when it last asked, to within five minutes. ``version`` is what it said that it has, None if it
    never did; ``newest``: that is the box as it is now. ``push``: it is told of new messages."""

    name: str
    last_sync: str
    version: str | None
    newest: bool
    push: bool


class Devices(Out):
    """Those that synced, the one that did last first."""

    devices: list[Device]


class Holder(Out):
    """``has``: whether the message is in what this device has; None if that can't be told any more."""

    name: str
    last_sync: str
    has: bool | None


class Holders(Out):
    """The devices that synced, the one that did last first."""

    devices: list[Holder]


class StatusChange(In):
    """What a person did to a message on a device. ``at`` is the device's clock."""

    message_id: Name
    status: Literal["read", "unread", "archived", "unarchived", "starred", "unstarred"]
    at: Timestamp
    device: PlainName | None = None


class PositionChange(In):
    """How far a person has come in a channel; ``position`` is the device's own measure within the message."""

    channel_id: Name
    message_id: Name
    at: Timestamp
    position: Annotated[int, Meta(ge=0, le=2**53)] = 0


class StatusChanges(In):
    """``clock`` is the device's time of sending: with it the server takes a wrong clock out of every ``at``.
    ``since`` is what the device got last."""

    changes: Annotated[list[StatusChange], Meta(max_length=CHANGES_MAX)] = []
    positions: Annotated[list[PositionChange], Meta(max_length=CHANGES_MAX)] = []
    since: Annotated[str, Meta(max_length=64)] | None = None
    clock: Timestamp | None = None


class Status(Out):
    """All that is known of one message; None: it isn't so."""

    message_id: str
    read_at: str | None
    read_device: str | None
    archived_at: str | None
    starred_at: str | None


class ReadingPosition(Out):
    channel_id: str
    last_read_message_id: str
    last_read_at: str
    position: int


class ReadStatus(Out):
    """What changed after the ``since`` that was asked for, oldest change first; ask again with the new ``since``,
    at once if there is ``more``. ``full``: it is everything from the beginning, forget what you had."""

    since: str
    full: bool
    more: bool
    statuses: list[Status]
    positions: list[ReadingPosition]


class StatusConflict(Out):
    """A change that was not made: ``newer`` (the server's is later; it is among the statuses), or ``no_message``
    (not in the box, or no longer)."""

    index: int
    message_id: str
    status: str
    reason: Literal["newer", "no_message"]


class StatusMerged(ReadStatus):
    """``accepted`` changes hold now, also those that held already; ``index`` of a conflict counts the list that was
    sent, changes first, then positions."""

    accepted: int
    conflicts: list[StatusConflict]


class Counts(Out):
    """Messages without a read mark: in all, and in each channel that has any."""

    unread: int
    channels: dict[str, int]


class PushKey(Out):
    """The node's public key (an uncompressed point of P-256 in base64url): ``applicationServerKey`` of a browser."""

    public_key: str


class PushKeys(In):
    """Of a device, in base64url."""

    p256dh: Annotated[str, Meta(max_length=128)]
    auth: Annotated[str, Meta(max_length=128)]


class PushSubscription(In):
    """What a browser's ``PushSubscription.toJSON()`` gives, and from which priority on to tell."""

    endpoint: Annotated[str, Meta(max_length=2048)]
    keys: PushKeys
    expiration_time: float | None = None
    priority_min: Priority = 1


class PushDevice(Out):
    """A device that is told of new messages; ``host`` is its push service."""

    device: str
    host: str
    priority_min: int
    created_at: str


class PushDevices(Out):
    devices: list[PushDevice]


DeadReason = Literal["busy", "damaged", "expired", "full", "io_error"]
"""why a message was given up: its mailbox was in use, damaged, full (a channel's message), or not to be read or
written; or its time was over"""


class DeadLetter(Out):
    """A message that could not be stored for one person; ``id`` names both."""

    id: str
    user_id: str
    message_id: str
    channel_id: str
    title: str
    priority: int
    reason: str
    tries: int
    accepted_at: str
    first_failed_at: str
    died_at: str


class DeadLetters(Out):
    """Newest first."""

    dead_letters: list[DeadLetter]
    cursor: str | None


class Alert(Out):
    """Something that is wrong ``since`` then: the reading ``value`` is more than ``threshold``."""

    name: str
    shard: int
    since: str
    value: float
    threshold: float
    summary: str


class Alerts(Out):
    """What is wrong just now; empty when all is well."""

    alerts: list[Alert]


class Health(Out):
    status: str
