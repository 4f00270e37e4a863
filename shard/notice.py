"""What a device is told of new messages: the most important one, and how many there are. Pure.

A notice is small: titles and texts are cut when it is made, so that a long message isn't held for it. What comes while
an earlier notice has not been sent yet is merged into it; a flood is one notice that counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from shard.lanes import LANES, lane_of
from shard.rows import Row

TITLE_MAX = 200
TEXT_MAX = 400
PAYLOAD_MAX = 3_000
"""bytes before encryption; push services take 4,096 after it"""
_TTL_S = (3 * 86_400, 86_400, 6 * 3_600)
_URGENCY = ("high", "normal", "low")
_MANY = "many"


class Payload(msgspec.Struct, rename="camel", omit_defaults=True):
    """What the page's service worker gets, as JSON."""

    user: str
    count: int
    priority: int
    id: str
    channel_id: str
    title: str | None = None
    text: str | None = None


@dataclass(slots=True)
class Notice:
    id: str
    channel_id: str | None
    """None when several channels are in it"""
    title: str
    text: str
    priority: int
    created_at: str
    sender: str | None
    since: float
    """when the oldest of them was stored, by the monotonic clock"""
    count: int = 1

    @property
    def lane(self) -> int:
        return lane_of(self.priority)

    @property
    def ttl_s(self) -> int:
        """How long a push service is to keep it for a device that is off."""
        return _TTL_S[self.lane]

    @property
    def urgency(self) -> str:
        return _URGENCY[self.lane]

    @property
    def topic(self) -> str | None:
        """What replaces what at the push service, for a device that is off: what is urgent is never replaced, of the
        rest the newest of each channel stays."""
        return None if self.urgency == "high" else self.channel_id or _MANY

    def merge(self, later: Notice) -> None:
        """Both are told as one: the newest of those with the highest priority, and the number of all."""
        if later.channel_id != self.channel_id:
            self.channel_id = None
        if later.priority >= self.priority:
            self.id, self.title, self.text = later.id, later.title, later.text
            self.priority, self.created_at, self.sender = later.priority, later.created_at, later.sender
        self.since = min(self.since, later.since)
        self.count += later.count


def notice_of(row: Row, now: float) -> Notice:
    """Of one message that was stored ``now``."""
    id, channel_id, title, content, _type, priority, sender, created_at, _updated_at, _metadata = row
    return Notice(id, channel_id, title[:TITLE_MAX], content[:TEXT_MAX], priority, created_at, sender, now)


def payload(notice: Notice, user: str, content: str) -> bytes:
    """JSON of at most :data:`PAYLOAD_MAX` bytes; ``content`` says what of the message goes along: ``none``, ``title``
    or ``text`` (title and the beginning of the text)."""
    made = Payload(user, notice.count, notice.priority, notice.id, notice.channel_id or "")
    if content != "none":
        made.title = notice.title
    if content == "text":
        made.text = notice.text
    encoded = msgspec.json.encode(made)
    for field in ("text", "title"):
        if len(encoded) > PAYLOAD_MAX:  # it was all control characters, or the like
            setattr(made, field, None)
            encoded = msgspec.json.encode(made)
    return encoded


assert len(_TTL_S) == len(_URGENCY) == len(LANES)
