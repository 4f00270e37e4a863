"""From the journal back into the lanes, at start.

Whatever has a row may or may not be in its boxes; delivering it again is harmless. A membership is
replayed as the state of *now*: if a join and a later leave of one user are both in the journal, or
only one of them still is, the box ends as the member list says.
"""

from __future__ import annotations

import time

import msgspec

from node import ops
from shard import backlog as letters_of
from shard import deeds
from shard.backlog import Backlog
from shard.expander import Expander
from shard.journal import MEMBERSHIP, MESSAGE, Journal
from shard.members import Members

_body = msgspec.msgpack.Decoder(ops.Letter).decode


def load(journal: Journal, members: Members, backlog: Backlog, expander: Expander) -> None:
    """Enter every letter of ``journal``; takes a few microseconds a target."""
    now = time.monotonic()
    journal.try_again()
    states: dict[str, dict[str, str]] = {}
    for seq, kind, message_id, targets, channel, users, body in journal.letters():
        names = users.split("\n") if users else []
        if kind == MESSAGE:
            letter = letters_of.message(seq, targets, channel, _body(body), len(body))
        elif kind == MEMBERSHIP:
            if message_id not in states:
                states[message_id] = members.joined_at(message_id)
            record = members.channels.get(message_id)
            joined = {name: states[message_id].get(name) for name in names}
            letter = letters_of.membership(seq, message_id, record.row() if record else None, joined)
        else:
            letter = letters_of.removal(seq, message_id, deeds.removed_us(body))
        backlog.enter(letter)
        if channel is not None:
            expander.put(letter)
        else:
            backlog.put(letter, names, now)
    backlog.last_seq = journal.last_seq
