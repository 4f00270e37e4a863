"""From the journal back into the lanes, at start.

Whatever has a row may or may not be in its boxes; delivering it again is harmless. Who is dead for a letter gets it no
more, though its row is here for others; for whom it is parked it stays so. A membership is
replayed as the state of *now*: if a join, a mute and a later leave of one user are all in the journal, or
only one of them still is, the box ends as the member list says.

Only what the windows hold is kept in memory. What stands in the tail stays there; other letters that the
windows don't hold (after a change of the number of shards, say) get their place in the tail now. Where the
disk is too full for that they are kept in memory: starting, and reading, matter more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import apsw
import msgspec

from node import ops
from shard import backlog as letters_of
from shard import deeds
from shard.backlog import Backlog, Letter
from shard.expander import Expander
from shard.journal import MEMBERSHIP, MESSAGE, Journal, LetterRow
from shard.mailbox import Standing
from shard.members import Members
from shard.parked import Parked
from shard.tail import Tail

_body = msgspec.msgpack.Decoder(ops.Letter).decode


def load(
    journal: Journal,
    members: Members,
    tail: Tail,
    parked: Parked,
    backlog: Backlog,
    expander: Expander,
    others: Mapping[int, set[str]],
) -> None:
    """Enter every letter of ``journal``, but not for those for whom it is dead or parked (``others``, by its number);
    takes a few microseconds a target. Such a letter never waits in the tail, which knows nothing of that."""
    states: dict[str, dict[str, Standing]] = {}
    lanes = tail.lanes()
    for number, lane in enumerate(lanes):
        backlog.count_behind(number, lane.letters, lane.targets, lane.bytes)
    group = backlog.window.group(behind_others=False)
    after, left = 0, journal.rows - sum(lane.letters for lane in lanes) - parked.alone
    while left > 0 and (rows := tail.others(after)):
        after, left = rows[-1][0], left - len(rows)
        held: list[tuple[Letter, list[str]]] = []
        later: list[tuple[Letter, list[str]]] = []
        for row in rows:
            letter, names = letter_of(row, members, states)
            gone = others.get(letter.seq)
            if gone:
                letter.left -= len(gone)
                letter.early = gone
                names = [name for name in names if name not in gone]
            if (
                letter.kind != MESSAGE
                or gone
                or (letter.seq < lanes[letter.lane].first and group.holds(letter.lane, len(names), letter.size))
            ):
                held.append((letter, names))
            else:
                later.append((letter, names))
        if later and not _put_behind(journal, tail, backlog, later):
            held = sorted(held + later, key=lambda one: one[0].seq)
        _hold(backlog, expander, held)
    backlog.last_seq = journal.last_seq


def letter_of(row: LetterRow, members: Members, states: dict[str, dict[str, Standing]]) -> tuple[Letter, list[str]]:
    """A row of the journal, and its targets by name. ``states``: how people are in channels that were looked up."""
    seq, kind, message_id, targets, channel, users, body = row
    names = users.split("\n") if users else []
    if kind == MESSAGE:
        return letters_of.message(seq, targets, channel, _body(body), len(body)), names
    if kind != MEMBERSHIP:
        return letters_of.removal(seq, message_id, deeds.removed_us(body)), names
    if message_id not in states:
        states[message_id] = members.standings(message_id)
    record = members.channels.get(message_id)
    standings = {name: states[message_id].get(name) for name in names}
    return letters_of.membership(seq, message_id, record.row() if record else None, standings), names


def _put_behind(journal: Journal, tail: Tail, backlog: Backlog, letters: list[tuple[Letter, list[str]]]) -> bool:
    """Let ``letters`` wait in the tail; False if the disk is too full to say so."""
    try:
        journal.begin()
        tail.add(letters)
        journal.db.execute("COMMIT")
    except apsw.FullError:
        journal.rollback()
        return False
    for letter, _names in letters:
        backlog.enter_behind(letter)
    return True


def _hold(backlog: Backlog, expander: Expander, letters: list[tuple[Letter, list[str]]]) -> None:
    now = time.monotonic()
    for letter, names in letters:
        backlog.enter(letter)
        if not letter.left:
            backlog.has_nobody(letter)
        elif letter.channel is not None:
            expander.put(letter)
        else:
            backlog.put(letter, names, now)
