"""What a mark does to what the server said. Pure.

Marks of three fields (read, archived, starred) are about a message, reading positions are about a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from node.clock import iso
from node.model import ReadingPosition, Status

Mark = Literal["read", "unread", "archived", "unarchived", "starred", "unstarred"]
MARKS: tuple[Mark, ...] = get_args(Mark)
EFFECTS: dict[str, tuple[str, bool]] = {
    "read": ("read", True),
    "unread": ("read", False),
    "archived": ("archived", True),
    "unarchived": ("archived", False),
    "starred": ("starred", True),
    "unstarred": ("starred", False),
}
"""the field, and whether it is set"""

MESSAGE, CHANNEL = "message", "channel"
POSITION = "position"
FIELDS = {MESSAGE: ("read", "archived", "starred"), CHANNEL: (POSITION,)}

Said = Status | ReadingPosition


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """A mark, or a reading position, in the outbox."""

    seq: int
    field: str
    key: str
    """the message; of a position, the channel"""
    status: str
    message_id: str
    position: int
    at_us: int
    """by the device's clock"""

    @property
    def kind(self) -> str:
        return CHANNEL if self.field == POSITION else MESSAGE


def after(kind: str, key: str, said: Said | None, waiting: Sequence[Waiting], device: str) -> Said | None:
    """``said`` with the marks of ``device`` that the server doesn't know yet. None: nothing is known."""
    if kind == CHANNEL:
        for mark in waiting:
            said = ReadingPosition(
                channel_id=key,
                last_read_message_id=mark.message_id,
                last_read_at=iso(mark.at_us),
                position=mark.position,
            )
        return said
    assert not isinstance(said, ReadingPosition)
    shown = said or Status(message_id=key, read_at=None, read_device=None, archived_at=None, starred_at=None)
    for mark in waiting:
        field, is_set = EFFECTS[mark.status]
        changes: dict[str, str | None] = {f"{field}_at": iso(mark.at_us) if is_set else None}
        if field == "read":
            changes["read_device"] = device if is_set else None
        shown = msgspec.structs.replace(shown, **changes)
    return None if is_blank(shown) else shown


def holds(said: Said | None, mark: Waiting) -> bool:
    """Whether the server had it so already; then it changes nothing, not even since when."""
    if mark.kind == CHANNEL:
        at = None if not isinstance(said, ReadingPosition) else (said.last_read_message_id, said.position)
        return at == (mark.message_id, mark.position)
    field, is_set = EFFECTS[mark.status]
    return bool(getattr(said, f"{field}_at", None)) == is_set


def is_blank(status: Status) -> bool:
    """Nothing is so."""
    return not (status.read_at or status.archived_at or status.starred_at)
