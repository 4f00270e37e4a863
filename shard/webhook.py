"""One message for one user as a request to the operator's own gateway (``[push] webhook``). Pure.

The address is the operator's, so it may be a private one. ``{userId}`` in it stands for the user. Two formats: ``json``
for a gateway of one's own, ``ntfy`` for ntfy and what takes the same headers.
"""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

import msgspec

from shard.notice import Notice
from shard.outward import Request

_NTFY_PRIORITY = (1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5)
"""1 to 5, by ours"""


class Body(msgspec.Struct, rename="camel", omit_defaults=True):
    user_id: str
    id: str
    channel_id: str
    priority: int
    created_at: str
    sender: str | None = None
    title: str | None = None
    text: str | None = None


def request(url: str, form: str, user: str, notice: Notice, content: str) -> Request:
    """``form`` is ``json`` or ``ntfy``, ``content`` as in :func:`shard.notice.payload`."""
    url = url.replace("{userId}", quote(user, safe=""))
    title = notice.title if content != "none" else None
    text = notice.text if content == "text" else None
    if form == "ntfy":
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Title", _word(title or "pobox")),
            ("Priority", str(_NTFY_PRIORITY[notice.priority])),
        ]
        return Request(url, headers, (text or title or "1 new message").encode())
    body = Body(
        user, notice.id, notice.channel_id or "", notice.priority, notice.created_at, notice.sender, title, text
    )
    return Request(url, [("Content-Type", "application/json")], msgspec.json.encode(body))


def _word(text: str) -> str:
    """``text`` as a header may hold it: as it is, or as an encoded word (RFC 2047)."""
    if text.isascii() and text.isprintable():
        return text
    return f"=?UTF-8?B?{b64encode(text.encode()).decode()}?="
