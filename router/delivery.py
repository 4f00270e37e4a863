"""The way of a message through the router: check, split by shard, ask, count.

An id that the caller gave is claimed at its home shard first: a conflicting body (409) or an
unknown channel (404) is refused there, before anybody else has written anything. An id made here a
moment ago can't be known to anyone, so all shards with targets are asked at once. What one of them had
no room for a moment ago goes to none (:mod:`router.shedding`). Whatever fails on
the way, sending the same id again is safe.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from node import clock, ops
from node.errors import Overloaded, Unavailable
from node.ids import check_name, new_id
from node.model import Accepted, NewMessage
from node.slots import Table
from router import letters
from router.links import Links

KEY = "Idempotency-Key"
_NOBODY = ops.Taken(0)
Share = tuple[list[str], list[int]]
"""users, and their slots"""


class Deliverer(Protocol):
    async def deliver(self, message: NewMessage, key: str | None = None) -> Accepted:
        """Have ``message`` journaled by every shard that has targets; ``key`` is its id if it
        brings none. Raises the problem that the caller is to be told; :class:`Overloaded` only if
        nothing was sent to any shard."""


class Delivery:
    """Delivers over ``links``."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def deliver(self, message: NewMessage, key: str | None = None) -> Accepted:
        """See :class:`Deliverer`."""
        users = letters.targets(message)
        given = given_id(message, key)
        self._links.check_room(message.priority, users)
        id = given or new_id()
        created = letters.created(message)
        letter = letters.letter(message, id, created, clock.now_us())
        digest = letters.digest(message, users, created)  # also of an id made here: the caller may send it again
        call = _Call(self._links, id, digest, given is None, letter, message.priority)

        async def once() -> int:
            call.table = self._links.table
            try:
                if users is None:
                    assert message.channel_id is not None
                    home = call.table.home(message.channel_id if given is None else id)
                    return await call.to_channel(message.channel_id, home)
                if given is None:
                    return await call.to_users(users)
                return await call.to_users_with_claim(users, call.table.home(id))
            except Overloaded as error:
                if call.again:
                    raise Unavailable() from error  # not "nothing was sent": another shard may have it
                raise
            finally:
                call.again = True

        return accepted(id, await self._links.steady(once))


class Floor:
    """Checks and answers, and keeps nothing: what the HTTP side costs without any shard. The load
    tests measure the real thing against it; ``--floor`` is the only way to it."""

    async def deliver(self, message: NewMessage, key: str | None = None) -> Accepted:
        """As :meth:`Delivery.deliver` sees it from outside."""
        users = letters.targets(message)
        return accepted(given_id(message, key) or new_id(), len(users or ()))


class _Call:
    """One message on its way: what is the same for every shard."""

    def __init__(self, links: Links, id: str, digest: bytes, fresh: bool, letter: msgspec.Raw, priority: int) -> None:
        self._links = links
        self._id = id
        self._digest = digest
        self.table = links.table
        """All frames of a try go by one table: shards that took a channel's letter by two might each leave somebody who
        moved in between to the other."""
        self._fresh = fresh
        self.again = False
        """some shard may know the id from a first try"""
        self._letter = letter
        self._priority = priority

    async def to_users(self, users: list[str]) -> int:
        """In one round; how many targets."""
        shares = split(self.table, users)
        if len(shares) == 1:
            ((shard, share),) = shares.items()
            return (await self._links.ask(shard, self._frame(shard, share), ops.Taken)).targets
        return await self._rest(shares)

    async def to_users_with_claim(self, users: list[str], home: int) -> int:
        """The home first, then the others; how many targets."""
        shares = split(self.table, users)
        first = self._frame(home, shares.pop(home, ([], [])), claim=True)
        self._links.check([home, *shares])
        taken = await self._links.ask(home, first, ops.Taken)
        try:
            return taken.targets + await self._rest(shares, taken.known_us)
        except Overloaded as error:
            raise Unavailable() from error  # not "nothing was sent": the home has it

    async def to_channel(self, channel: str, home: int) -> int:
        """To every shard's members, ``home`` first; how many targets. Once the channel is known at
        ``home``, a shard that doesn't know it has no members of it."""
        self._links.check(range(self.table.shards))
        first = self._frame(home, ([], []), claim=not self._fresh, channel=channel)
        taken = await self._links.ask(home, first, ops.Taken)
        others = [
            (shard, self._frame(shard, ([], []), channel=channel, known_us=taken.known_us))
            for shard in range(self.table.shards)
            if shard != home
        ]
        try:
            parts = await self._links.ask_each(others, ops.Taken, unknown=_NOBODY)
        except Overloaded as error:
            raise Unavailable() from error
        return taken.targets + sum(part.targets for part in parts)

    async def _rest(self, shares: dict[int, Share], known_us: int = 0) -> int:
        requests = [(shard, self._frame(shard, share, known_us=known_us)) for shard, share in shares.items()]
        return sum(part.targets for part in await self._links.ask_each(requests, ops.Taken))

    def _frame(
        self, shard: int, share: Share, *, claim: bool = False, channel: str | None = None, known_us: int = 0
    ) -> ops.Deliver:
        users, slots = share
        return ops.Deliver(
            0,
            self.table.number,
            self._id,
            self._digest,
            self._fresh and not self.again,
            claim,
            channel,
            users,
            slots,
            self._letter,
            self._priority,
            self._links.shed(shard),
            known_us,
        )


def split(table: Table, users: list[str]) -> dict[int, Share]:
    """``users`` by the shard that owns them. Pure."""
    shares: dict[int, Share] = {}
    for user in users:
        slot, owner = table.place(user)
        share = shares.get(owner)
        if share is None:
            shares[owner] = ([user], [slot])
        else:
            share[0].append(user)
            share[1].append(slot)
    return shares


def given_id(message: NewMessage, key: str | None) -> str | None:
    """The id that the caller wants; raises :class:`node.errors.BadField` for a key that is no name."""
    if message.id is not None:
        return message.id
    return None if key is None else check_name(key, KEY)


def accepted(id: str, targets: int) -> Accepted:
    """The answer of a 202."""
    return Accepted(id=id, targets=targets, receipt=f"/api/v3/messages/{id}/receipt")
