"""Which shard owns which user. Pure.

``slot = xxh3_64(userId) % 4096``. A table says which shard owns which slot; it is computed, by
rendezvous hashing, from nothing but the number of shards: each slot goes to the shard whose hash
with it is the highest. So any process computes the same table, and from N to N+1 shards a slot
either stays or goes to the new shard: 1/(N+1) of them move, and none between the old ones.

While slots change hands on a running node, and for people who were moved one by one, the table differs
from the computed one; ``placement.json`` says in what. Two questions, then: where a directory lies, and which
shard decides about an id or a channel, is the slot of the *name*, which never changes. Whose a person is says
:class:`Table`: somebody who was moved alone has a slot of his own, from 4096 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import xxhash

SLOTS = 4096


@lru_cache(maxsize=65_536)
def slot_of(name: str) -> int:
    """The slot of a userId (or of any other name that needs a home shard)."""
    return xxhash.xxh3_64_intdigest(name.encode()) % SLOTS


@lru_cache(maxsize=64)
def table_for(shards: int) -> tuple[int, ...]:
    """The owner of each of the 4096 slots among ``shards`` shards (at least 1)."""
    if shards < 1:
        raise ValueError("a node has at least one shard")
    return tuple(
        max(range(shards), key=lambda shard: xxhash.xxh3_64_intdigest(f"{slot}/{shard}".encode()))
        for slot in range(SLOTS)
    )


class Table:
    """Who owns whom among ``shards`` shards. ``slots`` have another owner than the computed one; ``users`` have slots
    of their own, which are among ``slots`` too. ``number``: each table of a node has a later one than that before."""

    def __init__(self, number: int, shards: int, slots: Mapping[int, int], users: Mapping[str, int]) -> None:
        self.number = number
        self.shards = shards
        self._owners = dict(enumerate(table_for(shards))) | dict(slots)
        self._users = users

    def slot(self, user: str) -> int:
        """The slot that a person belongs to."""
        if self._users and (own := self._users.get(user)) is not None:
            return own
        return slot_of(user)

    def owner(self, slot: int) -> int:
        """The shard that ``slot``, of a name or of a person alone, belongs to."""
        return self._owners[slot]

    def place(self, user: str) -> tuple[int, int]:
        """The slot of ``user``, and the shard that owns it."""
        slot = self.slot(user)
        return slot, self._owners[slot]

    def shard_of(self, user: str) -> int:
        """The shard that ``user`` belongs to."""
        return self._owners[self.slot(user)]

    def home(self, name: str) -> int:
        """The shard that decides about ``name``, be it a channel or a message id."""
        return self._owners[slot_of(name)]

    def owned(self, shard: int) -> frozenset[int]:
        """The slots of ``shard``."""
        return frozenset(slot for slot, owner in self._owners.items() if owner == shard)

    def directories(self, shard: int) -> list[int]:
        """The slots in whose directories there may be boxes of ``shard``; others' may lie there as well."""
        alone = {slot_of(user) for user, slot in self._users.items() if self._owners[slot] == shard}
        return sorted({slot for slot in self.owned(shard) if slot < SLOTS} | alone)
