"""What a row of the journal does to one person's box, told by the row alone: it may be read long after, from a history.

Applied in the order of acceptance to a box as it was before, rows give the box as it was after. A channel letter
names no members: it is for whoever was in the channel then, and whether this person was, the rows before it say.
Applying again what a box has already changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from node import ops
from node.clock import iso
from shard.journal import MEMBERSHIP, MESSAGE, REMOVAL
from shard.mailbox import Mailbox, Standing
from shard.rows import Row

ChannelRow = tuple[str, str, str | None, str | None, str]
_PORTION = 256


class LetterOf(NamedTuple):
    """A row of ``letters``; without ``targets``, which others have too."""

    seq: int
    kind: int
    id: str
    channel: str | None
    users: str
    body: bytes


class Membership(msgspec.Struct, array_like=True, frozen=True):
    """The body of a membership: ``left`` are those of its users who are out of the channel by it; all of them if
    there is no ``channel`` any more."""

    channel: ChannelRow | None
    at_us: int = 0
    left: list[str] = []


class Deed(NamedTuple):
    """``row`` is a message to be stored, else ``membership`` (``joined``: whether he is in by it), else a removal."""

    at_us: int
    id: str
    row: Row | None = None
    membership: ChannelRow | None = None
    joined: bool = False
    left: bool = False


encode = msgspec.msgpack.encode
_letter = msgspec.msgpack.Decoder(ops.Letter).decode
_membership = msgspec.msgpack.Decoder(Membership | None).decode
_removal = msgspec.msgpack.Decoder(int).decode


def removed_us(body: bytes) -> int:
    """When the removal with that ``body`` was asked for; 0 for one from before that was written down."""
    return _removal(body) if body else 0


def without(kind: int, body: bytes, user: str) -> bytes:
    """The body of a row that names ``user`` no more."""
    if kind != MEMBERSHIP:
        return body
    try:
        said = _membership(body)
    except msgspec.ValidationError:
        return body
    if said is None or user not in said.left:
        return body
    return encode(msgspec.structs.replace(said, left=[name for name in said.left if name != user]))


def message_row(letter: ops.Letter) -> Row:
    """``letter`` as it stands in a box."""
    return (
        letter.id, letter.channel_id, letter.title, letter.content, letter.message_type, letter.priority, letter.sender,
        letter.created_at, letter.updated_at, letter.metadata,
    )  # fmt: skip


def is_one_of(row: LetterOf, dead: dict[str, int]) -> bool:
    """Whether ``row`` is a message of ``dead``: ids, and when each was accepted."""
    return row.kind == MESSAGE and row.id in dead and _letter(row.body).accepted_us == dead[row.id]


def concerns(row: LetterOf, user: str, channels: set[str]) -> bool:
    """Whether it is for ``user``, who is in ``channels`` at that time."""
    if row.channel is not None:
        return row.channel in channels
    return user in row.users and user in row.users.split("\n")


def deed_of(row: LetterOf, user: str) -> Deed | None:
    """What ``row``, which concerns ``user``, does to his box; None for a membership from before it said that."""
    if row.kind == MESSAGE:
        letter = _letter(row.body)
        return Deed(letter.accepted_us, row.id, message_row(letter))
    if row.kind == REMOVAL:
        return Deed(removed_us(row.body), row.id)
    assert row.kind == MEMBERSHIP
    try:
        said = _membership(row.body) or Membership(None)
    except msgspec.ValidationError:
        return None
    left = said.channel is None or user in said.left
    return Deed(said.at_us, row.id, None, said.channel, not left, left)


def apply(box: Mailbox, rows: Iterable[LetterOf], until_us: int) -> int:
    """Do to ``box`` what ``rows``, in the order of acceptance, say up to ``until_us``; how many of them concerned
    it."""
    channels = box.channel_ids()
    count, waiting = 0, list[Row]()

    def store() -> None:
        if waiting:
            box.begin()
            box.insert(waiting)
            box.commit()
            waiting.clear()

    for row in rows:
        if not concerns(row, box.user, channels):
            continue
        deed = deed_of(row, box.user)
        if deed is None or deed.at_us > until_us:
            continue
        count += 1
        if deed.row is not None:
            waiting.append(deed.row)
            if len(waiting) >= _PORTION:
                store()
            continue
        store()
        box.begin()
        if deed.joined and deed.membership is not None:
            box.join(deed.membership, Standing(iso(deed.at_us)))
            channels.add(deed.id)
        elif deed.left:
            box.leave(deed.id)
            channels.discard(deed.id)
        else:
            box.remove(deed.id, iso(deed.at_us))
        box.commit()
    store()
    return count
