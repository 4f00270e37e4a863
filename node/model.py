"""The HTTP bodies, as structs: validation, documentation and OpenAPI all come from here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from node.ids import PATTERN

Name = Annotated[str, Meta(pattern=PATTERN, description="letters, digits and . _ @ : -; 1 to 128")]
Priority = Annotated[int, Meta(ge=1, le=10)]
Text = Annotated[str, Meta(min_length=1)]
Timestamp = Annotated[datetime, Meta(tz=True)]
PlainName = Annotated[str, Meta(max_length=128)]

USERS_MAX = 10_000


class In(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """A request body: an unknown field is an error, not a silent loss."""


class Out(msgspec.Struct, rename="camel", kw_only=True):
    """A response body."""


class NewMessage(In):
    """What a service posts. ``users`` is checked by ``ids.check_names`` (one pass over all)."""

    title: Text
    content: str
    id: Name | None = None
    users: Annotated[list[str], Meta(max_length=USERS_MAX)] | None = None
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
    line: int
    error: str
    field: str | None = None
    status: int = 422


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


class Channel(Out):
    id: str
    name: str
    description: str | None
    created_by: str | None
    created_at: str
    members: int


class Channels(Out):
    channels: list[Channel]
    cursor: str | None


class MemberChange(In):
    add: Annotated[list[str], Meta(max_length=USERS_MAX)] = []
    remove: Annotated[list[str], Meta(max_length=USERS_MAX)] = []


class MemberChanged(Out):
    added: int
    removed: int
    members: int


class Members(Out):
    members: list[str]
    cursor: str | None


class UserChannel(Out):
    id: str
    name: str
    joined_at: str
    is_muted: bool


class UserChannels(Out):
    channels: list[UserChannel]


class Health(Out):
    status: str
