"""Channels, and who is in them: what may be asked, and every change, journaled in the transaction that makes it.

A change of members is a letter to the boxes of those whom it is about. The numbers of both are taken in that one
transaction, so a letter to the channel that was accepted before is not for who joins in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from node import ops
from node.clock import iso, now_us
from node.errors import NotFound, NotOpen
from node.model import Channel, MemberChanged
from shard import backlog as letters_of
from shard import deeds
from shard.journal import MEMBERSHIP, Journal
from shard.mailbox import Standing
from shard.members import ChannelRecord, Members
from shard.residents import Residents

T = TypeVar("T")


class Channels:
    """``residents`` refuse what is another shard's; ``accepting`` raises if nothing is journaled just now;
    ``enter`` takes a journaled letter and its targets."""

    def __init__(
        self,
        journal: Journal,
        members: Members,
        *,
        residents: Residents,
        accepting: Callable[[], None],
        enter: Callable[[letters_of.Letter, list[str]], None],
    ) -> None:
        self._journal = journal
        self._members = members
        self._residents = residents
        self._accepting = accepting
        self._enter = enter

    async def put(self, q: ops.PutChannel) -> bool:
        self._residents.check_all(q.table)
        members = self._members
        return await self.write(lambda: members.put(q.id, q.name, q.description, q.created_by, q.now_us, q.open))

    async def get(self, q: ops.GetChannel) -> Channel:
        return self._members.channel(q.id).outward()

    async def page(self, q: ops.ListChannels) -> list[Channel]:
        def work() -> list[Channel]:
            channels = self._members.channels
            names = sorted(
                name
                for name, record in channels.items()
                if name > q.after and name.startswith(q.prefix) and q.open in (None, record.open)
            )[: q.limit]
            return [channels[name].outward() for name in names]

        return await self._journal.read(work)  # between two changes: they are made in that thread

    async def members(self, q: ops.ListMembers) -> list[str]:
        self._members.channel(q.channel)
        return await self._journal.read(lambda: self._members.now(q.channel, q.after, q.limit, q.prefix))

    async def drop(self, q: ops.DropChannel) -> bool:
        self._residents.check_all(q.table)
        members = self._members
        if q.id not in members.channels:
            return False

        def work() -> tuple[int, list[str]]:
            if q.id not in members.channels:
                return 0, []
            left = members.drop(q.id, self._journal.next_seq())
            return self._note(q.id, left, deeds.Membership(None, now_us())), left

        seq, left = await self.write(work)
        if left:
            self._enter(letters_of.membership(seq, q.id, None, dict.fromkeys(left)), left)
        return True

    async def change_members(self, q: ops.ChangeMembers) -> MemberChanged:
        members = self._members
        self._residents.check(q.table, q.slots)
        self._residents.check_all(q.table)
        members.channel(q.channel)  # a change that fails half-way costs a look at all channels

        def work() -> tuple[int, list[str], list[str], ChannelRecord] | None:
            record = members.channel(q.channel)
            if q.themselves and not record.open and any(not members.standing(q.channel, user) for user in q.add):
                return None
            joined, left = members.change(q.channel, q.add, q.remove, self._journal.next_seq(), q.now_us)
            users = list(dict.fromkeys(joined + left))  # who joins and leaves in one change is in both
            seq = self._note(q.channel, users, deeds.Membership(record.row(), q.now_us, left))
            return seq, joined, left, members.channel(q.channel)

        changed = await self.write(work)
        if changed is None:
            raise NotOpen("the channel is not open: somebody who runs it must add members", field="channelId")
        seq, joined, left, record = changed
        if joined or left:
            state: dict[str, Standing | None] = dict.fromkeys(joined, Standing(iso(q.now_us)))
            state.update(dict.fromkeys(left))
            self._enter(letters_of.membership(seq, q.channel, record.row(), state), list(state))
        return MemberChanged(added=len(joined), removed=len(left), members=record.members)

    async def mute(self, q: ops.SetMute) -> None:
        """A change of the membership: journaled like a join, and in order with it."""
        members = self._members

        def work() -> tuple[int, ChannelRecord, Standing] | bool:
            if not members.mute(q.channel, q.user, q.until_us):
                return members.standing(q.channel, q.user) is not None
            record, standing = members.channel(q.channel), members.standing(q.channel, q.user)
            assert standing is not None
            seq = self._note(q.channel, [q.user], deeds.Membership(record.row(), now_us()))
            return seq, record, standing

        changed = await self.write(work)
        if isinstance(changed, tuple):
            seq, record, standing = changed
            self._enter(letters_of.membership(seq, q.channel, record.row(), {q.user: standing}), [q.user])
        elif not changed:
            raise NotFound("this person is in no such channel", field="channelId")

    async def write(self, work: Callable[[], T]) -> T:
        """A durable change of channels or members."""
        self._accepting()
        with self._members.as_committed():
            return await self._journal.write(work)

    def _note(self, channel: str, users: list[str], what: deeds.Membership) -> int:
        """The letter to ``users``, in this transaction; its number, 0 if there is nobody to tell."""
        return self._journal.add_one(MEMBERSHIP, channel, users, deeds.encode(what)) if users else 0
