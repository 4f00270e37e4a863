"""What a service posted, checked and put into the form in which it lies in a journal. Pure.

The digest tells one body from another under the same id: it is taken over the checked body, so
the order of JSON keys, and of users, and what is left out or given as its default, make no
difference.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import msgspec

from node import clock, ops
from node.errors import BadField
from node.ids import check_name, check_names
from node.model import NewMessage
from router.body import check_json

LABEL = "direct"
"""channel of a message that names users and no channel"""
US_MAX = 253_402_300_799_999_999  # the end of the year 9999
_canonical = msgspec.msgpack.Encoder(order="deterministic").encode
_json = msgspec.json.Encoder().encode


def targets(message: NewMessage) -> list[str] | None:
    """The users named, each once; None if the message goes to the members of its channel.

    Checks what the struct's types can't; raises :class:`BadField`.
    """
    if message.metadata is not None:
        check_json(message.metadata, "metadata")
    users = message.users
    if users is None:
        if message.channel_id is None:
            raise BadField("users or channelId must say who gets it", field="users")
        return None
    if not users:
        raise BadField("users must name somebody, or be left out", field="users")
    if len(users) == 1:
        check_name(users[0], "users[0]")
        return users
    check_names(users, "users")
    return list(dict.fromkeys(users))


def created(message: NewMessage) -> str | None:
    """``createdAt`` as it is stored, None if it was left out. Raises :class:`BadField` for a time out of range."""
    if message.created_at is None:
        return None
    us = clock.us_of(message.created_at)
    if not 0 <= us <= US_MAX:
        raise BadField("createdAt must lie in the years 1970 to 9999", field="createdAt")
    return clock.iso(us)


def letter(message: NewMessage, id: str, created: str | None, now_us: int) -> msgspec.Raw:
    """The :class:`node.ops.Letter`, encoded."""
    now = _iso(now_us)
    return msgspec.Raw(
        ops.encode(
            ops.Letter(
                id,
                message.channel_id or LABEL,
                message.title,
                message.content,
                message.message_type,
                message.priority,
                message.sender,
                created or now,
                now,
                None if message.metadata is None else _json(message.metadata).decode(),
                now_us,
                message.timeout_seconds,
            )
        )
    )


def digest(message: NewMessage, users: list[str] | None, created: str | None) -> bytes:
    """16 bytes that stand for the body without its id."""
    return blake2b(
        _canonical(
            (
                None if users is None else sorted(users),
                None if users is not None and message.channel_id == LABEL else message.channel_id,
                message.title,
                message.content,
                message.message_type,
                message.priority,
                message.sender,
                created,
                message.metadata,
                message.timeout_seconds,
            )
        ),
        digest_size=16,
    ).digest()


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return clock.iso(seconds * 1_000_000)[:20]


def _iso(us: int) -> str:
    """:func:`node.clock.iso` of a time that is much like the last one: the second is formatted once."""
    seconds, rest = divmod(us, 1_000_000)
    return f"{_second(seconds)}{rest:06d}Z"
